//! The user's objects in a configuration, called without a hook: what they do with TLS is their own.
//!
//! Each is wrapped once, when the configuration is built: rustls compares them by their address before it resumes.

use std::fmt;
use std::sync::Arc;

use rustls::client::{
    ClientSessionStore, ResolvesClientCert, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::{ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, StoresServerSessions};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{Error, KeyLog, NamedGroup, SignatureAlgorithm, SignatureScheme};

use super::hook::without_scope;

/// An object of the user's.
pub(crate) struct UserCode<T: ?Sized>(pub(crate) Arc<T>);

impl<T: ?Sized> UserCode<T> {
    fn call<'a, R>(&'a self, call: impl FnOnce(&'a T) -> R) -> R {
        without_scope(|| call(&self.0))
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for UserCode<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TimeProvider for UserCode<dyn TimeProvider> {
    fn current_time(&self) -> Option<UnixTime> {
        self.call(|time| time.current_time())
    }
}

impl KeyLog for UserCode<dyn KeyLog> {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        self.call(|log| log.log(label, client_random, secret));
    }

    fn will_log(&self, label: &str) -> bool {
        self.call(|log| log.will_log(label))
    }
}

impl StoresServerSessions for UserCode<dyn StoresServerSessions> {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.call(|store| store.put(key, value))
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.call(|store| store.get(key))
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.call(|store| store.take(key))
    }

    fn can_cache(&self) -> bool {
        self.call(|store| store.can_cache())
    }
}

impl ClientSessionStore for UserCode<dyn ClientSessionStore> {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.call(|store| store.set_kx_hint(server_name, group));
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.call(|store| store.kx_hint(server_name))
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.call(|store| store.set_tls12_session(server_name, value));
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.call(|store| store.tls12_session(server_name))
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.call(|store| store.remove_tls12_session(server_name));
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.call(|store| store.insert_tls13_ticket(server_name, value));
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.call(|store| store.take_tls13_ticket(server_name))
    }
}

impl ResolvesServerCert for UserCode<dyn ResolvesServerCert> {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.call(|resolver| resolver.resolve(client_hello))
            .map(user_identity)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.call(|resolver| resolver.only_raw_public_keys())
    }
}

impl ResolvesClientCert for UserCode<dyn ResolvesClientCert> {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.call(|resolver| resolver.resolve(root_hint_subjects, sigschemes))
            .map(user_identity)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.call(|resolver| resolver.only_raw_public_keys())
    }

    fn has_certs(&self) -> bool {
        self.call(|resolver| resolver.has_certs())
    }
}

/// The same identity; its key, which may sign anywhere, is the user's too.
fn user_identity(identity: Arc<CertifiedKey>) -> Arc<CertifiedKey> {
    Arc::new(CertifiedKey {
        cert: identity.cert.clone(),
        key: Arc::new(UserCode(Arc::clone(&identity.key))),
        ocsp: identity.ocsp.clone(),
    })
}

impl SigningKey for UserCode<dyn SigningKey> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.call(|key| key.choose_scheme(offered))?;
        Some(Box::new(UserSigner(signer)))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.call(|key| key.public_key())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.call(|key| key.algorithm())
    }
}

#[derive(Debug)]
struct UserSigner(Box<dyn Signer>);

impl Signer for UserSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        without_scope(|| self.0.sign(message))
    }

    fn scheme(&self) -> SignatureScheme {
        without_scope(|| self.0.scheme())
    }
}
