//! What fronts and nodes send each other: a QUIC datagram with its client's address, authenticated
//! (docs/forwarding.md, "Envelope").
//!
//! An envelope is for one direction of the tunnel between one front address and one node: nobody else takes it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use hmac::Mac as _;
use parking_lot::Mutex;
use quinn::udp::EcnCodepoint;
use thiserror::Error;

use crate::address::{ADDRESS_LEN, address_bytes, address_from};
use crate::keys::{Direction, Mac};
use crate::replay::{Millis, Replay};
use crate::{KeyError, ServerId, SharedKeys};

/// Bytes in front of each datagram. Path MTU between fronts and nodes should be this much larger than the clients'.
pub const ENVELOPE_OVERHEAD: usize = HEADER_LEN + TAG_LEN;

const VERSION: u8 = 1;
const TAG_LEN: usize = 16;
/// Version and ECN, key, time, sender, number, address.
const HEADER_LEN: usize = 1 + 1 + 6 + 8 + 8 + ADDRESS_LEN;

/// A QUIC datagram, and where its client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Carried<'a> {
    pub(crate) client: SocketAddr,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) datagram: &'a [u8],
}

/// Why an envelope was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum Refused {
    #[error("not an envelope")]
    Malformed,
    #[error("its key is not known")]
    UnknownKey,
    #[error("forged, or meant for another tunnel")]
    Forged,
    #[error("too old, or its sender's clock is wrong")]
    Stale,
    #[error("it has come before")]
    Replayed,
    #[error("too many senders at a time")]
    TooManySenders,
}

/// One end of the tunnel between a front address and a node.
pub(crate) struct Tunnel {
    sealing: (u8, Mac),
    opening: Vec<(u8, Mac)>,
    sender: u64,
    number: AtomicU64,
    replay: Mutex<Replay>,
}

impl Tunnel {
    /// The end that sends in `direction`, which begins at `now`.
    pub(crate) fn new(
        keys: &SharedKeys,
        direction: Direction,
        front: SocketAddr,
        node: ServerId,
        now: Millis,
    ) -> Result<Self, KeyError> {
        let back = match direction {
            Direction::ToNode => Direction::ToFront,
            Direction::ToFront => Direction::ToNode,
        };
        let first = keys.first();
        Ok(Self {
            sealing: (first.number(), first.tunnel(direction, front, node)),
            opening: keys
                .iter()
                .map(|key| (key.number(), key.tunnel(back, front, node)))
                .collect(),
            sender: crate::random()?,
            number: AtomicU64::new(0),
            replay: Mutex::new(Replay::new(now)),
        })
    }

    /// Appends the envelope of a datagram to `out`.
    pub(crate) fn seal(&self, now: Millis, carried: &Carried<'_>, out: &mut Vec<u8>) {
        let (key, mac) = &self.sealing;
        let ecn = carried.ecn.map_or(0, ecn_bits);
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let start = out.len();
        out.extend_from_slice(&[VERSION << 4 | ecn, *key]);
        out.extend(now.to_be_bytes().iter().skip(2));
        out.extend_from_slice(&self.sender.to_be_bytes());
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&address_bytes(carried.client));
        let header = out.get(start..).unwrap_or_default();
        let tag = tagged(mac, header, carried.datagram).finalize();
        out.extend(tag.into_bytes().iter().take(TAG_LEN));
        out.extend_from_slice(carried.datagram);
    }

    /// Opens an envelope that arrived with the congestion mark `outer`.
    pub(crate) fn open<'a>(
        &self,
        now: Millis,
        outer: Option<EcnCodepoint>,
        envelope: &'a [u8],
    ) -> Result<Carried<'a>, Refused> {
        let (header, rest) = envelope
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(Refused::Malformed)?;
        let (tag, datagram) = rest
            .split_first_chunk::<TAG_LEN>()
            .ok_or(Refused::Malformed)?;
        let fields = Fields::read(header).ok_or(Refused::Malformed)?;
        if datagram.is_empty() {
            return Err(Refused::Malformed);
        }
        let known = self.opening.iter().find(|(key, _)| *key == fields.key);
        let (_, mac) = known.ok_or(Refused::UnknownKey)?;
        tagged(mac, header, datagram)
            .verify_truncated_left(tag)
            .map_err(|_| Refused::Forged)?;
        self.replay
            .lock()
            .take(now, fields.sent, fields.sender, fields.number)?;
        Ok(Carried {
            client: fields.client,
            ecn: combined(fields.ecn, outer),
            datagram,
        })
    }
}

