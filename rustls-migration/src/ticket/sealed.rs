//! What a sealed ticket holds that may be taken elsewhere: all that the target needs, so that nodes share nothing but keys
//! (`docs/protocol.md` sections 6 and 10).
//!
//! A sealed session is secret as a whole. It is opened and sealed, never shown.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use migration_token::{SESSION_ID_LEN, TokenHash, TokenKey};
use zeroize::Zeroizing;

use crate::lineage::Lineage;
use crate::wire::{Malformed, Reader};

/// A ticket that comes with a token. Before there were lineages it was 2.
const VERSION_TOKEN: u8 = 5;
/// A ticket whose authorisation is in it. Before there were lineages it was 4.
const VERSION_SCOPED: u8 = 6;
const HASH_SHA256: u8 = 0;
const HASH_SHA384: u8 = 1;
const ADDRESS_IPV4: u8 = 0;
const ADDRESS_IPV6: u8 = 1;
const KIND_CONNECTION: u8 = 0;
const KIND_STREAM: u8 = 1;
const KIND_CHECKPOINT: u8 = 2;

/// The plaintext of a sealed ticket.
#[derive(Clone)]
pub(crate) struct SealedSession {
    /// When the ticket was issued, in milliseconds since 1970.
    pub(crate) issued_at_ms: u64,
    /// The service and the server name that the session belongs to.
    pub(crate) scope: [u8; 32],
    /// That of the connection on which it was issued.
    pub(crate) lineage: Lineage,
    /// Who may accept it.
    pub(crate) authorization: Authorization,
    /// The ticket's pre-shared key.
    pub(crate) psk: Zeroizing<Vec<u8>>,
    /// rustls' own session, opaque.
    pub(crate) session: Zeroizing<Vec<u8>>,
    /// The application's state when the stream goes on at the target; `None` when only the session does.
    pub(crate) state: Option<Zeroizing<Vec<u8>>>,
    /// `Some` when the state is a checkpoint's: how many bytes that the application writes at the target were sent before the
    /// checkpoint already.
    pub(crate) ahead: Option<u64>,
}

/// What allows the session to be resumed elsewhere, by the dialect.
#[derive(Clone, Debug)]
pub(crate) enum Authorization {
    /// Draft -01: a token, which names the target and is presented beside the ticket.
    Token {
        /// SHA-256 of the encoded token that was issued with this ticket.
        digest: [u8; 32],
        /// What verifies the token.
        key: TokenKey,
    },
    /// Draft -03: the ticket alone.
    Scoped {
        /// When it ends, in Unix seconds.
        expiry: u64,
        /// The one address whose server may accept it, in the form of a token.
        target: SocketAddr,
    },
}

impl SealedSession {
    /// The hash of the session's cipher suite; `None` when the pre-shared key is that of none.
    pub(crate) fn hash(&self) -> Option<TokenHash> {
        TokenHash::from_output_len(self.psk.len())
    }

    /// The encoding; `None` when a part is too long for its field.
    pub(crate) fn encode(&self) -> Option<Zeroizing<Vec<u8>>> {
        let session_len = u16::try_from(self.session.len()).ok()?;
        let (kind, state) = match (&self.state, self.ahead) {
            (None, None) => (KIND_CONNECTION, &[][..]),
            (Some(state), None) => (KIND_STREAM, state.as_slice()),
            (Some(state), Some(_)) => (KIND_CHECKPOINT, state.as_slice()),
            (None, Some(_)) => return None,
        };
        let ahead = self.ahead.map(u64::to_be_bytes);
        let state_len = u16::try_from(state.len()).ok()?;
        // The capacity is exact, so that no secret stays behind in a smaller buffer.
        let len = FIXED_LEN
            + self.authorization.len()
            + self.psk.len()
            + self.session.len()
            + state.len()
            + ahead.map_or(0, |ahead| ahead.len());
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        out.push(self.authorization.version());
        out.extend(self.issued_at_ms.to_be_bytes());
        out.extend(self.scope);
        out.extend(self.lineage.id());
        out.extend(self.lineage.epoch().to_be_bytes());
        self.authorization.encode(self.hash()?, &mut out);
        out.extend_from_slice(&self.psk);
        out.extend(session_len.to_be_bytes());
        out.extend_from_slice(&self.session);
        out.push(kind);
        out.extend(state_len.to_be_bytes());
        out.extend_from_slice(state);
        out.extend(ahead.into_iter().flatten());
        debug_assert_eq!(out.len(), len);
        Some(out)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        let issued_at_ms = reader.u64()?;
        let scope = reader.array()?;
        let lineage = Lineage::from_parts(reader.array()?, reader.u64()?);
        let (authorization, hash) = match version {
            VERSION_TOKEN => Authorization::read_token(&mut reader)?,
            VERSION_SCOPED => Authorization::read_scope(&mut reader)?,
            _ => return Err(Malformed),
        };
        let psk = reader.take(hash.output_len())?;
        let session = reader.vec16()?;
        let kept = |state: &[u8]| Some(Zeroizing::new(state.to_vec()));
        let (state, ahead) = match (reader.u8()?, reader.vec16()?) {
            (KIND_CONNECTION, []) => (None, None),
            (KIND_STREAM, state) => (kept(state), None),
            (KIND_CHECKPOINT, state) => (kept(state), Some(reader.u64()?)),
            _ => return Err(Malformed),
        };
        if !reader.is_empty() {
            return Err(Malformed);
        }
        Ok(Self {
            issued_at_ms,
            scope,
            lineage,
            authorization,
            psk: Zeroizing::new(psk.to_vec()),
            session: Zeroizing::new(session.to_vec()),
            state,
            ahead,
        })
    }
}

