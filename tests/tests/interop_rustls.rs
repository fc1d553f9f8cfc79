//! Stock rustls, through stock tokio-rustls, as the peer in both roles: nothing changes for those that do not migrate.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_tests::client::{echoed, expect};
use migration_tests::node::echo;
use migration_tests::stock::{self, Observed, bytes, exchange};
use migration_tests::{Node, RecordingDialer, Service, server_name};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig};
use rustls_migration::provider::wrap;
use rustls_migration::server::{Arrival, NotifyError};
use rustls_migration::tokio::{MigrateError, MigrationConnector};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const LARGE: usize = 4 << 20;

/// Where our nodes send those that can follow.
fn elsewhere() -> SocketAddr {
    "127.0.0.4:443".parse().unwrap()
}

fn stock_client(service: &Service, provider: CryptoProvider) -> ClientConfig {
    service.client_config_with(Arc::new(provider))
}

fn stock_server(service: &Service, provider: CryptoProvider) -> ServerConfig {
    service.server_config_with(Arc::new(provider))
}

/// A stock tokio-rustls server does not read early data.
fn without_early_data(mut config: ClientConfig) -> ClientConfig {
    config.enable_early_data = false;
    config
}

fn our_client(service: &Service, config: ClientConfig) -> MigrationConnector {
    service.client_with(config).build().unwrap().into()
}

/// What a stock client sent and received, by records: a first connection, and a second that resumes.
async fn shapes(config: &Arc<ClientConfig>, server: &mut Observed) -> Vec<(u8, usize)> {
    let dialer = RecordingDialer::default();
    let mut shapes = Vec::new();
    for handshake in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let stream = stock::connect(config, server.address, &dialer).await;
        exchange(stream.unwrap(), b"hello").await;
        let seen = server.seen().await;
        assert_eq!(seen.handshake, Some(handshake));
        assert!(seen.end.is_ok());
        shapes.extend(dialer.last().sent_shape());
        shapes.extend(dialer.last().received_shape());
    }
    shapes
}

#[tokio::test]
async fn a_stock_client_sees_the_records_that_a_stock_server_sends() {
    let service = Service::default().with_ed25519();
    for stock in [stock::provider(), stock::tls12(stock::provider())] {
        let stock_config = stock_server(&service, stock::provider());
        let mut our_config = service.server_config();
        our_config.cert_resolver = Arc::clone(&stock_config.cert_resolver);
        let mut theirs = Observed::stock("127.0.0.1", stock_config).await;
        let mut ours = Observed::node(&service, "127.0.0.2", our_config, elsewhere()).await;
        let config = || Arc::new(without_early_data(stock_client(&service, stock.clone())));
        let expected = shapes(&config(), &mut theirs).await;
        let found = shapes(&config(), &mut ours).await;
        let kinds = |shapes: &[(u8, usize)]| shapes.iter().map(|(kind, _)| *kind).collect();
        let (of_theirs, of_ours): (Vec<u8>, Vec<u8>) = (kinds(&expected), kinds(&found));
        assert_eq!(of_ours, of_theirs);
        let lengths = found.iter().zip(&expected);
        let longer: Vec<_> = lengths
            .map(|((_, ours), (_, theirs))| ours.checked_sub(*theirs).unwrap())
            .filter(|longer| *longer > 0)
            .collect();
        // A session is in its ticket, and not in a cache: two tickets, one of them in a hello, two tickets. In TLS 1.2 there is
        // a cache.
        match longer[..] {
            [two, one, again] => assert_eq!((two, again), (2 * one, 2 * one)),
            [] => assert!(stock.cipher_suites[0].tls13().is_none()),
            ref other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stock_client_resumes_at_the_same_address_with_early_data() {
    let service = Service::default();
    let mut node = Node::bind("127.0.0.2").await;
    node.serve_echo(service.node().target(elsewhere()));
    let config = Arc::new(stock_client(&service, stock::provider()));
    let dialer = RecordingDialer::default();
    let stream = stock::connect(&config, node.address(), &dialer).await;
    exchange(stream.unwrap(), b"hello").await;
    // Each ticket is good for one connection; the first brought two.
    for _ in 0..2 {
        let stream = stock::connect(&config, node.address(), &dialer).await;
        let stream = exchange(stream.unwrap(), b"early").await;
        let tls = stream.get_ref().1;
        assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Resumed));
        assert!(tls.is_early_data_accepted());
    }
    for _ in 0..3 {
        assert_eq!(node.arrival().await, Arrival::Fresh);
    }
}

#[tokio::test]
async fn an_ordinary_ticket_resumes_at_a_node_with_a_store_of_its_own_without_early_data() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve_echo(service.node().target(b.address()));
    b.serve_echo(service.node());
    let config = Arc::new(stock_client(&service, stock::provider()));
    let dialer = RecordingDialer::default();
    for (node, kind, early) in [
        (&mut a, HandshakeKind::Full, false),
        (&mut b, HandshakeKind::Resumed, true),
    ] {
        let stream = stock::connect(&config, node.address(), &dialer).await;
        let stream = exchange(stream.unwrap(), b"hello").await;
        let tls = stream.get_ref().1;
        assert_eq!(tls.handshake_kind(), Some(kind));
        assert!(!tls.is_early_data_accepted());
        // It did try.
        assert_eq!(
            dialer.last().sent.windows(4).any(|w| w == EARLY_DATA),
            early
        );
        assert_eq!(node.arrival().await, Arrival::Fresh);
    }
}

