//! A clock by which a nonce store is old at once, so that it takes tokens of the past that a comparison makes up, and so that
//! the comparison's own time may run faster than real time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migration_token::Monotonic;

/// Longer ago than anything that a comparison makes up.
const LONG: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Its first reading is zero, and every later one long after that.
#[derive(Debug, Default)]
pub(crate) struct Aged(AtomicBool);

impl Aged {
    pub(crate) fn clock() -> Arc<dyn Monotonic> {
        Arc::new(Self::default())
    }
}

impl Monotonic for Aged {
    fn elapsed(&self) -> Duration {
        match self.0.swap(true, Ordering::Relaxed) {
            false => Duration::ZERO,
            true => LONG,
        }
    }

    fn origin(&self) -> Option<u128> {
        None
    }
}
