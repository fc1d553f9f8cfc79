//! Placeholder datagrams: the way to make quinn send a packet with a frame that it does not know.
//!
//! The driving task queues a DATAGRAM (RFC 9221) that starts with a secret marker; the hook finds it in the plain
//! packet and puts the real frame in its place. A placeholder never reaches the wire as such.

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::wire::{
    Frame, MAX_DATAGRAM_FRAME_SIZE, ParametersError, Reader, find_parameter, kind,
    replace_parameter,
};

const MARKER_LENGTH: usize = 32;

/// max_datagram_frame_size as it is shown to quinn at least.
const SHOWN_LIMIT: u64 = 16383;
/// The same as a variable-length integer.
const SHOWN_LIMIT_BYTES: [u8; 2] = [0x7f, 0xff];

/// A DATAGRAM payload from this size on has a length of two bytes (RFC 9000 section 16).
const LONG_DATA: usize = 64;
/// Bytes of a DATAGRAM frame before such a payload: type and length (RFC 9221 section 4).
const LONG_FRAME: usize = 3;
/// The same before a shorter one.
const SHORT_FRAME: usize = 2;
/// A frame of this size fits into the smallest packet beside the shortest placeholder: 1200 bytes, less header and tag.
const LARGEST_PIECE: usize = 1142;

/// Smallest placeholder, in bytes of DATAGRAM payload: room for a SERVER_ALTERNATE_ADDRESS frame with the longest
/// connection ID and sequence number.
const SMALL_PLACEHOLDER: usize = 96;

#[derive(Debug)]
pub(super) struct Placeholders {
    /// Absent when the system's random source failed: then there are no placeholders.
    marker: Option<Marker>,
    /// Largest DATAGRAM frame that the peer accepts, in bytes (max_datagram_frame_size); 0 for none.
    peer_limit: u64,
}

struct Marker(Zeroizing<[u8; MARKER_LENGTH]>);

impl std::fmt::Debug for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Marker(..)")
    }
}

/// Bytes for placeholders in a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct PacketBudget {
    /// In the next packet.
    pub(super) first: usize,
    /// In the one after it, when the next one does not become a probe. Not less.
    pub(super) second: usize,
}

/// What a DATAGRAM frame in an outgoing packet is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DatagramKind {
    /// Ours.
    Placeholder,
    /// The application's, for a peer that does not accept DATAGRAM frames of that size and would close the connection over
    /// one.
    Unwanted,
    /// Anything else.
    Other,
}

impl Placeholders {
    pub(super) fn new() -> Self {
        let mut marker = Zeroizing::new([0; MARKER_LENGTH]);
        let marker = getrandom::fill(marker.as_mut_slice())
            .is_ok()
            .then_some(Marker(marker));
        Self {
            marker,
            peer_limit: 0,
        }
    }

    /// The peer's transport parameters as quinn is to see them: it accepts placeholders then, whatever the peer announced. The
    /// announcement is the same in every connection, because quinn remembers it for 0-RTT, and must not find it lower in
    /// the next handshake (RFC 9221 section 3).
    pub(super) fn show(&mut self, list: &[u8]) -> Result<Vec<u8>, ParametersError> {
        let announced = find_parameter(list, MAX_DATAGRAM_FRAME_SIZE.into_inner())?;
        let limit = announced.and_then(|value| Reader::new(value).varint());
        self.peer_limit = limit.unwrap_or_default();
        if self.peer_takes_all() {
            Ok(list.to_vec())
        } else {
            replace_parameter(list, MAX_DATAGRAM_FRAME_SIZE, &SHOWN_LIMIT_BYTES)
        }
    }

    /// Whether the peer accepts every DATAGRAM frame that quinn would send.
    pub(super) fn peer_takes_all(&self) -> bool {
        self.peer_limit >= SHOWN_LIMIT
    }

    /// The same placeholders again and again, so many times in all.
    pub(super) fn repeated(placeholders: Vec<Bytes>, copies: usize) -> Vec<Bytes> {
        let length = placeholders.len().saturating_mul(copies);
        placeholders.into_iter().cycle().take(length).collect()
    }

    /// The bytes to pass to `send_datagram` for a frame that may share its packet.
    pub(super) fn small(&self) -> Option<Bytes> {
        self.payload(SMALL_PLACEHOLDER)
    }