/// The `early_data` extension of a hello.
const EARLY_DATA: [u8; 4] = [0, 42, 0, 0];

#[tokio::test]
async fn a_stock_client_is_served_in_every_version_and_after_a_retry() {
    let service = Service::default();
    for (client, server, first, version) in [
        (
            stock::tls12(stock::provider()),
            stock::provider(),
            HandshakeKind::Full,
            ProtocolVersion::TLSv1_2,
        ),
        (
            stock::provider(),
            stock::tls12(stock::provider()),
            HandshakeKind::Full,
            ProtocolVersion::TLSv1_2,
        ),
        (
            stock::provider(),
            stock::retrying(stock::provider()),
            HandshakeKind::FullWithHelloRetryRequest,
            ProtocolVersion::TLSv1_3,
        ),
    ] {
        let config = stock_server(&service, wrap(server));
        let mut node = Observed::node(&service, "127.0.0.2", config, elsewhere()).await;
        let config = Arc::new(stock_client(&service, client));
        let dialer = RecordingDialer::default();
        for handshake in [first, HandshakeKind::Resumed] {
            let stream = stock::connect(&config, node.address, &dialer).await;
            let stream = exchange(stream.unwrap(), &bytes(100_000)).await;
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(handshake));
            let seen = node.seen().await;
            assert_eq!(seen.version, Some(version));
            assert_eq!(seen.handshake, Some(handshake));
            assert!(seen.end.is_ok(), "{:?}", seen.end);
        }
    }
}

