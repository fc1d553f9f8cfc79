//! The connection ID of the path that was left: the way back while the server has issued no other one.
//!
//! quinn retires all earlier connection IDs when it adopts another one, and these frames leave on the new path alone. A path
//! that answers one challenge and then dies would take them with it, and the server would issue no further ones. So the
//! connection ID of the path before is given back later. Never used on another path than the one that it was used on
//! (RFC 9000 section 9.5).

use std::time::{Duration, Instant};

use quinn_proto::{ConnectionId, VarInt};

use super::path_switch::PathSwitch;
use super::{ClientHook, Effects, Outgoing, Path, Paths, Phase, Probe};
use crate::socket::PathId;
use crate::wire::{Frame, NewConnectionId, PING_FRAME, Reader, ResetToken, overwrite};

/// A path that has worked for this long needs no way back at the price of a connection ID, of which the server may have
/// few.
const LONGEST: Duration = Duration::from_secs(10);

/// A server that sees its client on a new path asks the old one whether the client is still there (RFC 9000 section 9.3.3),
/// and the answer needs the connection ID: one round trip after the first acknowledgement, and a little more.
const CHALLENGED: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Kept {
    sequence: VarInt,
    id: ConnectionId,
    path: Path,
    /// The first packet on the path moved to.
    first: Option<u64>,
    /// It, or a later one, was acknowledged.
    proven: bool,
    since: Option<Instant>,
    /// What the server had to ask on the path that was left it has asked by now, and the answer has left.
    rested: bool,
    /// Packets carry this one in place of the one that quinn uses, which belongs to a dead path.
    in_use: bool,
    /// Packets with it find their path.
    routed: bool,
}

impl Kept {
    /// One whose path is left now, and was in use with it.
    fn of_path_left(sequence: VarInt, id: ConnectionId, path: Path) -> Self {
        Self {
            sequence,
            id,
            path,
            first: None,
            proven: false,
            since: None,
            rested: false,
            in_use: false,
            routed: true,
        }
    }

    pub(super) fn is_for(&self, path: Path) -> bool {
        self.path == path
    }

    /// The connection ID for a path that was left, while it is not in use again.
    pub(super) fn id_on(&self, path: PathId) -> Option<ConnectionId> {
        (self.left() == Some(path)).then_some(self.id)
    }

    /// The path that was left.
    pub(super) fn left(&self) -> Option<PathId> {
        (!self.in_use).then_some(self.path.id)
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// The one of a probe to an earlier path, in use from now on.
    pub(super) fn of_probe(probe: &Probe, routed: bool) -> Self {
        Self {
            in_use: true,
            routed,
            ..Self::of_path_left(probe.new.sequence, probe.new.id, probe.path)
        }
    }

    pub(super) fn path(&self) -> Path {
        self.path
    }

    pub(super) fn id(&self) -> &ConnectionId {
        &self.id
    }

    /// As the frame that a probe works with; it is not shown to quinn, so it has no reset token.
    pub(super) fn connection_id(&self) -> NewConnectionId {
        NewConnectionId {
            sequence: self.sequence,
            retire_prior_to: VarInt::default(),
            id: self.id,
            token: ResetToken::new([0; ResetToken::LENGTH]),
        }
    }
}

impl ClientHook {
    /// The connection leaves a path by adopting another connection ID; quinn's is still the one of that path.
    pub(super) fn keep(&mut self, left: Path) {
        if let Some(kept) = self.kept.take_if(|kept| kept.in_use) {
            self.kept = Some(Kept {
                routed: kept.routed,
                ..Kept::of_path_left(kept.sequence, kept.id, kept.path)
            });
            return;
        }
        self.release_kept();
        let current = self.server_ids.current();
        let kept = |id| Kept::of_path_left(current, id, left);
        self.kept = self.last_id.map(kept);
    }

    /// Gives it back: quinn sends RETIRE_CONNECTION_ID again when it hears of a connection ID that it has retired. It does
    /// with the next packet.
    pub(super) fn release_kept(&mut self) {
        if let Some(kept) = self.kept.take() {
            self.held.hold(kept.connection_id());
        }
    }

