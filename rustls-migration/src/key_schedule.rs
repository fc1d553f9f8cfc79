//! Two steps of the TLS 1.3 key schedule (RFC 8446 section 7.1) that rustls does not offer: a ticket's pre-shared
//! key, and the binder that proves it; and what tokens are derived and signed with. All use the base provider's own
//! primitives.

use migration_token::{KeyError, TokenCrypto, TokenHash};
use rustls::Tls13CipherSuite;
use rustls::crypto::tls13::{HkdfExpander, OkmBlock};
use rustls::crypto::{hash, hmac};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::lineage::Lineage;

/// A suite's own HKDF and HMAC, for tokens.
pub(crate) struct SuiteCrypto {
    suite: &'static Tls13CipherSuite,
    hash: TokenHash,
}

impl SuiteCrypto {
    /// `None` for a suite whose hash is no token's.
    pub(crate) fn new(suite: &'static Tls13CipherSuite) -> Option<Self> {
        let hash = TokenHash::from_output_len(suite.common.hash_provider.output_len())?;
        Some(Self { suite, hash })
    }
}

impl TokenCrypto for SuiteCrypto {
    fn hash(&self) -> TokenHash {
        self.hash
    }

    fn expand(&self, secret: &[u8], outputs: [(&[&[u8]], &mut [u8]); 2]) -> Result<(), KeyError> {
        let secret = OkmBlock::new(secret);
        let expander = self.suite.hkdf_provider.expander_for_okm(&secret);
        for (info, out) in outputs {
            expander.expand_slice(info, out).map_err(|_| KeyError)?;
        }
        Ok(())
    }

    fn hmac(&self, key: &[u8], input: &[u8]) -> Vec<u8> {
        let tag = self
            .suite
            .hkdf_provider
            .hmac_sign(&OkmBlock::new(key), input);
        tag.as_ref().to_vec()
    }
}

/// The pre-shared key of the ticket with nonce `ticket_nonce` (RFC 8446 section 4.6.1).
pub(crate) fn ticket_psk(
    suite: &Tls13CipherSuite,
    resumption_master_secret: &[u8],
    ticket_nonce: &[u8],
) -> Zeroizing<Vec<u8>> {
    let secret = OkmBlock::new(resumption_master_secret);
    let expander = suite.hkdf_provider.expander_for_okm(&secret);
    let psk = expand_label(&*expander, b"resumption", ticket_nonce);
    Zeroizing::new(psk.as_ref().to_vec())
}

/// The identifier of the stream that begins on the connection with this secret (`docs/protocol.md` section 6).
pub(crate) fn lineage_id(
    suite: &Tls13CipherSuite,
    resumption_master_secret: &[u8],
) -> [u8; Lineage::ID_LEN] {
    let secret = OkmBlock::new(resumption_master_secret);
    let expander = suite.hkdf_provider.expander_for_okm(&secret);
    let mut id = [0; Lineage::ID_LEN];
    let len = Lineage::ID_LEN;
    // It is shorter than any hash's output, so this cannot fail.
    let _ = with_label(len, b"migration lineage", &[], |info| {
        expander.expand_slice(info, &mut id)
    });
    id
}

/// Whether `presented` is the [`binder`], in constant time.
pub(crate) fn binder_is_valid(
    suite: &Tls13CipherSuite,
    psk: &[u8],
    truncated_hello: &hash::Output,
    presented: &[u8],
) -> bool {
    let expected = binder(suite, psk, truncated_hello);
    expected.as_ref().ct_eq(presented).into()
}

/// The binder of `psk` for a hello with this hash, which is that of the hello up to its binders (RFC 8446 section
/// 4.2.11.2).
pub(crate) fn binder(
    suite: &Tls13CipherSuite,
    psk: &[u8],
    truncated_hello: &hash::Output,
) -> hmac::Tag {
    let hash = suite.common.hash_provider;
    let hkdf = suite.hkdf_provider;
    let early_secret = hkdf.extract_from_secret(None, psk);
    let binder_key = expand_label(&*early_secret, b"res binder", hash.hash(&[]).as_ref());
    let finished_key = expand_label(&*hkdf.expander_for_okm(&binder_key), b"finished", &[]);
    hkdf.hmac_sign(&finished_key, truncated_hello.as_ref())
}

/// HKDF-Expand-Label with the hash's output length.
fn expand_label(expander: &dyn HkdfExpander, label: &[u8], context: &[u8]) -> OkmBlock {
    with_label(expander.hash_len(), label, context, |info| {
        expander.expand_block(info)
    })
}

/// Expands by the HkdfLabel for `output_len` bytes, in its parts.
fn with_label<R>(
    output_len: usize,
    label: &[u8],
    context: &[u8],
    expand: impl FnOnce(&[&[u8]]) -> R,
) -> R {
    const PREFIX: &[u8] = b"tls13 ";
    let len = |value: usize| u8::try_from(value).unwrap_or(u8::MAX).to_be_bytes();
    expand(&[
        &u16::from(len(output_len)[0]).to_be_bytes(),
        &len(PREFIX.len() + label.len()),
        PREFIX,
        label,
        &len(context.len()),
        context,
    ])
}
