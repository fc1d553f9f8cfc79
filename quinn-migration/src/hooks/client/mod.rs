//! The client's hook: takes SERVER_ALTERNATE_ADDRESS frames out, sends path challenges with the advertised
//! connection ID, and makes quinn adopt that connection ID once the path is validated
//! (draft-saa-ali-quic, "Client Behavior"; RFC 9000 sections 8.2, 9 and 9.6).
//!
//! Never sends anything but challenges to an address that has never answered one.

mod alternates;
mod attachment;
mod challenges;
mod kept;
mod parting;
mod path_switch;
mod pending;
mod phase;
mod probe;
mod retirement;
mod steps;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{ConnectionId, VarInt};

use self::attachment::{Attachment, Paths};
use self::challenges::Answers;
use self::kept::Kept;
use self::parting::Parting;
use self::path_switch::HeldIds;
use self::pending::PendingAdvertisement;
use self::phase::Phase;
use self::probe::{FillOutcome, Probe};
use self::retirement::Retirement;
use super::packet::{Largest, Window};
use super::path_monitor::PathMonitor;
use super::peer_ids::PeerIds;
use super::placeholder::{DatagramKind, Placeholders};
use super::{Arrival, Effects, Hook, Incoming, Outgoing, ParameterFault};
use crate::event::Event;
use crate::socket::PathId;
use crate::wire::{
    AlternateAddress, Codepoints, Frame, NewConnectionId, PING_FRAME, PREFERRED_ADDRESS,
    find_parameter, kind, next_frame, overwrite, remove_parameter,
};

pub(crate) use steps::{Action, Sizes};

/// Events that wait for the application at most; a flood is counted, not kept.
const EVENT_LIMIT: usize = 32;
/// Frames that are not missed when they do not leave: the next ACK frame says it all again.
const DISPENSABLE: [u64; 5] = [
    kind::PADDING,
    kind::PING,
    kind::ACK,
    kind::ACK_ECN,
    kind::IMMEDIATE_ACK,
];

/// A network path: the client's socket for it and the server's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) id: PathId,
    pub(crate) server: SocketAddr,
}

#[derive(Debug)]
pub(crate) struct ClientHook {
    codepoints: Codepoints,
    placeholders: Placeholders,
    /// Placeholders handed to quinn that have not come by yet.
    queued_placeholders: usize,
    server_ids: PeerIds,
    held: HeldIds,
    received: Largest,
    /// The numbers of the last packets, for copies.
    window: Window,
    /// Destination connection ID of the last packet.
    last_id: Option<ConnectionId>,
    /// Bytes of the last packet that were not for frames.
    overhead: usize,
    /// Bytes of the last packet on a watched path that stood before application data.
    control: usize,
    /// HANDSHAKE_DONE has arrived: migration is allowed (RFC 9000 section 9).
    confirmed: bool,
    pending: PendingAdvertisement,
    retirement: Retirement,
    parting: Parting,
    phase: Phase,
    monitor: PathMonitor,
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
    attachment: Attachment,
    events: VecDeque<Event>,
    missed_events: u64,
    /// Start of the validation that the last migration came from.
    validating_since: Option<Instant>,
    /// Paths to close.
    closing: VecDeque<PathId>,
}

