//! A client's certificate in TLS 1.2, where CertificateVerify signs the handshake's messages themselves and not their
//! hash (RFC 5246 section 7.4.8): the hello among them must be the one that the server received.
//!
//! It never changes what TLS 1.3 signs, and never sees a private key.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use super::hook::ClientHook;
use crate::provider::hook::{ConnectionHook as _, current_as};
use crate::wire::CLIENT_HELLO;
use crate::wire::hello::splice_all;

/// The certificate resolver of every configuration of a [`MigrationClient`](super::MigrationClient).
#[derive(Debug)]
pub(super) struct HookedResolver(pub(super) Arc<dyn ResolvesClientCert>);

impl ResolvesClientCert for HookedResolver {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let identity = self.0.resolve(root_hint_subjects, sigschemes)?;
        Some(Arc::new(CertifiedKey {
            cert: identity.cert.clone(),
            key: Arc::new(HookedKey(Arc::clone(&identity.key))),
            ocsp: identity.ocsp.clone(),
        }))
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }

    fn has_certs(&self) -> bool {
        self.0.has_certs()
    }
}

#[derive(Debug)]
struct HookedKey(Arc<dyn SigningKey>);

impl SigningKey for HookedKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.0.choose_scheme(offered)?;
        Some(Box::new(HookedSigner(signer)))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[derive(Debug)]
struct HookedSigner(Box<dyn Signer>);

impl Signer for HookedSigner {
    /// TLS 1.3 signs a message that begins with spaces, so it is never taken for a hello.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        match current_as::<ClientHook>() {
            Some(hook) if message.first() == Some(&CLIENT_HELLO) => {
                self.0.sign(&splice_all(message, hook.hello_extensions()))
            }
            Some(_) | None => self.0.sign(message),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}
