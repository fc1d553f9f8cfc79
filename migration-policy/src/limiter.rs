//! How often a connection may be moved, against servers that send it round in circles.
//!
//! Never counts a move that it has not allowed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Counts the moves of one connection in a sliding window.
#[derive(Clone, Debug, Default)]
pub struct MoveLimiter {
    begun: VecDeque<Instant>,
}

impl MoveLimiter {
    /// Whether another move may begin at `now`, when at most `count` may in any `window`.
    pub fn allows(&mut self, count: usize, window: Duration, now: Instant) -> bool {
        let over = |begun: &Instant| now.saturating_duration_since(*begun) >= window;
        while self.begun.front().is_some_and(over) {
            self.begun.pop_front();
        }
        self.begun.len() < count
    }

    /// As [`allows`](Self::allows); if so, it counts.
    pub fn admit(&mut self, count: usize, window: Duration, now: Instant) -> bool {
        let admitted = self.allows(count, window, now);
        if admitted {
            self.begun.push_back(now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_count_within_the_window() {
        let window = Duration::from_secs(300);
        let mut limiter = MoveLimiter::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..5 {
            assert!(limiter.admit(5, window, at(second)));
        }
        assert!(!limiter.admit(5, window, at(5)));
        assert!(!limiter.allows(5, window, at(299)));
        assert!(!limiter.admit(5, window, at(299)));
        assert!(limiter.allows(5, window, at(300)));
        assert!(limiter.admit(5, window, at(300)));
        assert!(!limiter.admit(5, window, at(300)));
        assert!(!MoveLimiter::default().admit(0, window, start));
        assert!(MoveLimiter::default().admit(1, Duration::ZERO, start));
    }
}
