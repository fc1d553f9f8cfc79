//! The present moment, injected, so that tests need not sleep.

use std::fmt;
use std::sync::Arc;

use time::OffsetDateTime;

/// Tells the time for token expiry and ticket age.
///
/// rustls has a clock of its own (`time_provider` in its configurations, whole seconds); tests that move one
/// must move the other.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The present moment.
    fn now(&self) -> OffsetDateTime;
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
}