fn tagged(mac: &Mac, header: &[u8], datagram: &[u8]) -> Mac {
    let mut mac = mac.clone();
    mac.update(header);
    mac.update(datagram);
    mac
}

/// RFC 3168 section 5.
fn ecn_bits(ecn: EcnCodepoint) -> u8 {
    match ecn {
        EcnCodepoint::Ect1 => 0b01,
        EcnCodepoint::Ect0 => 0b10,
        EcnCodepoint::Ce => 0b11,
    }
}

/// RFC 6040 section 4.2: congestion inside of the tunnel is told on.
fn combined(inner: Option<EcnCodepoint>, outer: Option<EcnCodepoint>) -> Option<EcnCodepoint> {
    match outer {
        Some(EcnCodepoint::Ce) => inner.map(|_| EcnCodepoint::Ce),
        Some(EcnCodepoint::Ect0 | EcnCodepoint::Ect1) | None => inner,
    }
}

struct Fields {
    ecn: Option<EcnCodepoint>,
    key: u8,
    sent: Millis,
    sender: u64,
    number: u64,
    client: SocketAddr,
}

impl Fields {
    fn read(header: &[u8; HEADER_LEN]) -> Option<Self> {
        let ([first, key], rest) = header.split_first_chunk()?;
        let (sent, rest) = rest.split_first_chunk::<6>()?;
        let (sender, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let client = address_from(rest.try_into().ok()?);
        let known = first & !0b11 == VERSION << 4 && client.port() != 0;
        known.then_some(Self {
            ecn: EcnCodepoint::from_bits(first & 0b11),
            key: *key,
            sent: sent.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)),
            sender: u64::from_be_bytes(*sender),
            number: u64::from_be_bytes(*number),
            client,
        })
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::keys::tests::keys;
    use crate::replay::TOLERANCE;
    use proptest::prelude::*;

    const NOW: Millis = 1_800_000_000_000;

    fn front() -> SocketAddr {
        "192.0.2.1:443".parse().unwrap()
    }

    fn end(keys: &SharedKeys, direction: Direction, front: SocketAddr, node: u64) -> Tunnel {
        Tunnel::new(keys, direction, front, node.into(), NOW).unwrap()
    }

    fn ends() -> (Tunnel, Tunnel) {
        let keys = keys(1, 9);
        let front_end = end(&keys, Direction::ToNode, front(), 4);
        (front_end, end(&keys, Direction::ToFront, front(), 4))
    }

    fn sealed(by: &Tunnel, carried: &Carried<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        by.seal(NOW, carried, &mut out);
        out
    }

