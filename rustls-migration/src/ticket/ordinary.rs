//! What the sealed ticket of an ordinary session holds: one without a token, that resumes at any node of its service
//! (`docs/protocol.md` section 6).
//!
//! It never decodes as the plaintext of a ticket with a token, nor that as one of these.

use std::fmt;

use migration_token::{MemoryId, TokenHash};
use zeroize::Zeroizing;

use crate::wire::{Malformed, Reader};

const VERSION: u8 = 3;
const NO_EARLY_DATA: u8 = 0;
const EARLY_DATA: u8 = 1;

/// The plaintext of an ordinary ticket.
#[derive(Clone)]
pub(crate) struct OrdinarySession {
    /// When the ticket was issued, in milliseconds since 1970.
    pub(crate) issued_at_ms: u64,
    /// The service and the server name that the session belongs to.
    pub(crate) scope: [u8; 32],
    /// Present when the ticket offers early data.
    pub(crate) early_data: Option<EarlyDataGrant>,
    /// rustls' own session, opaque.
    pub(crate) session: Zeroizing<Vec<u8>>,
}

/// What decides whether early data is accepted.
#[derive(Clone)]
pub(crate) struct EarlyDataGrant {
    /// The memory that knows whether it has been accepted.
    pub(crate) memory: MemoryId,
    /// The ticket's `ticket_age_add`.
    pub(crate) age_add: u32,
    /// The ticket's pre-shared key, of 32 or 48 bytes.
    pub(crate) psk: Zeroizing<Vec<u8>>,
}

impl OrdinarySession {
    /// The encoding; `None` when a part is too long for its field.
    pub(crate) fn encode(&self) -> Option<Zeroizing<Vec<u8>>> {
        let session_len = u16::try_from(self.session.len()).ok()?;
        let grant_len = self.early_data.as_ref().map_or(0, EarlyDataGrant::len);
        // The capacity is exact, so that no secret stays behind in a smaller buffer.
        let len = FIXED_LEN + grant_len + self.session.len();
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        out.push(VERSION);
        out.extend(self.issued_at_ms.to_be_bytes());
        out.extend(self.scope);
        match &self.early_data {
            None => out.push(NO_EARLY_DATA),
            Some(grant) => {
                out.push(EARLY_DATA);
                out.extend(grant.memory.as_bytes());
                out.extend(grant.age_add.to_be_bytes());
                out.push(u8::try_from(grant.psk.len()).ok()?);
                out.extend_from_slice(&grant.psk);
            }
        }
        out.extend(session_len.to_be_bytes());
        out.extend_from_slice(&self.session);
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
        let early_data = match reader.u8()? {
            NO_EARLY_DATA => None,
            EARLY_DATA => Some(EarlyDataGrant::read(&mut reader)?),
            _ => return Err(Malformed),
        };
        let session = reader.vec16()?;
        if !reader.is_empty() {
            return Err(Malformed);
        }
        Ok(Self {
            issued_at_ms,
            scope,
            early_data,
            session: Zeroizing::new(session.to_vec()),
        })
    }
}

/// Length of everything but the grant of early data and the session, in bytes.
const FIXED_LEN: usize = 1 + 8 + 32 + 1 + 2;

impl EarlyDataGrant {
    fn len(&self) -> usize {
        MemoryId::LEN + 4 + 1 + self.psk.len()
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let memory = MemoryId::new(reader.array()?);
        let age_add = reader.u32()?;
        let psk = reader.vec8()?;
        TokenHash::from_output_len(psk.len()).ok_or(Malformed)?;
        Ok(Self {
            memory,
            age_add,
            psk: Zeroizing::new(psk.to_vec()),
        })
    }
}

impl fmt::Debug for OrdinarySession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrdinarySession").finish_non_exhaustive()
    }
}

impl fmt::Debug for EarlyDataGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyDataGrant").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ticket::SealedSession;
    use crate::vectors;

    prop_compose! {
        fn sessions()(
            sha384 in any::<bool>(),
            grants in any::<bool>(),
            issued_at_ms in any::<u64>(),
            scope in any::<[u8; 32]>(),
            memory in any::<[u8; 16]>(),
            age_add in any::<u32>(),
            session in prop::collection::vec(any::<u8>(), 0..300),
        ) -> OrdinarySession {
            let psk_len = if sha384 { 48 } else { 32 };
            OrdinarySession {
                issued_at_ms,
                scope,
                early_data: grants.then(|| EarlyDataGrant {
                    memory: MemoryId::new(memory),
                    age_add,
                    psk: Zeroizing::new(vec![7; psk_len]),
                }),
                session: Zeroizing::new(session),
            }
        }
    }

    #[test]
    fn the_vectors_are_read_as_they_say_and_written_again() {
        for vector in vectors::section("ordinary_plaintexts") {
            let (name, plaintext) = (&vector["name"], vectors::hex(&vector["plaintext"]));
            let decoded = OrdinarySession::decode(&plaintext);
            if vector["malformed"] == true {
                assert!(decoded.is_err(), "{name}");
                continue;
            }
            let session = decoded.unwrap();
            let grants = vector["early_data"] == true;
            assert_eq!(session.early_data.is_some(), grants, "{name}");
            assert_eq!(*session.session, vectors::hex(&vector["session"]), "{name}");
            assert_eq!(*session.encode().unwrap(), plaintext, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same_session_and_to_none_with_a_token(session in sessions()) {
            let encoded = session.encode().unwrap();
            let decoded = OrdinarySession::decode(&encoded).unwrap();
            prop_assert_eq!(decoded.encode().unwrap(), encoded.clone());
            prop_assert!(SealedSession::decode(&encoded).is_err());
        }

        #[test]
        fn a_cut_or_lengthened_session_is_refused(session in sessions(), cut in any::<prop::sample::Index>()) {
            let mut encoded = session.encode().unwrap().to_vec();
            prop_assert!(OrdinarySession::decode(&encoded[..cut.index(encoded.len())]).is_err());
            encoded.push(0);
            prop_assert!(OrdinarySession::decode(&encoded).is_err());
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(session) = OrdinarySession::decode(&bytes) {
                prop_assert_eq!(session.encode().unwrap().to_vec(), bytes);
            }
        }
    }
}
