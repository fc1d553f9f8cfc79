//! The client's hook with made-up packets and made-up time.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test wants one variant and fails on all others"
)]

mod alternates;
mod challenges;
mod hostile;
mod moving;
mod parting;
mod properties;
mod retiring;
mod returning;

use super::*;
use crate::event::Failure;
use crate::policy::{AddressClass, Policy, Refusal};
use crate::wire::{AlternateAddress, ResetToken, retire_connection_id};
use bytes::Bytes;
use std::time::Duration;

const OLD_ID: [u8; 8] = [0xd0; 8];
const RTT: Duration = Duration::from_millis(10);
const SIZES: Sizes = Sizes {
    mtu: 1400,
    datagram: 1362,
    crowded: false,
};
const ORIGIN: &str = "192.0.2.1:443";

struct Bench {
    /// Packet number of the last packet received.
    received: u64,
    /// Datagrams on the path in use.
    datagrams: u64,
    hook: ClientHook,
    now: Instant,
    number: u64,
    /// Something waits in the socket of the path in use.
    unread: bool,
}

struct Sent {
    id: Vec<u8>,
    payload: Vec<u8>,
    effects: Effects,
}

impl Bench {
    /// A confirmed connection to `server`, with a policy that allows any number of moves.
    fn connected_to(server: &str) -> Self {
        let policy = Policy {
            moves: u32::MAX,
            ..Policy::default()
        };
        let mut bench = Self::attached(policy, server);
        bench.send(vec![1]);
        bench.receive(&[0x1e]);
        bench
    }

    /// A connection whose handshake is not confirmed, with the default policy.
    fn unconfirmed() -> Self {
        Self::attached(Policy::default(), ORIGIN)
    }

    fn attached(policy: Policy, server: &str) -> Self {
        let mut hook = ClientHook::new(Codepoints::default());
        hook.on_peer_parameters(&[], false).unwrap();
        hook.attach(policy, server.parse().unwrap());
        Self {
            received: 0,
            datagrams: 0,
            hook,
            now: Instant::now(),
            number: 0,
            unread: false,
        }
    }

    fn send(&mut self, payload: Vec<u8>) -> Sent {
        self.send_with(&OLD_ID, payload)
    }

    fn send_with(&mut self, id: &[u8], mut payload: Vec<u8>) -> Sent {
        let mut header = [&[0x41], id, &[0, 7]].concat();
        self.number += 1;
        let packet = Outgoing {
            number: self.number,
            header: &mut header,
            payload: &mut payload,
            tag: 16,
        };
        let mut effects = Effects::default();
        self.hook.on_send(packet, &mut effects);
        Sent {
            id: header[1..=id.len()].to_vec(),
            payload,
            effects,
        }
    }

    /// Answers with what quinn sees.
    fn receive(&mut self, frames: &[u8]) -> Vec<u8> {
        let mut payload = BytesMut::from(frames);
        self.receive_into(&mut payload);
        payload.to_vec()
    }

    fn receive_for_effects(&mut self, frames: &[u8]) -> Effects {
        self.receive_into(&mut BytesMut::from(frames))
    }

    fn receive_into(&mut self, payload: &mut BytesMut) -> Effects {
        self.datagrams += 1;
        self.receive_elsewhere(payload)
    }

    /// A packet that comes on another path than the one in use.
    fn receive_elsewhere(&mut self, payload: &mut BytesMut) -> Effects {
        self.receive_by(None, payload)
    }

    /// A packet by a path that is known not to be the one in use.
    fn receive_by(&mut self, came_by: Option<PathId>, payload: &mut BytesMut) -> Effects {
        self.received += 1;
        self.receive_again(came_by, payload)
    }

    /// A copy of the last packet, on a path that is known not to be the one in use.
    fn receive_again(&mut self, came_by: Option<PathId>, payload: &mut BytesMut) -> Effects {
        let packet = Incoming {
            number: self.received,
            header: &[0x41, 1, 2, 3, 4, 0, 7],
            payload,
            arrival: Arrival {
                by: came_by,
                unread: self.unread,
            },
        };
        let mut effects = Effects::default();
        self.hook.on_receive(packet, &mut effects);
        effects
    }

