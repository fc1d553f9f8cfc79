//! What tokens are made with (`docs/protocol.md` section 2): HKDF-Expand and HMAC over the hash of a cipher suite.
//!
//! The codec and the keys never compute a hash themselves.

use hkdf::Hkdf;
use hmac::{EagerHash, Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha384};

use crate::key::{KeyError, TokenHash};

/// HKDF-Expand and HMAC over one hash. A [`TokenHash`] is its own; a TLS library has a faster one at hand, perhaps.
pub trait TokenCrypto {
    /// The hash.
    fn hash(&self) -> TokenHash;

    /// HKDF-Expand (RFC 5869 section 2.3) of one `secret`, which has the length of the hash's output: fills each of the
    /// `outputs` by its info, which comes in parts.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when the secret or an output has a length that cannot be.
    fn expand(&self, secret: &[u8], outputs: [(&[&[u8]], &mut [u8]); 2]) -> Result<(), KeyError>;

    /// HMAC (RFC 2104) of `input` under `key`, as many bytes as the hash's output has.
    fn hmac(&self, key: &[u8], input: &[u8]) -> Vec<u8>;
}

impl TokenCrypto for TokenHash {
    fn hash(&self) -> TokenHash {
        *self
    }

    fn expand(&self, secret: &[u8], outputs: [(&[&[u8]], &mut [u8]); 2]) -> Result<(), KeyError> {
        match self {
            Self::Sha256 => expand::<Sha256>(secret, outputs),
            Self::Sha384 => expand::<Sha384>(secret, outputs),
        }
    }

    fn hmac(&self, key: &[u8], input: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => tag::<Hmac<Sha256>>(key, input),
            Self::Sha384 => tag::<Hmac<Sha384>>(key, input),
        }
    }
}

/// Expands all from one HKDF state, which is costly to set up.
fn expand<H: EagerHash>(
    secret: &[u8],
    outputs: [(&[&[u8]], &mut [u8]); 2],
) -> Result<(), KeyError> {
    let hkdf = Hkdf::<H>::from_prk(secret).map_err(|_| KeyError)?;
    for (info, out) in outputs {
        hkdf.expand_multi_info(info, out).map_err(|_| KeyError)?;
    }
    Ok(())
}

fn tag<M: Mac + KeyInit>(key: &[u8], input: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length.
    <M as KeyInit>::new_from_slice(key).map_or_else(
        |_| Vec::new(),
        |mac| mac.chain_update(input).finalize().into_bytes().to_vec(),
    )
}
