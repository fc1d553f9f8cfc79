//! When a store's memory began, by the best clock that it has seen (`docs/protocol.md` section 8).
//!
//! The moment is never moved back: a birth may turn out to be too early, and then a token that was spent before it could
//! pass for a new one.

use std::sync::atomic::{AtomicI64, Ordering};

use time::{Duration, OffsetDateTime};

use super::{Claim, StoreError};

/// The beginning of a memory.
///
/// The wall clock may have been wrong at that moment. But the memory's age is known by a clock that is never set, so
/// each moment that a claim tells says anew when the memory began: that much earlier. When the wall clock was slow and has been
/// set since, this is later than what it said at first.
#[derive(Debug)]
pub(super) struct Birth {
    /// Unix milliseconds.
    since: AtomicI64,
    /// The beginning by the clock that is never set; negative when it was before that clock's origin.
    began: Duration,
}

impl Birth {
    /// A memory that begins at the moment `since` of the wall clock and `began` of the other.
    pub(super) fn new(since: OffsetDateTime, began: Duration) -> Self {
        Self {
            since: AtomicI64::new(unix_milliseconds(since)),
            began,
        }
    }

    /// How old the memory is, when the clock that is never set says `elapsed`.
    pub(super) fn age(&self, elapsed: Duration) -> Duration {
        elapsed.saturating_sub(self.began)
    }

    /// The beginning, as far as it is known by now.
    pub(super) fn since(&self) -> OffsetDateTime {
        from_unix_milliseconds(self.since_ms())
    }

    pub(super) fn since_ms(&self) -> i64 {
        self.since.load(Ordering::Acquire)
    }

    /// Takes note of the moment of a claim, and says whether its token was certainly not in use before the beginning.
    ///
    /// # Errors
    ///
    /// [`StoreError::Forgotten`] when it may have been, or when the token's time is over.
    pub(super) fn judge(&self, claim: &Claim, elapsed: Duration) -> Result<(), StoreError> {
        self.note(claim.now, elapsed);
        if claim.is_over() || unix_milliseconds(claim.issued_after) < self.since_ms() {
            return Err(StoreError::Forgotten);
        }
        Ok(())
    }

    /// Takes note that the wall clock says `now` when the other says `elapsed`.
    pub(super) fn note(&self, now: OffsetDateTime, elapsed: Duration) {
        let since = now.saturating_sub(self.age(elapsed));
        self.since
            .fetch_max(unix_milliseconds(since), Ordering::AcqRel);
    }
}

/// A span of a clock that is never set, which is never too long for this.
pub(super) fn span(elapsed: std::time::Duration) -> Duration {
    Duration::try_from(elapsed).unwrap_or(Duration::MAX)
}

pub(super) fn unix_milliseconds(moment: OffsetDateTime) -> i64 {
    let milliseconds = moment.unix_timestamp_nanos().div_euclid(1_000_000);
    i64::try_from(milliseconds).unwrap_or(i64::MAX)
}

pub(super) fn from_unix_milliseconds(milliseconds: i64) -> OffsetDateTime {
    let nanoseconds = i128::from(milliseconds).saturating_mul(1_000_000);
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
