//! A [`NonceStore`] in a file, for an address that one node answers for: it outlives the node's process.
//!
//! It opens the file and queues requests; it never answers for anything that is not yet on the disk.

mod ledger;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_channel::oneshot;
use redb::backends::FileBackend;
use time::OffsetDateTime;

use self::ledger::{Age, Ledger, LedgerError};
use self::writer::{Asked, Request, Writer};
use super::{
    BoxFuture, Claim, ClaimOutcome, CommitOutcome, MemoryId, Monotonic, NonceStore, StoreError,
    SystemMonotonic,
};

/// How far a file may be ahead of the present moment when it is opened. Such a file accepts tokens again within that time.
const MAX_AHEAD: time::Duration = time::Duration::minutes(10);

/// Nonces in a file, bounded, expired in the order of their time.
///
/// # What is promised
///
/// - An answer is given once what it says is on the disk. A process that is killed at any moment and started again on
///   the same file accepts no nonce that it has spent, and lets no second connection be the first to claim one.
/// - One thread writes. It takes all requests that wait, up to 1,024, and makes them durable by one `fsync`. At most
///   [`MAX_WAITING`](Self::MAX_WAITING) requests wait; past that the answer is [`StoreError::Busy`], at once.
/// - At most `capacity` nonces are held; past that a claim is answered with [`StoreError::Full`]. A nonce is removed
///   after its time and never before. The space of removed nonces is used again; the file does not shrink.
/// - A request whose future is dropped may or may not be carried out. Dropping the store waits for the writing thread
///   and closes the file.
/// - A write that fails is answered with [`StoreError::Unavailable`]. After a lack of room the store goes on when there
///   is room again. After any other failure it refuses until it is opened anew: what the system has kept of a failed
///   write is not known. If the disk itself failed, remove the file as well.
///
/// # The file
///
/// - One process has it open. It is created with permissions for its owner alone (on Unix), and belongs on a local disk.
/// - The moment of its creation is kept in it: tokens issued before are refused. So a file may be removed while the
///   node is down, at the cost of the tokens then under way.
/// - No clock is trusted. A creation under a slow clock is set right when the clock is, since the file's age is known by a
///   clock that is never set. (Time for which the file was closed counts if the machine was not started meanwhile.) What has
///   been removed under a clock that was ahead is refused when that clock is set back. A file that was made while the clock
///   was more than ten minutes ahead of the present moment is not opened, because it would refuse every token until then:
///   [`FileStoreError::Ahead`].
/// - **Do not restore it from a backup and do not copy it**: it would not know the nonces spent since, and accept them again. Remove
///   it instead.
/// - It is read and checked as a whole whenever it is opened.
///
/// Memory is bounded by a page cache of 64 MiB, whatever the number of nonces. The future of a request needs no particular
/// runtime.
pub struct FileNonceStore {
    writer: Writer,
    live: Arc<AtomicU64>,
    age: Age,
    id: Option<MemoryId>,
    path: PathBuf,
}

impl FileNonceStore {
    /// The capacity that suits most services: one million live nonces, some 300 MB of file.
    pub const DEFAULT_CAPACITY: usize = 1_000_000;
    /// How many requests may wait for the writer.
    pub const MAX_WAITING: usize = 4_096;

    /// Opens the store in the file `path`, for at most `capacity` live nonces. `now` becomes the moment of creation if
    /// there is no such file yet.
    ///
    /// It reads the whole file, of some 300 bytes for each nonce, and blocks meanwhile.
    ///
    /// # Errors
    ///
    /// [`FileStoreError`] tells whether the file is in use, no nonce store, damaged, ahead of the clock, or cannot be read or
    /// written.
    pub fn open(
        path: impl Into<PathBuf>,
        capacity: usize,
        now: OffsetDateTime,
    ) -> Result<Self, FileStoreError> {
        Self::open_with_monotonic(path, capacity, now, Arc::new(SystemMonotonic::new()))
    }

