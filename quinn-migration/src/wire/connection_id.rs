//! NEW_CONNECTION_ID and RETIRE_CONNECTION_ID (RFC 9000 sections 19.15 and 19.16).
//!
//! Never accepts a connection ID outside of 1 to 20 bytes.

use quinn_proto::{ConnectionId, VarInt};

use super::{Reader, ResetToken, kind, put_varint};

/// Longest connection ID of QUIC version 1, in bytes.
pub(crate) const LONGEST_CONNECTION_ID: usize = 20;

/// The content of a NEW_CONNECTION_ID frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewConnectionId {
    /// Sequence number of the connection ID.
    pub sequence: VarInt,
    /// Connection IDs below this sequence number are to be retired.
    pub retire_prior_to: VarInt,
    /// The connection ID, 1 to 20 bytes.
    pub id: ConnectionId,
    /// The stateless reset token that goes with it.
    pub token: ResetToken,
}

impl NewConnectionId {
    /// Reads a frame body (what follows the type); `None` when it is malformed.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let sequence = reader.varint_checked()?;
        let retire_prior_to = reader.varint_checked()?;
        let id = read_connection_id(&mut reader)?;
        let token = ResetToken::new(reader.array()?);
        Some(Self {
            sequence,
            retire_prior_to,
            id,
            token,
        })
    }

    /// Appends the whole frame, type included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(u8::try_from(kind::NEW_CONNECTION_ID));
        put_varint(out, self.sequence);
        put_varint(out, self.retire_prior_to);
        out.extend(u8::try_from(self.id.len()));
        out.extend_from_slice(&self.id);
        out.extend_from_slice(self.token.as_bytes());
    }
}

/// A whole RETIRE_CONNECTION_ID frame.
pub fn retire_connection_id(sequence: VarInt) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(u8::try_from(kind::RETIRE_CONNECTION_ID));
    put_varint(&mut out, sequence);
    out
}

/// A length byte and a connection ID of 1 to 20 bytes.
pub(super) fn read_connection_id(reader: &mut Reader<'_>) -> Option<ConnectionId> {
    let length = usize::from(reader.byte()?);
    let bytes = reader.take(length)?;
    (1..=LONGEST_CONNECTION_ID)
        .contains(&length)
        .then(|| ConnectionId::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_new_connection_id_reads_back(sequence in 0..1u64 << 62, prior in 0..1u64 << 62, id in prop::collection::vec(any::<u8>(), 1..=20), token in any::<[u8; 16]>()) {
            let frame = NewConnectionId {
                sequence: VarInt::from_u64(sequence).unwrap(),
                retire_prior_to: VarInt::from_u64(prior).unwrap(),
                id: ConnectionId::new(&id),
                token: ResetToken::new(token),
            };
            let mut out = Vec::new();
            frame.encode(&mut out);
            prop_assert_eq!(NewConnectionId::decode(&out[1..]), Some(frame));
            prop_assert_eq!(NewConnectionId::decode(&out[1..out.len() - 1]), None);
        }

        #[test]
        fn any_bytes_decode_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = NewConnectionId::decode(&bytes);
        }
    }
}
