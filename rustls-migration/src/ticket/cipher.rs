//! XChaCha20-Poly1305, which tickets are sealed with (`docs/protocol.md` section 6).
//!
//! It is ChaCha20-Poly1305 under a key that HChaCha20 makes of the secret and the nonce's first sixteen bytes. rustls'
//! providers have that cipher in assembly, and give it out for QUIC packets.

use chacha20::hchacha;
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::quic::{Algorithm, PacketKey};
use zeroize::Zeroizing;

use super::keys::SECRET_LEN;

/// Length of a nonce, in bytes.
pub(super) const NONCE_LEN: usize = 24;
/// Length of what a sealed text is longer, in bytes.
pub(super) const TAG_LEN: usize = 16;

/// How much of the nonce goes into the key, in bytes.
const KEY_INPUT_LEN: usize = 16;

/// Seals `text` in place, and appends the tag. `None` when the cipher fails.
pub(super) fn seal(
    secret: &[u8; SECRET_LEN],
    nonce: &[u8; NONCE_LEN],
    header: &[u8],
    text: &mut Vec<u8>,
) -> Option<()> {
    match packet_key(secret, nonce) {
        Some(key) => {
            let tag = key.encrypt_in_place(0, header, text).ok()?;
            text.extend(tag.as_ref());
        }
        None => portable::seal(secret, nonce, header, text)?,
    }
    Some(())
}

/// Opens what [`seal`] has sealed; `None` when it has not.
pub(super) fn open(
    secret: &[u8; SECRET_LEN],
    nonce: &[u8; NONCE_LEN],
    header: &[u8],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let Some(key) = packet_key(secret, nonce) else {
        return portable::open(secret, nonce, header, sealed);
    };
    let mut text = Zeroizing::new(sealed.to_vec());
    let len = key.decrypt_in_place(0, header, &mut text).ok()?.len();
    text.truncate(len);
    Some(text)
}

/// ChaCha20-Poly1305 for this nonce, from rustls' provider.
fn packet_key(secret: &[u8; SECRET_LEN], nonce: &[u8; NONCE_LEN]) -> Option<Box<dyn PacketKey>> {
    let algorithm = algorithm()?;
    let (input, rest) = nonce.split_first_chunk::<KEY_INPUT_LEN>()?;
    let key: Zeroizing<[u8; SECRET_LEN]> =
        Zeroizing::new(hchacha::<chacha20::R20>(secret.into(), input.into()).into());
    let mut iv = [0; 12];
    iv.get_mut(4..)?.copy_from_slice(rest);
    Some(algorithm.packet_key(AeadKey::from(*key), Iv::new(iv)))
}

#[cfg(any(feature = "ring", feature = "aws-lc-rs"))]
fn algorithm() -> Option<&'static dyn Algorithm> {
    #[cfg(not(feature = "ring"))]
    use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    #[cfg(feature = "ring")]
    use rustls::crypto::ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    TLS13_CHACHA20_POLY1305_SHA256.tls13()?.quic
}

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
fn algorithm() -> Option<&'static dyn Algorithm> {
    None
}

/// For builds with neither of rustls' providers.
mod portable {
    use chacha20poly1305::aead::{Aead as _, AeadInOut as _, KeyInit as _, Payload};
    use chacha20poly1305::{XChaCha20Poly1305, XNonce};
    use zeroize::Zeroizing;

    use super::super::keys::SECRET_LEN;
    use super::NONCE_LEN;

    pub(super) fn seal(
        secret: &[u8; SECRET_LEN],
        nonce: &[u8; NONCE_LEN],
        header: &[u8],
        text: &mut Vec<u8>,
    ) -> Option<()> {
        XChaCha20Poly1305::new(secret.into())
            .encrypt_in_place(&XNonce::from(*nonce), header, text)
            .ok()
    }

    pub(super) fn open(
        secret: &[u8; SECRET_LEN],
        nonce: &[u8; NONCE_LEN],
        header: &[u8],
        sealed: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let payload = Payload {
            msg: sealed,
            aad: header,
        };
        XChaCha20Poly1305::new(secret.into())
            .decrypt(&XNonce::from(*nonce), payload)
            .ok()
            .map(Zeroizing::new)
    }
}

#[cfg(test)]
#[cfg(feature = "ring")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_provider_s_cipher_and_the_portable_one_open_what_the_other_sealed(
            secret: [u8; SECRET_LEN], nonce: [u8; NONCE_LEN],
            header in prop::collection::vec(any::<u8>(), 0..20),
            text in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert!(algorithm().is_some());
            let (mut sealed, mut portable) = (text.clone(), text.clone());
            seal(&secret, &nonce, &header, &mut sealed).unwrap();
            portable::seal(&secret, &nonce, &header, &mut portable).unwrap();
            prop_assert_eq!(sealed.len(), text.len() + TAG_LEN);
            prop_assert_eq!(&sealed, &portable);
            for open in [open, portable::open] {
                let opened = open(&secret, &nonce, &header, &sealed).unwrap();
                prop_assert_eq!(&*opened, &text);
                prop_assert!(open(&secret, &nonce, b"another header, longer", &sealed).is_none());
            }
        }
    }
}