    /// Placeholders that fill a packet with `budget` bytes for frames to the last byte, so that quinn can add nothing to it.
    ///
    /// quinn accepts no DATAGRAM of that size, so there is a large placeholder and one that fills the rest. A third one
    /// stands in for the first when quinn sends that with other frames: the last two fill the next packet.
    ///
    /// What the smallest packet does not take is split in two, since it would keep back all that is queued behind it when the
    /// path falls silent: then there are five, of which the first three and the last three fill a packet. Not where datagrams
    /// of the application's are `crowded`, since more placeholders push out more of these.
    pub(super) fn filling(
        &self,
        budget: PacketBudget,
        largest: usize,
        crowded: bool,
    ) -> Option<Vec<Bytes>> {
        let rest = budget.first.checked_sub(MARKER_LENGTH + SHORT_FRAME)?;
        let longer = budget.second.saturating_sub(budget.first);
        if !crowded && (LARGEST_PIECE + 1..=2 * LARGEST_PIECE).contains(&rest) {
            let one = rest / 2;
            let other = rest - one;
            let [one, other, longer] = [one, other, one + longer].map(|frame| frame - LONG_FRAME);
            return [MARKER_LENGTH, one, other, longer, MARKER_LENGTH]
                .map(|length| self.payload(length))
                .into_iter()
                .collect();
        }
        let large = rest.checked_sub(LONG_FRAME)?.min(largest);
        let mut third = MARKER_LENGTH.saturating_add(longer);
        if third >= LONG_DATA {
            third = third.saturating_sub(LONG_FRAME - SHORT_FRAME);
        }
        [MARKER_LENGTH, large, third]
            .map(|length| self.payload(length))
            .into_iter()
            .collect()
    }

    fn payload(&self, length: usize) -> Option<Bytes> {
        let marker = self.marker.as_ref()?;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(marker.0.as_slice());
        bytes.resize(length.max(MARKER_LENGTH), 0);
        Some(bytes.into())
    }

    pub(super) fn inspect(&self, payload: &[u8], frame: &Frame) -> DatagramKind {
        let Some(body) = payload.get(frame.body.clone()) else {
            return DatagramKind::Other;
        };
        let data = match frame.kind {
            kind::DATAGRAM => Some(body),
            kind::DATAGRAM_WITH_LENGTH => Reader::new(body).length_prefixed(),
            _ => return DatagramKind::Other,
        };
        let marker = self.marker.as_ref().map(|marker| marker.0.as_slice());
        match (data, marker) {
            (Some(data), Some(marker)) if data.starts_with(marker) => DatagramKind::Placeholder,
            _ if u64::try_from(frame.whole.len()).is_ok_and(|length| length <= self.peer_limit) => {
                DatagramKind::Other
            }
            _ => DatagramKind::Unwanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_smallest_packet_does_not_take_is_split() {
        let frame = |data: &Bytes| data.len() + if data.len() < 64 { 2 } else { 3 };
        for (first, longer) in [(1177, 0), (1300, 1), (1425, 0), (1425, 300), (2318, 7)] {
            let budget = PacketBudget {
                first,
                second: first + longer,
            };
            let placeholders = Placeholders::new().filling(budget, 1400, false).unwrap();
            let sizes: Vec<_> = placeholders.iter().map(frame).collect();
            assert_eq!(sizes.len(), 5);
            assert_eq!(sizes[..3].iter().sum::<usize>(), budget.first);
            assert_eq!(sizes[2..].iter().sum::<usize>(), budget.second);
            assert!(sizes[..3].iter().all(|size| *size <= LARGEST_PIECE));
        }
    }

    #[test]
    fn the_first_two_placeholders_fill_the_first_budget_and_the_last_two_the_second() {
        let frame = |data: &Bytes| {
            let header = if data.len() < 64 { 2 } else { 3 };
            data.len() + header
        };
        // quinn has no DATAGRAM frame of 66 bytes.
        for longer in (0..500).filter(|longer| *longer != 32) {
            let budget = PacketBudget {
                first: 674,
                second: 674 + longer,
            };
            let placeholders = Placeholders::new().filling(budget, 1200, true).unwrap();
            let [first, large, third] = [0, 1, 2].map(|nth| frame(&placeholders[nth]));
            assert_eq!(
                (first + large, large + third),
                (budget.first, budget.second)
            );
        }
    }
}
