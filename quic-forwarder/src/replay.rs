//! Takes every envelope once (docs/forwarding.md, "Freshness").
//!
//! An envelope is fresh for as long as its sender is remembered, so none is taken twice by one receiver.

use std::collections::HashMap;

use crate::envelope::Refused;

/// Milliseconds since 1970.
pub(crate) type Millis = u64;

/// How far the clocks of two hosts may be apart, together with the time that an envelope is under way.
pub(crate) const TOLERANCE: Millis = 30_000;
/// Processes at the other end of one tunnel that are remembered at a time. A process is forgotten when its last envelope is
/// no longer fresh.
const SENDERS: usize = 64;
/// Envelopes of one sender that may be overtaken, in words of 64.
const WORDS: usize = 32;
const WIDTH: u64 = 64 * 32;

/// What one receiver has taken.
#[derive(Debug)]
pub(crate) struct Replay {
    /// Nothing from before it is taken: what this receiver's predecessor took is unknown.
    began: Millis,
    senders: HashMap<u64, Sender>,
}

#[derive(Debug, Default)]
struct Sender {
    /// The latest time in any of its envelopes.
    latest: Millis,
    taken: Window,
}

impl Replay {
    pub(crate) fn new(now: Millis) -> Self {
        Self {
            began: now,
            senders: HashMap::new(),
        }
    }

    /// Takes envelope `number` of `sender`, which is known to be authentic.
    pub(crate) fn take(
        &mut self,
        now: Millis,
        sent: Millis,
        sender: u64,
        number: u64,
    ) -> Result<(), Refused> {
        if sent < self.began || sent.abs_diff(now) > TOLERANCE {
            return Err(Refused::Stale);
        }
        if !self.senders.contains_key(&sender) && self.senders.len() >= SENDERS {
            self.senders
                .retain(|_, known| known.latest.saturating_add(TOLERANCE) >= now);
            if self.senders.len() >= SENDERS {
                return Err(Refused::TooManySenders);
            }
        }
        let known = self.senders.entry(sender).or_default();
        known.latest = known.latest.max(sent);
        known
            .taken
            .take(number)
            .then_some(())
            .ok_or(Refused::Replayed)
    }
}

/// The highest number taken, and which of those below it.
#[derive(Debug, Default)]
struct Window {
    /// One past the highest number taken.
    end: u64,
    bits: [u64; WORDS],
}

impl Window {
    fn take(&mut self, number: u64) -> bool {
        if number == u64::MAX || number.saturating_add(WIDTH) < self.end {
            return false;
        }
        if number >= self.end {
            let skipped = (number - self.end).min(WIDTH);
            (0..=skipped).for_each(|back| self.put(number - back, false));
            self.end = number + 1;
        }
        let new = !self.has(number);
        self.put(number, true);
        new
    }

    fn place(number: u64) -> (usize, u64) {
        let word = usize::try_from(number % WIDTH / 64).unwrap_or_default();
        (word, 1 << (number % 64))
    }

    fn has(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.bits.get(word).is_some_and(|word| word & bit != 0)
    }

    fn put(&mut self, number: u64, taken: bool) {
        let (word, bit) = Self::place(number);
        if let Some(word) = self.bits.get_mut(word) {
            *word = if taken { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const NOW: Millis = 1_000_000;

    proptest! {
        /// In order but for a few, as on a network; some come again.
        #[test]
        fn every_number_is_taken_once(jumps in prop::collection::vec((0..400u64, 0..3000u64), 1..300)) {
            let (mut window, mut taken, mut next) = (Window::default(), HashSet::new(), 0);
            for (forward, back) in jumps {
                next += forward;
                let number = next.saturating_sub(back);
                let old = number + WIDTH < window.end;
                prop_assert_eq!(window.take(number), !old && taken.insert(number), "{}", number);
            }
        }
    }

    #[test]
    fn what_is_overtaken_by_a_few_is_taken_and_what_is_overtaken_by_many_is_not() {
        let mut window = Window::default();
        assert!(window.take(0) && window.take(WIDTH) && window.take(1));
        assert!(window.take(5000) && window.take(5001 - WIDTH));
        assert!(!window.take(5000 - WIDTH));
        assert!(!window.take(u64::MAX), "there is no number after it");
    }

    #[test]
    fn only_what_is_fresh_is_taken() {
        let mut replay = Replay::new(NOW);
        for (now, sent) in [
            (NOW, NOW - 1),
            (NOW + TOLERANCE + 1, NOW),
            (NOW, NOW + TOLERANCE + 1),
        ] {
            assert_eq!(replay.take(now, sent, 1, 0), Err(Refused::Stale));
        }
        for (number, now, sent) in [
            (0, NOW, NOW),
            (1, NOW + TOLERANCE, NOW),
            (2, NOW, NOW + TOLERANCE),
        ] {
            assert_eq!(replay.take(now, sent, 1, number), Ok(()));
            assert_eq!(replay.take(now, sent, 1, number), Err(Refused::Replayed));
            assert_eq!(replay.take(now, sent, 2, number), Ok(()), "another sender");
        }
    }

    #[test]
    fn a_sender_is_remembered_while_its_envelopes_are_fresh_and_memory_is_bounded() {
        let mut replay = Replay::new(NOW);
        for sender in 0..64 {
            assert_eq!(replay.take(NOW, NOW, sender, 0), Ok(()));
        }
        let end = NOW + TOLERANCE;
        assert_eq!(replay.take(end, end, 64, 0), Err(Refused::TooManySenders));
        assert_eq!(replay.take(end, NOW, 63, 0), Err(Refused::Replayed));
        assert_eq!(replay.take(end + 1, end, 64, 0), Ok(()));
        assert_eq!(replay.senders.len(), 1);
        assert_eq!(replay.take(end + 1, NOW, 63, 0), Err(Refused::Stale));
    }
}
