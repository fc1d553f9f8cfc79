//! The hand-off under every shape of handshake that rustls has (HelloRetryRequest, suites, client certificates, ALPN,
//! key updates, TLS 1.2), and the ways to begin one.

use std::sync::Arc;
use std::time::Duration as StdDuration;

use migration_tests::client::{echoed, expect, until_notified};
use migration_tests::node::{ServerStream, echo, echo_then_notify};
use migration_tests::{Node, RecordingDialer, Service, server_name};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs, ring};
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use rustls_migration::server::{Arrival, MigrationServerBuilder};
use rustls_migration::tokio::{
    EarlyDataOutcome, MigrationConnector, MigrationOutcome, MigrationStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Moves a client, when A asks for it, from A at `ip_a` to B at `ip_b`, and returns the stream after B has answered.
async fn hand_off(
    service: &Service,
    connector: &MigrationConnector,
    ips: [&str; 2],
    configs: [ServerConfig; 2],
) -> (MigrationStream, MigrationOutcome, Arrival) {
    let (mut a, mut b) = (Node::bind(ips[0]).await, Node::bind(ips[1]).await);
    let [config_a, config_b] = configs;
    a.serve(
        service.node_with(config_a).target(b.address()),
        echo_then_notify,
    );
    b.serve_echo(service.node_with(config_b));
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    echoed(&mut stream, b"at A").await;
    until_notified(&mut stream).await;
    let landing = stream.migrate(b"first at B").await.unwrap();
    assert_eq!(landing.at, b.address());
    expect(&mut stream, b"first at B").await;
    echoed(&mut stream, b"more at B").await;
    (stream, landing, b.arrival().await)
}

const LOOPBACK: [&str; 2] = ["127.0.0.2", "127.0.0.3"];

/// A hand-off that succeeds with early data.
async fn succeeds(service: &Service, ips: [&str; 2]) -> MigrationStream {
    let configs = [service.server_config(), service.server_config()];
    let connector = service.connector();
    let (stream, landing, arrival) = hand_off(service, &connector, ips, configs).await;
    assert_eq!(landing.handshake, HandshakeKind::Resumed);
    assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
    assert!(matches!(
        arrival,
        Arrival::Migrated {
            early_data: true,
            ..
        }
    ));
    stream
}

fn suite_of(stream: &MigrationStream) -> String {
    let suite = stream.get_ref().unwrap().negotiated_cipher_suite().unwrap();
    format!("{:?}", suite.suite())
}

#[tokio::test]
async fn every_tls13_suite_of_both_providers_hands_off() {
    for base in [ring::default_provider(), aws_lc_rs::default_provider()] {
        let suites: Vec<_> = base
            .cipher_suites
            .iter()
            .copied()
            .filter(|suite| suite.tls13().is_some())
            .collect();
        assert_eq!(suites.len(), 3);
        for suite in suites {
            let service = Service::with_provider(CryptoProvider {
                cipher_suites: vec![suite],
                ..base.clone()
            });
            let stream = succeeds(&service, LOOPBACK).await;
            assert_eq!(suite_of(&stream), format!("{:?}", suite.suite()));
        }
    }
}

#[tokio::test]
async fn the_same_works_between_two_ports_over_ipv6() {
    succeeds(&Service::default(), ["::1", "::1"]).await;
}

#[tokio::test]
async fn a_client_moves_from_ipv4_to_ipv6_and_back() {
    succeeds(&Service::default(), ["127.0.0.2", "::1"]).await;
    succeeds(&Service::default(), ["::1", "127.0.0.2"]).await;
}

#[tokio::test]
async fn a_hello_retry_request_on_either_leg_only_costs_the_early_data() {
    let service = Service::default();
    // Each node has a group of its own, so that the client's memory of A's group does not help at B.
    let config = |group: &'static dyn SupportedKxGroup| {
        let provider = CryptoProvider {
            kx_groups: vec![group],
            ..(*service.provider).clone()
        };
        service.server_config_with(Arc::new(provider))
    };
    let configs = [
        config(ring::kx_group::SECP384R1),
        config(ring::kx_group::SECP256R1),
    ];
    let dialer = RecordingDialer::default();
    let connector = service.connector().dialer(dialer.clone());
    let (_, landing, arrival) = hand_off(&service, &connector, LOOPBACK, configs).await;
    assert_eq!(landing.handshake, HandshakeKind::Resumed);
    assert_eq!(landing.early_data, EarlyDataOutcome::AfterHandshake);
    assert!(matches!(
        arrival,
        Arrival::Migrated {
            early_data: false,
            ..
        }
    ));
    for leg in dialer.all() {
        let hellos = leg
            .received_shape()
            .iter()
            .filter(|(kind, _)| *kind == 22)
            .count();
        assert_eq!(
            hellos, 2,
            "a HelloRetryRequest and a ServerHello on each leg"
        );
    }
}

