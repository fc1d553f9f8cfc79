//! Advertisements that are kept until the path in use falls silent (`FollowPolicy::OnSilence`).
//!
//! Never holds more than a few, and never one whose connection ID cannot be used any more.

use std::time::{Duration, Instant};

use super::{ClientHook, Paths, Phase};
use crate::event::Event;
use crate::policy::Refusal;
use crate::wire::AlternateAddress;

/// Kept at most. Each holds one connection ID of the server.
const LIMIT: usize = 4;

impl ClientHook {
    pub(super) fn has_alternates(&self) -> bool {
        !self.alternates.is_empty()
    }

    /// Keeps an advertisement, if the policy would let it pass.
    pub(super) fn keep_alternate(&mut self, offer: AlternateAddress) {
        let Some((gate, paths)) = self.attachment.policy() else {
            return;
        };
        let sequence = offer.sequence;
        match gate.check(paths.active.server, &offer) {
            Ok(target) => {
                self.report(Event::Kept { sequence, target });
                self.alternates.push_back(offer);
            }
            Err(reason) => self.refuse(sequence, reason),
        }
        if self.alternates.len() > LIMIT
            && let Some(oldest) = self.alternates.pop_front()
        {
            self.refuse(oldest.sequence, Refusal::Superseded);
        }
    }

    /// Gives those back whose connection IDs quinn has passed over, or the server has retired.
    pub(super) fn drop_past_alternates(&mut self) {
        let all = std::mem::take(&mut self.alternates).into_iter();
        let past = |offer: &AlternateAddress| self.server_ids.is_past(offer.sequence);
        let (gone, kept): (Vec<_>, Vec<_>) = all.partition(past);
        self.alternates = kept.into();
        gone.iter()
            .for_each(|offer| self.refuse(offer.sequence, Refusal::Superseded));
    }

    /// The path in use is silent: follows the next kept advertisement, in turns with earlier paths. Answers `false` when it
    /// is not the turn of one, or there is none.
    pub(super) fn follow_alternate(&mut self, round: u32, now: Instant) -> bool {
        let Some((gate, paths)) = self.attachment.policy() else {
            return false;
        };
        if paths.has_moved() && !round.is_multiple_of(2) {
            return false;
        }
        let Some(offer) = self.alternates.pop_front() else {
            return false;
        };
        match gate.judge(paths.active.server, &offer, now) {
            Ok(target) => {
                self.phase = Phase::Opening(offer, target);
                true
            }
            Err(reason) => {
                self.refuse(offer.sequence, reason);
                self.follow_alternate(round, now)
            }
        }
    }

    /// Asks an earlier path or follows an advertisement. Answers `false` when there is nothing to try.
    pub(super) fn leave_silent_path(
        &mut self,
        silence: Duration,
        round: u32,
        now: Instant,
    ) -> bool {
        let has_earlier = self.attachment.paths().is_some_and(Paths::has_moved);
        self.follow_alternate(round, now) || (has_earlier && self.begin_return(silence, round, now))
    }
}