    fn sample() -> Carried<'static> {
        Carried {
            client: "198.51.100.7:4000".parse().unwrap(),
            ecn: Some(EcnCodepoint::Ect0),
            datagram: b"quic",
        }
    }

    proptest! {
        #[test]
        fn what_one_end_seals_the_other_opens(ip in any::<std::net::IpAddr>(), port in 1u16.., ecn in 0..4u8, datagram in prop::collection::vec(any::<u8>(), 1..2000)) {
            let carried = Carried {
                client: SocketAddr::new(ip.to_canonical(), port),
                ecn: EcnCodepoint::from_bits(ecn),
                datagram: &datagram,
            };
            let (front, node) = ends();
            for (from, to) in [(&front, &node), (&node, &front)] {
                let envelope = sealed(from, &carried);
                prop_assert_eq!(envelope.len(), datagram.len() + ENVELOPE_OVERHEAD);
                prop_assert_eq!(to.open(NOW, None, &envelope), Ok(carried));
                prop_assert_eq!(to.open(NOW, None, &envelope), Err(Refused::Replayed));
                prop_assert_eq!(from.open(NOW, None, &envelope), Err(Refused::Forged), "reflected");
            }
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(ends().0.open(NOW, None, &bytes).is_err());
        }
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_refused() {
        let (front, node) = ends();
        let envelope = sealed(&front, &sample());
        for bit in 0..envelope.len() * 8 {
            let mut changed = envelope.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(node.open(NOW, None, &changed).is_err(), "bit {bit}");
        }
        for length in 0..envelope.len() {
            assert!(node.open(NOW, None, &envelope[..length]).is_err());
        }
        assert_eq!(
            node.open(NOW, None, &envelope),
            Ok(sample()),
            "none was used up"
        );
    }

    #[test]
    fn an_envelope_is_for_one_tunnel_and_one_key() {
        let one = keys(1, 9);
        let envelope = sealed(&end(&one, Direction::ToNode, front(), 4), &sample());
        let elsewhere = "192.0.2.1:444".parse().unwrap();
        for (other, error) in [
            (end(&one, Direction::ToFront, front(), 5), Refused::Forged),
            (end(&one, Direction::ToFront, elsewhere, 4), Refused::Forged),
            (
                end(&keys(1, 8), Direction::ToFront, front(), 4),
                Refused::Forged,
            ),
            (
                end(&keys(2, 9), Direction::ToFront, front(), 4),
                Refused::UnknownKey,
            ),
        ] {
            assert_eq!(other.open(NOW, None, &envelope), Err(error));
        }
        let both = keys(2, 8).accept(one.first().clone()).unwrap();
        let rotated = end(&both, Direction::ToFront, front(), 4);
        assert_eq!(rotated.open(NOW, None, &envelope), Ok(sample()));
    }

    #[test]
    fn an_old_envelope_is_refused_and_so_is_one_from_before_the_receiver_began() {
        let (front_end, node) = ends();
        let envelope = sealed(&front_end, &sample());
        let late = NOW + TOLERANCE + 1;
        assert_eq!(node.open(late, None, &envelope), Err(Refused::Stale));
        let restarted = Tunnel::new(&keys(1, 9), Direction::ToFront, front(), 4.into(), NOW + 1);
        let taken = restarted.unwrap().open(NOW + 1, None, &envelope).err();
        assert_eq!(taken, Some(Refused::Stale));
    }

    #[test]
    fn congestion_on_the_way_is_told_on_to_those_who_understand() {
        let (front, node) = ends();
        for (inner, told) in [
            (Some(EcnCodepoint::Ect0), Some(EcnCodepoint::Ce)),
            (None, None),
        ] {
            let carried = Carried {
                ecn: inner,
                ..sample()
            };
            let envelope = sealed(&front, &carried);
            let opened = node.open(NOW, Some(EcnCodepoint::Ce), &envelope).unwrap();
            assert_eq!(opened.ecn, told);
        }
    }

    /// The layout in docs/forwarding.md.
    #[test]
    fn an_envelope_has_58_bytes_in_the_documented_order() {
        let (front, _) = ends();
        let envelope = sealed(&front, &sample());
        assert_eq!(ENVELOPE_OVERHEAD, 58);
        assert_eq!(envelope[..2], [0x12, 1]);
        assert_eq!(envelope[2..8], NOW.to_be_bytes()[2..]);
        assert_eq!(envelope[8..16], front.sender.to_be_bytes());
        assert_eq!(envelope[16..24], [0; 8]);
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 7];
        assert_eq!(envelope[24..40], mapped);
        assert_eq!(envelope[40..42], 4000u16.to_be_bytes());
        assert_eq!(&envelope[58..], b"quic");
    }
}