/// Sends the client's certificate, then echoes.
async fn identify(mut stream: ServerStream) -> std::io::Result<()> {
    let certificate = stream.get_ref().tls().peer_certificates().unwrap()[0].clone();
    stream.write_all(&certificate).await?;
    echo(stream).await
}

#[tokio::test]
async fn a_client_certificate_survives_the_migration() {
    let service = Service::default();
    let (certificate, key) = service.pki.issue("client", &rcgen::PKCS_ECDSA_P256_SHA256);
    let server_config = || service.server_config_for_members();
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&service.provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(service.pki.roots())
        .with_client_auth_cert(vec![certificate.clone()], key)
        .unwrap();
    config.enable_early_data = true;
    let connector: MigrationConnector = service.client_with(config).build().unwrap().into();

    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve(
        service.node_with(server_config()).target(b.address()),
        identify,
    );
    b.serve(service.node_with(server_config()), identify);
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    expect(&mut stream, &certificate).await;
    let landing = stream.migrate(b"early").await.unwrap();
    assert_eq!(landing.handshake, HandshakeKind::Resumed);
    assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
    expect(&mut stream, &certificate).await;
    expect(&mut stream, b"early").await;
}

#[tokio::test]
async fn the_application_protocol_is_the_same_on_both_legs() {
    let service = Service::default();
    let with_alpn = |mut config: ServerConfig| {
        config.alpn_protocols = vec![b"other/1".to_vec(), b"files/1".to_vec()];
        config
    };
    let configs = [
        with_alpn(service.server_config()),
        with_alpn(service.server_config()),
    ];
    let mut config = service.client_config();
    config.alpn_protocols = vec![b"files/1".to_vec()];
    let connector: MigrationConnector = service.client_with(config).build().unwrap().into();
    let (stream, landing, _) = hand_off(&service, &connector, LOOPBACK, configs).await;
    assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
    let alpn = stream.get_ref().unwrap().alpn_protocol();
    assert_eq!(alpn, Some(&b"files/1"[..]));
}

/// Updates its keys, twice, around what it sends, and then tells the client to move.
async fn update_keys_then_notify(mut stream: ServerStream) -> std::io::Result<()> {
    for data in [b"one", b"two"] {
        stream
            .refresh_traffic_keys()
            .map_err(std::io::Error::other)?;
        stream.write_all(data).await?;
    }
    stream.notify().await?;
    echo(stream).await
}

#[tokio::test]
async fn the_alert_and_the_hand_off_survive_key_updates_by_both_sides() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve(service.node().target(b.address()), update_keys_then_notify);
    b.serve_echo(service.node());
    let mut stream = service
        .connector()
        .connect(server_name(), a.address())
        .await
        .unwrap();
    expect(&mut stream, b"onetwo").await;
    stream.refresh_traffic_keys().unwrap();
    echoed(&mut stream, b"three").await;
    until_notified(&mut stream).await;
    let landing = stream.migrate(b"four").await.unwrap();
    assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
    expect(&mut stream, b"four").await;
    stream.refresh_traffic_keys().unwrap();
    echoed(&mut stream, b"five").await;
}

#[tokio::test]
async fn a_client_that_arrived_can_be_moved_on() {
    let service = Service::default();
    let mut nodes = Vec::new();
    for ip in ["127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        nodes.push(Node::bind(ip).await);
    }
    let [a, b, c] = &mut nodes[..] else {
        panic!("three nodes")
    };
    a.serve(service.node().target(b.address()), echo_then_notify);
    b.serve(service.node().target(c.address()), echo_then_notify);
    c.serve_echo(service.node());
    let mut stream = service
        .connector()
        .connect(server_name(), a.address())
        .await
        .unwrap();
    echoed(&mut stream, b"at A").await;
    for next in [&mut *b, &mut *c] {
        until_notified(&mut stream).await;
        let landing = stream.migrate(b"go on").await.unwrap();
        assert_eq!(landing.at, next.address());
        assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
        expect(&mut stream, b"go on").await;
        assert!(matches!(
            next.arrival().await,
            Arrival::Migrated {
                early_data: true,
                ..
            }
        ));
    }
}

#[tokio::test]
async fn an_arrival_without_early_data_still_gets_a_token_that_allows_it() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let mut c = Node::bind("127.0.0.4").await;
    a.serve_echo(service.node().target(b.address()));
    // B knows neither the session's keys nor therefore its early data.
    let other = rustls_migration::TicketKeys::generate(service.provider.secure_random).unwrap();
    let config = service.server_config();
    let of_b = |settings: MigrationServerBuilder| settings.target(c.address());
    b.serve_echo(of_b(service.node_of(config, "files", other.clone())));
    let config = service.server_config();
    c.serve_echo(service.node_of(config, "files", other));
    let mut stream = service
        .connector()
        .connect(server_name(), a.address())
        .await
        .unwrap();
    echoed(&mut stream, b"at A").await;
    let landing = stream.migrate(b"at B").await.unwrap();
    assert_eq!(landing.handshake, HandshakeKind::Full);
    expect(&mut stream, b"at B").await;
    let landing = stream.migrate(b"at C").await.unwrap();
    assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
    expect(&mut stream, b"at C").await;
}

