//! A packet between quinn and the AEAD: plain header, plain payload.
//!
//! Never changes the length of a packet that is sent: quinn has accounted for every byte.

use bytes::BytesMut;
use quinn_proto::ConnectionId;

use crate::socket::PathId;

/// A packet that quinn has built and that is not sealed yet.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) number: u64,
    pub(crate) header: &'a mut [u8],
    pub(crate) payload: &'a mut [u8],
    /// Length of the AEAD tag that will follow the payload, in bytes.
    pub(crate) tag: usize,
}

/// A packet that was authenticated and that quinn has not read yet.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) number: u64,
    pub(crate) header: &'a [u8],
    pub(crate) payload: &'a mut BytesMut,
    pub(crate) arrival: Arrival,
}

/// How a packet came.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrival {
    /// The path that it came by, when that is known not to be the one in use.
    pub(crate) by: Option<PathId>,
    /// If so: something has come by the path in use that nobody has read yet.
    pub(crate) unread: bool,
}

impl Outgoing<'_> {
    /// Whether this is a 1-RTT packet (RFC 9000 section 17.3), as opposed to 0-RTT.
    pub(crate) fn is_short(&self) -> bool {
        is_short(self.header)
    }

    /// Destination connection ID of a 1-RTT packet.
    pub(crate) fn destination(&self) -> Option<&[u8]> {
        destination(self.header)
    }

    /// Replaces the destination connection ID; `false`, with nothing changed, when the length differs.
    pub(crate) fn set_destination(&mut self, id: &ConnectionId) -> bool {
        let Some(current) = destination(self.header) else {
            return false;
        };
        if current.len() != id.len() {
            return false;
        }
        let Some(field) = self.header.get_mut(1..=id.len()) else {
            return false;
        };
        field.copy_from_slice(id);
        true
    }

    /// Bytes of the packet that are not for frames: the header and the AEAD tag.
    pub(crate) fn overhead(&self) -> usize {
        self.header.len() + self.tag
    }

    /// Size of the datagram that this packet fills when it is alone in it, in bytes.
    pub(crate) fn datagram_length(&self) -> usize {
        self.header.len() + self.payload.len() + self.tag
    }
}

impl<'a> Incoming<'a> {
    pub(crate) fn is_short(&self) -> bool {
        is_short(self.header)
    }

    pub(crate) fn destination(&self) -> Option<&'a [u8]> {
        destination(self.header)
    }
}

/// Tells packets that quinn is sure to read from those that it may drop as duplicates: frames put into a duplicate
/// would be lost.
#[derive(Debug, Default)]
pub(super) struct Largest(Option<u64>);

impl Largest {
    /// Whether this is the largest packet number so far, and so no duplicate.
    pub(super) fn is_new(&mut self, number: u64) -> bool {
        let new = self.0.is_none_or(|largest| number > largest);
        if new {
            self.0 = Some(number);
        }
        new
    }
}

/// Tells copies of packets from packets that come late, as [`Largest`] does not: those of a slow path in use are overtaken by others.
#[derive(Debug, Default)]
pub(super) struct Window {
    largest: u64,
    /// Which numbers up to the largest have come, that one in the lowest bit.
    seen: u128,
}

impl Window {
    /// Whether no packet with this number has come before. Answers `false` for one that more than a hundred later ones have
    /// overtaken, as quinn does.
    pub(super) fn is_first(&mut self, number: u64) -> bool {
        if number > self.largest {
            let ahead = u32::try_from(number - self.largest).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(ahead).unwrap_or_default();
            self.largest = number;
        }
        let behind = u32::try_from(self.largest - number).unwrap_or(u32::MAX);
        let Some(bit) = 1u128.checked_shl(behind) else {
            return false;
        };
        let first = self.seen & bit == 0;
        self.seen |= bit;
        first
    }
}

/// Longest packet number (RFC 9000 section 17.1), in bytes.
const LONGEST_NUMBER: usize = 4;

/// Gives a 1-RTT packet the longest packet number, at the cost of PADDING at its end; answers with the header's new
/// length.
///
/// quinn takes the shortest number that its own path needs. A packet on another path may arrive long after later
/// ones, and the receiver could not tell its number any more (RFC 9000 appendix A.3).
pub(crate) fn widen_packet_number(
    packet: &mut [u8],
    header: usize,
    tag: usize,
    number: u64,
) -> usize {
    widened(packet, header, tag, number).unwrap_or(header)
}

