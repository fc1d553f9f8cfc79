//! A clock that stands still until it is turned, for this project's time and for rustls' at once. It can be set wrong too.
//!
//! For nonce stores it is the clock beside the wall clock as well: that goes on with real time, and by as much as it is turned.

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
    /// The world's time, in Unix seconds.
    world: Arc<AtomicI64>,
    started: Instant,
    /// The seconds since then.
    elapsed: Arc<AtomicI64>,
}

impl TestClock {
    /// Starts at the present moment, so that certificates are valid.
    pub fn new() -> Self {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        Self {
            world: Arc::new(AtomicI64::new(now)),
            started: Instant::now(),
            elapsed: Arc::default(),
        }
    }

    /// Time passes.
    pub fn advance(&self, by: Duration) {
        self.elapsed.fetch_add(by.whole_seconds(), Ordering::SeqCst);
        self.step(by);
    }

    /// Somebody sets the clock, forward or back. No time passes.
    pub fn step(&self, by: Duration) {
        self.world.fetch_add(by.whole_seconds(), Ordering::SeqCst);
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TestClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.world.load(Ordering::SeqCst)).unwrap()
    }

    fn instant(&self) -> Instant {
        let elapsed = u64::try_from(self.elapsed.load(Ordering::SeqCst)).unwrap();
        self.started + std::time::Duration::from_secs(elapsed)
    }
}

impl Monotonic for TestClock {
    fn elapsed(&self) -> std::time::Duration {
        let passed = u64::try_from(self.elapsed.load(Ordering::SeqCst)).unwrap();
        self.started.elapsed() + std::time::Duration::from_secs(passed)
    }

    fn origin(&self) -> Option<u128> {
        None
    }
}

impl TimeProvider for TestClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.world.load(Ordering::SeqCst)).unwrap();
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            seconds,
        )))
    }
}
