//! A bounded walk over the frames of a decrypted 1-RTT packet (RFC 9000 section 19).
//!
//! Never guesses: an unknown or malformed frame ends the walk, and what follows it is left alone.

use std::ops::Range;

use quinn_proto::VarInt;

use super::{AlternateAddress, Reader, kind};

/// Where a frame stands in its packet's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Frame type.
    pub kind: u64,
    /// The frame, type included. A run of PADDING counts as one frame.
    pub whole: Range<usize>,
    /// What follows the type.
    pub body: Range<usize>,
}

impl Frame {
    /// Whether a packet with this frame is acknowledged (RFC 9000 section 13.2.1, RFC 9002 section 2).
    pub(crate) fn is_ack_eliciting(&self) -> bool {
        !matches!(
            self.kind,
            kind::PADDING
                | kind::ACK
                | kind::ACK_ECN
                | kind::CONNECTION_CLOSE
                | kind::APPLICATION_CLOSE
        )
    }

    /// Whether this is a STREAM or DATAGRAM frame.
    pub(crate) fn is_application_data(&self) -> bool {
        matches!(
            self.kind,
            0x08..=0x0f | kind::DATAGRAM | kind::DATAGRAM_WITH_LENGTH
        )
    }
}

/// The frame at offset `at`; `None` at the end of the payload, or when the rest cannot be understood.
///
/// `alternate` is the type of the SERVER_ALTERNATE_ADDRESS frame ([`Codepoints::frame`](super::Codepoints::frame)).
pub fn next_frame(payload: &[u8], at: usize, alternate: VarInt) -> Option<Frame> {
    let mut reader = Reader::starting_at(payload, at);
    if reader.is_empty() {
        return None;
    }
    let kind = reader.varint()?;
    let body = reader.position();
    skip_body(kind, &mut reader, payload, alternate)?;
    let end = reader.position();
    Some(Frame {
        kind,
        whole: at..end,
        body: body..end,
    })
}

fn skip_body(kind: u64, reader: &mut Reader<'_>, payload: &[u8], alternate: VarInt) -> Option<()> {
    match kind {
        kind::PADDING => skip_padding(reader, payload),
        kind::PING | kind::HANDSHAKE_DONE | kind::IMMEDIATE_ACK => Some(()),
        kind::ACK | kind::ACK_ECN => skip_ack(kind, reader),
        // MAX_DATA, MAX_STREAMS, DATA_BLOCKED, STREAMS_BLOCKED, RETIRE_CONNECTION_ID
        0x10 | 0x12 | 0x13 | 0x14 | 0x16 | 0x17 | kind::RETIRE_CONNECTION_ID => {
            reader.skip_varints(1)
        }
        // STOP_SENDING, MAX_STREAM_DATA, STREAM_DATA_BLOCKED
        0x05 | 0x11 | 0x15 => reader.skip_varints(2),
        // RESET_STREAM
        0x04 => reader.skip_varints(3),
        // ACK_FREQUENCY
        0xaf => reader.skip_varints(4),
        // CRYPTO
        0x06 => skip_varints_and_data(reader, 1),
        // NEW_TOKEN, DATAGRAM with a length
        0x07 | kind::DATAGRAM_WITH_LENGTH => skip_varints_and_data(reader, 0),
        0x08..=0x0f => skip_stream(kind, reader),
        kind::NEW_CONNECTION_ID => {
            reader.skip_varints(2)?;
            let length = usize::from(reader.byte()?);
            reader.take(length)?;
            reader.take(super::ResetToken::LENGTH).map(drop)
        }
        kind::PATH_CHALLENGE | kind::PATH_RESPONSE => reader.take(8).map(drop),
        kind::CONNECTION_CLOSE => skip_varints_and_data(reader, 2),
        kind::APPLICATION_CLOSE => skip_varints_and_data(reader, 1),
        kind::DATAGRAM => {
            reader.rest();
            Some(())
        }
        other if other == alternate.into_inner() => {
            let length = AlternateAddress::body_length(payload.get(reader.position()..)?)?;
            reader.take(length).map(drop)
        }
        _ => None,
    }
}

fn skip_padding(reader: &mut Reader<'_>, payload: &[u8]) -> Option<()> {
    let run = payload
        .get(reader.position()..)?
        .iter()
        .take_while(|byte| **byte == 0)
        .count();
    reader.take(run).map(drop)
}

fn skip_varints_and_data(reader: &mut Reader<'_>, varints: u64) -> Option<()> {
    reader.skip_varints(varints)?;
    reader.length_prefixed().map(drop)
}

fn skip_ack(kind: u64, reader: &mut Reader<'_>) -> Option<()> {
    reader.skip_varints(2)?;
    let ranges = reader.varint()?;
    reader.skip_varints(1)?;
    for _ in 0..ranges {
        reader.skip_varints(2)?;
    }
    if kind == kind::ACK_ECN {
        reader.skip_varints(3)
    } else {
        Some(())
    }
}

