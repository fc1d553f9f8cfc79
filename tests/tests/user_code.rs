//! The user's objects in a configuration may use TLS themselves, with the same provider, while rustls calls them: they
//! meet neither the connection that they are called for nor a lock of it.
//!
//! A lock that is met hangs, so each life runs in a thread that is not waited for without end.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use migration_tests::Service;
use migration_tests::memory::Joined;
use migration_tests::nested::{Nested, Nesting};
use rcgen::PKCS_ECDSA_P256_SHA256;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, WebPkiServerVerifier,
};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ServerConfig, SupportedProtocolVersion};
use rustls_migration::client::MigrationClient;
use rustls_migration::server::{Arrival, MigrationServer};
use rustls_migration::{Connection as _, MoveKind};

const LIMIT: Duration = Duration::from_secs(20);

/// Which of the user's objects use TLS themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    ServerVerifier,
    ClientVerifier,
    ServerResolver,
    ClientResolver,
    ServerStorage,
    ClientStorage,
    ServerKeyLog,
    ClientKeyLog,
    ServerTime,
    ClientTime,
}

const PARTS: [Part; 10] = [
    Part::ServerVerifier,
    Part::ClientVerifier,
    Part::ServerResolver,
    Part::ClientResolver,
    Part::ServerStorage,
    Part::ClientStorage,
    Part::ServerKeyLog,
    Part::ClientKeyLog,
    Part::ServerTime,
    Part::ClientTime,
];

/// Whether the client that is asked for a certificate has one.
#[derive(Clone, Copy, Debug)]
enum Member {
    Yes,
    No,
}

/// One service and what is special about it.
struct Life {
    service: Service,
    nested: Arc<Nested>,
    parts: Vec<Part>,
    version: &'static SupportedProtocolVersion,
    member: Member,
}

