//! How long a ticket with a token may be (`docs/protocol.md` section 3): what a server seals is what a client takes.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_tests::Service;
use migration_tests::memory::Joined;
use rcgen::PKCS_ECDSA_P256_SHA256;
use rustls_migration::client::MigrationClient;
use rustls_migration::server::{Arrival, MigrationServer, OfferError};

fn places() -> [SocketAddr; 2] {
    ["127.0.0.2:443", "127.0.0.3:443"].map(|place| place.parse().unwrap())
}

fn node(service: &Service, here: SocketAddr) -> Arc<MigrationServer> {
    let server = service.node_with(service.server_config_for_members());
    Arc::new(server.own_addresses([here]).build().unwrap())
}

/// A client with so many bytes of certificates at the most, which its session keeps, and how many they are.
fn client_with_chain(service: &Service, len: usize) -> (Arc<MigrationClient>, usize) {
    let (certificate, key) = service.pki.issue("client.example", &PKCS_ECDSA_P256_SHA256);
    let copies = len / certificate.len();
    let clock = Arc::new(service.clock.clone());
    let config = rustls::ClientConfig::builder_with_details(service.provider.clone(), clock)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(service.pki.roots())
        .with_client_auth_cert(vec![certificate; copies], key)
        .unwrap();
    let client = service.client_with(config).build().unwrap();
    (Arc::new(client), copies)
}

#[test]
fn a_session_with_a_long_chain_and_the_largest_state_moves() {
    let (service, [at_a, at_b]) = (Service::default(), places());
    let (client, copies) = client_with_chain(&service, 14_000);
    let mut here = Joined::new(&client, &node(&service, at_a), at_a);
    here.server.offer(at_b, Some(&[7; 8192])).unwrap();
    here.exchange();
    let offer = here.take_offer(at_b);
    let there = Joined::resume(&client, &node(&service, at_b), offer);
    assert!(matches!(
        there.server.arrival(),
        Arrival::Migrated { state: Some(_), .. }
    ));
    let chain = there.server.tls().peer_certificates();
    assert_eq!(chain.map(<[_]>::len), Some(copies));
}

#[test]
fn a_ticket_that_no_client_would_take_is_not_sent() {
    let (service, [at_a, at_b]) = (Service::default(), places());
    let (client, _) = client_with_chain(&service, 20_000);
    let mut here = Joined::new(&client, &node(&service, at_a), at_a);
    let too_long = here.server.offer(at_b, Some(&[7; 8192]));
    let Err(OfferError::TicketTooLong { len }) = too_long else {
        panic!("{too_long:?}");
    };
    assert!((24_577..40_000).contains(&len), "{len}");
    here.server.offer(at_b, Some(b"less")).unwrap();
    here.exchange();
    here.take_offer(at_b);
}
