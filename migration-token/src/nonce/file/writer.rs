//! The thread that owns the file: it takes all requests that wait and makes them durable together.
//!
//! It never answers before the disk has the answer.

use std::io;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use futures_channel::oneshot;

use super::ledger::{Age, Ledger, LedgerError};
use crate::nonce::{Claim, ClaimOutcome, CommitOutcome, StoreError};

/// How many requests become durable together.
const BATCH_LEN: usize = 1_024;
/// How many expired nonces are removed with them. It is more than can be added, so that none stay behind.
const FORGET_LEN: usize = 2 * BATCH_LEN;

/// Opens the file again.
pub(super) type Open = Box<dyn Fn() -> Result<Ledger, LedgerError> + Send>;

/// A request that waits.
pub(super) enum Request {
    Claim(Asked<ClaimOutcome>),
    Commit(Asked<CommitOutcome>),
}

/// What is asked, and where the answer goes.
pub(super) struct Asked<T> {
    pub(super) claim: Claim,
    /// Not to be told before it is durable.
    pub(super) outcome: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T> Asked<T> {
    pub(super) fn new(claim: Claim, answer: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self {
            claim,
            outcome: None,
            answer,
        }
    }

    fn tell(self, failure: Option<&Arc<Failure>>) {
        let outcome = match (self.outcome, failure) {
            (Some(outcome), None) => outcome,
            (_, Some(failure)) => Err(unavailable(Arc::clone(failure))),
            (None, None) => Err(ended()),
        };
        // Whoever asked may have gone.
        let _ = self.answer.send(outcome);
    }
}

impl Request {
    pub(super) fn claim(&self) -> &Claim {
        match self {
            Self::Claim(asked) => &asked.claim,
            Self::Commit(asked) => &asked.claim,
        }
    }

    fn is_wanted(&self) -> bool {
        match self {
            Self::Claim(asked) => !asked.answer.is_canceled(),
            Self::Commit(asked) => !asked.answer.is_canceled(),
        }
    }

    fn tell(self, failure: Option<&Arc<Failure>>) {
        match self {
            Self::Claim(asked) => asked.tell(failure),
            Self::Commit(asked) => asked.tell(failure),
        }
    }
}

/// Why the file could not be written.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("there is no room for the nonce file")]
    NoRoom(#[source] redb::Error),
    #[error("the nonce file could not be written; it must be opened anew")]
    Write(#[source] redb::Error),
    #[error("the nonce file has been replaced by another")]
    Replaced,
    #[error("the nonce file could not be opened again")]
    Reopen(#[source] LedgerError),
}

impl From<redb::Error> for Failure {
    fn from(error: redb::Error) -> Self {
        let no_room = matches!(&error, redb::Error::Io(error) if matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        ));
        if no_room {
            Self::NoRoom(error)
        } else {
            Self::Write(error)
        }
    }
}

/// The thread has ended, which only a fault in the database can make it do before the store is dropped.
pub(super) fn ended() -> StoreError {
    unavailable(io::Error::other("the nonce file's thread has ended"))
}

fn unavailable(cause: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable(Box::new(cause))
}

/// The way to the thread. Dropping it ends the thread, and waits for that.
pub(super) struct Writer {
    queue: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread, which keeps the number of nonces in `live`.
    pub(super) fn start(
        ledger: Ledger,
        reopen: Open,
        (capacity, max_waiting): (usize, usize),
        live: Arc<AtomicU64>,
        age: Age,
    ) -> io::Result<Self> {
        let (queue, requests) = sync_channel(max_waiting);
        let file = OpenFile {
            created: ledger.created(),
            ledger: Some(ledger),
            reopen,
            capacity: u64::try_from(capacity).unwrap_or(u64::MAX),
            live,
            age,
        };
        let thread = thread::Builder::new()
            .name("nonce-file".to_owned())
            .spawn(move || file.serve(&requests))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Lets a request wait for its turn.
    pub(super) fn send(&self, request: Request) -> Result<(), StoreError> {
        let queue = self.queue.as_ref().ok_or_else(ended)?;
        queue.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => ended(),
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, its requests have failed already.
            let _ = thread.join();
        }
    }
}

/// The thread's state.
struct OpenFile {
    /// `None` after a failure from which it can recover.
    ledger: Option<Ledger>,
    created: time::OffsetDateTime,
    reopen: Open,
    capacity: u64,
    live: Arc<AtomicU64>,
    age: Age,
}

impl OpenFile {
    /// Serves until the store is dropped.
    fn serve(mut self, queue: &Receiver<Request>) {
        let mut failed = None;
        while let Ok(first) = queue.recv() {
            let waiting = iter::once(first).chain(queue.try_iter()).take(BATCH_LEN);
            let mut batch: Vec<_> = waiting.filter(Request::is_wanted).collect();
            if !matches!(
                failed.as_deref(),
                Some(Failure::Write(_) | Failure::Replaced)
            ) {
                failed = self.settle(&mut batch).err().map(Arc::new);
            }
            for request in batch {
                request.tell(failed.as_ref());
            }
        }
        if let Some(ledger) = self.ledger.filter(|_| failed.is_none()) {
            // Without this note whoever opens the file next believes it to be younger, which is safe.
            let _ = ledger.close(&self.age);
        }
    }

    fn settle(&mut self, batch: &mut [Request]) -> Result<(), Failure> {
        let mut ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => (self.reopen)().map_err(Failure::Reopen)?,
        };
        if ledger.created() != self.created {
            return Err(Failure::Replaced);
        }
        // On a failure the file is closed: what redb holds of it in memory may not be what the disk has.
        let live = ledger.settle(batch, self.capacity, FORGET_LEN, &self.age)?;
        self.live.store(live, Ordering::Relaxed);
        self.ledger = Some(ledger);
        Ok(())
    }
}
