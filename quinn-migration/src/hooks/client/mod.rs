//! The client's hook: takes SERVER_ALTERNATE_ADDRESS frames out, sends path challenges with the advertised
//! connection ID, and makes quinn adopt that connection ID once the path is validated
//! (draft-saa-ali-quic, "Client Behavior"; RFC 9000 sections 8.2, 9 and 9.6).
//!
//! Never sends anything but challenges to an address that has never answered one.

mod adoption;
mod alternates;
mod challenges;
mod inbox;
mod kept;
mod probe;
mod retirement;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{ConnectionId, VarInt};

use self::adoption::{Adoption, HeldIds};
use self::challenges::Answers;
use self::inbox::Inbox;
use self::kept::Kept;
use self::probe::{Filling, Probe};
use self::retirement::Retirement;
use super::carrier::{Carriers, Found};
use super::packet::Largest;
use super::peer_ids::PeerIds;
use super::watch::Watch;
use super::{Effects, Hook, Incoming, Outgoing, ParameterFault};
use crate::event::Event;
use crate::policy::Gate;
use crate::socket::PathId;
use crate::wire::{
    AlternateAddress, Codepoints, Frame, NewConnectionId, PING_FRAME, PREFERRED_ADDRESS,
    find_parameter, kind, next_frame, overwrite, remove_parameter,
};

pub(crate) use steps::{Action, Sizes};

/// Events that wait for the application at most; a flood is counted, not kept.
const EVENT_LIMIT: usize = 32;

/// A network path: the client's socket for it and the server's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) id: PathId,
    pub(crate) server: SocketAddr,
}

#[derive(Debug)]
pub(crate) struct ClientHook {
    codepoints: Codepoints,
    carriers: Carriers,
    /// Carriers handed to quinn that have not come by yet.
    queued_carriers: usize,
    server_ids: PeerIds,
    held: HeldIds,
    received: Largest,
    /// Destination connection ID of the last packet.
    last_id: Option<ConnectionId>,
    /// Bytes of the last packet that were not for frames.
    overhead: usize,
    /// Bytes of the last packet on a watched path that stood before application data.
    control: usize,
    /// HANDSHAKE_DONE has arrived: migration is allowed (RFC 9000 section 9).
    confirmed: bool,
    inbox: Inbox,
    retirement: Retirement,
    phase: Phase,
    watch: Watch,
    /// What earlier paths were asked since the path in use is silent. A peer that hears nothing either says little, so
    /// its answers may take long.
    unanswered: VecDeque<Probe>,
    /// The connection ID of the path that was left last, which is not given back yet.
    kept: Option<Kept>,
    /// Answers to challenges of the server that came by another path than the one in use.
    answers: Answers,
    /// Advertisements for when the path in use falls silent.
    alternates: VecDeque<AlternateAddress>,
    /// Connection IDs that went to an earlier path: each goes to one path only (RFC 9000 section 9.5).
    assigned: Vec<(PathId, VarInt)>,
    /// Present while a task drives this hook.
    driven: Option<Driven>,
    events: VecDeque<Event>,
    missed_events: u64,
    /// Start of the validation that the last migration came from.
    validating_since: Option<Instant>,
    /// Paths to close.
    closing: VecDeque<PathId>,
}

/// What is known once the application has attached a policy.
#[derive(Debug)]
struct Driven {
    /// A task is there; without one the connection stays on the path that it is on.
    attached: bool,
    gate: Gate,
    active: Path,
    /// The path left last: the first place to go back to.
    previous: Option<Path>,
    first: Path,
}

impl Driven {
    /// How many other paths there are to go back to.
    fn earlier_paths(&self) -> usize {
        match self.previous {
            Some(previous) if previous != self.first => 2,
            Some(_) | None => 1,
        }
    }
}

#[derive(Debug)]
enum Phase {
    Settled,
    /// The task opens a socket for this.
    Opening(AlternateAddress, SocketAddr),
    Probing(Probe),
    Adopting(Adoption),
}

