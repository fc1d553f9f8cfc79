//! A handshake under way: the place that it takes among others, and the time that it has.
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

/// The places for handshakes.
pub(super) type Places = Arc<Semaphore>;

/// So many places.
pub(super) fn places(count: usize) -> Places {
    Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
}

/// A handshake under way. Dropping it frees its place.
#[derive(Debug)]
pub(super) struct Handshaking {
    time: Pin<Box<Sleep>>,
    over: bool,
    place: Option<OwnedSemaphorePermit>,
}

impl Handshaking {
    /// One whose time begins now, and that has no place yet.
    pub(super) fn new(time: Duration) -> Self {
        Self {
            time: Box::pin(sleep(time)),
            over: false,
            place: None,
        }
    }

    /// Takes the place that it has come to have.
    pub(super) fn take(&mut self, place: Option<OwnedSemaphorePermit>) {
        self.place = place;
    }

    /// Resolves when the time is over.
    pub(super) async fn over(&mut self) {
        self.time.as_mut().await;
    }

    /// When its time is over: whether that is so for the first time.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let first = !self.over;
        let over = self.time.as_mut().poll(cx).map(|()| first);
        self.over = over.is_ready();
        over
    }
}
