//! A packet between quinn and the AEAD: plain header, plain payload.
//!
//! Never changes a length: the header is authenticated, and quinn has accounted for every byte.

use bytes::BytesMut;
use quinn_proto::ConnectionId;

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
}

impl Outgoing<'_> {
    /// Whether this is a 1-RTT packet (RFC 9000 section 17.3), as opposed to 0-RTT.
    pub(crate) fn is_short(&self) -> bool {
        is_short(self.header)
    }

    /// Destination connection ID of a 1-RTT packet.
    pub(crate) fn destination(&self) -> Option<ConnectionId> {
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

    /// Size of the datagram that this packet fills when it is alone in it, in bytes.
    pub(crate) fn datagram_length(&self) -> usize {
        self.header.len() + self.payload.len() + self.tag
    }
}

impl Incoming<'_> {
    pub(crate) fn is_short(&self) -> bool {
        is_short(self.header)
    }

    pub(crate) fn destination(&self) -> Option<ConnectionId> {
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

fn is_short(header: &[u8]) -> bool {
    header.first().is_some_and(|first| first & 0x80 == 0)
}

/// Short header: flags, destination connection ID, packet number of 1 to 4 bytes (RFC 9000 section 17.3.1).
fn destination(header: &[u8]) -> Option<ConnectionId> {
    let (flags, rest) = header.split_first()?;
    if flags & 0x80 != 0 {
        return None;
    }
    let number_length = usize::from(flags & 0x03) + 1;
    let id = rest.get(..rest.len().checked_sub(number_length)?)?;
    (id.len() <= crate::wire::LONGEST_CONNECTION_ID).then(|| ConnectionId::new(id))
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
            prop_assert_eq!(destination(&header), Some(ConnectionId::new(&id)));
        }

        #[test]
        fn any_header_is_read_without_a_panic(header in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = destination(&header);
        }
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
