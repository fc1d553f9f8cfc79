//! The client's hook for the fuzz target `client_hook`; compiled only with `--cfg fuzzing`.
//!
//! Never part of a build for use.
#![allow(
    clippy::panic,
    reason = "a fuzz target reports what it finds by panicking"
)]

use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::VarInt;

use crate::hooks::client::{Action, ClientHook, Sizes};
use crate::hooks::{Arrival, Effects, Hook, Incoming, Outgoing};
use crate::policy::{AddressClass, Policy};
use crate::socket::PathId;
use crate::wire::{Codepoints, Reader, kind, next_frame, put_varint};

const RTT: Duration = Duration::from_millis(10);
const SIZES: Sizes = Sizes {
    mtu: 1400,
    datagram: 1362,
    crowded: false,
};
/// More actions in a row than this are a loop.
const ACTIONS: usize = 1000;

/// Runs a script against a client's hook. Each step is one byte that says what happens and a length-prefixed
/// argument: a packet arrives, is sent, a challenge is answered, time passes, the driving task goes or comes.
pub fn client_hook(script: &[u8]) {
    let mut bench = Bench::new();
    let mut script = Reader::new(script);
    while let (Some(step), Some(argument)) = (script.byte(), script.length_prefixed()) {
        match step % 7 {
            0 | 1 => bench.receive(argument),
            2 => bench.send(argument),
            3 => bench.answer(argument),
            4 => bench.pass(argument),
            5 => bench.use_id(argument),
            _ => bench.leave_or_come(),
        }
        bench.drive();
    }
}

struct Bench {
    hook: ClientHook,
    now: Instant,
    /// Packet numbers of the last packets in each direction.
    received: u64,
    sent: u64,
    /// The connection ID that quinn would use.
    id: Vec<u8>,
    challenge: Option<[u8; 8]>,
    path: u32,
}

impl Bench {
    fn new() -> Self {
        let mut hook = ClientHook::new(Codepoints::default());
        // The script plays the server's packets; the parameters have a target of their own.
        let _ = hook.on_peer_parameters(&[], false);
        let mut bench = Self {
            hook,
            now: Instant::now(),
            received: 0,
            sent: 0,
            id: vec![0xd0; 8],
            challenge: None,
            path: 0,
        };
        bench.attach();
        bench.send(&[1]);
        bench.receive(&[0x1e]);
        bench
    }

    fn attach(&mut self) {
        let mut policy = Policy::default();
        policy.moves = u32::MAX;
        self.hook.attach(policy, ([192, 0, 2, 1], 443).into());
    }

    fn receive(&mut self, frames: &[u8]) {
        self.received += 1;
        let mut payload = BytesMut::from(frames);
        let packet = Incoming {
            arrival: Arrival::default(),
            number: self.received,
            header: &[0x41, 1, 2, 3, 4, 0, 7],
            payload: &mut payload,
        };
        self.hook.on_receive(packet, &mut Effects::default());
        assert!(payload.len() >= frames.len(), "frames were lost");
        self.follow(&payload);
    }

    /// What quinn does with the NEW_CONNECTION_ID frames: it goes on to one that is to replace the one in use.
    fn follow(&mut self, payload: &[u8]) {
        let mut at = 0;
        while let Some(frame) = next_frame(payload, at, Codepoints::default().frame()) {
            at = frame.whole.end;
            let Some(body) = payload.get(frame.body) else {
                return;
            };
            if frame.kind != kind::NEW_CONNECTION_ID {
                continue;
            }
            if let Some(new) = crate::wire::NewConnectionId::decode(body)
                && new.retire_prior_to == new.sequence
                && new.id.len() == self.id.len()
            {
                self.id = new.id.to_vec();
            }
        }
    }

    fn send(&mut self, frames: &[u8]) {
        self.sent += 1;
        let mut header = [&[0x41], self.id.as_slice(), &[0, 7]].concat();
        let mut payload = frames.to_vec();
        let packet = Outgoing {
            number: self.sent,
            header: &mut header,
            payload: &mut payload,
            tag: 16,
        };
        self.hook.on_send(packet, &mut Effects::default());
        if payload.first().copied().map(u64::from) == Some(kind::PATH_CHALLENGE)
            && frames != payload
        {
            self.challenge = Reader::starting_at(&payload, 1).array();
        }
    }

    /// The server answers the last challenge, with other frames behind the answer.
    fn answer(&mut self, more: &[u8]) {
        let response = u8::try_from(kind::PATH_RESPONSE).unwrap_or_default();
        let data = self.challenge.unwrap_or_default();
        self.receive(&[&[response], data.as_slice(), more].concat());
    }

    fn pass(&mut self, argument: &[u8]) {
        let millis = argument.first().copied().unwrap_or_default();
        self.now += Duration::from_millis(10) * u32::from(millis);
    }

    /// quinn goes over to a connection ID of the server's choice.
    fn use_id(&mut self, id: &[u8]) {
        if id.len() == self.id.len() {
            self.id = id.to_vec();
        }
        self.send(&[1]);
    }

    fn leave_or_come(&mut self) {
        self.hook.detach();
        self.attach();
    }

    /// What the driving task does, to its end.
    fn drive(&mut self) {
        for _ in 0..ACTIONS {
            self.hook.on_datagrams(self.received);
            match self.hook.poll(self.now, RTT, SIZES) {
                Action::Report(_) | Action::Close(_) => {}
                Action::Open(target) => {
                    assert!(
                        AddressClass::of(target.ip()) == AddressClass::Global,
                        "the policy let {target} pass"
                    );
                    self.path += 1;
                    self.hook.opened(PathId::numbered(self.path), self.now);
                }
                Action::Send(placeholders) => {
                    // quinn fits two of three, or three of five, into one packet.
                    for together in placeholders.chunks(placeholders.len() / 2 + 1) {
                        let mut frames = Vec::new();
                        for placeholder in together {
                            frames.push(0x31);
                            put_varint(
                                &mut frames,
                                VarInt::from_u32(
                                    u32::try_from(placeholder.len()).unwrap_or_default(),
                                ),
                            );
                            frames.extend_from_slice(placeholder);
                        }
                        self.send(&frames);
                    }
                }
                Action::Wait(_) => return,
            }
        }
        panic!("the driving task never rests");
    }
}