impl ClientHook {
    pub(crate) fn new(codepoints: Codepoints) -> Self {
        Self {
            codepoints,
            carriers: Carriers::new(),
            queued_carriers: 0,
            server_ids: PeerIds::default(),
            held: HeldIds::default(),
            received: Largest::default(),
            last_id: None,
            overhead: 0,
            control: 0,
            confirmed: false,
            inbox: Inbox::default(),
            retirement: Retirement::default(),
            phase: Phase::Settled,
            unanswered: VecDeque::new(),
            kept: None,
            answers: Answers::default(),
            alternates: VecDeque::new(),
            assigned: Vec::new(),
            watch: Watch::default(),
            driven: None,
            events: VecDeque::new(),
            missed_events: 0,
            validating_since: None,
            closing: VecDeque::new(),
        }
    }

    fn report(&mut self, event: Event) {
        if self.events.len() < EVENT_LIMIT {
            self.events.push_back(event);
        } else {
            self.missed_events = self.missed_events.saturating_add(1);
        }
    }

    /// Whether outgoing packets must be looked into at all.
    fn looks_inside(&self) -> bool {
        self.queued_carriers > 0
            || !self.carriers.peer_takes_all()
            || self.is_watching()
            || self.kept.is_some()
    }

    fn is_watching(&self) -> bool {
        let moved = |driven: &Driven| driven.active != driven.first;
        self.has_alternates() || self.driven.as_ref().is_some_and(moved)
    }

    /// Walks an outgoing packet: finds a carrier, drops DATAGRAM frames that the peer would not accept.
    fn inspect(&mut self, payload: &mut [u8]) -> Contents {
        let mut contents = Contents {
            first_carrier: None,
            carriers: 0,
            carriers_alone: true,
            carriers_last: true,
            control: None,
            ack_eliciting: false,
        };
        let mut at = 0;
        while let Some(frame) = next_frame(payload, at, self.codepoints.frame()) {
            at = frame.whole.end;
            let silent = [
                kind::PADDING,
                kind::ACK,
                kind::ACK_ECN,
                kind::CONNECTION_CLOSE,
                kind::APPLICATION_CLOSE,
            ];
            contents.ack_eliciting |= !silent.contains(&frame.kind);
            if frame.kind == kind::RETIRE_CONNECTION_ID {
                self.hold_retirement_back(payload, &frame);
            }
            if frame.kind == kind::PADDING || frame.is_application_data() {
                contents.control.get_or_insert(frame.whole.start);
            }
            match self.carriers.inspect(payload, &frame) {
                Found::Carrier => {
                    contents.carriers += 1;
                    if contents.first_carrier.is_some() {
                        overwrite(payload, frame.whole, &[]);
                    } else {
                        contents.first_carrier = Some(frame);
                    }
                }
                Found::Unwanted => {
                    tracing::warn!(
                        "application DATAGRAM dropped: the peer does not accept one of this size"
                    );
                    overwrite(payload, frame.whole, PING_FRAME);
                    contents.carriers_alone = false;
                    contents.carriers_last = false;
                }
                Found::Other => {
                    // The next ACK frame says it all again.
                    let dispensable = [
                        kind::PADDING,
                        kind::PING,
                        kind::ACK,
                        kind::ACK_ECN,
                        kind::IMMEDIATE_ACK,
                    ];
                    contents.carriers_alone &= dispensable.contains(&frame.kind);
                    contents.carriers_last &= frame.kind == kind::PADDING
                        || contents.first_carrier.is_none() && !frame.is_application_data();
                }
            }
        }
        contents.carriers_alone &= at == payload.len();
        contents.carriers_last &= at == payload.len();
        self.queued_carriers = self.queued_carriers.saturating_sub(contents.carriers);
        contents
    }