/// Length of everything but authorisation, pre-shared key, session, state and what stands behind it, in bytes: version, issue
/// time, scope, lineage, two lengths and the kind.
const FIXED_LEN: usize = 1 + 8 + 32 + Lineage::ID_LEN + 8 + 2 + 1 + 2;

impl Authorization {
    fn version(&self) -> u8 {
        match self {
            Self::Token { .. } => VERSION_TOKEN,
            Self::Scoped { .. } => VERSION_SCOPED,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Token { key, .. } => 32 + SESSION_ID_LEN + 1 + key.mac_key().len(),
            Self::Scoped { target, .. } => 8 + 1 + ip_len(*target) + 2 + 1,
        }
    }

    /// `hash` is that of the session.
    fn encode(&self, hash: TokenHash, out: &mut Vec<u8>) {
        let hash = match hash {
            TokenHash::Sha256 => HASH_SHA256,
            TokenHash::Sha384 => HASH_SHA384,
        };
        match self {
            Self::Token { digest, key } => {
                out.extend(digest);
                out.extend(key.session_id());
                out.push(hash);
                out.extend_from_slice(key.mac_key());
            }
            Self::Scoped { expiry, target } => {
                out.extend(expiry.to_be_bytes());
                match target.ip() {
                    IpAddr::V4(ip) => {
                        out.push(ADDRESS_IPV4);
                        out.extend(ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        out.push(ADDRESS_IPV6);
                        out.extend(ip.octets());
                    }
                }
                out.extend(target.port().to_be_bytes());
                out.push(hash);
            }
        }
    }

    fn read_token(reader: &mut Reader<'_>) -> Result<(Self, TokenHash), Malformed> {
        let digest = reader.array()?;
        let session_id: [u8; SESSION_ID_LEN] = reader.array()?;
        let hash = read_hash(reader)?;
        let mac_key = reader.take(hash.output_len())?;
        let key = TokenKey::from_parts(hash, session_id, mac_key).map_err(|_| Malformed)?;
        Ok((Self::Token { digest, key }, hash))
    }

    fn read_scope(reader: &mut Reader<'_>) -> Result<(Self, TokenHash), Malformed> {
        let expiry = reader.u64()?;
        let ip: IpAddr = match reader.u8()? {
            ADDRESS_IPV4 => reader.array::<4>()?.into(),
            ADDRESS_IPV6 => reader.array::<16>()?.into(),
            _ => return Err(Malformed),
        };
        let target = SocketAddr::new(ip, reader.u16()?);
        Ok((Self::Scoped { expiry, target }, read_hash(reader)?))
    }
}

fn ip_len(address: SocketAddr) -> usize {
    match address.is_ipv4() {
        true => 4,
        false => 16,
    }
}

fn read_hash(reader: &mut Reader<'_>) -> Result<TokenHash, Malformed> {
    match reader.u8()? {
        HASH_SHA256 => Ok(TokenHash::Sha256),
        HASH_SHA384 => Ok(TokenHash::Sha384),
        _ => Err(Malformed),
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
    use crate::address::as_in_token;
    use crate::vectors;

    prop_compose! {
        fn sessions()(
            sha384 in any::<bool>(),
            issued_at_ms in any::<u64>(),
            parts in any::<([u8; 32], [u8; 32], [u8; 32], [u8; 32])>(),
            (id, epoch) in any::<([u8; Lineage::ID_LEN], u64)>(),
            scoped_to in prop::option::of(any::<(u64, SocketAddr)>().prop_map(|(expiry, target)| {
                (expiry, as_in_token(target))
            })),
            session in prop::collection::vec(any::<u8>(), 0..300),
            state in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
            ahead in any::<Option<u64>>(),
        ) -> SealedSession {
            let hash = if sha384 { TokenHash::Sha384 } else { TokenHash::Sha256 };
            let secret = parts.3.repeat(2)[..hash.output_len()].to_vec();
            let authorization = match scoped_to {
                Some((expiry, target)) => Authorization::Scoped { expiry, target },
                None => Authorization::Token {
                    digest: parts.1,
                    key: TokenKey::from_parts(hash, parts.2, &secret).unwrap(),
                },
            };
            SealedSession {
                issued_at_ms,
                scope: parts.0,
                lineage: Lineage::from_parts(id, epoch),
                authorization,
                psk: Zeroizing::new(secret),
                session: Zeroizing::new(session),
                ahead: ahead.filter(|_| state.is_some()),
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
            let target = match session.authorization {
                Authorization::Token { .. } => None,
                Authorization::Scoped { target, .. } => Some(target.to_string()),
            };
            assert_eq!(target.as_deref(), vector["target"].as_str(), "{name}");
            let state = Some(&vector["state"]).filter(|state| !state.is_null());
            assert_eq!(
                session.state.as_deref(),
                state.map(vectors::hex).as_ref(),
                "{name}"
            );
            assert_eq!(session.ahead, vector["ahead"].as_u64(), "{name}");
            let id = vectors::hex(&vector["lineage"]);
            let lineage = (session.lineage.id().to_vec(), session.lineage.epoch());
            assert_eq!(lineage, (id, vector["epoch"].as_u64().unwrap()), "{name}");
            assert_eq!(*session.encode().unwrap(), plaintext, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same_session(session in sessions()) {
            let encoded = session.encode().unwrap();
            let decoded = SealedSession::decode(&encoded).unwrap();
            prop_assert_eq!(decoded.encode().unwrap(), encoded);
            prop_assert_eq!(decoded.lineage, session.lineage);
            prop_assert_eq!((decoded.state, decoded.ahead), (session.state, session.ahead));
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
