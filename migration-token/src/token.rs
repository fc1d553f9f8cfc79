//! The `MigrationToken` structure and its strict codec (draft section 5.2, `docs/protocol.md` section 2).
//!
//! Decoding says whether bytes are a token. It never says whether the token is to be trusted: that takes
//! [`TokenKey::verify`](crate::TokenKey::verify).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use time::{Duration, OffsetDateTime, PrimitiveDateTime};

/// Shortest `session_id` that the structure allows, in bytes.
pub const MIN_SESSION_ID_LEN: usize = 32;
/// Shortest `nonce` that the structure allows, in bytes.
pub const MIN_NONCE_LEN: usize = 16;
/// Shortest `signature` that the structure allows, in bytes.
pub const MIN_SIGNATURE_LEN: usize = 32;
/// Longest `session_id`, `nonce` or `signature`, in bytes: their length prefix is one byte.
pub const MAX_OPAQUE_LEN: usize = 255;

const TYPE_IPV4: u8 = 0;
const TYPE_IPV6: u8 = 1;

/// A credential that authorises one TLS session to move to one address, once (draft section 5.2).
///
/// Its fields are in clear on the wire: the client presents it in its ClientHello.
#[derive(Clone, PartialEq, Eq)]
pub struct MigrationToken {
    target_address: SocketAddr,
    session_id: Vec<u8>,
    expiry_timestamp: u64,
    nonce: Vec<u8>,
    signature: Vec<u8>,
}

impl MigrationToken {
    /// Puts a token together from its fields.
    ///
    /// `expiry_timestamp` is in Unix seconds. The flow label and scope of an IPv6 `target_address` are not
    /// part of the structure and are dropped.
    ///
    /// # Errors
    ///
    /// [`InvalidToken`] names the field whose length is outside the bounds of the structure.
    pub fn from_parts(
        target_address: SocketAddr,
        session_id: Vec<u8>,
        expiry_timestamp: u64,
        nonce: Vec<u8>,
        signature: Vec<u8>,
    ) -> Result<Self, InvalidToken> {
        check_len("session_id", &session_id, MIN_SESSION_ID_LEN)?;
        check_len("nonce", &nonce, MIN_NONCE_LEN)?;
        check_len("signature", &signature, MIN_SIGNATURE_LEN)?;
        Ok(Self {
            target_address: SocketAddr::new(target_address.ip(), target_address.port()),
            session_id,
            expiry_timestamp,
            nonce,
            signature,
        })
    }

    /// Reads a token that fills `bytes` exactly.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the address type is unknown, a length is below its minimum, bytes are missing,
    /// or bytes are left over. Whoever sent them is at fault.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut rest = bytes;
        let [kind] = take_array(&mut rest)?;
        let ip: IpAddr = match kind {
            TYPE_IPV4 => IpAddr::from(take_array::<4>(&mut rest)?),
            TYPE_IPV6 => IpAddr::from(take_array::<16>(&mut rest)?),
            unknown => return Err(DecodeError::UnknownAddressType(unknown)),
        };
        let port = u16::from_be_bytes(take_array(&mut rest)?);
        let session_id = take_opaque(&mut rest, "session_id", MIN_SESSION_ID_LEN)?;
        let expiry_timestamp = u64::from_be_bytes(take_array(&mut rest)?);
        let nonce = take_opaque(&mut rest, "nonce", MIN_NONCE_LEN)?;
        let signature = take_opaque(&mut rest, "signature", MIN_SIGNATURE_LEN)?;
        if !rest.is_empty() {
            return Err(DecodeError::TrailingBytes(rest.len()));
        }
        Ok(Self {
            target_address: SocketAddr::new(ip, port),
            session_id,
            expiry_timestamp,
            nonce,
            signature,
        })
    }

    /// The token as it stands in an extension, network byte order; the inverse of [`decode`](Self::decode).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = signing_input(
            self.target_address,
            &self.session_id,
            self.expiry_timestamp,
            &self.nonce,
        );
        push_opaque(&mut out, &self.signature);
        out
    }

    /// Where the session may move to.
    pub fn target_address(&self) -> SocketAddr {
        self.target_address
    }

    /// The identifier of the TLS session that may move, 32 to 255 bytes.
    pub fn session_id(&self) -> &[u8] {
        &self.session_id
    }

    /// The last moment at which the token is valid, in Unix seconds, as it stands on the wire.
    pub fn expiry_timestamp(&self) -> u64 {
        self.expiry_timestamp
    }

    /// The last moment at which the token is valid. A value past the year 9999 reads as its end.
    pub fn expiry(&self) -> OffsetDateTime {
        i64::try_from(self.expiry_timestamp)
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .unwrap_or(PrimitiveDateTime::MAX.assume_utc())
    }

    /// Whether `now` is later than the expiry by more than `skew`, the allowance for clocks that differ.
    pub fn is_expired(&self, now: OffsetDateTime, skew: Duration) -> bool {
        now.checked_sub(skew)
            .is_some_and(|moment| moment > self.expiry())
    }

    /// The single-use value, 16 to 255 bytes.
    pub fn nonce(&self) -> &[u8] {
        &self.nonce
    }

    /// The HMAC tag over everything before it, 32 to 255 bytes.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }
}

