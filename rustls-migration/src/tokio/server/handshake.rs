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

/// Inside an `io::Error` of the kind `TimedOut`: the client did not complete its handshake in time; see
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

/// A handshake under way. Dropping it gives its permit back.
#[derive(Debug)]
pub(super) struct HandshakeSlot {
    time: Pin<Box<Sleep>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl HandshakeSlot {
    /// One whose time begins now, and that has no permit yet.
    pub(super) fn new(time: Duration) -> Self {
        Self {
            time: Box::pin(sleep(time)),
            permit: None,
        }
    }

    /// Takes the permit that it has come to have.
    pub(super) fn take(&mut self, permit: Option<OwnedSemaphorePermit>) {
        self.permit = permit;
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
