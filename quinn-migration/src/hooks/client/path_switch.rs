//! Making quinn use another connection ID, and with it another path.
//!
//! quinn learns of it by a NEW_CONNECTION_ID frame that the hook puts before the frames of a received packet.
//! Never gives quinn a connection ID beyond the window that quinn keeps: quinn would close the connection.

use std::time::{Duration, Instant};

use quinn_proto::VarInt;

use super::super::peer_ids::PeerIds;
use super::probe::{Known, Probe};
use super::{ClientHook, Path, Phase, plus};
use crate::event::Event;
use crate::socket::PathId;
use crate::wire::{Frame, NewConnectionId};

/// Active connection IDs that quinn accepts and announces (active_connection_id_limit).
const QUINN_WINDOW: u32 = 5;
/// Connection IDs held at most. A server that goes beyond has gone far beyond its limit, which quinn tells it.
const HELD: usize = 16;
/// The same, with those that this side adds.
const HELD_IN_ALL: usize = 2 * HELD;

/// Why quinn is made to use another connection ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The server has advertised the path that it belongs to.
    Advertised,
    /// Nothing has come on the path in use for this long, and the other one was in use before.
    Return(Duration),
    /// The path in use gets another one.
    Renewal,
}

#[derive(Debug)]
pub(super) struct PathSwitch {
    pub(super) new: NewConnectionId,
    pub(super) path: Path,
    pub(super) purpose: Purpose,
    started: Option<Instant>,
    challenges: u32,
    packets: u64,
}

impl PathSwitch {
    /// Of a path that was validated.
    fn after(probe: &Probe, purpose: Purpose) -> Self {
        Self {
            new: probe.new.clone(),
            path: probe.path,
            purpose,
            started: Some(probe.started),
            challenges: probe.sent(),
            packets: 0,
        }
    }

    /// Of a fresh connection ID for the path in use.
    pub(super) fn renewal(fresh: NewConnectionId, path: Path) -> Self {
        Self {
            new: NewConnectionId {
                retire_prior_to: fresh.sequence,
                ..fresh
            },
            path,
            purpose: Purpose::Renewal,
            started: None,
            challenges: 0,
            packets: 0,
        }
    }

    /// Whether to tell quinn with this packet. quinn may drop a packet as a duplicate, so it is told again, ever
    /// more rarely.
    pub(super) fn is_due(&mut self) -> bool {
        self.packets = self.packets.saturating_add(1);
        self.packets.is_power_of_two()
    }
}

impl ClientHook {
    /// Answers whether a challenge of ours was answered, which validates the path. `unread`: something waits that came by the
    /// path in use.
    pub(super) fn on_path_response(&mut self, payload: &[u8], frame: &Frame, unread: bool) -> bool {
        let body = payload.get(frame.body.clone()).unwrap_or_default();
        let (probe, purpose) = match &self.phase {
            Phase::Probing(probe) => (probe, Purpose::Advertised),
            Phase::Returning(probe, silence) => (probe, Purpose::Return(*silence)),
            Phase::Settled | Phase::Opening(..) | Phase::Trial(_) | Phase::Switching(_) => {
                return false;
            }
        };
        // A host that was busy reads its sockets in any order: that an earlier path has answered does not mean that the one in
        // use has not.
        if self.is_returning() && (self.monitor.is_alive() || unread && self.monitor.may_doubt()) {
            return true;
        }
        // An earlier path's late answer says nothing about an advertised path.
        let earlier = self.unanswered.iter().filter(|_| self.is_returning());
        let mut asked = std::iter::once(probe).chain(earlier);
        let Some(answered) = asked.find(|probe| probe.is_answered_by(body)) else {
            return false;
        };
        match purpose {
            Purpose::Return(silence) if self.is_kept(&answered.new.id) => {
                let path = answered.path;
                self.return_with_kept(path, silence);
            }
            Purpose::Advertised | Purpose::Return(_) | Purpose::Renewal => {
                self.phase = Phase::Switching(PathSwitch::after(answered, purpose));
            }
        }
        self.unanswered.clear();
        true
    }

    /// quinn uses the new connection ID: from this packet on the connection is on the new path.
    pub(super) fn finish_switch(&mut self) {
        let Phase::Switching(switch) = std::mem::replace(&mut self.phase, Phase::Settled) else {
            return;
        };
        match switch.purpose {
            Purpose::Advertised => self.finish_move(&switch),
            Purpose::Return(silence) => self.finish_return(&switch, silence),
            // It may have been used before quinn knew that.
            Purpose::Renewal if self.is_kept(&switch.new.id) => self.kept = None,
            Purpose::Renewal => self.release_kept(),
        }
        self.held.forget(switch.new.sequence);
        self.server_ids.learn(switch.new);
        let current = self.server_ids.current();
        self.assigned.retain(|(_, sequence)| *sequence > current);
    }

    fn finish_move(&mut self, switch: &PathSwitch) {
        let Some(paths) = self.attachment.paths_mut() else {
            return;
        };
        let left = std::mem::replace(&mut paths.active, switch.path);
        let older = paths.previous.replace(left);
        self.closing.extend(older.map(|path| path.id));
        self.validating_since = switch.started;
        self.keep(left);
        self.monitor = super::PathMonitor::default();
        self.report(Event::Migrated {
            sequence: switch.new.sequence,
            from: left.server,
            to: switch.path.server,
            challenges: switch.challenges,
            // The step that reports it knows the time.
            validation: Duration::ZERO,
        });
    }

    fn finish_return(&mut self, switch: &PathSwitch, silence: Duration) {
        self.release_kept();
        self.fall_back(switch.path, silence);
    }

