//! In what order and at what pace a server tells many connections to move.
//!
//! Does constant work for each of them (and for each target).

use std::time::{Duration, Instant};

/// Longer than anything is spread over: what is longer could not be added to a point in time.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// Targets in turn, each as often as its weight says, and evenly mixed.
#[derive(Clone, Debug)]
pub struct Shares<T>(Vec<Share<T>>);

#[derive(Clone, Debug)]
struct Share<T> {
    target: T,
    weight: i64,
    credit: i64,
}

impl<T: Clone> Shares<T> {
    /// A target of weight 0 is left out.
    pub fn new(targets: impl IntoIterator<Item = (T, u32)>) -> Self {
        let share = |(target, weight)| Share {
            target,
            weight: i64::from(weight),
            credit: 0,
        };
        let targets = targets.into_iter().filter(|(_, weight)| *weight > 0);
        Self(targets.map(share).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose turn it is. Smooth weighted round-robin: each gains its weight, the richest is chosen and pays for all.
    pub fn next_target(&mut self) -> Option<T> {
        let total: i64 = self.0.iter().map(|share| share.weight).sum();
        for share in &mut self.0 {
            share.credit = share.credit.saturating_add(share.weight);
        }
        let chosen = self.0.iter_mut().max_by_key(|share| share.credit)?;
        chosen.credit = chosen.credit.saturating_sub(total);
        Some(chosen.target.clone())
    }
}

/// Turns that are spread over a time: each has a slot, and a random place in it.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    started: Instant,
    over: Duration,
    slots: u32,
}

impl Spread {
    /// So many turns, from `started` on, over so long.
    pub fn new(started: Instant, over: Duration, turns: usize) -> Self {
        Self {
            started,
            over: over.min(FOREVER),
            slots: u32::try_from(turns).unwrap_or(u32::MAX),
        }
    }

    /// When the next turn is, with so many `left`. `fraction`: its place in its slot, from 0 to 1. `None` when that cannot be
    /// said, as it is too far away, or there are no turns.
    pub fn turn(&self, left: usize, fraction: f64) -> Option<Instant> {
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        let index = self.slots.saturating_sub(left);
        if index >= self.slots {
            return None;
        }
        let share = (f64::from(index) + fraction.clamp(0.0, 1.0)) / f64::from(self.slots);
        self.started.checked_add(self.over.mul_f64(share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_get_their_shares_evenly_mixed() {
        let mut targets = Shares::new([("one", 3), ("none", 0), ("two", 1)]);
        let chosen: Vec<_> = (0..8).map(|_| targets.next_target().unwrap()).collect();
        let of_one = |chosen: &[&str]| chosen.iter().filter(|target| **target == "one").count();
        assert_eq!(of_one(&chosen), 6);
        assert_eq!(of_one(&chosen[..4]), 3);
        let mut nobody = Shares::<u8>::new([(1, 0)]);
        assert!(nobody.is_empty() && nobody.next_target().is_none());
    }

    #[test]
    fn turns_are_spread_evenly_each_in_its_slot() {
        let start = Instant::now();
        let spread = Spread::new(start, Duration::from_secs(10), 5);
        for (left, fraction, seconds) in [(5, 0.0, 0), (5, 1.0, 2), (4, 0.5, 3), (1, 0.0, 8)] {
            let turn = spread.turn(left, fraction);
            assert_eq!(turn, Some(start + Duration::from_secs(seconds)), "{left}");
        }
        assert_eq!(spread.turn(0, 0.0), None);
        assert_eq!(Spread::new(start, Duration::MAX, 0).turn(0, 0.0), None);
    }
}
