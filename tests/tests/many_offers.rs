//! Offers without end on one connection: each is followed, or refused with its reason, and none leaves anything behind.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_tests::Service;
use migration_tests::memory::Joined;
use rcgen::PKCS_ECDSA_P256_SHA256;
use rustls::HandshakeKind;
use rustls_migration::client::MigrationClient;
use rustls_migration::server::{Arrival, MigrationServer, OfferError};
use time::Duration;

fn places() -> [SocketAddr; 2] {
    ["127.0.0.2:443", "127.0.0.3:443"].map(|place| place.parse().unwrap())
}

/// What this process has in memory, in KiB.
fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse().unwrap()
}

/// Does `once` 1,000 times. A state of 8 KiB that each left behind would be 7 MB, each time. Other tests of this process may
/// take memory meanwhile, so there are more times than one.
fn a_thousand_times_in_flat_memory(mut once: impl FnMut(u32)) {
    let mut turns = 0..;
    let mut go_on = |count| turns.by_ref().take(count).for_each(&mut once);
    go_on(100);
    let grown = (0..5).map(|_| {
        let before = resident_kib();
        go_on(900);
        resident_kib().saturating_sub(before)
    });
    let grown: Vec<_> = grown.take_while(|grown| *grown >= 3_000).collect();
    assert!(grown.len() < 5, "{grown:?} KiB");
}

fn state_of(turn: u32) -> Vec<u8> {
    let mut state = vec![7; 8192];
    state[..4].copy_from_slice(&turn.to_be_bytes());
    state
}

#[test]
fn a_thousand_offers_of_one_connection_are_all_followed_and_leave_nothing_behind() {
    let (service, [at_a, at_b]) = (Service::default(), places());
    let client = Arc::new(
        service
            .client_with(service.client_config())
            .build()
            .unwrap(),
    );
    let node = |here| Arc::new(service.node().own_addresses([here]).build().unwrap());
    let (a, b): (Arc<MigrationServer>, Arc<MigrationServer>) = (node(at_a), node(at_b));
    let mut here = Joined::new(&client, &a, at_a);
    a_thousand_times_in_flat_memory(|turn| {
        service.clock.advance(Duration::hours(1));
        let state = state_of(turn);
        here.server.offer(at_b, Some(&state)).unwrap();
        here.exchange();
        let there = Joined::resume(&client, &b, here.take_offer(at_b));
        let Arrival::Migrated {
            state: Some(arrived),
            ..
        } = there.server.arrival()
        else {
            panic!("{:?} of turn {turn}", there.server.arrival());
        };
        assert_eq!(**arrived, state);
    });
}

#[test]
fn a_client_with_40_kb_of_certificates_is_refused_each_offer_with_its_reason_and_stays() {
    let (service, [at_a, at_b]) = (Service::default(), places());
    let (certificate, key) = service.pki.issue("client.example", &PKCS_ECDSA_P256_SHA256);
    let copies = 40_000 / certificate.len();
    let clock = Arc::new(service.clock.clone());
    let config = rustls::ClientConfig::builder_with_details(service.provider.clone(), clock)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(service.pki.roots())
        .with_client_auth_cert(vec![certificate; copies], key)
        .unwrap();
    let client = Arc::new(service.client_with(config).build().unwrap());
    let settings = service.node_with(service.server_config_for_members());
    let settings = settings.own_addresses([at_a]).target(at_b);
    let mut here = Joined::new(&client, &Arc::new(settings.build().unwrap()), at_a);
    assert!(here.client.offer().is_none(), "nothing fits");
    a_thousand_times_in_flat_memory(|turn| {
        let refused = here.server.offer(at_b, Some(&state_of(turn)));
        let Err(OfferError::TicketTooLong { len }) = refused else {
            panic!("{refused:?}");
        };
        assert!(len > 38_000, "{len}");
        here.exchange();
    });
    let chain = here.server.tls().peer_certificates();
    assert_eq!(chain.map(<[_]>::len), Some(copies));
    // An ordinary ticket has the session in it too.
    assert_eq!(here.client.tls().tls13_tickets_received(), 0);
}

/// One move, by an offer that is made so long after the handshake.
fn moves_after(service: &Service, waited: Duration) {
    let [at_a, at_b] = places();
    let client: Arc<MigrationClient> = Arc::new(
        service
            .client_with(service.client_config())
            .build()
            .unwrap(),
    );
    let node = |here| Arc::new(service.node().own_addresses([here]).build().unwrap());
    let mut here = Joined::new(&client, &node(at_a), at_a);
    service.clock.advance(waited);
    here.server.offer(at_b, None).unwrap();
    here.server.offer(at_b, Some(b"state")).unwrap();
    here.exchange();
    let offer = here.take_offer(at_b);
    let there = Joined::resume_with(&client, &node(at_b), offer, b"early");
    let kind = there.client.tls().handshake_kind();
    assert_eq!(kind, Some(HandshakeKind::Resumed));
    assert!(there.client.tls().is_early_data_accepted(), "{waited}");
}

#[test]
fn with_either_provider_and_hash_an_offer_is_followed_with_early_data_however_late() {
    let bases = [
        rustls::crypto::ring::default_provider(),
        rustls::crypto::aws_lc_rs::default_provider(),
    ];
    for base in bases {
        for hash_len in [32, 48] {
            for waited in [Duration::ZERO, Duration::hours(9), Duration::days(10)] {
                let mut base = base.clone();
                base.cipher_suites.retain(|suite| {
                    suite
                        .tls13()
                        .is_some_and(|suite| suite.common.hash_provider.output_len() == hash_len)
                });
                moves_after(&Service::with_provider(base), waited);
            }
        }
    }
}
