//! What making tickets from one of rustls' own relies on. rustls promises none of it, so each habit is pinned here.
//!
//! When one of these tests fails with another rustls, [`Template`](super::template::Template) has to change.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, ServerName, UnixTime};
use rustls::server::StoresServerSessions;
use rustls::{ClientConfig, ContentType, RootCertStore, ServerConfig, Tls13CipherSuite};

use super::issue::GoesOn;
use super::template::{Template, TicketKey};
use super::{HelloAcceptor, MigrationServer, ServerConnection};
use crate::client::{ClientConnection, MigrationClient};
use crate::connection::Connection;
use crate::key_schedule::ticket_psk;
use crate::provider::hook::{ConnectionHook, Verifying, scope};
use crate::ticket::TicketKeys;
use crate::wire::ticket::NewSessionTicket;
use crate::wire::{Malformed, NEW_SESSION_TICKET, next_message};

const NAME: &str = "service.example";

/// What passes at one end of a connection.
#[derive(Default)]
struct Probe {
    verifying: Verifying,
    secret: Mutex<Vec<u8>>,
    keys: Mutex<Vec<TicketKey>>,
    tickets: Mutex<Vec<Vec<u8>>>,
}

impl ConnectionHook for Probe {
    fn verifying(&self) -> &Verifying {
        &self.verifying
    }

    fn resumption_master_secret(&self, secret: &[u8]) {
        *self.secret.lock().unwrap() = secret.to_vec();
    }

    fn wants_ticket_key(&self) -> bool {
        true
    }

    fn ticket_key(&self, nonce: &[u8], psk: &[u8]) {
        self.keys.lock().unwrap().push(TicketKey {
            nonce: nonce.to_vec(),
            psk: psk.to_vec().into(),
        });
    }

    fn inbound(&self, kind: ContentType, record: &mut [u8]) -> Result<usize, Malformed> {
        let mut payload = &*record;
        while let Some((message, rest)) = next_message(payload) {
            if kind == ContentType::Handshake && message[0] == NEW_SESSION_TICKET {
                self.tickets.lock().unwrap().push(message.to_vec());
            }
            payload = rest;
        }
        Ok(record.len())
    }
}

/// Keeps what rustls wants to be kept, in order.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<Vec<u8>>>);

impl StoresServerSessions for Recorder {
    fn put(&self, _: Vec<u8>, session: Vec<u8>) -> bool {
        self.0.lock().unwrap().push(session);
        true
    }

    fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// Each base provider with each of its hashes, and a suite that has it.
fn providers() -> Vec<(CryptoProvider, &'static Tls13CipherSuite)> {
    let bases = [
        rustls::crypto::ring::default_provider(),
        #[cfg(feature = "aws-lc-rs")]
        rustls::crypto::aws_lc_rs::default_provider(),
    ];
    let mut all = Vec::new();
    for base in bases {
        for hash_len in [32, 48] {
            let mut provider = crate::provider::wrap(base.clone());
            let of_hash =
                |suite: &Tls13CipherSuite| suite.common.hash_provider.output_len() == hash_len;
            provider
                .cipher_suites
                .retain(|suite| suite.tls13().is_some_and(of_hash));
            let suite = provider.cipher_suites[0].tls13().unwrap();
            all.push((provider, suite));
        }
    }
    all
}

fn configs(provider: CryptoProvider) -> (ServerConfig, ClientConfig) {
    let provider = Arc::new(provider);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap().der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    (server, client)
}

fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

/// A handshake of rustls' own connections, each with a probe, and the sessions that the server stored.
fn observed(provider: CryptoProvider) -> (Arc<Probe>, Arc<Probe>, Vec<Vec<u8>>) {
    let (mut server, client) = configs(provider);
    let recorder = Arc::new(Recorder::default());
    server.session_storage = recorder.clone();
    let (at_server, at_client) = (Arc::new(Probe::default()), Arc::new(Probe::default()));
    let mut server = scope(&at_server, || {
        rustls::ServerConnection::new(Arc::new(server)).unwrap()
    });
    let mut client = scope(&at_client, || {
        rustls::ClientConnection::new(Arc::new(client), name()).unwrap()
    });
    while client.wants_write() || server.wants_write() {
        let mut flight = Vec::new();
        client.write_tls(&mut flight).unwrap();
        server.read_tls(&mut flight.as_slice()).unwrap();
        scope(&at_server, || server.process_new_packets().unwrap());
        let mut flight = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut flight).unwrap();
        }
        let mut flight = flight.as_slice();
        while !flight.is_empty() {
            client.read_tls(&mut flight).unwrap();
            scope(&at_client, || client.process_new_packets().unwrap());
        }
    }
    let sessions = recorder.0.lock().unwrap().clone();
    (at_server, at_client, sessions)
}

