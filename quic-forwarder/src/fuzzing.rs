//! Envelopes and clients' datagrams for the fuzz targets `envelope` and `front_datagram`; compiled only with `--cfg fuzzing`.
//!
//! Never part of a build for use.
#![allow(
    clippy::expect_used,
    reason = "a fuzz target reports what it finds by panicking"
)]

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};

use hmac::Mac as _;
use quinn_proto::ConnectionIdGenerator as _;

use crate::envelope::{Carried, ENVELOPE_OVERHEAD, Refused, Tunnel};
use crate::keys::{Direction, Mac};
use crate::place::Places;
use crate::replay::{Millis, TOLERANCE};
use crate::{Node, RoutableIds, ServerId, SharedKey, SharedKeys};

const NOW: Millis = 1_800_000_000_000;
const TAG_LEN: usize = 16;
const HEADER_LEN: usize = ENVELOPE_OVERHEAD - TAG_LEN;
/// Where the envelope has its time, its sender and its number.
const SENT: usize = 2;
const SENDER: usize = 8;

fn keys() -> SharedKeys {
    SharedKeys::new(SharedKey::new(3, [9; SharedKey::LEN]).expect("a key"))
}

fn front() -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, 1), 443).into()
}

fn node() -> ServerId {
    4.into()
}

/// A step's byte and its length-prefixed argument.
fn step<'a>(script: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (kind, rest) = script.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (argument, rest) = rest.split_at_checked((*length).into())?;
    *script = rest;
    Some((*kind, argument))
}

/// Runs a script against a node's end of a tunnel: the front sends, and an attacker repeats, changes, reflects and invents
/// envelopes, with the key and without it.
pub fn envelope(mut script: &[u8]) {
    let mut bench = Bench::new();
    while let Some((kind, argument)) = step(&mut script) {
        match kind % 6 {
            0 => bench.send(argument),
            1 => bench.deliver(argument),
            2 => bench.change(argument),
            3 => bench.forge(argument),
            4 => bench.seal(argument),
            _ => bench.pass(argument),
        }
    }
}

struct Bench {
    front: Tunnel,
    node: Tunnel,
    key: Mac,
    now: Millis,
    /// Of the front, with what is in them.
    envelopes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Sender and number of everything that the node has taken.
    taken: HashSet<Vec<u8>>,
}

impl Bench {
    fn new() -> Self {
        let end = |direction| Tunnel::new(&keys(), direction, front(), node(), NOW);
        Self {
            front: end(Direction::ToNode).expect("random"),
            node: end(Direction::ToFront).expect("random"),
            key: keys().first().tunnel(Direction::ToNode, front(), node()),
            now: NOW,
            envelopes: Vec::new(),
            taken: HashSet::new(),
        }
    }

    /// The front has a datagram of a client.
    fn send(&mut self, datagram: &[u8]) {
        if datagram.is_empty() {
            return;
        }
        let carried = Carried {
            client: (Ipv4Addr::new(198, 51, 100, 7), 4000).into(),
            ecn: None,
            datagram,
        };
        let mut out = Vec::new();
        self.front.seal(self.now, &carried, &mut out);
        self.envelopes.push((out, datagram.to_vec()));
    }

    /// One of the front's arrives, again perhaps; it goes back to the front, too.
    fn deliver(&mut self, which: &[u8]) {
        let Some((envelope, datagram)) = self.pick(which) else {
            return;
        };
        let reflected = self.front.open(self.now, None, &envelope);
        assert_eq!(reflected, Err(Refused::Forged));
        let opened = self.open(&envelope);
        assert!(opened.is_none_or(|opened| opened == datagram));
    }

    fn pick(&self, which: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let which = usize::from(*which.first()?);
        let chosen = which.checked_rem(self.envelopes.len())?;
        self.envelopes.get(chosen).cloned()
    }

    /// One of the front's arrives with a byte changed.
    fn change(&mut self, how: &[u8]) {
        let (Some((mut envelope, _)), [_, place, by, ..]) = (self.pick(how), how) else {
            return;
        };
        let place = usize::from(*place) % envelope.len();
        if let Some(byte) = envelope.get_mut(place).filter(|_| *by != 0) {
            *byte ^= by;
            assert!(self.node.open(self.now, None, &envelope).is_err());
        }
    }

    /// Somebody without the key.
    fn forge(&mut self, bytes: &[u8]) {
        assert!(self.node.open(self.now, None, bytes).is_err());
    }

    /// Somebody with the key: any header, with its tag.
    fn seal(&mut self, bytes: &[u8]) {
        let Some((header, datagram)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return;
        };
        let mut mac = self.key.clone();
        mac.update(header);
        mac.update(datagram);
        let tag = mac.finalize().into_bytes();
        let mut envelope = header.to_vec();
        envelope.extend(tag.iter().take(TAG_LEN));
        envelope.extend_from_slice(datagram);
        self.open(&envelope);
    }

    fn pass(&mut self, time: &[u8]) {
        let time = time.first().copied().unwrap_or_default();
        self.now = self.now.saturating_add(Millis::from(time) * 256);
    }

    /// What is taken is fresh, and new to the node.
    fn open(&mut self, envelope: &[u8]) -> Option<Vec<u8>> {
        let opened = self.node.open(self.now, None, envelope).ok()?;
        assert_ne!(opened.client.port(), 0);
        let datagram = opened.datagram.to_vec();
        let sent = envelope.get(SENT..SENDER).expect("a header");
        let sent = sent.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        assert!(sent >= NOW && self.now.abs_diff(sent) <= TOLERANCE);
        let name = envelope.get(SENDER..SENDER + 16).expect("a header");
        assert!(self.taken.insert(name.to_vec()), "taken twice");
        Some(datagram)
    }
}

/// A client's datagram, as a front reads it. The first byte says whether it has a connection ID of a node, and of which: then no
/// other byte matters.
pub fn front_datagram(bytes: &[u8]) {
    let nodes = [0u64, 1, 2].map(|number| Node {
        id: number.into(),
        address: front(),
        takes_new: number > 0,
    });
    let places = Places::new(&keys(), nodes);
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    let placed = places.node(bytes);
    assert!(placed.is_none_or(|node| nodes.contains(node)));
    let id = ServerId::from(u64::from(which % 3));
    let mut named = RoutableIds::new(&keys(), id).expect("random");
    let named = named.generate_cid();
    let (first, rest) = bytes.split_at(bytes.len().min(1));
    let first = first.first().copied().unwrap_or_default() & 0x7f;
    let short = [&[first], &named[..], rest].concat();
    assert_eq!(places.node(&short).map(|node| node.id), Some(id));
}