#[tokio::test]
async fn our_server_agrees_with_a_stock_client_on_a_protocol_and_reads_its_certificate() {
    let service = Service::default();
    let mut config = stock::asking_for_certificates(&service, wrap(stock::provider()));
    config.alpn_protocols = vec![b"two".to_vec(), b"one".to_vec()];
    let mut node = Observed::node(&service, "127.0.0.2", config, elsewhere()).await;
    for provider in [stock::provider(), stock::tls12(stock::provider())] {
        let mut config = stock_client(&service, provider);
        config.alpn_protocols = vec![b"one".to_vec(), b"two".to_vec()];
        let certificate = stock::identify(&service, &mut config, "client.example");
        let config = Arc::new(config);
        let dialer = RecordingDialer::default();
        for handshake in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let stream = stock::connect(&config, node.address, &dialer).await;
            let stream = exchange(stream.unwrap(), b"hello").await;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"two"[..]));
            let seen = node.seen().await;
            assert_eq!(seen.handshake, Some(handshake));
            assert_eq!(seen.alpn.as_deref(), Some(&b"two"[..]));
            assert_eq!(seen.certificate.as_ref(), Some(&certificate));
        }
    }
    let anonymous = Arc::new(stock_client(&service, stock::provider()));
    let refused = stock::connect(&anonymous, node.address, &RecordingDialer::default()).await;
    // In TLS 1.3 the client learns of it when it reads.
    let error = match refused {
        Ok(mut stream) => stream.read(&mut [0]).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

#[tokio::test]
async fn megabytes_go_both_ways_between_a_stock_client_and_our_server() {
    let service = Service::default();
    let config = service.server_config();
    let mut node = Observed::node(&service, "127.0.0.2", config, elsewhere()).await;
    for provider in [stock::provider(), stock::tls12(stock::provider())] {
        let config = Arc::new(stock_client(&service, provider));
        let dialer = RecordingDialer::default();
        let stream = stock::connect(&config, node.address, &dialer).await;
        exchange(stream.unwrap(), &bytes(LARGE)).await;
        assert!(node.seen().await.end.is_ok());
    }
}

#[tokio::test]
async fn a_stock_client_is_never_sent_the_alert_and_its_connection_goes_on() {
    let service = Service::default();
    let mut node = Node::bind("127.0.0.2").await;
    node.serve(
        service.node().target(elsewhere()),
        |mut stream| async move {
            let error = stream.notify().await.unwrap_err();
            let refused = error
                .get_ref()
                .and_then(|error| error.downcast_ref::<NotifyError>());
            assert_eq!(refused, Some(&NotifyError::NoToken));
            echo(stream).await
        },
    );
    for provider in [stock::provider(), stock::tls12(stock::provider())] {
        let config = Arc::new(stock_client(&service, provider));
        let dialer = RecordingDialer::default();
        let stream = stock::connect(&config, node.address(), &dialer).await;
        exchange(stream.unwrap(), b"still here").await;
    }
}

#[tokio::test]
async fn our_client_adds_four_bytes_to_its_hello_for_each_dialect_and_no_more() {
    let service = Service::default().with_ed25519();
    for stock in [stock::provider(), stock::tls12(stock::provider())] {
        let config = stock_server(&service, stock::provider());
        let mut server = Observed::stock("127.0.0.1", config).await;
        let theirs = Arc::new(without_early_data(stock_client(&service, stock.clone())));
        let ours = without_early_data(stock_client(&service, wrap(stock)));
        let connector = our_client(&service, ours);
        for handshake in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let dialer = RecordingDialer::default();
            let stream = stock::connect(&theirs, server.address, &dialer).await;
            exchange(stream.unwrap(), b"hello").await;
            assert_eq!(server.seen().await.handshake, Some(handshake));
            let expected = dialer.last();
            let mut expected_sent = expected.sent_shape();
            expected_sent.first_mut().unwrap().1 += 4 * service.spoken.of_client().len();

            let connector = connector.clone().dialer(dialer.clone());
            let stream = connector.connect(server_name(), server.address).await;
            exchange(stream.unwrap(), b"hello").await;
            assert_eq!(server.seen().await.handshake, Some(handshake));
            let recorded = dialer.last();
            assert_eq!(recorded.sent_shape(), expected_sent);
            assert_eq!(recorded.received_shape(), expected.received_shape());
        }
    }
}

#[tokio::test]
async fn a_stock_server_makes_no_offer_and_keeps_the_client_that_asked() {
    let service = Service::default();
    for provider in [stock::provider(), stock::tls12(stock::provider())] {
        let config = stock_server(&service, provider);
        let mut server = Observed::stock("127.0.0.1", config).await;
        let stream = service
            .connector()
            .connect(server_name(), server.address)
            .await;
        let mut stream = stream.unwrap();
        let mut events = stream.events();
        echoed(&mut stream, b"before").await;
        assert!(stream.offered_target().is_none());
        let refused = stream.migrate(b"lost").await.unwrap_err();
        assert!(matches!(refused, MigrateError::NoOffer), "{refused:?}");
        assert!(!stream.is_notified());
        assert!(events.try_next().is_none());
        assert_eq!(stream.peer_addr(), server.address);
        exchange(stream, b"after").await;
        assert!(server.seen().await.end.is_ok());
    }
}

