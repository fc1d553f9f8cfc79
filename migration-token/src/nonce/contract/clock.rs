//! A clock that is never set and moves only when a test turns it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::nonce::Monotonic;

/// Seconds since an origin, which a test gives a new name when it starts the machine anew.
#[derive(Debug, Default)]
pub(crate) struct HandClock {
    seconds: AtomicU64,
    boots: AtomicU64,
}

impl HandClock {
    pub(crate) fn turn_to(&self, seconds: i64) {
        self.seconds
            .store(u64::try_from(seconds).unwrap(), Ordering::SeqCst);
    }

    /// The machine is started anew: what was measured before means nothing now.
    pub(crate) fn start_anew(&self) {
        self.boots.fetch_add(1, Ordering::SeqCst);
    }
}

impl Monotonic for HandClock {
    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.seconds.load(Ordering::SeqCst))
    }

    fn origin(&self) -> Option<u128> {
        Some(u128::from(self.boots.load(Ordering::SeqCst)) + 1)
    }
}
