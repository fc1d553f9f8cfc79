//! The server's hook: keeps a connection ID back, puts the SERVER_ALTERNATE_ADDRESS frame into a packet, and sees
//! whether the client acknowledged it and moved (draft-saa-ali-quic, "Server Behavior").
//!
//! Never sends the frame, and never keeps a connection ID back, when the client did not send enable_server_migration.

mod advert;
mod arrivals;

use std::collections::BTreeSet;
use std::net::{SocketAddrV4, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::{ConnectionId, VarInt};

use self::advert::{Advert, AdvertState};
use self::arrivals::Arrivals;
use super::attempts::{Attempts, Step};
use super::packet::Largest;
use super::peer_ids::PeerIds;
use super::placeholder::{DatagramKind, Placeholders};
use super::{Effects, Hook, Incoming, LONGEST_EXCHANGE, Outgoing, ParameterFault, retry_interval};
use crate::stats::ServerCounters;
use crate::wire::{
    AlternateAddress, Codepoints, Frame, INITIAL_SOURCE_CONNECTION_ID, NewConnectionId, PING_FRAME,
    Reader, ack_covers, find_parameter, kind, next_frame, overwrite, retire_connection_id,
};

pub use self::advert::Outcome;
pub(crate) use self::advert::{AdvertStep, CannotBegin};

/// Transport parameter active_connection_id_limit (RFC 9000 section 18.2).
const ACTIVE_CONNECTION_ID_LIMIT: u64 = 0x0e;
/// The smallest one, and the default: one connection ID in use and one more.
const SMALLEST_LIMIT: u64 = 2;

#[derive(Debug)]
pub(crate) struct ServerHook {
    codepoints: Codepoints,
    counters: Arc<ServerCounters>,
    /// The client sent enable_server_migration.
    negotiated: bool,
    placeholders: Placeholders,
    /// The client has room for a connection ID that it does not see and one to change its own path with.
    has_room: bool,
    /// The server's connection IDs have a length.
    has_ids: bool,
    /// A connection ID that quinn issued and the client has not seen.
    spare_cid: Option<NewConnectionId>,
    /// Sequence numbers kept from NEW_CONNECTION_ID, until the client retires them.
    withheld: BTreeSet<VarInt>,
    retire_prior_to: VarInt,
    /// The highest sequence number that was let through. What was let through once is let through again: it may be
    /// the frame that carries a new "retire prior to".
    passed: VarInt,
    /// Connection IDs that were spare and lost their use: no client can retire what it never saw.
    orphans: Vec<VarInt>,
    received: Largest,
    advert: Option<Advert>,
    client_ids: PeerIds,
    /// Destination connection ID of the last packet.
    last_id: Option<ConnectionId>,
    /// A challenge that came with the advertised connection ID, and the client's connection ID for the answer.
    answering: Option<([u8; 8], ConnectionId)>,
    arrivals: Arrivals,
}

impl ServerHook {
    pub(crate) fn new(codepoints: Codepoints, counters: Arc<ServerCounters>) -> Self {
        Self {
            codepoints,
            counters,
            negotiated: false,
            placeholders: Placeholders::new(),
            has_room: false,
            has_ids: true,
            spare_cid: None,
            withheld: BTreeSet::new(),
            retire_prior_to: VarInt::default(),
            passed: VarInt::default(),
            orphans: Vec::new(),
            received: Largest::default(),
            advert: None,
            client_ids: PeerIds::default(),
            last_id: None,
            answering: None,
            arrivals: Arrivals::default(),
        }
    }

    /// The same, of a server whose connection IDs may have no length.
    pub(crate) fn with_ids(self, has_ids: bool) -> Self {
        Self { has_ids, ..self }
    }

    /// Whether the client has followed an advertisement since the last call.
    pub(crate) fn take_move(&mut self) -> bool {
        self.arrivals.take_move()
    }

    pub(crate) fn negotiated(&self) -> bool {
        self.negotiated
    }

    /// Prepares an advertisement; its sequence number identifies it from here on.
    pub(crate) fn begin(
        &mut self,
        v4: Option<SocketAddrV4>,
        v6: Option<SocketAddrV6>,
    ) -> Result<VarInt, CannotBegin> {
        if !self.negotiated {
            return Err(CannotBegin::NotNegotiated);
        }
        if self
            .advert
            .as_ref()
            .is_some_and(|advert| advert.state == AdvertState::Sending)
        {
            return Err(CannotBegin::Busy);
        }
        if !self.has_room || !self.has_ids {
            return Err(CannotBegin::Never);
        }
        let cid = self.spare_cid.take().ok_or(CannotBegin::NoSpareCid)?;
        self.counters.advertised.add_one();
        self.arrivals.on_advertised(cid.id);
        let sequence = cid.sequence;
        let address = AlternateAddress {
            sequence,
            v4,
            v6,
            id: cid.id,
            token: cid.token.clone(),
        };
        let mut frame = Vec::new();
        address.encode(self.codepoints.frame(), &mut frame);
        let attempts = Attempts::new(u32::MAX).within(LONGEST_EXCHANGE);
        self.advert = Some(Advert {
            cid,
            frame,
            attempts,
            numbers: Vec::new(),
            state: AdvertState::Sending,
            probed: false,
        });
        Ok(sequence)
    }

    pub(crate) fn poll(&mut self, sequence: VarInt, now: Instant, rtt: Duration) -> AdvertStep {
        let Some(advert) = self
            .advert
            .as_mut()
            .filter(|advert| advert.cid.sequence == sequence)
        else {
            return AdvertStep::Lost;
        };
        match advert.state {
            AdvertState::Sending => {}
            AdvertState::Expired => return AdvertStep::Lost,
            AdvertState::Acknowledged | AdvertState::Moved | AdvertState::Declined => {
                return AdvertStep::Acknowledged(advert.attempts.sent());
            }
        }
        match advert.attempts.poll(now, retry_interval(rtt)) {
            Step::Send => match self.placeholders.small() {
                Some(placeholder) => AdvertStep::Send(vec![placeholder; advert.attempts.copies()]),
                None => AdvertStep::Lost,
            },
            Step::Wait(until) => AdvertStep::Wait(until),
            Step::GiveUp => AdvertStep::Lost,
        }
    }

    /// The task that advertised `sequence` is gone. What never left the host is taken back.
    pub(crate) fn end(&mut self, sequence: VarInt) {
        let unfinished = |advert: &mut Advert| {
            advert.cid.sequence == sequence && advert.state == AdvertState::Sending
        };
        let Some(advert) = self.advert.take_if(unfinished) else {
            return;
        };
        if advert.numbers.is_empty() && self.spare_cid.is_none() {
            self.spare_cid = Some(advert.cid);
        } else {
            // It may still arrive, so its outcome is still of interest.
            self.advert = Some(Advert {
                state: AdvertState::Acknowledged,
                ..advert
            });
        }
    }

    /// What became of advertisement `sequence`; `None` while it is open.
    pub(crate) fn outcome(&self, sequence: VarInt) -> Option<Outcome> {
        let advert = self
            .advert
            .as_ref()
            .filter(|advert| advert.cid.sequence == sequence);
        match advert.map(|advert| advert.state) {
            Some(AdvertState::Moved) => Some(Outcome::Moved),
            Some(AdvertState::Declined | AdvertState::Expired) => Some(Outcome::Declined),
            Some(AdvertState::Sending | AdvertState::Acknowledged) => None,
            None => Some(Outcome::Superseded),
        }
    }

    /// Keeps one connection ID back. Retransmissions of a kept one stay back too.
    fn withhold(&mut self, payload: &mut [u8], frame: &Frame) -> bool {
        let Some(new) = payload
            .get(frame.body.clone())
            .and_then(NewConnectionId::decode)
        else {
            return false;
        };
        let again = self.withheld.contains(&new.sequence);
        // A frame that asks for more retirements than the client knows of must reach it.
        let plain = self.has_room
            && new.retire_prior_to <= self.retire_prior_to
            && new.sequence > self.passed;
        if again || (plain && self.spare_cid.is_none()) {
            if !overwrite(payload, frame.whole.clone(), PING_FRAME) || again {
                return false;
            }
            self.withheld.insert(new.sequence);
            self.spare_cid = Some(new);
            return true;
        }
        self.passed = self.passed.max(new.sequence);
        self.raise_retirement(new.retire_prior_to);
        false
    }

    /// Connection IDs below `floor` are on their way out, also those that the client has not seen. The client goes on
    /// to the lowest one that it knows and never back, so it passes over a spare one that is older than this frame too.
    fn raise_retirement(&mut self, floor: VarInt) {
        if floor <= self.retire_prior_to {
            return;
        }
        self.retire_prior_to = floor;
        // Sent again, they do no harm by now: the client retires them at once.
        self.withheld = self.withheld.split_off(&floor);
        self.orphans
            .extend(self.spare_cid.take().map(|spare| spare.sequence));
        let open = |advert: &&mut Advert| {
            advert.cid.sequence < floor && advert.state != AdvertState::Moved
        };
        if let Some(advert) = self.advert.as_mut().filter(open) {
            let state = match advert.state {
                AdvertState::Sending | AdvertState::Expired => AdvertState::Expired,
                AdvertState::Acknowledged | AdvertState::Moved | AdvertState::Declined => {
                    AdvertState::Declined
                }
            };
            advert.enter(state, &self.counters);
            // quinn stops routing it, so without a probe so far there will be no answer and no move.
            self.orphans
                .extend((!advert.probed).then_some(advert.cid.sequence));
        }
    }

    /// Puts the frame in the place of a placeholder, or nothing at all.
    fn carry(&mut self, number: u64, payload: &mut [u8], frame: &Frame) -> bool {
        match self.placeholders.inspect(payload, frame) {
            DatagramKind::Placeholder => {}
            DatagramKind::Unwanted => {
                tracing::warn!(
                    "application DATAGRAM dropped: the peer does not accept one of this size"
                );
                overwrite(payload, frame.whole.clone(), PING_FRAME);
                return false;
            }
            DatagramKind::Other => return false,
        }
        // Of several copies the first one counts.
        let due = |advert: &&mut Advert| {
            advert.state == AdvertState::Sending && advert.attempts.is_wanted()
        };
        let Some(advert) = self.advert.as_mut().filter(due) else {
            overwrite(payload, frame.whole.clone(), PING_FRAME);
            return false;
        };
        if overwrite(payload, frame.whole.clone(), &advert.frame) {
            advert.numbers.push(number);
            advert.attempts.on_sent();
        } else {
            overwrite(payload, frame.whole.clone(), PING_FRAME);
            advert.attempts.on_wasted();
        }
        true
    }

    /// A packet with nothing but the answer to a challenge on the new path must not carry the connection ID of
    /// the old path (RFC 9000 section 9.5); quinn would send it so.
    fn unlink_answer(&self, packet: &mut Outgoing<'_>, only_response: Option<[u8; 8]>) {
        if let (Some(data), Some((challenge, id))) = (only_response, &self.answering)
            && data == *challenge
        {
            packet.set_destination(id);
        }
    }

    fn on_acknowledgement(&mut self, body: &[u8]) -> bool {
        let sending = |advert: &&mut Advert| advert.state == AdvertState::Sending;
        let Some(advert) = self.advert.as_mut().filter(sending) else {
            return false;
        };
        if !advert
            .numbers
            .iter()
            .any(|number| ack_covers(body, *number))
        {
            return false;
        }
        advert.enter(AdvertState::Acknowledged, &self.counters);
        true
    }

    fn on_retirement(&mut self, body: &[u8]) -> bool {
        let Some(sequence) = Reader::new(body).varint_checked() else {
            return false;
        };
        self.withheld.remove(&sequence);
        self.spare_cid.take_if(|spare| spare.sequence == sequence);
        match self
            .advert
            .as_mut()
            .filter(|advert| advert.cid.sequence == sequence)
        {
            Some(advert) if advert.state != AdvertState::Moved => {
                advert.enter(AdvertState::Declined, &self.counters);
                true
            }
            _ => false,
        }
    }

    /// Retires orphans in the client's place, so that quinn goes on renewing connection IDs. Not in a probe: it
    /// would be none any more.
    fn retire_orphans(&mut self, payload: &mut BytesMut) {
        if self.orphans.is_empty() {
            return;
        }
        let mut frames: Vec<u8> = self
            .orphans
            .drain(..)
            .flat_map(retire_connection_id)
            .collect();
        frames.extend_from_slice(payload);
        *payload = BytesMut::from(frames.as_slice());
    }

    /// The advertised connection ID came in a packet; `probing` when it holds only path validation frames.
    fn on_advertised_id(&mut self, probing: bool) -> bool {
        match self.advert.as_mut() {
            Some(advert) if !probing && advert.state != AdvertState::Moved => {
                advert.enter(AdvertState::Moved, &self.counters);
                true
            }
            _ => false,
        }
    }
}

impl Hook for ServerHook {
    fn on_send(&mut self, mut packet: Outgoing<'_>, effects: &mut Effects) {
        if !self.negotiated || !packet.is_short() {
            return;
        }
        let (mut at, mut only_response, mut alone) = (0, None, true);
        while let Some(frame) = next_frame(packet.payload, at, self.codepoints.frame()) {
            at = frame.whole.end;
            match frame.kind {
                kind::NEW_CONNECTION_ID => effects.wake |= self.withhold(packet.payload, &frame),
                kind::DATAGRAM | kind::DATAGRAM_WITH_LENGTH => {
                    effects.wake |= self.carry(packet.number, packet.payload, &frame)
                }
                kind::PATH_RESPONSE => {
                    only_response = Reader::starting_at(packet.payload, frame.body.start).array()
                }
                _ => {}
            }
            alone &= matches!(frame.kind, kind::PATH_RESPONSE | kind::PADDING);
        }
        let used = packet.destination();
        if let Some(id) = used.filter(|_| used != self.last_id.as_deref()) {
            let id = ConnectionId::new(id);
            self.client_ids.on_used(&id);
            self.last_id = Some(id);
        }
        let only_response = only_response.filter(|_| alone);
        self.unlink_answer(&mut packet, only_response);
        // quinn sends an answer alone when it goes off the path in use.
        effects.force_4_byte_pn = only_response.is_some();
    }

    fn on_receive(&mut self, packet: Incoming<'_>, effects: &mut Effects) {
        if !self.negotiated || !packet.is_short() {
            return;
        }
        let used = packet.destination();
        let on_new_path = self
            .advert
            .as_ref()
            .is_some_and(|advert| used == Some(&*advert.cid.id));
        let (mut at, mut probing) = (0, true);
        while let Some(frame) = next_frame(packet.payload, at, self.codepoints.frame()) {
            at = frame.whole.end;
            let body = packet.payload.get(frame.body.clone()).unwrap_or_default();
            match frame.kind {
                kind::ACK | kind::ACK_ECN => effects.wake |= self.on_acknowledgement(body),
                kind::RETIRE_CONNECTION_ID => effects.wake |= self.on_retirement(body),
                kind::NEW_CONNECTION_ID => self.client_ids.learn_from(body),
                kind::PATH_CHALLENGE if on_new_path => {
                    let next = self.client_ids.next().map(|new| new.id);
                    self.answering = Reader::new(body).array().zip(next);
                }
                _ => {}
            }
            // RFC 9000 section 9.1: the probing frames.
            let allowed = [
                kind::PADDING,
                kind::PATH_CHALLENGE,
                kind::PATH_RESPONSE,
                kind::NEW_CONNECTION_ID,
            ];
            probing &= allowed.contains(&frame.kind);
        }
        if let Some(advert) = self.advert.as_mut().filter(|_| on_new_path) {
            advert.probed = true;
            effects.wake |= self.on_advertised_id(probing);
        }
        if self.received.is_new(packet.number) && !probing {
            effects.wake |= self.arrivals.on_packet(used);
            self.retire_orphans(packet.payload);
        }
    }

    fn on_peer_parameters(&mut self, list: &[u8], _: bool) -> Result<Vec<u8>, ParameterFault> {
        match find_parameter(list, self.codepoints.parameter().into_inner())? {
            None => return Ok(list.to_vec()),
            Some([]) => self.negotiated = true,
            Some(_) => return Err(ParameterFault::NotEmpty),
        }
        let limit = find_parameter(list, ACTIVE_CONNECTION_ID_LIMIT)?;
        let limit = limit.and_then(|value| Reader::new(value).varint());
        // quinn's clients without connection IDs have the smallest limit too, and hide nothing on another path anyway.
        let unnamed = find_parameter(list, INITIAL_SOURCE_CONNECTION_ID)? == Some(&[]);
        self.has_room = unnamed || limit.is_some_and(|limit| limit > SMALLEST_LIMIT);
        Ok(self.placeholders.show(list)?)
    }
}

#[cfg(test)]
mod tests;