#[tokio::test]
async fn our_client_is_served_in_every_version_and_after_a_retry() {
    let service = Service::default();
    let with_tickets = |mut config: ServerConfig| {
        config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
        config
    };
    let stock = stock_server(&service, stock::provider());
    let tls12 = stock_server(&service, stock::tls12(stock::provider()));
    let retry = stock_server(&service, stock::retrying(stock::provider()));
    for (config, first) in [
        (with_tickets(stock.clone()), HandshakeKind::Full),
        (stock, HandshakeKind::Full),
        (with_tickets(tls12.clone()), HandshakeKind::Full),
        (tls12, HandshakeKind::Full),
        (retry, HandshakeKind::FullWithHelloRetryRequest),
    ] {
        let mut server = Observed::stock("127.0.0.1", config).await;
        let connector = service.connector();
        for handshake in [first, HandshakeKind::Resumed] {
            let stream = connector.connect(server_name(), server.address).await;
            let stream = exchange(stream.unwrap(), &bytes(100_000)).await;
            let tls = stream.get_ref().unwrap();
            assert_eq!(tls.handshake_kind(), Some(handshake));
            let seen = server.seen().await;
            assert_eq!(seen.handshake, Some(handshake));
            assert!(seen.end.is_ok(), "{:?}", seen.end);
        }
    }
}

#[tokio::test]
async fn our_client_agrees_with_a_stock_server_on_a_protocol_and_identifies_itself() {
    let service = Service::default();
    for provider in [stock::provider(), stock::tls12(stock::provider())] {
        let mut config = stock::asking_for_certificates(&service, provider);
        config.alpn_protocols = vec![b"two".to_vec(), b"one".to_vec()];
        let mut server = Observed::stock("127.0.0.1", config).await;
        let mut config = service.client_config();
        config.alpn_protocols = vec![b"one".to_vec(), b"two".to_vec()];
        let certificate = stock::identify(&service, &mut config, "client.example");
        let connector = our_client(&service, config);
        for handshake in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let stream = connector.connect(server_name(), server.address).await;
            let stream = exchange(stream.unwrap(), b"hello").await;
            let tls = stream.get_ref().unwrap();
            assert_eq!(tls.alpn_protocol(), Some(&b"two"[..]));
            let seen = server.seen().await;
            assert_eq!(seen.handshake, Some(handshake));
            assert_eq!(seen.alpn.as_deref(), Some(&b"two"[..]));
            assert_eq!(seen.certificate.as_ref(), Some(&certificate));
        }
    }
}

#[tokio::test]
async fn megabytes_go_both_ways_between_our_client_and_a_stock_server() {
    let service = Service::default();
    for provider in [stock::provider(), stock::tls12(stock::provider())] {
        let config = stock_server(&service, provider);
        let mut server = Observed::stock("127.0.0.1", config).await;
        let stream = service
            .connector()
            .connect(server_name(), server.address)
            .await;
        exchange(stream.unwrap(), &bytes(LARGE)).await;
        assert!(server.seen().await.end.is_ok());
    }
}

#[tokio::test]
async fn new_keys_are_taken_up_by_stock_peers() {
    let service = Service::default();
    let mut node = Node::bind("127.0.0.2").await;
    node.serve(service.node(), |mut stream| async move {
        stream.refresh_traffic_keys().unwrap();
        echo(stream).await
    });
    let config = Arc::new(stock_client(&service, stock::provider()));
    let mut stream = stock::connect(&config, node.address(), &RecordingDialer::default())
        .await
        .unwrap();
    stream.write_all(b"old keys").await.unwrap();
    stream.read_exact(&mut [0; 8]).await.unwrap();
    stream.get_mut().1.refresh_traffic_keys().unwrap();
    exchange(stream, b"new keys").await;

    let config = stock_server(&service, stock::provider());
    let server = Observed::stock("127.0.0.1", config).await;
    let connector = service.connector();
    let mut stream = connector
        .connect(server_name(), server.address)
        .await
        .unwrap();
    stream.refresh_traffic_keys().unwrap();
    stream.write_all(b"new keys").await.unwrap();
    expect(&mut stream, b"new keys").await;
}
