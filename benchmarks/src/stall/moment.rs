//! Waiting for a moment, more exactly than tokio's timers do, which are right to a millisecond.
//!
//! It keeps the processor busy for the last bit, so it is for measuring alone.

use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// What tokio's timers may be late by.
const TIMER_ERROR: Duration = Duration::from_millis(2);

/// How to wait.
#[derive(Clone, Copy, Debug)]
pub(super) enum Exactness {
    /// To a few microseconds.
    Exact,
    /// As tokio does it: virtual time passes only while nothing is busy.
    Timer,
}

impl Exactness {
    pub(super) async fn wait_until(self, moment: Instant) {
        match self {
            Self::Timer => sleep_until(moment).await,
            Self::Exact => {
                if moment > Instant::now() + TIMER_ERROR {
                    sleep_until(moment - TIMER_ERROR).await;
                }
                while Instant::now() < moment {
                    yield_now().await;
                }
            }
        }
    }
}
