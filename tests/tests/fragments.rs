//! A configured size of fragments holds for the client's hello too, which leaves longer than rustls made it.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_tests::memory::{Joined, sent};
use migration_tests::{Service, server_name};
use migration_token::ClaimOutcome;
use rustls::crypto::ring::{default_provider, kx_group};
use rustls_migration::client::{ClientConnection, MigrationClient};
use rustls_migration::server::{Arrival, HelloAcceptor, MigrationServer};

fn places() -> [SocketAddr; 2] {
    ["127.0.0.2:443", "127.0.0.3:443"].map(|place| place.parse().unwrap())
}

fn client(service: &Service, max_fragment_size: Option<usize>) -> Arc<MigrationClient> {
    let mut config = service.client_config();
    config.max_fragment_size = max_fragment_size;
    Arc::new(service.client_with(config).build().unwrap())
}

fn node(service: &Service, here: SocketAddr) -> Arc<MigrationServer> {
    Arc::new(service.node().own_addresses([here]).build().unwrap())
}

/// The lengths of the hello's records, headers included.
fn record_lens(mut bytes: &[u8]) -> Vec<usize> {
    let mut lens = Vec::new();
    while let [kind, _, _, high, low, ..] = *bytes {
        let len = 5 + usize::from(u16::from_be_bytes([high, low]));
        if kind == 22 {
            lens.push(len);
        }
        bytes = &bytes[len..];
    }
    lens
}

#[test]
fn a_hello_leaves_in_records_of_the_configured_size_and_is_understood() {
    for (size, most) in [(Some(128), 128), (Some(32), 32), (None, 16_389)] {
        let service = Service::default();
        let [at_a, at_b] = places();
        let client = client(&service, size);
        let mut first = ClientConnection::new(&client, server_name(), at_a).unwrap();
        let lens = record_lens(&sent(&mut first));
        assert!(lens.iter().all(|len| *len <= most), "{size:?}: {lens:?}");
        assert_eq!(lens.len() == 1, size.is_none());

        let mut here = Joined::new(&client, &node(&service, at_a), at_a);
        here.server.offer(at_b, Some(&[7; 5000])).unwrap();
        here.exchange();
        let offer = here.take_offer(at_b);
        let early_data = [9; 700];
        let mut next =
            ClientConnection::resume(&client, server_name(), offer, &early_data).unwrap();
        let flight = sent(&mut next);
        let lens = record_lens(&flight);
        assert!(lens.iter().all(|len| *len <= most), "{size:?}: {lens:?}");
        let mut at_b = HelloAcceptor::new(node(&service, at_b), None, Some(at_b));
        assert!(at_b.push(&flight));
        let at_b = at_b.examine().unwrap();
        let at_b = at_b.accept(Some(Ok(ClaimOutcome::First))).unwrap();
        assert!(matches!(
            at_b.arrival(),
            Arrival::Migrated {
                early_data: true,
                ..
            }
        ));
    }
}

#[test]
fn a_client_with_small_fragments_moves_through_a_retry() {
    let service = Service::with_provider(default_provider());
    let [at_a, at_b] = places();
    let client = client(&service, Some(64));
    let mut here = Joined::new(&client, &node(&service, at_a), at_a);
    here.server.offer(at_b, Some(&[7; 500])).unwrap();
    here.exchange();
    let offer = here.take_offer(at_b);
    // The target wants another group than the client sends a share of.
    let mut provider = (*service.provider).clone();
    provider.kx_groups = vec![kx_group::SECP384R1];
    let config = service.server_config_with(Arc::new(provider));
    let b = service.node_with(config).own_addresses([at_b]).build();
    let there = Joined::resume(&client, &Arc::new(b.unwrap()), offer);
    assert!(matches!(
        there.server.arrival(),
        Arrival::Migrated { state: Some(_), .. }
    ));
}
