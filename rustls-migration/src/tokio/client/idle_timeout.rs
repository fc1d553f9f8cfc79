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
pub(super) struct IdleTimeout {
    limit: Duration,
    /// `None` before anybody waits.
    wait: Option<Pin<Box<Sleep>>>,
}

impl IdleTimeout {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, wait: None }
    }

    /// The server has said something.
    pub(super) fn reset(&mut self) {
        match (&mut self.wait, Instant::now().checked_add(self.limit)) {
            (Some(sleep), Some(deadline)) => sleep.as_mut().reset(deadline),
            (wait, None) => *wait = None,
            (None, Some(_)) => {}
        }
    }

    /// Waits on; ready when it has been too long.
    pub(super) fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(limit)));
        wait.as_mut().poll(cx)
    }
}

impl fmt::Debug for IdleTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleTimeout")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