    /// Puts a challenge, a retirement or nothing in the place of the first carrier; the others are PADDING. Answers
    /// whether the packet is a probe now.
    fn fill(
        &mut self,
        packet: &mut Outgoing<'_>,
        carrier: &Frame,
        contents: &Contents,
        effects: &mut Effects,
    ) -> bool {
        let used = packet.destination();
        if self.answers.is_queued() {
            effects.probe_route = self.answers.fill(packet, carrier, contents);
            effects.long_number = effects.probe_route.is_some();
            if !effects.long_number {
                overwrite(packet.payload, carrier.whole.clone(), PING_FRAME);
            }
            return effects.long_number;
        }
        if let Phase::Probing(probe) = &mut self.phase {
            match probe.fill(packet, carrier, contents) {
                Filling::Challenge(hold) => {
                    effects.probe_route = Some((probe.new.id, probe.path.id));
                    effects.hold = used.zip(hold);
                    effects.long_number = true;
                    return true;
                }
                Filling::Spoiled => {}
                Filling::NotDue => {
                    self.retirement.fill(packet, carrier);
                    return false;
                }
            }
        } else if self.retirement.fill(packet, carrier) {
            return false;
        }
        overwrite(packet.payload, carrier.whole.clone(), PING_FRAME);
        false
    }

    /// Follows the connection ID that quinn uses, and moves to the new path when it is the adopted one.
    fn follow_id(&mut self, packet: &Outgoing<'_>, effects: &mut Effects) {
        if let Phase::Adopting(adoption) = &self.phase
            && packet.destination() == Some(adoption.new.id)
        {
            effects.wake = true;
            self.finish_adoption();
        }
        let used = packet.destination();
        if used == self.last_id {
            return;
        }
        self.last_id = used;
        let Some(id) = used else { return };
        self.server_ids.on_used(&id);
        effects.wake |= self.is_overtaken();
        let path = self.driven.as_ref().map(|driven| driven.active.id);
        effects.route = Some((id, path.unwrap_or(PathId::FIRST)));
    }

    fn on_frame(&mut self, payload: &mut [u8], frame: &Frame, came_by: Option<PathId>) -> bool {
        let body = payload.get(frame.body.clone()).unwrap_or_default();
        match frame.kind {
            kind::ACK | kind::ACK_ECN => {
                self.prove_path(body) | self.retirement.on_acknowledgement(body)
            }
            kind::NEW_CONNECTION_ID => {
                self.on_new_connection_id(payload, frame);
                self.is_overtaken()
            }
            kind::PATH_RESPONSE => self.on_path_response(payload, frame),
            kind::PATH_CHALLENGE => self.on_path_challenge(payload, frame, came_by),
            kind::HANDSHAKE_DONE => !std::mem::replace(&mut self.confirmed, true),
            other if other == self.codepoints.frame().into_inner() => {
                self.on_advertisement(payload, frame);
                true
            }
            _ => false,
        }
    }

    fn on_new_connection_id(&mut self, payload: &mut [u8], frame: &Frame) {
        let Some(new) = payload
            .get(frame.body.clone())
            .and_then(NewConnectionId::decode)
        else {
            return;
        };
        self.on_server_retirement(new.retire_prior_to);
        if self.held.must_hold(&new, &self.server_ids) {
            overwrite(payload, frame.whole.clone(), PING_FRAME);
            let asked = self.held.pass_retirement_on(&new, &self.server_ids);
            self.held.hold(asked.unwrap_or(new));
            return;
        }
        let before = self.server_ids.retire_prior_to();
        self.server_ids.learn(new);
        let expired = before..self.server_ids.retire_prior_to();
        // quinn does not know these and could not retire them. It does when it hears of them too late.
        let expired = self.inbox.known_in(&expired).collect::<Vec<_>>();
        expired.into_iter().for_each(|new| self.held.hold(new));
    }

    /// A frame of the extension that is cut short cannot be taken out: quinn closes the connection over it, as
    /// RFC 9000 section 12.4 wants. It is reported all the same.
    fn report_malformed_rest(&mut self, payload: &[u8], at: usize) -> bool {
        let rest = crate::wire::Reader::starting_at(payload, at).varint();
        if rest != Some(self.codepoints.frame().into_inner()) {
            return false;
        }
        self.report(Event::Refused {
            sequence: None,
            reason: crate::policy::Refusal::Malformed,
        });
        true
    }