#[tokio::test]
async fn a_client_follows_from_an_anycast_address_before_it_says_a_word() {
    let service = Service::default();
    let (mut anycast, mut unicast) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    // One node at two addresses: its tokens name the one that is its own.
    let own = unicast.address();
    anycast.serve_echo(service.node().target(own));
    unicast.serve_echo(service.node().target(own));
    let connector = service
        .connector()
        .follow_offers_within(StdDuration::from_secs(10));
    let mut stream = connector
        .connect(server_name(), anycast.address())
        .await
        .unwrap();
    assert_eq!(stream.peer_addr(), own);
    assert_eq!(anycast.arrival().await, Arrival::Fresh);
    assert!(matches!(unicast.arrival().await, Arrival::Migrated { .. }));
    echoed(&mut stream, b"at the node").await;
    assert!(
        stream.offer().is_none(),
        "a node does not send its clients to itself"
    );
}

/// Reads early data, answers it, and shows that all this comes before the client's Finished.
async fn answer_early(mut stream: ServerStream) -> std::io::Result<()> {
    let mut request = [0; 7];
    stream.read_exact(&mut request).await?;
    assert!(stream.get_ref().tls().is_handshaking());
    stream.write_all(b"answer to ").await?;
    stream.write_all(&request).await?;
    stream.flush().await?;
    assert!(stream.get_ref().tls().is_handshaking());
    stream.handshake().await?;
    assert!(!stream.get_ref().tls().is_handshaking());
    stream.write_all(b", done").await?;
    echo(stream).await
}

#[tokio::test]
async fn early_data_is_answered_before_the_handshake_is_complete() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve_echo(service.node().target(b.address()));
    b.serve(service.node(), answer_early);
    let mut stream = service
        .connector()
        .connect(server_name(), a.address())
        .await
        .unwrap();
    echoed(&mut stream, b"at A").await;
    stream.migrate(b"request").await.unwrap();
    expect(&mut stream, b"answer to request, done").await;
}

#[tokio::test]
async fn more_than_the_early_data_limit_arrives_whole_and_in_order() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve_echo(service.node().target(b.address()));
    b.serve_echo(service.node());
    let mut stream = service
        .connector()
        .connect(server_name(), a.address())
        .await
        .unwrap();
    echoed(&mut stream, b"at A").await;
    let data: Vec<u8> = (0..200_000u32).flat_map(u32::to_be_bytes).collect();
    let landing = stream.migrate(&data).await.unwrap();
    assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
    expect(&mut stream, &data).await;
}

#[tokio::test]
async fn early_data_is_off_where_the_configuration_says_so() {
    let service = Service::default();
    let mut config = service.client_config();
    config.enable_early_data = false;
    let connector: MigrationConnector = service.client_with(config).build().unwrap().into();
    let configs = [service.server_config(), service.server_config()];
    let (_, landing, _) = hand_off(&service, &connector, LOOPBACK, configs).await;
    assert_eq!(landing.handshake, HandshakeKind::Resumed);
    assert_eq!(landing.early_data, EarlyDataOutcome::AfterHandshake);

    let off = || {
        let mut config = service.server_config();
        config.max_early_data_size = 0;
        config
    };
    let connector = service.connector();
    let (_, landing, arrival) = hand_off(&service, &connector, LOOPBACK, [off(), off()]).await;
    assert_eq!(landing.handshake, HandshakeKind::Resumed);
    assert_eq!(landing.early_data, EarlyDataOutcome::AfterHandshake);
    assert!(matches!(
        arrival,
        Arrival::Migrated {
            early_data: false,
            ..
        }
    ));
}

#[tokio::test]
async fn with_tls12_there_is_no_token_and_no_alert_can_be_sent() {
    let service = Service::default();
    let mut node = Node::bind("127.0.0.2").await;
    let target = "127.0.0.3:443".parse().unwrap();
    let (chain, key) = service
        .pki
        .issue(migration_tests::NAME, &rcgen::PKCS_ED25519);
    let config = ServerConfig::builder_with_provider(Arc::clone(&service.provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    node.serve(
        service.node_with(config).target(target),
        |mut stream| async move {
            let refused = stream.notify().await.unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
            echo(stream).await
        },
    );
    let connector = service.connector();
    for handshake in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut stream = connector
            .connect(server_name(), node.address())
            .await
            .unwrap();
        echoed(&mut stream, b"as ever").await;
        assert!(stream.offer().is_none());
        assert_eq!(stream.get_ref().unwrap().handshake_kind(), Some(handshake));
        stream.shutdown().await.unwrap();
    }
}
