//! Steps of the TLS 1.3 key schedule (RFC 8446 section 7) that rustls does not offer: a ticket's pre-shared key, the
//! binder that proves it, and a traffic secret's key and IV. All use the base provider's own primitives.

use rustls::Tls13CipherSuite;
use rustls::crypto::hmac;
use rustls::crypto::tls13::{HkdfExpander, OkmBlock};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

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

/// Whether `presented` is the [`binder`], in constant time.
pub(crate) fn binder_is_valid(
    suite: &Tls13CipherSuite,
    psk: &[u8],
    truncated_hello: &[u8],
    presented: &[u8],
) -> bool {
    let expected = binder(suite, psk, truncated_hello);
    expected.as_ref().ct_eq(presented).into()
}

/// The binder of `psk` for a hello that is cut before its binders (RFC 8446 section 4.2.11.2).
pub(crate) fn binder(suite: &Tls13CipherSuite, psk: &[u8], truncated_hello: &[u8]) -> hmac::Tag {
    let hash = suite.common.hash_provider;
    let hkdf = suite.hkdf_provider;
    let early_secret = hkdf.extract_from_secret(None, psk);
    let binder_key = expand_label(&*early_secret, b"res binder", hash.hash(&[]).as_ref());
    let finished_key = expand_label(&*hkdf.expander_for_okm(&binder_key), b"finished", &[]);
    hkdf.hmac_sign(&finished_key, hash.hash(truncated_hello).as_ref())
}

/// Length of a record's nonce, in bytes (RFC 8446 section 5.3).
pub(crate) const IV_LEN: usize = 12;

/// The key and the IV that protect records under a traffic secret (RFC 8446 section 7.3).
pub(crate) fn traffic_key(
    suite: &Tls13CipherSuite,
    traffic_secret: &[u8],
) -> Option<(Zeroizing<Vec<u8>>, [u8; IV_LEN])> {
    let secret = OkmBlock::new(traffic_secret);
    let expander = suite.hkdf_provider.expander_for_okm(&secret);
    let mut key = Zeroizing::new(vec![0; suite.aead_alg.key_len()]);
    let mut iv = [0; IV_LEN];
    for (label, out) in [(&b"key"[..], &mut key[..]), (b"iv", &mut iv[..])] {
        let info = HkdfLabel::new(out.len(), label, &[]);
        expander.expand_slice(&info.parts(), out).ok()?;
    }
    Some((key, iv))
}

/// HKDF-Expand-Label with the hash's output length.
fn expand_label(expander: &dyn HkdfExpander, label: &[u8], context: &[u8]) -> OkmBlock {
    let info = HkdfLabel::new(expander.hash_len(), label, context);
    expander.expand_block(&info.parts())
}

/// The info of an HKDF-Expand-Label. All its lengths are below 256.
struct HkdfLabel<'a> {
    len: [u8; 2],
    label_len: [u8; 1],
    label: &'a [u8],
    context_len: [u8; 1],
    context: &'a [u8],
}

impl<'a> HkdfLabel<'a> {
    const PREFIX: &'static [u8] = b"tls13 ";

    fn new(len: usize, label: &'a [u8], context: &'a [u8]) -> Self {
        let byte = |len: usize| [u8::try_from(len).unwrap_or(u8::MAX)];
        Self {
            len: [0, byte(len)[0]],
            label_len: byte(Self::PREFIX.len() + label.len()),
            label,
            context_len: byte(context.len()),
            context,
        }
    }

    fn parts(&self) -> [&[u8]; 6] {
        [
            &self.len,
            &self.label_len,
            Self::PREFIX,
            self.label,
            &self.context_len,
            self.context,
        ]
    }
}
