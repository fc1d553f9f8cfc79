//! Keys of one TLS session: `session_id` and the HMAC key, derived from its `resumption_master_secret`
//! (`docs/protocol.md` section 2), and what they sign and verify.
//!
//! A signature that verifies shows that some holder of the session's secret made the token. It never shows
//! that the *server* made it: the client holds the same secret.

use std::fmt;
use std::net::SocketAddr;

use subtle::ConstantTimeEq;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::crypto::TokenCrypto;
use crate::token::{InvalidToken, MigrationToken, signing_input};

/// Length of the `session_id` of issued tokens, in bytes.
pub const SESSION_ID_LEN: usize = 32;

const LABEL_SESSION_ID: &[u8] = b"migration id";
const LABEL_MAC_KEY: &[u8] = b"migration key";

/// The hash of a TLS 1.3 cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenHash {
    /// SHA-256: TLS_AES_128_GCM_SHA256, TLS_CHACHA20_POLY1305_SHA256.
    Sha256,
    /// SHA-384: TLS_AES_256_GCM_SHA384.
    Sha384,
}

impl TokenHash {
    /// Length of the hash's output in bytes, which is also that of the master secret, the HMAC key and the
    /// signature.
    pub const fn output_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    /// The hash whose output has `len` bytes.
    pub const fn from_output_len(len: usize) -> Option<Self> {
        match len {
            32 => Some(Self::Sha256),
            48 => Some(Self::Sha384),
            _ => None,
        }
    }
}

/// What signs and verifies the tokens of one TLS session.
#[derive(Clone)]
pub struct TokenKey {
    hash: TokenHash,
    session_id: [u8; SESSION_ID_LEN],
    /// The first bytes of it, as many as the hash's output has.
    mac_key: Zeroizing<[u8; MAX_HASH_LEN]>,
}

/// Length of the longest hash's output, in bytes.
const MAX_HASH_LEN: usize = TokenHash::Sha384.output_len();

impl TokenKey {
    /// Derives the key from a connection's `resumption_master_secret` (RFC 8446 section 7.1) and the hash of
    /// its cipher suite.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when the secret's length is not the hash's output length.
    pub fn derive(hash: TokenHash, resumption_master_secret: &[u8]) -> Result<Self, KeyError> {
        Self::derive_with(&hash, resumption_master_secret)
    }

    /// As [`derive`](Self::derive), by somebody else's cryptography.
    ///
    /// # Errors
    ///
    /// As [`derive`](Self::derive), and that of `crypto`.
    pub fn derive_with(
        crypto: &impl TokenCrypto,
        resumption_master_secret: &[u8],
    ) -> Result<Self, KeyError> {
        let hash = crypto.hash();
        let len = hash.output_len();
        if resumption_master_secret.len() != len {
            return Err(KeyError);
        }
        let mut session_id = [0; SESSION_ID_LEN];
        let mut mac_key = Zeroizing::new([0; MAX_HASH_LEN]);
        let id_lens = label_lens(SESSION_ID_LEN, LABEL_SESSION_ID);
        let key_lens = label_lens(len, LABEL_MAC_KEY);
        let id_info = hkdf_label(&id_lens, LABEL_SESSION_ID);
        let key_info = hkdf_label(&key_lens, LABEL_MAC_KEY);
        let outputs = [
            (&id_info[..], &mut session_id[..]),
            (&key_info[..], mac_key.get_mut(..len).ok_or(KeyError)?),
        ];
        crypto.expand(resumption_master_secret, outputs)?;
        Ok(Self {
            hash,
            session_id,
            mac_key,
        })
    }

    /// Puts back together a key that was kept by [`hash`](Self::hash), [`session_id`](Self::session_id) and
    /// [`mac_key`](Self::mac_key).
    ///
    /// # Errors
    ///
    /// [`KeyError`] when `mac_key` does not have the hash's output length.
    pub fn from_parts(
        hash: TokenHash,
        session_id: [u8; SESSION_ID_LEN],
        mac_key: &[u8],
    ) -> Result<Self, KeyError> {
        if mac_key.len() != hash.output_len() {
            return Err(KeyError);
        }
        let mut key = Self {
            hash,
            session_id,
            mac_key: Zeroizing::new([0; MAX_HASH_LEN]),
        };
        let place = key.mac_key.get_mut(..mac_key.len()).ok_or(KeyError)?;
        place.copy_from_slice(mac_key);
        Ok(key)
    }

    /// The hash of the session's cipher suite.
    pub fn hash(&self) -> TokenHash {
        self.hash
    }

    /// The session's identifier in tokens. Not a secret: tokens carry it in clear.
    pub fn session_id(&self) -> &[u8; SESSION_ID_LEN] {
        &self.session_id
    }

    /// The HMAC key, [`TokenHash::output_len`] bytes. A secret of client and server.
    pub fn mac_key(&self) -> &[u8] {
        self.mac_key
            .get(..self.hash.output_len())
            .unwrap_or_default()
    }

    /// Issues a token for this session.
    ///
    /// `expiry` is cut to whole seconds; one before 1970 becomes 1970. `nonce` (16 to 255 bytes) must come
    /// from a secure random source and be used for one token only.
    ///
    /// # Errors
    ///
    /// [`InvalidToken`] when the nonce's length is out of bounds.
    pub fn sign(
        &self,
        target_address: SocketAddr,
        expiry: OffsetDateTime,
        nonce: &[u8],
    ) -> Result<MigrationToken, InvalidToken> {
        self.sign_with(&self.hash, target_address, expiry, nonce)
    }

