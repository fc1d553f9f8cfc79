//! Which node a client's datagram is for (docs/forwarding.md, "Which node").
//!
//! Reads what every version of QUIC has in common (RFC 8999), and of versions 1 and 2 what tells a first flight. Keeps no
//! table of connections.

use std::collections::HashMap;
use std::net::SocketAddr;

use hmac::Mac as _;

use crate::connection_id::Routing;
use crate::keys::Mac;
use crate::{ServerId, SharedKeys};

/// A server behind fronts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// What its connection IDs name it.
    pub id: ServerId,
    /// Where its [`FrontSocket`](crate::FrontSocket) for this front is bound.
    pub address: SocketAddr,
    /// Whether new connections go to it. A node that is being emptied takes none.
    pub takes_new: bool,
}

/// The destination connection ID of a packet, and whether its client may have made it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Destination<'a> {
    /// Of a short header: everything after the first byte.
    id: &'a [u8],
    first_flight: bool,
}

/// Chooses nodes.
pub(crate) struct Places {
    routing: Routing,
    placement: Mac,
    nodes: HashMap<ServerId, Node>,
}

impl Places {
    pub(crate) fn new(keys: &SharedKeys, nodes: impl IntoIterator<Item = Node>) -> Self {
        Self {
            routing: Routing::new(keys),
            placement: keys.first().placement(),
            nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
        }
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The node for a datagram; `None` when there is none.
    pub(crate) fn node(&self, datagram: &[u8]) -> Option<&Node> {
        let destination = destination(datagram)?;
        let named = self.routing.node(destination.id);
        match named.and_then(|id| self.nodes.get(&id)) {
            Some(node) => Some(node),
            None if destination.first_flight => self.placed(destination.id),
            None => None,
        }
    }

    /// The node of a new connection: that with the highest score, so that a node more or less changes the place of no
    /// others' connections (rendezvous hashing). Every front comes to the same result.
    fn placed(&self, id: &[u8]) -> Option<&Node> {
        let score = |node: &&Node| {
            let mut mac = self.placement.clone();
            mac.update(node.id.as_bytes());
            mac.update(id);
            mac.finalize().into_bytes()
        };
        self.nodes
            .values()
            .filter(|n| n.takes_new)
            .max_by_key(score)
    }
}

fn destination(datagram: &[u8]) -> Option<Destination<'_>> {
    const LONG: u8 = 0x80;
    let (first, rest) = datagram.split_first()?;
    if first & LONG == 0 {
        return Some(Destination {
            id: rest,
            first_flight: false,
        });
    }
    let (version, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first()?;
    let id = rest.get(..usize::from(*length))?;
    let kind = first >> 4 & 0b11;
    let first_flight = match u32::from_be_bytes(*version) {
        // Version Negotiation: only servers send it.
        0 => return None,
        // RFC 9000 section 17.2: Initial and 0-RTT.
        1 => kind <= 1,
        // RFC 9369 section 3.2.
        0x6b33_43cf => matches!(kind, 1 | 2),
        // A node answers with the versions that it knows.
        _ => true,
    };
    Some(Destination { id, first_flight })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RoutableIds;
    use crate::keys::tests::keys;
    use proptest::prelude::*;
    use quinn_proto::ConnectionIdGenerator as _;
    use std::collections::BTreeMap;

    fn nodes(count: u64) -> Vec<Node> {
        let node = |number: u64| Node {
            id: number.into(),
            address: SocketAddr::from(([10, 0, 0, 1], 1000 + u16::try_from(number).unwrap())),
            takes_new: true,
        };
        (0..count).map(node).collect()
    }

    fn long(kind: u8, version: u32, id: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xc0 | kind << 4];
        packet.extend_from_slice(&version.to_be_bytes());
        packet.push(u8::try_from(id.len()).unwrap());
        packet.extend_from_slice(id);
        packet.extend_from_slice(&[7; 30]);
        packet
    }

    #[test]
    fn packets_with_a_nodes_connection_id_go_to_it_and_others_only_in_a_first_flight() {
        let places = Places::new(&keys(1, 9), nodes(5));
        for number in 0..5u64 {
            let id = RoutableIds::new(&keys(1, 9), number.into())
                .unwrap()
                .generate_cid();
            let short = [&[0x40], &id[..], &[9; 30]].concat();
            let packets = (0..4).map(|kind| long(kind, 1, &id)).chain([short]);
            for packet in packets {
                assert_eq!(places.node(&packet).unwrap().id, number.into());
            }
        }
        let made_up = [0x5a; 20];
        let forwarded = |packet: &[u8]| places.node(packet).is_some();
        for (version, first_flight) in [
            (1, [true, true, false, false]),
            (0x6b33_43cf, [false, true, true, false]),
            (0x0a0a_0a0a, [true; 4]),
            (0, [false; 4]),
        ] {
            for (kind, expected) in (0..).zip(first_flight) {
                assert_eq!(
                    forwarded(&long(kind, version, &made_up)),
                    expected,
                    "{version:#x}, {kind}"
                );
            }
        }
        assert!(!forwarded(&[&[0x40], &made_up[..], &[9; 30]].concat()));
        let unknown = RoutableIds::new(&keys(1, 9), 99.into())
            .unwrap()
            .generate_cid();
        assert!(!forwarded(&[&[0x40], &unknown[..], &[9; 30]].concat()));
    }

    #[test]
    fn new_connections_are_spread_and_a_node_more_or_less_moves_only_its_own() {
        let four = Places::new(&keys(1, 9), nodes(4));
        let five = Places::new(&keys(1, 9), nodes(5));
        let emptied = nodes(5).into_iter().map(|node| Node {
            takes_new: node.id != 4.into(),
            ..node
        });
        let emptied = Places::new(&keys(1, 9), emptied);
        let mut shares = BTreeMap::new();
        for number in 0..5000u32 {
            let packet = long(0, 1, &[&[0xff; 8][..], &number.to_be_bytes()].concat());
            let [before, after, without] =
                [&four, &five, &emptied].map(|p| p.node(&packet).unwrap().id);
            assert!(after == before || after == 4.into());
            assert_eq!(without, before);
            *shares.entry(after).or_insert(0) += 1;
        }
        assert_eq!(shares.len(), 5);
        assert!(
            shares.values().all(|share| (850..1150).contains(share)),
            "{shares:?}"
        );
    }

    #[test]
    fn without_a_node_that_takes_new_connections_there_is_nowhere_to_go() {
        let none = nodes(2).into_iter().map(|node| Node {
            takes_new: false,
            ..node
        });
        let places = Places::new(&keys(1, 9), none);
        assert!(places.node(&long(0, 1, &[0xff; 8])).is_none());
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_without_a_panic(datagram in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Places::new(&keys(1, 9), nodes(2)).node(&datagram);
        }
    }
}