/// Shows where the token leads and until when. `session_id`, `nonce` and `signature` stay out of logs: the
/// first two link a client's connections, and all three together are the credential.
impl fmt::Debug for MigrationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigrationToken")
            .field("target_address", &self.target_address)
            .field("expiry_timestamp", &self.expiry_timestamp)
            .finish_non_exhaustive()
    }
}

/// The bytes that a token's signature covers: its encoding up to and including the nonce.
pub(crate) fn signing_input(
    target_address: SocketAddr,
    session_id: &[u8],
    expiry_timestamp: u64,
    nonce: &[u8],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    match target_address.ip() {
        IpAddr::V4(ip) => {
            out.push(TYPE_IPV4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(TYPE_IPV6);
            out.extend(ip.octets());
        }
    }
    out.extend(target_address.port().to_be_bytes());
    push_opaque(&mut out, session_id);
    out.extend(expiry_timestamp.to_be_bytes());
    push_opaque(&mut out, nonce);
    out
}

/// Appends a one-byte length and `field`, whose length the constructors have checked.
fn push_opaque(out: &mut Vec<u8>, field: &[u8]) {
    debug_assert!(field.len() <= MAX_OPAQUE_LEN);
    out.push(u8::try_from(field.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(field);
}

fn check_len(field: &'static str, value: &[u8], min: usize) -> Result<(), InvalidToken> {
    if (min..=MAX_OPAQUE_LEN).contains(&value.len()) {
        Ok(())
    } else {
        Err(InvalidToken {
            field,
            len: value.len(),
        })
    }
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], DecodeError> {
    let (head, tail) = rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
    *rest = tail;
    Ok(*head)
}

fn take_opaque(rest: &mut &[u8], field: &'static str, min: usize) -> Result<Vec<u8>, DecodeError> {
    let [len] = take_array(rest)?;
    let len = usize::from(len);
    if len < min {
        return Err(DecodeError::TooShort { field, len, min });
    }
    let (head, tail) = rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
    *rest = tail;
    Ok(head.to_vec())
}

/// Why bytes are not a [`MigrationToken`]. The peer that sent them is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The address type is neither ipv4(0) nor ipv6(1).
    #[error("unknown address type {0}")]
    UnknownAddressType(u8),
    /// The bytes end inside the structure.
    #[error("the token is truncated")]
    Truncated,
    /// A variable field is shorter than the structure allows.
    #[error("{field} has {len} bytes, at least {min} are required")]
    TooShort {
        /// The field's name in the draft.
        field: &'static str,
        /// Its length, in bytes.
        len: usize,
        /// The least length that the structure allows, in bytes.
        min: usize,
    },
    /// This many bytes follow the structure.
    #[error("{0} bytes follow the token")]
    TrailingBytes(usize),
}

/// A field's length is outside the bounds of the structure. The caller is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} cannot have {len} bytes")]
pub struct InvalidToken {
    field: &'static str,
    len: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn tokens()(
            ip in any::<IpAddr>(),
            port in any::<u16>(),
            session_id in prop::collection::vec(any::<u8>(), MIN_SESSION_ID_LEN..=MAX_OPAQUE_LEN),
            expiry in any::<u64>(),
            nonce in prop::collection::vec(any::<u8>(), MIN_NONCE_LEN..=MAX_OPAQUE_LEN),
            signature in prop::collection::vec(any::<u8>(), MIN_SIGNATURE_LEN..=MAX_OPAQUE_LEN),
        ) -> MigrationToken {
            MigrationToken::from_parts(SocketAddr::new(ip, port), session_id, expiry, nonce, signature)
                .expect("lengths are in bounds")
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same_token(token in tokens()) {
            prop_assert_eq!(MigrationToken::decode(&token.encode()), Ok(token));
        }

        #[test]
        fn any_bytes_decode_to_a_token_that_encodes_to_them_or_to_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..400)
        ) {
            if let Ok(token) = MigrationToken::decode(&bytes) {
                prop_assert_eq!(token.encode(), bytes);
            }
        }

        #[test]
        fn every_truncation_is_an_error(token in tokens(), cut in any::<prop::sample::Index>()) {
            let bytes = token.encode();
            let len = cut.index(bytes.len());
            prop_assert!(MigrationToken::decode(&bytes[..len]).is_err());
        }

        #[test]
        fn every_addition_is_an_error(token in tokens(), more in prop::collection::vec(any::<u8>(), 1..9)) {
            let mut bytes = token.encode();
            bytes.extend(&more);
            prop_assert_eq!(
                MigrationToken::decode(&bytes),
                Err(DecodeError::TrailingBytes(more.len()))
            );
        }
    }

    fn token(expiry: u64) -> MigrationToken {
        let target = "192.0.2.1:443".parse().unwrap();
        MigrationToken::from_parts(target, vec![1; 32], expiry, vec![2; 16], vec![3; 32]).unwrap()
    }

    #[test]
    fn the_smallest_issued_ipv4_token_has_98_bytes() {
        assert_eq!(token(0).encode().len(), 98);
    }

    #[test]
    fn a_token_is_valid_until_its_expiry_and_the_skew_have_passed() {
        let at = OffsetDateTime::from_unix_timestamp(1_000).unwrap();
        let skew = Duration::seconds(5);
        assert!(!token(1_000).is_expired(at, Duration::ZERO));
        assert!(token(1_000).is_expired(at + Duration::MILLISECOND, Duration::ZERO));
        assert!(!token(1_000).is_expired(at + skew, skew));
        assert!(token(1_000).is_expired(at + skew + Duration::MILLISECOND, skew));
    }

    #[test]
    fn an_expiry_beyond_the_calendar_is_far_away_and_not_in_the_past() {
        let token = token(u64::MAX);
        assert_eq!(token.expiry().year(), 9999);
        assert_eq!(token.expiry_timestamp(), u64::MAX);
    }

    #[test]
    fn fields_of_a_length_that_cannot_be_encoded_are_refused() {
        let target = "192.0.2.1:443".parse().unwrap();
        let build = |session_id, nonce, signature| {
            MigrationToken::from_parts(target, session_id, 0, nonce, signature)
        };
        assert!(build(vec![0; 31], vec![0; 16], vec![0; 32]).is_err());
        assert!(build(vec![0; 32], vec![0; 256], vec![0; 32]).is_err());
        assert!(build(vec![0; 32], vec![0; 16], vec![0; 31]).is_err());
    }

    #[test]
    fn the_debug_form_keeps_the_credential_out() {
        let shown = format!("{:?}", token(9));
        assert!(shown.contains("192.0.2.1:443"));
        assert!(!shown.contains("nonce") && !shown.contains("signature"));
    }
}