    /// As [`sign`](Self::sign), by somebody else's cryptography, whose hash is that of this key.
    ///
    /// # Errors
    ///
    /// As [`sign`](Self::sign).
    pub fn sign_with(
        &self,
        crypto: &impl TokenCrypto,
        target_address: SocketAddr,
        expiry: OffsetDateTime,
        nonce: &[u8],
    ) -> Result<MigrationToken, InvalidToken> {
        let expiry = u64::try_from(expiry.unix_timestamp()).unwrap_or(0);
        let input = signing_input(target_address, &self.session_id, expiry, nonce);
        MigrationToken::from_parts(
            target_address,
            self.session_id.to_vec(),
            expiry,
            nonce.to_vec(),
            crypto.hmac(self.mac_key(), &input),
        )
    }

    /// Checks that `token` belongs to this session and that its signature is right, in constant time with
    /// respect to the secret.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] says which of the two failed.
    pub fn verify(&self, token: &MigrationToken) -> Result<(), VerifyError> {
        self.verify_with(&self.hash, token)
    }

    /// As [`verify`](Self::verify), by somebody else's cryptography, whose hash is that of this key.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify).
    pub fn verify_with(
        &self,
        crypto: &impl TokenCrypto,
        token: &MigrationToken,
    ) -> Result<(), VerifyError> {
        if !bool::from(self.session_id.ct_eq(token.session_id())) {
            return Err(VerifyError::OtherSession);
        }
        let input = signing_input(
            token.target_address(),
            token.session_id(),
            token.expiry_timestamp(),
            token.nonce(),
        );
        if bool::from(crypto.hmac(self.mac_key(), &input).ct_eq(token.signature())) {
            Ok(())
        } else {
            Err(VerifyError::BadSignature)
        }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey")
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

const PREFIX: &[u8] = b"tls13 ";

/// The lengths that begin the `HkdfLabel` structure of RFC 8446 section 7.1: of the output and of the label.
fn label_lens(len: usize, label: &[u8]) -> [u8; 3] {
    let [high, low] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    let label_len = u8::try_from(PREFIX.len() + label.len()).unwrap_or(u8::MAX);
    [high, low, label_len]
}

/// The `HkdfLabel` structure in its parts, with an empty context.
fn hkdf_label<'a>(lens: &'a [u8; 3], label: &'a [u8]) -> [&'a [u8]; 4] {
    [lens, PREFIX, label, &[0]]
}

/// A secret's length does not fit its hash. The caller is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret does not have the length of the hash's output")]
pub struct KeyError;

/// Why a token does not verify under a [`TokenKey`]. Whoever presented it is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The token names another session.
    #[error("the token belongs to another session")]
    OtherSession,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    BadSignature,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "[2001:db8::1]:443";

    fn key(hash: TokenHash) -> TokenKey {
        TokenKey::derive(hash, &vec![7; hash.output_len()]).unwrap()
    }

    fn token(key: &TokenKey) -> MigrationToken {
        key.sign(
            TARGET.parse().unwrap(),
            OffsetDateTime::UNIX_EPOCH,
            &[4; 16],
        )
        .unwrap()
    }

    #[test]
    fn every_changed_bit_makes_a_token_fail() {
        for hash in [TokenHash::Sha256, TokenHash::Sha384] {
            let key = key(hash);
            let bytes = token(&key).encode();
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let verdict = MigrationToken::decode(&changed).map(|token| key.verify(&token));
                assert_ne!(verdict, Ok(Ok(())), "bit {bit} is not covered");
            }
        }
    }

    #[test]
    fn a_token_of_another_session_is_told_from_a_bad_signature() {
        let other = TokenKey::derive(TokenHash::Sha256, &[8; 32]).unwrap();
        let token = token(&key(TokenHash::Sha256));
        assert_eq!(other.verify(&token), Err(VerifyError::OtherSession));
    }

    #[test]
    fn a_signature_with_bytes_added_is_wrong() {
        let key = key(TokenHash::Sha256);
        let token = token(&key);
        let mut signature = token.signature().to_vec();
        signature.push(0);
        let longer = MigrationToken::from_parts(
            token.target_address(),
            token.session_id().to_vec(),
            token.expiry_timestamp(),
            token.nonce().to_vec(),
            signature,
        )
        .unwrap();
        assert_eq!(key.verify(&longer), Err(VerifyError::BadSignature));
    }

    #[test]
    fn a_kept_key_verifies_what_the_derived_one_signed() {
        let derived = key(TokenHash::Sha384);
        let kept =
            TokenKey::from_parts(derived.hash(), *derived.session_id(), derived.mac_key()).unwrap();
        assert_eq!(kept.verify(&token(&derived)), Ok(()));
    }

    #[test]
    fn secrets_of_the_wrong_length_are_refused() {
        assert!(TokenKey::derive(TokenHash::Sha384, &[7; 32]).is_err());
        assert!(TokenKey::derive(TokenHash::Sha256, &[7; 48]).is_err());
        assert!(TokenKey::from_parts(TokenHash::Sha256, [0; 32], &[0; 31]).is_err());
    }

    #[test]
    fn the_debug_form_shows_no_key() {
        assert_eq!(
            format!("{:?}", key(TokenHash::Sha256)),
            "TokenKey { hash: Sha256, .. }"
        );
    }
}
