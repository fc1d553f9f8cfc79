//! Carriers: the way to make quinn send a packet with a frame that it does not know.
//!
//! The driving task queues a DATAGRAM (RFC 9221) that starts with a secret mark; the hook finds it in the plain
//! packet and puts the real frame in its place. A carrier never reaches the wire as such.

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::wire::{
    Frame, MAX_DATAGRAM_FRAME_SIZE, ParametersError, Reader, find_parameter, kind,
    replace_parameter,
};

const MARK_LENGTH: usize = 32;

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

/// Smallest carrier, in bytes of DATAGRAM payload: room for a SERVER_ALTERNATE_ADDRESS frame with the longest
/// connection ID and sequence number.
const SMALL_CARRIER: usize = 96;

#[derive(Debug)]
pub(super) struct Carriers {
    /// Absent when the system's random source failed: then there are no carriers.
    mark: Option<Mark>,
    /// Largest DATAGRAM frame that the peer accepts, in bytes (max_datagram_frame_size); 0 for none.
    peer_limit: u64,
}

struct Mark(Zeroizing<[u8; MARK_LENGTH]>);

impl std::fmt::Debug for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mark(..)")
    }
}

/// Bytes for carriers in a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// In the next packet.
    pub(super) first: usize,
    /// In the one after it, when the next one does not become a probe. Not less.
    pub(super) second: usize,
}

/// What a DATAGRAM frame in an outgoing packet is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Ours.
    Carrier,
    /// The application's, for a peer that does not accept DATAGRAM frames of that size and would close the connection over
    /// one.
    Unwanted,
    /// Anything else.
    Other,
}

impl Carriers {
    pub(super) fn new() -> Self {
        let mut mark = Zeroizing::new([0; MARK_LENGTH]);
        let mark = getrandom::fill(mark.as_mut_slice())
            .is_ok()
            .then_some(Mark(mark));
        Self {
            mark,
            peer_limit: 0,
        }
    }

    /// The peer's transport parameters as quinn is to see them: it accepts carriers then, whatever the peer announced. The
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

    /// The bytes to pass to `send_datagram` for a frame that may share its packet.
    pub(super) fn small(&self) -> Option<Bytes> {
        self.payload(SMALL_CARRIER)
    }

    /// Carriers that fill a packet with `room` bytes for frames to the last byte, so that quinn can add nothing to it.
    ///
    /// quinn accepts no DATAGRAM of that size, so there is a large carrier and one that fills the rest. A third one
    /// stands in for the first when quinn sends that with other frames: the last two fill the next packet.
    pub(super) fn filling(&self, room: Room, largest: usize) -> Option<Vec<Bytes>> {
        let large = room
            .first
            .checked_sub(MARK_LENGTH + SHORT_FRAME + LONG_FRAME)?
            .min(largest);
        let longer = room.second.saturating_sub(room.first);
        let mut third = MARK_LENGTH.saturating_add(longer);
        if third >= LONG_DATA {
            third = third.saturating_sub(LONG_FRAME - SHORT_FRAME);
        }
        [MARK_LENGTH, large, third]
            .map(|length| self.payload(length))
            .into_iter()
            .collect()
    }

    fn payload(&self, length: usize) -> Option<Bytes> {
        let mark = self.mark.as_ref()?;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(mark.0.as_slice());
        bytes.resize(length.max(MARK_LENGTH), 0);
        Some(bytes.into())
    }

    pub(super) fn inspect(&self, payload: &[u8], frame: &Frame) -> Found {
        let Some(body) = payload.get(frame.body.clone()) else {
            return Found::Other;
        };
        let data = match frame.kind {
            kind::DATAGRAM => Some(body),
            kind::DATAGRAM_WITH_LENGTH => Reader::new(body).length_prefixed(),
            _ => return Found::Other,
        };
        let mark = self.mark.as_ref().map(|mark| mark.0.as_slice());
        match (data, mark) {
            (Some(data), Some(mark)) if data.starts_with(mark) => Found::Carrier,
            _ if u64::try_from(frame.whole.len()).is_ok_and(|length| length <= self.peer_limit) => {
                Found::Other
            }
            _ => Found::Unwanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_two_carriers_fill_the_first_room_and_the_last_two_the_second() {
        let frame = |data: &Bytes| {
            let header = if data.len() < 64 { 2 } else { 3 };
            data.len() + header
        };
        // quinn has no DATAGRAM frame of 66 bytes.
        for longer in (0..500).filter(|longer| *longer != 32) {
            let room = Room {
                first: 674,
                second: 674 + longer,
            };
            let carriers = Carriers::new().filling(room, 1200).unwrap();
            let [first, large, third] = [0, 1, 2].map(|nth| frame(&carriers[nth]));
            assert_eq!((first + large, large + third), (room.first, room.second));
        }
    }
}
