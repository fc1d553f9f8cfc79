//! User code that opens TLS connections of its own while rustls calls it: one of these in each of the user's objects of
//! a configuration.
//!
//! Its connections are stock rustls over the same wrapped provider, complete in memory before the call returns.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, ResolvesClientCert, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, StoresServerSessions};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, Error, KeyLog,
    NamedGroup, ServerConfig, ServerConnection, SignatureAlgorithm, SignatureScheme,
};

use crate::{Service, server_name};

/// What the user's objects do when they are called.
#[derive(Debug)]
pub struct Nested {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    runs: AtomicUsize,
}

impl Nested {
    pub fn new(service: &Service) -> Arc<Self> {
        Arc::new(Self {
            client: Arc::new(service.client_config()),
            server: Arc::new(service.server_config()),
            runs: AtomicUsize::new(0),
        })
    }

    /// How many connections it has had so far.
    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    /// A whole connection: handshake, tickets, a word each way.
    fn run(&self) {
        let mut client = ClientConnection::new(self.client.clone(), server_name()).unwrap();
        let mut server = ServerConnection::new(self.server.clone()).unwrap();
        client.writer().write_all(b"ping").unwrap();
        server.writer().write_all(b"pong").unwrap();
        while client.wants_write() || server.wants_write() {
            let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut from_client).unwrap();
            }
            while server.wants_write() {
                server.write_tls(&mut from_server).unwrap();
            }
            let (mut from_client, mut from_server) = (&from_client[..], &from_server[..]);
            while !from_client.is_empty() {
                server.read_tls(&mut from_client).unwrap();
                server.process_new_packets().unwrap();
            }
            while !from_server.is_empty() {
                client.read_tls(&mut from_server).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        let mut word = [0; 4];
        server.reader().read_exact(&mut word).unwrap();
        assert_eq!(&word, b"ping");
        client.reader().read_exact(&mut word).unwrap();
        assert_eq!(&word, b"pong");
        self.runs.fetch_add(1, Ordering::SeqCst);
    }
}

/// One of the user's objects, which has a connection of its own at each call.
#[derive(Debug)]
pub struct Nesting<T: ?Sized>(pub Arc<Nested>, pub Arc<T>);

impl<T: ?Sized> Nesting<T> {
    fn inner(&self) -> &T {
        self.0.run();
        &self.1
    }
}

impl ServerCertVerifier for Nesting<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.inner()
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Nesting<dyn ClientCertVerifier> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.1.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.inner()
            .verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.supported_verify_schemes()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.1.client_auth_mandatory()
    }
}

impl StoresServerSessions for Nesting<dyn StoresServerSessions> {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.inner().put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.inner().get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.inner().take(key)
    }

    fn can_cache(&self) -> bool {
        self.inner().can_cache()
    }
}

impl ClientSessionStore for Nesting<dyn ClientSessionStore> {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.inner().set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.inner().kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.inner().set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.inner().tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.inner().remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.inner().insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.inner().take_tls13_ticket(server_name)
    }
}

impl ResolvesServerCert for Nesting<dyn ResolvesServerCert> {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let identity = self.inner().resolve(client_hello)?;
        Some(with_nesting_key(&self.0, &identity))
    }
}

impl ResolvesClientCert for Nesting<dyn ResolvesClientCert> {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let identity = self.inner().resolve(root_hint_subjects, sigschemes)?;
        Some(with_nesting_key(&self.0, &identity))
    }

    fn has_certs(&self) -> bool {
        self.inner().has_certs()
    }
}

fn with_nesting_key(nested: &Arc<Nested>, identity: &CertifiedKey) -> Arc<CertifiedKey> {
    let key = Nesting(nested.clone(), identity.key.clone());
    Arc::new(CertifiedKey::new(identity.cert.clone(), Arc::new(key)))
}

impl SigningKey for Nesting<dyn SigningKey> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer: Arc<dyn Signer> = self.inner().choose_scheme(offered)?.into();
        Some(Box::new(Nesting(self.0.clone(), signer)))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.inner().algorithm()
    }
}

impl Signer for Nesting<dyn Signer> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.inner().sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.inner().scheme()
    }
}

impl KeyLog for Nesting<dyn KeyLog> {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        self.inner().log(label, client_random, secret);
    }
}

impl TimeProvider for Nesting<dyn TimeProvider> {
    fn current_time(&self) -> Option<UnixTime> {
        self.inner().current_time()
    }
}
