//! When the next round of a rotation is due, and when the addresses of earlier rounds go.
//!
//! Pure: the current time and the jitter are arguments. Keeps nothing for an address that is gone.

use std::time::{Duration, Instant};

use crate::server::AddressId;

/// Longer than a rotation waits: what is longer could not be added to a point in time.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// How soon an address that somebody is on is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) every: Duration,
    pub(super) jitter: Duration,
    pub(super) linger: Duration,
}

#[derive(Debug)]
pub(super) struct Rounds {
    timing: Timing,
    /// `None` when there is no further one.
    next: Option<Instant>,
    /// Of the last round.
    current: Vec<AddressId>,
    /// Of the rounds before, and when they go. One that somebody is on stays longer than those after it.
    leaving: Vec<(Instant, AddressId)>,
}

impl Rounds {
    /// The first round is due one interval from now. `fraction`: how much of the jitter it has, from 0 to 1.
    pub(super) fn new(timing: Timing, now: Instant, fraction: f64) -> Self {
        let mut rounds = Self {
            timing,
            next: None,
            current: Vec::new(),
            leaving: Vec::new(),
        };
        rounds.begin(now, fraction);
        rounds
    }

    /// A round begins: the next one is due an interval later.
    pub(super) fn begin(&mut self, now: Instant, fraction: f64) {
        let jitter = self.timing.jitter.min(FOREVER).mul_f64(fraction);
        let after = self.timing.every.min(FOREVER).saturating_add(jitter);
        self.next = now.checked_add(after);
    }

    /// A round is over that led to these addresses. Those of the one before linger.
    pub(super) fn end(&mut self, now: Instant, drawn: Vec<AddressId>) {
        for address in std::mem::replace(&mut self.current, drawn) {
            self.let_go(now, address, self.timing.linger);
        }
    }

    /// There are no further rounds.
    pub(super) fn stop(&mut self, now: Instant) {
        self.next = None;
        self.end(now, Vec::new());
    }

    fn let_go(&mut self, now: Instant, address: AddressId, after: Duration) {
        let at = now.checked_add(after.min(FOREVER)).unwrap_or(now);
        self.leaving.push((at, address));
    }

    pub(super) fn is_round_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// The addresses whose time is over.
    pub(super) fn take_over(&mut self, now: Instant) -> Vec<AddressId> {
        let mut over = Vec::new();
        self.leaving.retain(|(at, address)| {
            let is_over = *at <= now;
            over.extend(is_over.then_some(*address));
            !is_over
        });
        over
    }

    /// Somebody is still on an address whose time is over.
    pub(super) fn keep(&mut self, now: Instant, address: AddressId) {
        self.let_go(now, address, self.timing.linger.max(AGAIN));
    }

    /// When to look again; `None` when nothing is left to do.
    pub(super) fn next(&self) -> Option<Instant> {
        let going = self.leaving.iter().map(|(at, _)| *at);
        self.next.into_iter().chain(going).min()
    }

    /// Addresses of this rotation that are served.
    pub(super) fn addresses(&self) -> usize {
        self.current.len().saturating_add(self.leaving.len())
    }

    /// All of them: the rotation has nobody left to move.
    pub(super) fn into_addresses(self) -> impl Iterator<Item = AddressId> {
        let leaving = self.leaving.into_iter().map(|(_, address)| address);
        self.current.into_iter().chain(leaving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::PathId;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(number: u32) -> AddressId {
        AddressId(PathId::numbered(number))
    }

    fn rounds(now: Instant) -> Rounds {
        let timing = Timing {
            every: 10 * SECOND,
            jitter: 4 * SECOND,
            linger: 25 * SECOND,
        };
        Rounds::new(timing, now, 0.0)
    }

    #[test]
    fn a_round_is_due_after_the_interval_and_its_part_of_the_jitter() {
        let start = Instant::now();
        let mut rounds = rounds(start);
        assert!(
            !rounds.is_round_due(start + 9 * SECOND) && rounds.is_round_due(start + 10 * SECOND)
        );
        rounds.begin(start + 10 * SECOND, 0.5);
        assert_eq!(rounds.next(), Some(start + 22 * SECOND));
        rounds.begin(start + 22 * SECOND, 1.0);
        assert_eq!(rounds.next(), Some(start + 36 * SECOND));
    }

    #[test]
    fn an_old_address_lingers_and_goes_unless_somebody_is_on_it() {
        let start = Instant::now();
        let mut rounds = rounds(start);
        rounds.end(start, vec![address(1)]);
        rounds.end(start + SECOND, vec![address(2)]);
        assert_eq!(rounds.addresses(), 2);
        assert_eq!(rounds.take_over(start + 25 * SECOND), []);
        assert_eq!(rounds.take_over(start + 26 * SECOND), [address(1)]);
        rounds.keep(start + 26 * SECOND, address(1));
        assert_eq!(rounds.take_over(start + 50 * SECOND), []);
        assert_eq!(rounds.take_over(start + 51 * SECOND), [address(1)]);
        assert_eq!(rounds.addresses(), 1);
    }

    #[test]
    fn an_address_that_stays_long_does_not_keep_the_ones_after_it() {
        let start = Instant::now();
        let timing = Timing {
            every: SECOND,
            jitter: Duration::ZERO,
            linger: Duration::from_millis(10),
        };
        let mut rounds = Rounds::new(timing, start, 0.0);
        rounds.keep(start, address(1));
        rounds.end(start, vec![address(2)]);
        rounds.end(start, vec![address(3)]);
        let later = start + timing.linger;
        assert_eq!(rounds.next(), Some(later));
        assert_eq!(rounds.take_over(later), [address(2)]);
        assert_eq!(rounds.take_over(start + AGAIN), [address(1)]);
    }

    #[test]
    fn ten_thousand_rounds_hold_what_lingers_and_no_more() {
        let mut now = Instant::now();
        let mut rounds = rounds(now);
        for number in 1..=10_000 {
            now += 10 * SECOND;
            assert!(rounds.is_round_due(now));
            rounds.begin(now, 0.0);
            rounds.end(now, vec![address(number)]);
            rounds.take_over(now);
            assert!(rounds.addresses() <= 4, "{}", rounds.addresses());
        }
        rounds.stop(now);
        assert!(!rounds.is_round_due(now + 100 * SECOND));
        assert_eq!(rounds.take_over(now + 25 * SECOND).len(), 4);
        assert_eq!((rounds.next(), rounds.addresses()), (None, 0));
    }

    #[test]
    fn intervals_beyond_measure_do_not_overflow() {
        let now = Instant::now();
        let timing = Timing {
            every: Duration::MAX,
            jitter: Duration::MAX,
            linger: Duration::MAX,
        };
        let mut rounds = Rounds::new(timing, now, 1.0);
        rounds.end(now, vec![address(1)]);
        rounds.stop(now);
        assert!(rounds.next().is_none_or(|next| next > now));
    }
}
