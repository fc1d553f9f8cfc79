//! A service with one client that has been handed over, for the target `admission`.
//!
//! Everything in it is real: the token was issued over a TLS connection, and the hello is that of the client.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_token::{Claim, ClaimOutcome, MemoryNonceStore};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_migration::client::{ClientConnection, MigrationClient, NoWider};
use rustls_migration::fuzzing::{Session, token_in};
use rustls_migration::server::{HelloAcceptor, MigrationServer, ServerConnection};
use rustls_migration::{Connection, TicketKeys, provider};
use time::{Duration, OffsetDateTime};

const NAME: &str = "service.example";
const EARLY_DATA: &[u8] = b"early data";

/// What the client sends to B, and what B knows.
#[derive(Debug)]
pub struct World {
    /// The target.
    pub b: Arc<MigrationServer>,
    /// The ClientHello message of an honest client.
    pub hello: Vec<u8>,
    /// Where its token stands.
    pub token: std::ops::Range<usize>,
    /// The records after it.
    pub after_hello: Vec<u8>,
    /// The session in the ticket.
    pub session: Session,
    /// What B asks its nonce store about it.
    pub claim: Claim,
}

impl World {
    /// Connects a client to A, takes A's offer, and begins to resume at B.
    pub fn new() -> Self {
        let [a, b] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let keys = TicketKeys::generate(provider::ring().secure_random).expect("random");
        let (server_config, client_config) = configs();
        let node = |here: SocketAddr| {
            let since = OffsetDateTime::now_utc() - Duration::DAY;
            let server = MigrationServer::builder(server_config.clone(), "fuzz", keys.clone())
                .own_addresses([here])
                .target(b)
                .token_lifetime(std::time::Duration::from_secs(7 * 24 * 3600))
                .nonce_store(Arc::new(MemoryNonceStore::new(8, since)));
            Arc::new(server.build().expect("a server"))
        };
        let client = MigrationClient::builder(client_config)
            .target_policy(NoWider::any_port())
            .build()
            .expect("a client");
        let client = Arc::new(client);
        let name = ServerName::try_from(NAME).expect("a name");
        let mut connection = ClientConnection::new(&client, name.clone(), a).expect("a connection");
        let flight = sent(&mut connection);
        let mut at_a = accept(&node(a), a, &flight, None).expect("a connection");
        while connection.is_handshaking() || connection.offer().is_none() {
            deliver(&sent(&mut at_a), &mut connection);
            deliver(&sent(&mut connection), &mut at_a);
        }
        let offer = connection.take_offer().expect("an offer");
        let mut resumed =
            ClientConnection::resume(&client, name, offer, EARLY_DATA).expect("a connection");
        let flight = sent(&mut resumed);
        let len = 5 + usize::from(u16::from_be_bytes([flight[3], flight[4]]));
        let hello = flight[5..len].to_vec();
        let b_server = node(b);
        let mut accepting = HelloAcceptor::new(Arc::clone(&b_server), None, Some(b));
        assert!(accepting.push(&flight));
        let claim = accepting
            .examine()
            .expect("admitted")
            .claim()
            .expect("a claim");
        Self {
            token: token_in(&hello).expect("a token"),
            session: Session::of(&keys, &hello).expect("a session"),
            after_hello: flight[len..].to_vec(),
            b: b_server,
            hello,
            claim,
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn configs() -> (ServerConfig, ClientConfig) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
    let certificate = params
        .self_signed(&key)
        .expect("a certificate")
        .der()
        .clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let provider = Arc::new(provider::ring());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate");
    server.max_early_data_size = 1024;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_early_data = true;
    (server, client)
}

/// Begins a connection at `server` with a client's first flight, as a server program does; `answer` is the nonce store's.
/// `None` when the flight is refused or incomplete.
pub fn accept(
    server: &Arc<MigrationServer>,
    here: SocketAddr,
    flight: &[u8],
    answer: Option<ClaimOutcome>,
) -> Option<ServerConnection> {
    let mut accepting = HelloAcceptor::new(Arc::clone(server), None, Some(here));
    if !accepting.push(flight) {
        return None;
    }
    accepting.examine().ok()?.accept(answer.map(Ok)).ok()
}

/// What a connection wants to send.
pub fn sent(connection: &mut impl Connection) -> Vec<u8> {
    let mut out = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut out).expect("memory takes all");
    }
    out
}

fn deliver(mut bytes: &[u8], connection: &mut impl Connection) {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).expect("memory gives all");
        connection.process_new_packets().expect("an honest peer");
    }
}