impl ClientHook {
    pub(crate) fn new(codepoints: Codepoints) -> Self {
        Self {
            codepoints,
            placeholders: Placeholders::new(),
            queued_placeholders: 0,
            server_ids: PeerIds::default(),
            held: HeldIds::default(),
            received: Largest::default(),
            window: Window::default(),
            last_id: None,
            overhead: 0,
            control: 0,
            confirmed: false,
            pending: PendingAdvertisement::default(),
            retirement: Retirement::default(),
            parting: Parting::default(),
            phase: Phase::Settled,
            unanswered: VecDeque::new(),
            kept: None,
            answers: Answers::default(),
            alternates: VecDeque::new(),
            assigned: Vec::new(),
            monitor: PathMonitor::default(),
            attachment: Attachment::default(),
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
        self.queued_placeholders > 0
            || !self.placeholders.peer_takes_all()
            || self.is_watching()
            || self.kept.is_some()
    }

    fn is_watching(&self) -> bool {
        let has_moved = self.attachment.paths().is_some_and(Paths::has_moved);
        has_moved || self.has_alternates() || self.phase.trial().is_some()
    }

    /// Walks an outgoing packet: finds a placeholder, drops DATAGRAM frames that the peer would not accept.
    fn inspect(&mut self, payload: &mut [u8]) -> PacketContents {
        let mut contents = PacketContents {
            first_placeholder: None,
            placeholders: 0,
            placeholders_alone: true,
            placeholders_last: true,
            control: None,
            ack_eliciting: false,
        };
        let mut at = 0;
        while let Some(frame) = next_frame(payload, at, self.codepoints.frame()) {
            at = frame.whole.end;
            contents.ack_eliciting |= frame.is_ack_eliciting();
            if frame.kind == kind::RETIRE_CONNECTION_ID {
                self.hold_retirement_back(payload, &frame);
            }
            if frame.kind == kind::PADDING || frame.is_application_data() {
                contents.control.get_or_insert(frame.whole.start);
            }
            match self.placeholders.inspect(payload, &frame) {
                DatagramKind::Placeholder => {
                    contents.placeholders += 1;
                    if contents.first_placeholder.is_some() {
                        overwrite(payload, frame.whole, &[]);
                    } else {
                        contents.first_placeholder = Some(frame);
                    }
                }
                DatagramKind::Unwanted => {
                    tracing::warn!(
                        "application DATAGRAM dropped: the peer does not accept one of this size"
                    );
                    overwrite(payload, frame.whole, PING_FRAME);
                    contents.placeholders_alone = false;
                    contents.placeholders_last = false;
                }
                DatagramKind::Other => {
                    contents.placeholders_alone &= DISPENSABLE.contains(&frame.kind);
                    contents.placeholders_last &= frame.kind == kind::PADDING
                        || contents.first_placeholder.is_none() && !frame.is_application_data();
                }
            }
        }
        contents.placeholders_alone &= at == payload.len();
        contents.placeholders_last &= at == payload.len();
        self.queued_placeholders = self
            .queued_placeholders
            .saturating_sub(contents.placeholders);
        contents
    }

    /// Puts a challenge, a retirement or nothing in the place of the first placeholder; the others are PADDING. Answers
    /// whether the packet is a probe now.
    fn fill(
        &mut self,
        packet: &mut Outgoing<'_>,
        placeholder: &Frame,
        contents: &PacketContents,
        effects: &mut Effects,
    ) -> bool {
        let used = packet.destination().map(ConnectionId::new);
        if self.answers.is_queued() {
            let signs = self.monitor.signs();
            effects.probe_route = self.answers.fill(packet, placeholder, contents, signs);
            effects.force_4_byte_pn = effects.probe_route.is_some();
            if !effects.force_4_byte_pn {
                overwrite(packet.payload, placeholder.whole.clone(), PING_FRAME);
            }
            return effects.force_4_byte_pn;
        }
        if let Some(probe) = self.phase.probe_mut() {
            match probe.fill(packet, placeholder, contents) {
                FillOutcome::Challenge(hold) => {
                    effects.probe_route = Some((probe.new.id, probe.path.id));
                    effects.hold = used.zip(hold);
                    effects.force_4_byte_pn = true;
                    return true;
                }
                FillOutcome::Wasted => {}
                FillOutcome::NotDue => {
                    self.retirement.fill(packet, placeholder);
                    return false;
                }
            }
        } else if self.retirement.fill(packet, placeholder) {
            return false;
        }
        overwrite(packet.payload, placeholder.whole.clone(), PING_FRAME);
        false
    }

    /// Follows the connection ID that quinn uses, and moves to the new path when it is the adopted one.
    fn follow_id(&mut self, packet: &Outgoing<'_>, effects: &mut Effects) {
        if let Phase::Switching(switch) = &self.phase
            && packet.destination() == Some(&*switch.new.id)
        {
            effects.wake = true;
            self.finish_switch();
        }
        let used = packet.destination();
        if used == self.last_id.as_deref() {
            return;
        }
        self.last_id = used.map(ConnectionId::new);
        let Some(id) = self.last_id else { return };
        self.server_ids.on_used(&id);
        effects.wake |= self.is_overtaken();
        effects.route = Some((id, self.settled_path().unwrap_or(PathId::FIRST)));
    }

    fn on_frame(&mut self, payload: &mut [u8], frame: &Frame, arrival: Arrival) -> bool {
        let body = payload.get(frame.body.clone()).unwrap_or_default();
        match frame.kind {
            kind::ACK | kind::ACK_ECN => {
                self.prove_path(body) | self.retirement.on_acknowledgement(body)
            }
            kind::NEW_CONNECTION_ID => {
                self.on_new_connection_id(payload, frame);
                self.is_overtaken()
            }
            kind::RETIRE_CONNECTION_ID => {
                self.attachment.is_attached() && self.parting.hold(payload, frame)
            }
            kind::PATH_RESPONSE => self.on_path_response(payload, frame, arrival.unread),
            kind::PATH_CHALLENGE => self.on_path_challenge(payload, frame, arrival.by),
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
        let expired = self.pending.known_in(&expired).collect::<Vec<_>>();
        expired.into_iter().for_each(|new| self.held.hold(new));
    }

    /// Frames for quinn, put before the frames of this packet. Never after them: a STREAM frame without a length runs to the
    /// end. `new`: the packet is no duplicate.
    fn inject(&mut self, held: Vec<NewConnectionId>, new: bool, payload: &mut BytesMut) {
        let mut injected = Vec::new();
        if new {
            self.parting.pass_on(&mut injected);
        }
        held.iter().for_each(|new| new.encode(&mut injected));
        if let Phase::Switching(switch) = &mut self.phase
            && switch.is_due()
        {
            switch.new.encode(&mut injected);
        }
        self.return_challenges(&mut injected);
        if !injected.is_empty() {
            injected.extend_from_slice(payload);
            *payload = BytesMut::from(injected.as_slice());
        }
    }
}

/// What a walk over an outgoing packet found.
struct PacketContents {
    first_placeholder: Option<Frame>,
    placeholders: usize,
    /// There is nothing but placeholders, PADDING, PING, ACK and IMMEDIATE_ACK, none of which is missed when it does not leave.
    placeholders_alone: bool,
    /// The placeholders come after all other frames, and none of those has application data.
    placeholders_last: bool,
    /// Bytes before the first STREAM, DATAGRAM or PADDING frame, if there is one.
    control: Option<usize>,
    ack_eliciting: bool,
}

impl Hook for ClientHook {
    fn on_send(&mut self, mut packet: Outgoing<'_>, effects: &mut Effects) {
        // First, because a move begins with this packet, and what it carries depends on that.
        if packet.is_short() {
            self.overhead = packet.overhead();
            self.follow_id(&packet, effects);
        }
        if self.looks_inside() {
            let contents = self.inspect(packet.payload);
            if !packet.is_short() {
                return;
            }
            if let Some(placeholder) = &contents.first_placeholder {
                effects.wake = true;
                if self.fill(&mut packet, placeholder, &contents, effects) {
                    return;
                }
            }
            if contents.ack_eliciting && self.is_watching() {
                effects.wake |= self.monitor.on_sent();
                self.control = contents.control.unwrap_or(packet.payload.len());
            }
        }
        if let Some(probe) = self.phase.probe_mut() {
            probe.on_other_packet();
        }
        self.substitute(&mut packet, effects);
    }

    fn on_receive(&mut self, packet: Incoming<'_>, effects: &mut Effects) {
        if !packet.is_short() {
            return;
        }
        let new = self.received.is_new(packet.number);
        // Anybody on the way may send a copy of a packet, so that is no sign of life.
        let original = self.window.is_first(packet.number);
        if original {
            self.end_trial_by(packet.arrival.by);
        }
        // Before this packet's frames are learnt: quinn reads the held ones first.
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
            effects.wake |= self.on_frame(packet.payload, &frame, packet.arrival);
        }
        effects.release = matches!(self.phase, Phase::Switching(_));
        effects.wake |= self.report_malformed_rest(packet.payload, at);
        let by = packet.arrival.by;
        if original && by.is_none_or(|by| Some(by) == self.active_path()) {
            self.monitor.on_received();
        }
        effects.wake |= self.is_returning() || self.phase.trial().is_some();
        self.renew_id();
        if new {
            held.extend(self.needless());
        }
        // The packet with the answer to a challenge may be late, but it is no duplicate: the challenge is fresh.
        self.inject(held, new, packet.payload);
    }

    fn other_paths(&self) -> Vec<PathId> {
        self.paths_not_in_use()
    }

    fn path_in_use(&self) -> Option<PathId> {
        self.active_path()
    }

    fn on_traffic(&mut self, received: u64) {
        self.on_datagrams(received);
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
        Ok(self.placeholders.show(&shown)?)
    }
}

/// Sequence number after `sequence`, for limits.
fn plus(sequence: VarInt, count: u32) -> u64 {
    sequence.into_inner().saturating_add(u64::from(count))
}
