//! Time that never jumps, beside the wall clock in [`Claim::now`](super::Claim::now): injected, so that tests turn it by hand.
//!
//! It only measures how long ago something was. It never says what time it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A clock that runs at the pace of real time and is never set.
///
/// A store compares it with the wall clock: where the two disagree, the wall clock was set.
pub trait Monotonic: fmt::Debug + Send + Sync {
    /// The time since this clock's origin.
    fn elapsed(&self) -> Duration;

    /// Names the origin if other processes count from it too, now and later, as they do on one boot of a machine.
    fn origin(&self) -> Option<u128>;
}

impl<M: Monotonic + ?Sized> Monotonic for Arc<M> {
    fn elapsed(&self) -> Duration {
        (**self).elapsed()
    }

    fn origin(&self) -> Option<u128> {
        (**self).origin()
    }
}

/// The system's clock that is never set: on Linux the time since the machine was started, elsewhere since this value was made.
///
/// Elsewhere the time for which a machine was suspended may be missing. Stores then refuse more than they must.
#[derive(Clone, Debug)]
pub struct SystemMonotonic {
    #[cfg(not(target_os = "linux"))]
    made: std::time::Instant,
    boot: Option<u128>,
}

#[cfg(target_os = "linux")]
impl SystemMonotonic {
    /// The clock of this boot.
    pub fn new() -> Self {
        Self { boot: boot_id() }
    }

    fn read(&self) -> Duration {
        let moment = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::try_from(moment).unwrap_or_default()
    }
}

#[cfg(not(target_os = "linux"))]
impl SystemMonotonic {
    /// Begins to count.
    pub fn new() -> Self {
        let made = std::time::Instant::now();
        Self { made, boot: None }
    }

    fn read(&self) -> Duration {
        self.made.elapsed()
    }
}

impl Default for SystemMonotonic {
    fn default() -> Self {
        Self::new()
    }
}

impl Monotonic for SystemMonotonic {
    fn elapsed(&self) -> Duration {
        self.read()
    }

    fn origin(&self) -> Option<u128> {
        self.boot
    }
}

/// The present boot of the machine (`man 5 proc_sys_kernel`).
#[cfg(target_os = "linux")]
fn boot_id() -> Option<u128> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    u128::from_str_radix(&id.trim().replace('-', ""), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clocks_of_one_boot_count_from_the_same_moment() {
        let one = SystemMonotonic::new();
        let other = SystemMonotonic::new();
        assert_eq!(one.origin(), other.origin());
        let apart = other.elapsed().abs_diff(one.elapsed());
        assert!(one.origin().is_none() || apart < Duration::from_secs(60));
    }
}