    /// An ACK frame for the last packet sent.
    fn ack(&self) -> Vec<u8> {
        let mut frame = vec![0x02];
        crate::wire::put_varint(&mut frame, VarInt::from_u64(self.number).unwrap());
        frame.extend_from_slice(&[0, 0, 0]);
        frame
    }

    fn poll(&mut self) -> Action {
        self.hook.on_datagrams(self.datagrams);
        self.hook.poll(self.now, RTT, SIZES)
    }

    /// How many placeholders are queued for the first attempts, none of which leaves.
    fn queued(&mut self, sizes: Sizes, attempts: usize) -> Vec<usize> {
        let mut queued = Vec::new();
        while queued.len() < attempts {
            match self.hook.poll(self.now, RTT, sizes) {
                Action::Send(placeholders) => queued.push(placeholders.len()),
                Action::Wait(Some(until)) => self.now = until,
                Action::Report(_) => {}
                other => panic!("{other:?}"),
            }
        }
        queued
    }

    /// All events up to the next action that is none.
    fn events(&mut self) -> (Vec<Event>, Action) {
        let mut events = Vec::new();
        loop {
            match self.poll() {
                Action::Report(event) => events.push(event),
                Action::Close(_) => {}
                other => return (events, other),
            }
        }
    }

    /// Opens the socket that the hook asks for and sends the challenge; answers with its data.
    fn challenge(&mut self) -> [u8; 8] {
        let (_, action) = self.events();
        assert!(matches!(action, Action::Open(_)), "{action:?}");
        self.hook.opened(path(1), self.now);
        let (_, action) = self.events();
        let Action::Send(placeholders) = action else {
            panic!("{action:?}")
        };
        let sent = self.send(datagrams(first_packet(&placeholders)));
        assert_eq!(sent.payload[0], 0x1a);
        sent.payload[1..9].try_into().unwrap()
    }
}

fn path(number: u32) -> PathId {
    PathId::numbered(number)
}

fn datagram(data: &Bytes) -> Vec<u8> {
    let mut frame = vec![0x31];
    crate::wire::put_varint(
        &mut frame,
        VarInt::from_u32(u32::try_from(data.len()).unwrap()),
    );
    frame.extend_from_slice(data);
    frame
}

fn datagrams(placeholders: &[Bytes]) -> Vec<u8> {
    placeholders.iter().flat_map(datagram).collect()
}

/// Those that fill the first packet.
fn first_packet(placeholders: &[Bytes]) -> &[Bytes] {
    &placeholders[..placeholders.len() / 2 + 1]
}

/// Those that fill the next one, when other frames go with the first.
fn next_packet(placeholders: &[Bytes]) -> &[Bytes] {
    &placeholders[placeholders.len() / 2..]
}

fn offer(sequence: u32, target: &str) -> AlternateAddress {
    let byte = u8::try_from(sequence % 200).unwrap();
    AlternateAddress {
        sequence: VarInt::from_u32(sequence),
        v4: Some(target.parse().unwrap()),
        v6: None,
        id: ConnectionId::new(&[byte, 1, 2, 3, 4, 5, 6, byte]),
        token: ResetToken::new([byte; 16]),
    }
}

fn frame(offer: &AlternateAddress) -> Vec<u8> {
    let mut out = Vec::new();
    offer.encode(Codepoints::default().frame(), &mut out);
    out
}

fn new_connection_id(sequence: u32, retire_prior_to: u32) -> Vec<u8> {
    let mut out = Vec::new();
    NewConnectionId {
        sequence: sequence.into(),
        retire_prior_to: retire_prior_to.into(),
        id: ConnectionId::new(&[u8::try_from(sequence).unwrap(); 8]),
        token: ResetToken::new([9; 16]),
    }
    .encode(&mut out);
    out
}

fn refusals(events: &[Event]) -> Vec<Refusal> {
    let reason = |event: &Event| match event {
        Event::Refused { reason, .. } => Some(*reason),
        _ => None,
    };
    events.iter().filter_map(reason).collect()
}