    /// NEW_CONNECTION_ID frames for quinn, put before the frames of this packet. Never after them: a STREAM frame
    /// without a length runs to the end.
    fn inject(&mut self, held: Vec<NewConnectionId>, payload: &mut BytesMut) {
        let mut injected = Vec::new();
        held.iter().for_each(|new| new.encode(&mut injected));
        if let Phase::Adopting(adoption) = &mut self.phase
            && adoption.is_due()
        {
            adoption.new.encode(&mut injected);
        }
        self.return_challenges(&mut injected);
        if !injected.is_empty() {
            injected.extend_from_slice(payload);
            *payload = BytesMut::from(injected.as_slice());
        }
    }
}

/// What a walk over an outgoing packet found.
struct Contents {
    first_carrier: Option<Frame>,
    carriers: usize,
    /// There is nothing but carriers, PADDING, PING, ACK and IMMEDIATE_ACK, none of which is missed when it does not leave.
    carriers_alone: bool,
    /// The carriers come after all other frames, and none of those has application data.
    carriers_last: bool,
    /// Bytes before the first STREAM, DATAGRAM or PADDING frame, if there is one.
    control: Option<usize>,
    ack_eliciting: bool,
}

impl Hook for ClientHook {
    fn on_send(&mut self, mut packet: Outgoing<'_>) -> Effects {
        let mut effects = Effects::default();
        // First, because a move begins with this packet, and what it carries depends on that.
        if packet.is_short() {
            self.overhead = packet.overhead();
            self.follow_id(&packet, &mut effects);
        }
        if self.looks_inside() {
            let contents = self.inspect(packet.payload);
            if !packet.is_short() {
                return effects;
            }
            if let Some(carrier) = &contents.first_carrier {
                effects.wake = true;
                if self.fill(&mut packet, carrier, &contents, &mut effects) {
                    return effects;
                }
            }
            if contents.ack_eliciting && self.is_watching() {
                effects.wake |= self.watch.on_sent();
                self.control = contents.control.unwrap_or(packet.payload.len());
            }
        }
        if let Phase::Probing(probe) = &mut self.phase {
            probe.on_other_packet();
        }
        self.substitute(&mut packet);
        effects
    }

    fn on_receive(&mut self, packet: Incoming<'_>) -> Effects {
        let mut effects = Effects::default();
        if !packet.is_short() {
            return effects;
        }
        // Before this packet's frames are learnt: quinn reads the held ones first.
        let new = self.received.is_new(packet.number);
        let mut held = if new {
            self.held.release(&self.server_ids)
        } else {
            Vec::new()
        };
        held.iter()
            .cloned()
            .for_each(|new| self.server_ids.learn(new));
        let mut at = 0;
        while let Some(frame) = next_frame(packet.payload, at, self.codepoints.frame()) {
            at = frame.whole.end;
            effects.wake |= self.on_frame(packet.payload, &frame, packet.came_by);
        }
        effects.release = matches!(self.phase, Phase::Adopting(_));
        effects.wake |= self.report_malformed_rest(packet.payload, at);
        self.watch.on_received();
        effects.wake |= self.is_returning();
        self.renew_id();
        if new {
            held.extend(self.needless());
        }
        // The packet with the answer to a challenge may be late, but it is no duplicate: the challenge is fresh.
        self.inject(held, packet.payload);
        effects
    }

    fn other_paths(&self) -> Vec<PathId> {
        self.paths_not_in_use()
    }

    fn on_peer_parameters(
        &mut self,
        list: &[u8],
        remembered: bool,
    ) -> Result<Vec<u8>, ParameterFault> {
        // quinn would take its connection ID for one to use anywhere.
        let shown = remove_parameter(list, PREFERRED_ADDRESS)?;
        if let Some(preferred) = find_parameter(list, PREFERRED_ADDRESS.into_inner())? {
            let preferred = AlternateAddress::from_preferred_address(preferred);
            // quinn names the fault better.
            let Ok(preferred) = preferred else {
                return Ok(list.to_vec());
            };
            // What is remembered is not for this connection (RFC 9000 section 7.4.1).
            if !remembered {
                self.on_offer(preferred);
            }
        }
        Ok(self.carriers.show(&shown)?)
    }
}

/// Sequence number after `sequence`, for limits.
fn plus(sequence: VarInt, count: u32) -> u64 {
    sequence.into_inner().saturating_add(u64::from(count))
}