    /// As [`open`](Self::open), with another clock than the system's beside that of the claims.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with_monotonic(
        path: impl Into<PathBuf>,
        capacity: usize,
        now: OffsetDateTime,
        monotonic: Arc<dyn Monotonic>,
    ) -> Result<Self, FileStoreError> {
        // At once, so that both clocks tell the same moment.
        let elapsed = monotonic.elapsed();
        let path = path.into();
        let failed = |error: LedgerError| FileStoreError::new(path.clone(), error);
        create_if_absent(&path, now, elapsed, &*monotonic).map_err(failed)?;
        let open = {
            let path = path.clone();
            move || open_existing(&path)
        };
        let ledger = open().map_err(failed)?;
        let life = ledger.life();
        let age = Age {
            birth: Arc::new(life.birth(now, elapsed, &*monotonic)),
            clock: monotonic,
        };
        let latest = life.forgotten().max(Some(age.birth.since()));
        if let Some(until) = latest.filter(|latest| *latest > now.saturating_add(MAX_AHEAD)) {
            return Err(FileStoreError::Ahead { path, until, now });
        }
        let on = OnLedger {
            reopen: Box::new(open),
            capacity,
            max_waiting: Self::MAX_WAITING,
            age,
            path: path.clone(),
        };
        on.store(ledger).map_err(failed)
    }

    /// How many nonces the store holds, those that have expired but are not yet removed among them.
    pub fn len(&self) -> usize {
        usize::try_from(self.live.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Whether the store holds no nonce.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn ask<T: Send + 'static>(
        &self,
        claim: Claim,
        request: fn(Asked<T>) -> Request,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            self.writer.send(request(Asked::new(claim, answer)))?;
            answered.await.unwrap_or_else(|_| Err(writer::ended()))
        })
    }
}

/// What a store needs besides its open file.
struct OnLedger {
    /// Opens the file again after a fault.
    reopen: writer::Open,
    capacity: usize,
    max_waiting: usize,
    age: Age,
    path: PathBuf,
}

impl OnLedger {
    fn store(self, ledger: Ledger) -> Result<FileNonceStore, LedgerError> {
        let live = Arc::new(AtomicU64::new(ledger.live()?));
        let (shared, age) = (Arc::clone(&live), self.age.clone());
        let settings = (self.capacity, self.max_waiting);
        let id = ledger.id();
        Ok(FileNonceStore {
            writer: Writer::start(ledger, self.reopen, settings, shared, age)?,
            live,
            id,
            age: self.age,
            path: self.path,
        })
    }
}

impl NonceStore for FileNonceStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>> {
        self.ask(claim, Request::Claim)
    }

    fn commit(&self, claim: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>> {
        self.ask(claim, Request::Commit)
    }

    fn remembers_since(&self) -> Option<OffsetDateTime> {
        Some(self.age.birth.since())
    }

    fn memory_id(&self) -> Option<MemoryId> {
        self.id
    }
}

impl fmt::Debug for FileNonceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileNonceStore")
            .field("path", &self.path)
            .field("live", &self.len())
            .finish_non_exhaustive()
    }
}

/// Why a file cannot be opened as a nonce store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileStoreError {
    /// Another store, most likely of another process, has the file open.
    #[error("the nonce file {} is in use by another process", .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else. Name another one.
    #[error("{} is not a nonce file", .path.display())]
    NotANonceFile {
        /// The file.
        path: PathBuf,
    },
    /// The file has been altered or its disk failed. Remove it: tokens under way are then refused.
    #[error("the nonce file {} is damaged", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The clock was ahead when the file was used last, or is behind now: every token would be refused until `until`. If the clock
    /// is right now, remove the file: tokens issued until then are refused, and later ones accepted.
    #[error(
        "the nonce file {} refuses every token until {until}, and it is {now}: set the clock, or remove the file if the \
         clock is right now", .path.display()
    )]
    Ahead {
        /// The file.
        path: PathBuf,
        /// The moment from which on it accepts tokens.
        until: OffsetDateTime,
        /// The present moment, as it was told.
        now: OffsetDateTime,
    },
    /// The system does not let the file be read, written or created.
    #[error("cannot open the nonce file {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl FileStoreError {
    fn new(path: PathBuf, error: LedgerError) -> Self {
        match error {
            LedgerError::InUse => Self::InUse { path },
            LedgerError::Foreign => Self::NotANonceFile { path },
            LedgerError::Io(source) => Self::Io { path, source },
            LedgerError::Damaged(error) => Self::Damaged {
                path,
                source: error.into(),
            },
        }
    }
}

/// Makes a file that is complete from its first moment on, unless there is one.
fn create_if_absent(
    path: &Path,
    now: OffsetDateTime,
    elapsed: std::time::Duration,
    clock: &dyn Monotonic,
) -> Result<(), LedgerError> {
    if path.try_exists()? {
        return Ok(());
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // For its owner alone, which is what tempfile promises on Unix.
    let file = tempfile::NamedTempFile::new_in(folder)?;
    Ledger::create(backend(file.path())?, now, elapsed, clock)?;
    match file.persist_noclobber(path) {
        // Another process was faster.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        persisted => drop(persisted.map_err(|error| error.error)?),
    }
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

fn open_existing(path: &Path) -> Result<Ledger, LedgerError> {
    Ledger::open(backend(path)?)
}

fn backend(path: &Path) -> Result<FileBackend, LedgerError> {
    let file = File::options().read(true).write(true).open(path)?;
    FileBackend::new(file).map_err(|error| redb::Error::from(error).into())
}
