//! The present moment, injected, so that tests need not sleep.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;

/// Tells the time: of the world, for what servers agree on (a token's expiry, a ticket's issue), and of this process, for
/// intervals (an offer's life, a client's migrations).
///
/// rustls has a clock of its own (`time_provider` in its configurations, whole seconds); tests that move one
/// must move the other.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The present moment. It may be wrong, and it may step.
    fn now(&self) -> OffsetDateTime;

    /// The present moment of a clock that never goes back and never steps.
    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> OffsetDateTime {
        (**self).now()
    }

    fn instant(&self) -> Instant {
        (**self).instant()
    }
}