impl Life {
    fn nests(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    fn server_config(&self) -> ServerConfig {
        let roots = Arc::new(self.service.pki.roots());
        let provider = self.service.provider.clone();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let mut verifier: Arc<dyn ClientCertVerifier> =
            verifier.allow_unauthenticated().build().unwrap();
        if self.nests(Part::ClientVerifier) {
            verifier = Arc::new(Nesting(self.nested.clone(), verifier));
        }
        let (certificate, key) = self
            .service
            .pki
            .issue(migration_tests::NAME, &PKCS_ECDSA_P256_SHA256);
        let clock = Arc::new(self.service.clock.clone());
        let mut config = ServerConfig::builder_with_details(provider, clock)
            .with_protocol_versions(&[self.version])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.max_early_data_size = 1024;
        let nested = || self.nested.clone();
        if self.nests(Part::ServerResolver) {
            config.cert_resolver = Arc::new(Nesting(nested(), config.cert_resolver));
        }
        if self.nests(Part::ServerStorage) {
            config.session_storage = Arc::new(Nesting(nested(), config.session_storage));
        }
        if self.nests(Part::ServerKeyLog) {
            config.key_log = Arc::new(Nesting(nested(), config.key_log));
        }
        if self.nests(Part::ServerTime) {
            config.time_provider = Arc::new(Nesting(nested(), config.time_provider));
        }
        config
    }

    fn client_config(&self) -> ClientConfig {
        let roots = Arc::new(self.service.pki.roots());
        let provider = self.service.provider.clone();
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
        let mut verifier: Arc<dyn ServerCertVerifier> = verifier.build().unwrap();
        if self.nests(Part::ServerVerifier) {
            verifier = Arc::new(Nesting(self.nested.clone(), verifier));
        }
        let clock = Arc::new(self.service.clock.clone());
        let config = ClientConfig::builder_with_details(provider, clock)
            .with_protocol_versions(&[self.version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match self.member {
            Member::No => config.with_no_client_auth(),
            Member::Yes => {
                let (certificate, key) = self
                    .service
                    .pki
                    .issue("client.example", &PKCS_ECDSA_P256_SHA256);
                config
                    .with_client_auth_cert(vec![certificate], key)
                    .unwrap()
            }
        };
        config.resumption = Resumption::disabled();
        let nested = || self.nested.clone();
        if self.nests(Part::ClientResolver) {
            let resolver = config.client_auth_cert_resolver;
            config.client_auth_cert_resolver = Arc::new(Nesting(nested(), resolver));
        }
        if self.nests(Part::ClientKeyLog) {
            config.key_log = Arc::new(Nesting(nested(), config.key_log));
        }
        if self.nests(Part::ClientTime) {
            config.time_provider = Arc::new(Nesting(nested(), config.time_provider));
        }
        config
    }

    fn client(&self) -> Arc<MigrationClient> {
        let mut store: Arc<dyn ClientSessionStore> = Arc::new(ClientSessionMemoryCache::new(8));
        if self.nests(Part::ClientStorage) {
            store = Arc::new(Nesting(self.nested.clone(), store));
        }
        let client = self.service.client_with(self.client_config());
        Arc::new(client.session_store(store).build().unwrap())
    }

    fn node(&self, here: SocketAddr, target: SocketAddr) -> Arc<MigrationServer> {
        let server = self.service.node_with(self.server_config());
        let server = server.own_addresses([here]).target(target).build();
        Arc::new(server.unwrap())
    }

    /// A new connection, an ordinary resumption, and with TLS 1.3 a move of a stream.
    fn live(&self) {
        let places: [SocketAddr; 2] =
            ["127.0.0.2:443", "127.0.0.3:443"].map(|place| place.parse().unwrap());
        let [at_a, at_b] = places;
        let (client, a, b) = (self.client(), self.node(at_a, at_b), self.node(at_b, at_a));
        let mut first = Joined::new(&client, &a, at_a);
        first.client.write(b"hello").unwrap();
        first.exchange();
        assert_eq!(first.server.fill_buf().unwrap(), b"hello");
        let kind = |joined: &Joined| joined.client.tls().handshake_kind();
        assert_eq!(kind(&first), Some(HandshakeKind::Full));
        let has_identity = first.server.tls().peer_certificates().is_some();
        assert_eq!(has_identity, matches!(self.member, Member::Yes));
        let again = Joined::new(&client, &a, at_a);
        assert_eq!(
            kind(&again),
            Some(HandshakeKind::Resumed),
            "{:?}",
            self.version
        );
        if self.version == &TLS12 {
            return;
        }
        first.server.offer(at_b, Some(b"state")).unwrap();
        first.exchange();
        let offer = first.take_offer(at_b);
        assert_eq!(offer.kind(), MoveKind::Stream);
        let moved = Joined::resume(&client, &b, offer);
        let arrival = moved.server.arrival();
        assert!(
            matches!(arrival, Arrival::Migrated { state: Some(_), .. }),
            "{arrival:?}"
        );
        assert!(moved.client.offer().is_some(), "and may go on from there");
    }
}

/// Lives in a thread. Returns how many connections the user's objects had.
fn lives(
    parts: &[Part],
    version: &'static SupportedProtocolVersion,
    member: Member,
) -> Option<usize> {
    let (done, end) = mpsc::channel();
    let parts = parts.to_vec();
    std::thread::spawn(move || {
        let service = Service::default();
        let life = Life {
            nested: Nested::new(&service),
            service,
            parts,
            version,
            member,
        };
        life.live();
        done.send(life.nested.runs())
    });
    end.recv_timeout(LIMIT).ok()
}

#[test]
fn each_of_the_users_objects_may_use_tls_itself() {
    for part in PARTS {
        for version in [&TLS13, &TLS12] {
            let runs = lives(&[part], version, Member::Yes);
            assert!(runs.is_some_and(|runs| runs > 0), "{part:?}: {runs:?}");
        }
    }
}

#[test]
fn all_of_them_at_once_may() {
    for version in [&TLS13, &TLS12] {
        for member in [Member::Yes, Member::No] {
            let runs = lives(&PARTS, version, member);
            assert!(runs.is_some_and(|runs| runs > 10), "{member:?}: {runs:?}");
        }
    }
}

#[test]
fn a_client_that_is_asked_for_a_certificate_and_has_none_moves_too() {
    assert_eq!(lives(&[], &TLS13, Member::No), Some(0));
    assert_eq!(lives(&[], &TLS12, Member::No), Some(0));
}

#[test]
fn a_client_that_is_built_asks_its_session_store_nothing() {
    let service = Service::default();
    let nested = Nested::new(&service);
    let memory: Arc<dyn ClientSessionStore> = Arc::new(ClientSessionMemoryCache::new(8));
    let store = Nesting(nested.clone(), memory);
    let client = service.client_with(service.client_config());
    client.session_store(Arc::new(store)).build().unwrap();
    assert_eq!(nested.runs(), 0);
}
