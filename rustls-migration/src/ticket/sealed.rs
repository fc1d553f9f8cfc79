//! What a sealed ticket holds: all that the target needs, so that nodes share nothing but keys
//! (`docs/protocol.md` section 6).
//!
//! A sealed session is secret as a whole. It is opened and sealed, never shown.

use std::fmt;

use migration_token::{SESSION_ID_LEN, TokenHash, TokenKey};
use zeroize::Zeroizing;

use crate::wire::{Malformed, Reader};

const VERSION: u8 = 2;
const HASH_SHA256: u8 = 0;
const HASH_SHA384: u8 = 1;
const KIND_CONNECTION: u8 = 0;
const KIND_STREAM: u8 = 1;

/// The plaintext of a sealed ticket.
#[derive(Clone)]
pub(crate) struct SealedSession {
    /// When the ticket was issued, in milliseconds since 1970.
    pub(crate) issued_at_ms: u64,
    /// The service and the server name that the session belongs to.
    pub(crate) scope: [u8; 32],
    /// SHA-256 of the encoded token that was issued with this ticket.
    pub(crate) token_digest: [u8; 32],
    /// What verifies the token.
    pub(crate) token_key: TokenKey,
    /// The ticket's pre-shared key.
    pub(crate) psk: Zeroizing<Vec<u8>>,
    /// rustls' own session, opaque.
    pub(crate) session: Zeroizing<Vec<u8>>,
    /// The application's state when the stream goes on at the target; `None` when only the session does.
    pub(crate) state: Option<Zeroizing<Vec<u8>>>,
}

impl SealedSession {
    /// The encoding; `None` when a part is too long for its field.
    pub(crate) fn encode(&self) -> Option<Zeroizing<Vec<u8>>> {
        let session_len = u16::try_from(self.session.len()).ok()?;
        let (kind, state) = match &self.state {
            None => (KIND_CONNECTION, &[][..]),
            Some(state) => (KIND_STREAM, state.as_slice()),
        };
        let state_len = u16::try_from(state.len()).ok()?;
        // The capacity is exact, so that no secret stays behind in a smaller buffer.
        let len = 111 + 2 * self.token_key.hash().output_len() + self.session.len() + state.len();
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        out.push(VERSION);
        out.extend(self.issued_at_ms.to_be_bytes());
        out.extend(self.scope);
        out.extend(self.token_digest);
        out.extend(self.token_key.session_id());
        out.push(match self.token_key.hash() {
            TokenHash::Sha256 => HASH_SHA256,
            TokenHash::Sha384 => HASH_SHA384,
        });
        out.extend_from_slice(self.token_key.mac_key());
        out.extend_from_slice(&self.psk);
        out.extend(session_len.to_be_bytes());
        out.extend_from_slice(&self.session);
        out.push(kind);
        out.extend(state_len.to_be_bytes());
        out.extend_from_slice(state);
        debug_assert_eq!(out.len(), len);
        Some(out)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Malformed);
        }
        let issued_at_ms = reader.u64()?;
        let scope = reader.array()?;
        let token_digest = reader.array()?;
        let session_id: [u8; SESSION_ID_LEN] = reader.array()?;
        let hash = match reader.u8()? {
            HASH_SHA256 => TokenHash::Sha256,
            HASH_SHA384 => TokenHash::Sha384,
            _ => return Err(Malformed),
        };
        let mac_key = reader.take(hash.output_len())?;
        let psk = reader.take(hash.output_len())?;
        let session = reader.vec16()?;
        let state = match (reader.u8()?, reader.vec16()?) {
            (KIND_CONNECTION, []) => None,
            (KIND_STREAM, state) => Some(Zeroizing::new(state.to_vec())),
            _ => return Err(Malformed),
        };
        if !reader.is_empty() {
            return Err(Malformed);
        }
        Ok(Self {
            issued_at_ms,
            scope,
            token_digest,
            token_key: TokenKey::from_parts(hash, session_id, mac_key).map_err(|_| Malformed)?,
            psk: Zeroizing::new(psk.to_vec()),
            session: Zeroizing::new(session.to_vec()),
            state,
        })
    }
}

impl fmt::Debug for SealedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedSession").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors;

    prop_compose! {
        fn sessions()(
            sha384 in any::<bool>(),
            issued_at_ms in any::<u64>(),
            parts in any::<([u8; 32], [u8; 32], [u8; 32], [u8; 32])>(),
            session in prop::collection::vec(any::<u8>(), 0..300),
            state in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        ) -> SealedSession {
            let hash = if sha384 { TokenHash::Sha384 } else { TokenHash::Sha256 };
            let secret = parts.3.repeat(2)[..hash.output_len()].to_vec();
            SealedSession {
                issued_at_ms,
                scope: parts.0,
                token_digest: parts.1,
                token_key: TokenKey::from_parts(hash, parts.2, &secret).unwrap(),
                psk: Zeroizing::new(secret),
                session: Zeroizing::new(session),
                state: state.map(Zeroizing::new),
            }
        }
    }

    #[test]
    fn the_vectors_are_read_as_they_say_and_written_again() {
        for vector in vectors::section("sealed_plaintexts") {
            let (name, plaintext) = (&vector["name"], vectors::hex(&vector["plaintext"]));
            let decoded = SealedSession::decode(&plaintext);
            if vector["malformed"] == true {
                assert!(decoded.is_err(), "{name}");
                continue;
            }
            let session = decoded.unwrap();
            let state = Some(&vector["state"]).filter(|state| !state.is_null());
            assert_eq!(
                session.state.as_deref(),
                state.map(vectors::hex).as_ref(),
                "{name}"
            );
            assert_eq!(*session.encode().unwrap(), plaintext, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same_session(session in sessions()) {
            let encoded = session.encode().unwrap();
            let decoded = SealedSession::decode(&encoded).unwrap();
            prop_assert_eq!(decoded.encode().unwrap(), encoded);
            prop_assert_eq!(decoded.state, session.state);
        }

        #[test]
        fn a_cut_or_lengthened_session_is_refused(session in sessions(), cut in any::<prop::sample::Index>()) {
            let mut encoded = session.encode().unwrap().to_vec();
            prop_assert!(SealedSession::decode(&encoded[..cut.index(encoded.len())]).is_err());
            encoded.push(0);
            prop_assert!(SealedSession::decode(&encoded).is_err());
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(session) = SealedSession::decode(&bytes) {
                prop_assert_eq!(session.encode().unwrap().to_vec(), bytes);
            }
        }
    }
}