fn widened(packet: &mut [u8], header: usize, tag: usize, number: u64) -> Option<usize> {
    let first = *packet.first().filter(|first| *first & 0x80 == 0)?;
    let length = usize::from(first & 0x03) + 1;
    let more = LONGEST_NUMBER.checked_sub(length)?;
    let (end, start) = (packet.len().checked_sub(tag)?, header.checked_sub(length)?);
    let padding = packet.get(end.checked_sub(more)?..end)?;
    // The frames must keep a byte at least: quinn's packets have more.
    if header.checked_add(more)? >= end || padding.iter().any(|byte| *byte != 0) {
        return None;
    }
    packet.copy_within(header..end - more, header + more);
    let low = number.to_be_bytes();
    let low = low.get(low.len() - LONGEST_NUMBER..)?;
    packet
        .get_mut(start..start + LONGEST_NUMBER)?
        .copy_from_slice(low);
    *packet.first_mut()? = first | 0x03;
    Some(header + more)
}

fn is_short(header: &[u8]) -> bool {
    header.first().is_some_and(|first| first & 0x80 == 0)
}

/// Short header: flags, destination connection ID, packet number of 1 to 4 bytes (RFC 9000 section 17.3.1).
fn destination(header: &[u8]) -> Option<&[u8]> {
    let (flags, rest) = header.split_first()?;
    if flags & 0x80 != 0 {
        return None;
    }
    let number_length = usize::from(flags & 0x03) + 1;
    let id = rest.get(..rest.len().checked_sub(number_length)?)?;
    (id.len() <= crate::wire::LONGEST_CONNECTION_ID).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_destination_is_what_stands_between_flags_and_packet_number(id in prop::collection::vec(any::<u8>(), 0..=20), number in prop::collection::vec(any::<u8>(), 1..=4)) {
            let mut header = vec![0x40 | (u8::try_from(number.len()).unwrap() - 1)];
            header.extend_from_slice(&id);
            header.extend_from_slice(&number);
            prop_assert_eq!(destination(&header), Some(&id[..]));
        }

        #[test]
        fn a_widened_number_replaces_padding_and_moves_the_frames(id in prop::collection::vec(any::<u8>(), 0..=20), length in 1..=4usize, number in 0..1u64 << 62, frames in prop::collection::vec(1u8.., 1..30)) {
            let low = number.to_be_bytes();
            let mut packet = vec![0x40 | (u8::try_from(length).unwrap() - 1)];
            packet.extend_from_slice(&id);
            packet.extend_from_slice(&low[8 - length..]);
            let header = packet.len();
            packet.extend_from_slice(&frames);
            packet.extend_from_slice(&[0; 10]);
            packet.extend_from_slice(&[0xee; 16]);
            let mut expected = vec![0x43];
            expected.extend_from_slice(&id);
            expected.extend_from_slice(&low[4..]);
            expected.extend_from_slice(&frames);
            expected.extend(std::iter::repeat_n(0, 6 + length));
            expected.extend_from_slice(&[0xee; 16]);
            prop_assert_eq!(widen_packet_number(&mut packet, header, 16, number), header + 4 - length);
            prop_assert_eq!(destination(&packet[..header + 4 - length]), Some(&id[..]));
            prop_assert_eq!(packet, expected);
        }

        #[test]
        fn any_packet_is_widened_without_a_panic(mut packet in prop::collection::vec(any::<u8>(), 0..40), header in 0..50usize, tag in 0..50usize) {
            let before = packet.clone();
            if widen_packet_number(&mut packet, header, tag, 7) == header && before.first().is_some_and(|first| first & 3 != 3) {
                prop_assert_eq!(packet, before);
            }
        }

        #[test]
        fn any_header_is_read_without_a_panic(header in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = destination(&header);
        }
    }

    proptest! {
        #[test]
        fn each_number_is_the_first_once(numbers in prop::collection::vec(0..100u64, 1..200), start in 0..1u64 << 61) {
            let mut window = Window::default();
            let mut seen = std::collections::BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(window.is_first(start + number), seen.insert(number));
            }
        }
    }

    #[test]
    fn a_number_far_behind_is_no_first_one() {
        let mut window = Window::default();
        assert!(window.is_first(0) && !window.is_first(0));
        assert!(window.is_first(1000) && window.is_first(1000 - 127));
        assert!(!window.is_first(1000 - 127) && !window.is_first(1000 - 128));
        assert!(window.is_first(u64::MAX) && !window.is_first(1000));
    }

    #[test]
    fn a_destination_of_another_length_is_not_written() {
        let mut header = [0x40, 1, 2, 3, 4, 9];
        let mut packet = Outgoing {
            number: 0,
            header: &mut header,
            payload: &mut [],
            tag: 16,
        };
        assert!(!packet.set_destination(&ConnectionId::new(&[7; 5])));
        assert!(packet.set_destination(&ConnectionId::new(&[7; 4])));
        assert_eq!(header, [0x40, 7, 7, 7, 7, 9]);
    }
}