fn skip_stream(kind: u64, reader: &mut Reader<'_>) -> Option<()> {
    let has_offset = kind & 0x04 != 0;
    let has_length = kind & 0x02 != 0;
    reader.skip_varints(if has_offset { 2 } else { 1 })?;
    if has_length {
        reader.length_prefixed().map(drop)
    } else {
        reader.rest();
        Some(())
    }
}

/// Replaces the bytes in `range` by `frame` and PADDING. Answers `false`, with nothing changed, when the range is not
/// in the payload or `frame` does not fit.
pub fn overwrite(payload: &mut [u8], range: Range<usize>, frame: &[u8]) -> bool {
    let Some(target) = payload.get_mut(range) else {
        return false;
    };
    let Some((head, tail)) = target.split_at_mut_checked(frame.len()) else {
        return false;
    };
    head.copy_from_slice(frame);
    tail.fill(0);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::alternate::tests::any_frame;
    use crate::wire::{Codepoints, NewConnectionId, ResetToken};
    use proptest::prelude::*;
    use quinn_proto::ConnectionId;

    const ALTERNATE: VarInt = VarInt::from_u32(0x5aa00a);

    fn walk(payload: &[u8]) -> Vec<Frame> {
        let mut at = 0;
        std::iter::from_fn(|| {
            let frame = next_frame(payload, at, ALTERNATE)?;
            at = frame.whole.end;
            Some(frame)
        })
        .collect()
    }

    /// Whole frames of every fixed shape that the walker knows.
    fn known_frames() -> Vec<Vec<u8>> {
        let mut new_id = Vec::new();
        NewConnectionId {
            sequence: VarInt::from_u32(3),
            retire_prior_to: VarInt::from_u32(1),
            id: ConnectionId::new(&[5; 8]),
            token: ResetToken::new([6; 16]),
        }
        .encode(&mut new_id);
        vec![
            vec![0x01],
            vec![0x02, 9, 0, 1, 2, 0, 1],
            vec![0x03, 9, 0, 0, 2, 1, 1, 1],
            vec![0x04, 1, 2, 3],
            vec![0x05, 1, 2],
            vec![0x06, 0, 2, 7, 7],
            vec![0x07, 1, 7],
            vec![0x0e, 1, 2, 3, 7, 7, 7],
            vec![0x0b, 1, 1, 7],
            vec![0x10, 1],
            vec![0x11, 1, 2],
            new_id,
            vec![0x19, 1],
            vec![0x1a, 1, 2, 3, 4, 5, 6, 7, 8],
            vec![0x1b, 1, 2, 3, 4, 5, 6, 7, 8],
            vec![0x1c, 1, 2, 1, 7],
            vec![0x1d, 1, 0],
            vec![0x1e],
            vec![0x1f],
            vec![0x31, 2, 7, 7],
            vec![0x40, 0xaf, 1, 2, 3, 4],
        ]
    }

    proptest! {
        #[test]
        fn a_walk_finds_every_frame_in_order(picks in prop::collection::vec(any::<prop::sample::Index>(), 1..12), alternate in any_frame()) {
            let mut frames = known_frames();
            let mut encoded = Vec::new();
            alternate.encode(Codepoints::default().frame(), &mut encoded);
            frames.push(encoded);
            let mut payload = Vec::new();
            let mut ends = Vec::new();
            for pick in picks {
                payload.extend_from_slice(pick.get::<Vec<u8>>(&frames));
                ends.push(payload.len());
            }
            let found: Vec<usize> = walk(&payload).iter().map(|frame| frame.whole.end).collect();
            prop_assert_eq!(found, ends);
        }

        #[test]
        fn any_bytes_are_walked_inside_their_bounds(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut expected_start = 0;
            for frame in walk(&payload) {
                prop_assert_eq!(frame.whole.start, expected_start);
                prop_assert!(frame.whole.start < frame.body.start && frame.body.start <= frame.body.end);
                prop_assert!(frame.whole.end <= payload.len());
                expected_start = frame.whole.end;
            }
        }

        #[test]
        fn an_overwritten_frame_leaves_the_rest_of_the_packet_alone(start in 0..40usize, length in 0..40usize, with in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut payload = vec![9u8; 40];
            let before = payload.clone();
            let fits = start + length <= 40 && with.len() <= length;
            prop_assert_eq!(overwrite(&mut payload, start..start + length, &with), fits);
            if fits {
                prop_assert_eq!(&payload[..start], &before[..start]);
                prop_assert_eq!(&payload[start + length..], &before[start + length..]);
            } else {
                prop_assert_eq!(payload, before);
            }
        }
    }

    #[test]
    fn a_stream_frame_without_a_length_runs_to_the_end_of_the_packet() {
        assert_eq!(
            walk(&[0x01, 0x0c, 1, 2, 3, 4, 5])
                .last()
                .map(|f| f.whole.clone()),
            Some(1..7)
        );
    }

    #[test]
    fn an_unknown_frame_ends_the_walk() {
        assert_eq!(walk(&[0x01, 0x3f, 0x01]).len(), 1);
    }

    #[test]
    fn an_ack_that_claims_more_ranges_than_bytes_ends_the_walk() {
        assert!(
            walk(&[
                0x02, 0x80, 0, 0, 9, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0
            ])
            .is_empty()
        );
    }
}