#[test]
fn a_session_holds_its_key_once_in_one_place_and_ends_with_its_time_and_ticket_age_add() {
    for (provider, suite) in providers() {
        let before = UnixTime::now().as_secs();
        let (server, client, sessions) = observed(provider);
        let (keys, tickets) = (server.keys.lock().unwrap(), client.tickets.lock().unwrap());
        assert_eq!((keys.len(), tickets.len(), sessions.len()), (2, 2, 2));
        for ((key, ticket), session) in keys.iter().zip(&*tickets).zip(&sessions) {
            let ticket = NewSessionTicket::read(ticket).unwrap();
            // A key is told, and right before its session is stored.
            assert_eq!((ticket.nonce, ticket.nonce.len()), (&*key.nonce, 32));
            let secret = server.secret.lock().unwrap();
            assert_eq!(*key.psk, *ticket_psk(suite, &secret, ticket.nonce));
            // Presence and length of the name, the name, version, cipher suite, length of the key.
            let at = 2 + NAME.len() + 2 + 2 + 1;
            let places: Vec<usize> = (0..session.len())
                .filter(|at| session[*at..].starts_with(&key.psk))
                .collect();
            assert_eq!(places, [at]);
            // extended_ms, no certificates, no protocol, no data, the time, the age.
            assert_eq!(session.len(), at + key.psk.len() + 1 + 1 + 1 + 2 + 8 + 4);
            let (rest, age_add) = session.split_last_chunk().unwrap();
            assert_eq!(u32::from_be_bytes(*age_add), ticket.age_add);
            let (_, time) = rest.split_last_chunk().unwrap();
            let time = u64::from_be_bytes(*time);
            assert!((before..=UnixTime::now().as_secs()).contains(&time));
            let template = Template::new(session.clone().into(), &key.psk, UnixTime::now());
            assert_eq!(template.unwrap().ticket(key).age_add, ticket.age_add);
        }
    }
}

/// Delivers what either side wants to send until neither does.
fn exchange(client: &mut ClientConnection, server: &mut ServerConnection) {
    fn pass(from: &mut impl Connection, to: &mut impl Connection) -> bool {
        let mut flight = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut flight).unwrap();
        }
        let mut rest = flight.as_slice();
        while !rest.is_empty() {
            to.read_tls(&mut rest).unwrap();
            to.process_new_packets().unwrap();
        }
        !flight.is_empty()
    }
    while pass(client, server) | pass(server, client) {}
}

#[test]
fn each_offer_of_a_connection_has_a_nonce_and_an_age_of_its_own() {
    let here: SocketAddr = "127.0.0.2:443".parse().unwrap();
    for (provider, _) in providers() {
        let keys = TicketKeys::generate(provider.secure_random).unwrap();
        let (server, client) = configs(provider);
        let server = MigrationServer::builder(server, "files", keys).build();
        let client = Arc::new(MigrationClient::builder(client).build().unwrap());
        let mut client = ClientConnection::new(&client, name(), here).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let mut accepting = HelloAcceptor::new(Arc::new(server.unwrap()), None, Some(here));
        assert!(accepting.push(&hello));
        let mut server = accepting.examine().unwrap().accept(None).unwrap();
        exchange(&mut client, &mut server);

        let (mut nonces, mut ages) = (HashSet::new(), HashSet::new());
        for port in 1..=100 {
            let target = SocketAddr::from(([127, 0, 0, 3], port));
            let issued = server.hook.offer(target, GoesOn::Session).unwrap();
            let ticket = NewSessionTicket::read(&issued.message).unwrap();
            // rustls' own nonces are longer, so none of them is the same.
            assert_eq!(ticket.nonce.len(), 8);
            assert!(nonces.insert(ticket.nonce.to_vec()));
            ages.insert(ticket.age_add);
        }
        assert!(ages.len() > 90, "drawn at random");
    }
}
