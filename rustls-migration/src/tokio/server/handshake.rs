//! A handshake under way: its permit among those that may be, and the time that it has.
//!
//! It knows nothing of TLS.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use crate::measure::gauge;

/// Inside an `io::Error` of the kind `TimedOut`: the client did not begin its hello in time, or did not complete its
/// handshake; see [`hello_timeout`](crate::server::MigrationServerBuilder::hello_timeout) and
/// [`handshake_timeout`](crate::server::MigrationServerBuilder::handshake_timeout).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client did not complete its handshake in time")]
pub struct HandshakeTimeout;

impl From<HandshakeTimeout> for io::Error {
    fn from(timeout: HandshakeTimeout) -> Self {
        Self::new(io::ErrorKind::TimedOut, timeout)
    }
}

/// Permits for handshakes that are under way at once.
pub(super) type HandshakePermits = Arc<Semaphore>;

/// Creates `count` permits.
pub(super) fn permits(count: usize) -> HandshakePermits {
    Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
}

/// The memory that unfinished hellos may take beyond what each may have without asking. It keeps the sum within a bound,
/// where the number of handshakes alone would allow gigabytes.
#[derive(Debug)]
pub(super) struct HelloMemory(Arc<Semaphore>);

/// How much of a hello is read without asking for memory, in bytes. Most hellos are shorter.
const FREE_LEN: usize = 4096;

/// What memory is counted in, in bytes.
const UNIT: usize = 1024;

impl HelloMemory {
    /// For so many bytes in all.
    pub(super) fn new(len: usize) -> Self {
        let units = (len / UNIT).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(units)))
    }

    /// Whether a hello of which so many bytes have come is one that asks.
    pub(super) fn asks(&self, received: usize) -> bool {
        received >= FREE_LEN
    }

    /// Waits until there is memory for a hello that may take `most` bytes. `held` is what it has.
    pub(super) async fn hold(&self, most: usize, held: &mut Option<OwnedSemaphorePermit>) {
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wants = most.div_ceil(UNIT).saturating_sub(has);
        let Some(units) = u32::try_from(wants).ok().filter(|units| *units > 0) else {
            return;
        };
        // Never closed.
        if let Ok(more) = Arc::clone(&self.0).acquire_many_owned(units).await {
            match held {
                Some(held) => held.merge(more),
                None => *held = Some(more),
            }
        }
    }
}

/// A handshake under way. Dropping it gives its permit back.
#[derive(Debug)]
pub(super) struct HandshakeSlot {
    time: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl HandshakeSlot {
    /// One whose time begins now: the client has begun its hello.
    pub(super) fn new(time: Duration, permit: Option<OwnedSemaphorePermit>) -> Self {
        gauge!(HANDSHAKES_IN_PROGRESS, increment 1.0);
        Self {
            time: Box::pin(sleep(time)),
            _permit: permit,
        }
    }

    /// Resolves when the time is over.
    pub(super) async fn timeout(&mut self) {
        self.time.as_mut().await;
    }

    /// Ready when the time is over. Not to be polled after that.
    pub(super) fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.time.as_mut().poll(cx)
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        gauge!(HANDSHAKES_IN_PROGRESS, decrement 1.0);
    }
}