    /// What to give back with this packet, because the path in use has worked and there are other ways to leave it.
    pub(super) fn needless(&mut self) -> Option<NewConnectionId> {
        let rested = |kept: &Kept| !kept.in_use && kept.rested;
        if !self.kept.as_ref().is_some_and(rested) || !self.has_enough_spares() {
            return None;
        }
        Some(self.kept.take()?.connection_id())
    }

    /// Gives it back when the path in use has worked for long. Answers when to look again.
    pub(super) fn poll_kept(&mut self, now: Instant, rtt: Duration) -> Option<Instant> {
        let kept = self.kept.as_mut();
        let kept = kept.filter(|kept| !kept.in_use && kept.proven)?;
        let since = *kept.since.get_or_insert(now);
        let challenged = since + rtt.min(LONGEST) + CHALLENGED;
        kept.rested = now >= challenged && !self.answers.is_for(kept.path.id);
        if !kept.rested {
            // The answer wakes the task when it leaves.
            return (now < challenged).then_some(challenged);
        }
        let until = since + LONGEST;
        if now < until && !self.has_enough_spares() {
            return Some(until);
        }
        self.release_kept();
        None
    }

    /// An ACK frame arrived. Answers whether it is the first one for a packet on the path moved to, which works then.
    pub(super) fn prove_path(&mut self, ack: &[u8]) -> bool {
        let largest = Reader::new(ack).varint();
        let Some(kept) = self.kept.as_mut().filter(|kept| !kept.proven) else {
            return false;
        };
        kept.proven = kept.first.is_some_and(|first| largest >= Some(first));
        kept.proven
    }

    /// Whether there is a connection ID for each path that the connection may go back to.
    pub(super) fn has_enough_spares(&self) -> bool {
        let paths = self.attachment.paths().map_or(1, Paths::earlier);
        self.server_ids.unused().count() >= paths
    }

    /// The server does not want connection IDs below `floor` any more.
    pub(super) fn on_server_retirement(&mut self, floor: VarInt) {
        let gone = |kept: &Kept| !kept.in_use && kept.sequence < floor;
        if self.kept.as_ref().is_some_and(gone) {
            self.release_kept();
        }
    }

    /// Takes quinn's RETIRE_CONNECTION_ID out of a packet when it is for the kept one.
    pub(super) fn hold_retirement_back(&self, payload: &mut [u8], frame: &Frame) {
        let sequence = Reader::starting_at(payload, frame.body.start).varint_checked();
        if let Some(kept) = &self.kept
            && sequence == Some(kept.sequence)
        {
            overwrite(payload, frame.whole.clone(), PING_FRAME);
        }
    }

    /// Whether a probe works with it.
    pub(super) fn is_kept(&self, id: &ConnectionId) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.id == *id)
    }

    /// The path before has answered a challenge with the kept connection ID: the connection goes on there with it, until
    /// the server has issued a fresh one.
    pub(super) fn return_with_kept(&mut self, to: Path, silence: Duration) {
        if let Some(kept) = &mut self.kept {
            kept.in_use = true;
            self.fall_back(to, silence);
        }
    }

    /// Goes over from the kept connection ID to a fresh one, on the same path, once there is one.
    pub(super) fn renew_id(&mut self) {
        let in_use = self.kept.as_ref().filter(|kept| kept.in_use);
        if let (Some(kept), Phase::Settled) = (in_use, &self.phase)
            && let Some(fresh) = self.next_unused()
        {
            self.phase = Phase::Switching(PathSwitch::renewal(fresh.clone(), kept.path));
        }
    }

    fn next_unused(&self) -> Option<&NewConnectionId> {
        let held = || self.held.unused(&self.server_ids).next();
        self.server_ids.next().or_else(held)
    }

    /// A packet leaves on the path in use. Puts the kept connection ID into it while that is in use.
    pub(super) fn substitute(&mut self, packet: &mut Outgoing<'_>, effects: &mut Effects) {
        let kept = match self.phase.trial_mut() {
            Some(trial) => Some(&mut trial.kept),
            None => self.kept.as_mut(),
        };
        match kept {
            Some(kept) if kept.in_use => {
                packet.set_destination(&kept.id);
                if !kept.routed && effects.route.is_none() {
                    effects.route = Some((kept.id, kept.path.id));
                    kept.routed = true;
                }
            }
            Some(kept) => {
                kept.first.get_or_insert(packet.number);
            }
            None => {}
        }
    }
}
