//! A clock that stands still until it is turned, for this project's time and for rustls' at once.
//!
//! For nonce stores it is the clock beside the wall clock too: it goes on with real time, and by as much as it is turned.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use migration_token::Monotonic;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use rustls_migration::Clock;
use time::{Duration, OffsetDateTime};

#[derive(Clone, Debug)]
pub struct TestClock {
    /// The wall clock.
    seconds: Arc<AtomicI64>,
    /// By how much time went on, besides real time.
    passed: Arc<AtomicI64>,
    made: Instant,
}

impl TestClock {
    /// Starts at the present moment, so that certificates are valid.
    pub fn new() -> Self {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        Self {
            seconds: Arc::new(AtomicI64::new(now)),
            passed: Arc::default(),
            made: Instant::now(),
        }
    }

    /// Lets time go on.
    pub fn advance(&self, by: Duration) {
        self.passed.fetch_add(by.whole_seconds(), Ordering::SeqCst);
        self.step(by);
    }

    /// Sets the wall clock ahead or back, which is no passing of time.
    pub fn step(&self, by: Duration) {
        self.seconds.fetch_add(by.whole_seconds(), Ordering::SeqCst);
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TestClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.seconds.load(Ordering::SeqCst)).unwrap()
    }
}

impl Monotonic for TestClock {
    fn elapsed(&self) -> std::time::Duration {
        let passed = u64::try_from(self.passed.load(Ordering::SeqCst)).unwrap();
        self.made.elapsed() + std::time::Duration::from_secs(passed)
    }

    fn origin(&self) -> Option<u128> {
        None
    }
}

impl TimeProvider for TestClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.seconds.load(Ordering::SeqCst)).unwrap();
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            seconds,
        )))
    }
}
