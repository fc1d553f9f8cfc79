//! How long an old server may be silent while a stream waits for its end.
//!
//! It never counts against a server that says something: what has arrived is read first.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Time without a word.
pub(super) struct Silence {
    limit: Duration,
    /// `None` before anybody waits.
    wait: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, wait: None }
    }

    /// The server has said something.
    pub(super) fn heard(&mut self) {
        if let Some(sleep) = &mut self.wait {
            sleep.as_mut().reset(Instant::now() + self.limit);
        }
    }

    /// Waits on; ready when it has been too long.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(limit)));
        wait.as_mut().poll(cx)
    }
}

impl fmt::Debug for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Silence")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