    /// An earlier path has shown that it works: the connection is there again.
    pub(super) fn fall_back(&mut self, to: Path, silence: Duration) {
        let Some(paths) = self.attachment.paths_mut() else {
            return;
        };
        let left = std::mem::replace(&mut paths.active, to);
        // What was left before is where the connection is now, or as dead as the path that is left now.
        let older = paths.previous.take();
        let older = older.filter(|path| path.id != to.id);
        self.closing.push_back(left.id);
        self.closing.extend(older.map(|path| path.id));
        self.monitor = super::PathMonitor::default();
        self.phase = Phase::Settled;
        self.report(Event::FellBack {
            from: left.server,
            to: to.server,
            silence,
        });
    }

    /// Asks an earlier path whether it still answers, because the one in use does not: the path left last, and the
    /// first one in turns. No application data goes there before it has answered, because the server may have left
    /// it. Answers `false` when that cannot be.
    pub(super) fn begin_return(&mut self, silence: Duration, round: u32, now: Instant) -> bool {
        let Some(paths) = self.attachment.paths() else {
            return false;
        };
        let back = match paths.previous {
            Some(previous) if !round.is_multiple_of(2) => previous,
            Some(_) | None => paths.first,
        };
        let Some(spare) = self.spare_for(back) else {
            return false;
        };
        // One for each path in turn: on a silent path quinn lets little out.
        let probe = Probe::new(spare, back, Known::Earlier, 1, now);
        let probe = probe.expecting(self.control);
        self.phase = Phase::Returning(probe, silence);
        true
    }

    /// A connection ID for a challenge to an earlier path: one that no other path has seen, or the one that was in use
    /// there.
    fn spare_for(&mut self, back: Path) -> Option<NewConnectionId> {
        let assigned = |id: &&NewConnectionId, to: fn(PathId, PathId) -> bool| {
            let mut all = self.assigned.iter();
            all.any(|(path, sequence)| *sequence == id.sequence && to(*path, back.id))
        };
        let unused = || {
            self.server_ids
                .unused()
                .chain(self.held.unused(&self.server_ids))
        };
        let own = unused().find(|id| assigned(id, |path, back| path == back));
        let fresh = || unused().find(|id| !assigned(id, |_, _| true));
        let kept = self.kept.as_ref().filter(|kept| kept.is_for(back));
        if let Some(kept) = kept.filter(|_| !self.has_enough_spares()) {
            return Some(kept.connection_id());
        }
        let spare = own.or_else(fresh).cloned()?;
        self.assigned.push((back.id, spare.sequence));
        self.assigned.dedup();
        Some(spare)
    }
}

/// Connection IDs that the server may send but that quinn has no room for: giving an advertised connection ID back
/// leaves a gap in quinn's window (RFC 9000 section 5.1.1 counts connection IDs, quinn counts sequence numbers).
#[derive(Debug, Default)]
pub(super) struct HeldIds(Vec<NewConnectionId>);

impl HeldIds {
    pub(super) fn must_hold(&self, new: &NewConnectionId, known: &PeerIds) -> bool {
        !fits(new, known) && (self.0.len() < HELD || self.contains(new))
    }

    /// A retransmission is held once.
    pub(super) fn hold(&mut self, new: NewConnectionId) {
        if !self.contains(&new) {
            self.push(new);
        }
    }

    fn push(&mut self, new: NewConnectionId) {
        if self.0.len() < HELD_IN_ALL {
            self.0.push(new);
        }
    }

    /// A held frame may ask for retirements that the server waits for, so quinn must hear of them: with a connection
    /// ID that it knows, or, when none is left, by switching to the held one at once. In the latter case the answer
    /// is what to hold instead.
    pub(super) fn pass_retirement_on(
        &mut self,
        new: &NewConnectionId,
        known: &PeerIds,
    ) -> Option<NewConnectionId> {
        if new.retire_prior_to <= known.retire_prior_to() {
            return None;
        }
        match known.at_or_above(new.retire_prior_to) {
            Some(lowest) => {
                let asked = NewConnectionId {
                    retire_prior_to: new.retire_prior_to,
                    ..lowest.clone()
                };
                let says_it = |held: &NewConnectionId| {
                    held.sequence == asked.sequence && held.retire_prior_to >= asked.retire_prior_to
                };
                if !self.0.iter().any(says_it) {
                    self.push(asked);
                }
                None
            }
            None => Some(NewConnectionId {
                retire_prior_to: new.sequence,
                ..new.clone()
            }),
        }
    }

    fn contains(&self, new: &NewConnectionId) -> bool {
        self.0.iter().any(|held| held.sequence == new.sequence)
    }

    /// Those that quinn has room for by now.
    pub(super) fn release(&mut self, known: &PeerIds) -> Vec<NewConnectionId> {
        self.0.extract_if(.., |held| fits(held, known)).collect()
    }

    /// quinn has heard of it in another way.
    fn forget(&mut self, sequence: VarInt) {
        self.0.retain(|held| held.sequence != sequence);
    }

    /// Those that quinn may go over to, for a path change that makes room by itself; the last one first.
    pub(super) fn unused(&self, known: &PeerIds) -> impl Iterator<Item = &NewConnectionId> {
        let current = known.current();
        let above = move |held: &&NewConnectionId| held.sequence > current;
        self.0.iter().rev().filter(above)
    }
}

fn fits(new: &NewConnectionId, known: &PeerIds) -> bool {
    let start: VarInt = known.current().max(new.retire_prior_to);
    new.sequence.into_inner() < plus(start, QUINN_WINDOW)
}
