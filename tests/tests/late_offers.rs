//! Offers that a server makes when it needs them, however old the connection is, with the application's state.

use std::net::SocketAddr;

use migration_tests::client::{echoed, expect, until_notified};
use migration_tests::node::{ServerStream, echo};
use migration_tests::{Node, Service, server_name};
use rustls::HandshakeKind;
use rustls_migration::Clock as _;
use rustls_migration::server::{Arrival, OfferError};
use rustls_migration::tokio::{EarlyDataOutcome, MigrationStream};
use time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Sends each client on to `target` when it says something.
async fn send_on(
    mut stream: ServerStream,
    target: SocketAddr,
    state: Vec<u8>,
) -> std::io::Result<()> {
    let mut buf = [0; 5];
    stream.read_exact(&mut buf).await?;
    stream.migrate_to(target, Some(&state)).await?;
    stream.write_all(&buf).await?;
    echo(stream).await
}

async fn connect(service: &Service, node: &Node) -> MigrationStream {
    let connector = service.connector();
    connector
        .connect(server_name(), node.address())
        .await
        .unwrap()
}

#[tokio::test]
async fn an_offer_has_early_data_and_state_however_late_it_is_made() {
    for waited in [
        Duration::ZERO,
        Duration::minutes(10),
        Duration::hours(7),
        Duration::days(10),
        Duration::days(100),
    ] {
        let service = Service::default();
        let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
        let (target, state) = (b.address(), vec![7; 8192]);
        let expected = state.clone();
        a.serve(service.node(), move |stream| {
            send_on(stream, target, state.clone())
        });
        b.serve_echo(service.node());
        let mut stream = connect(&service, &a).await;
        a.arrival().await;
        assert!(stream.offered_target().is_none());

        service.clock.advance(waited);
        stream.write_all(b"hello").await.unwrap();
        expect(&mut stream, b"hello").await;
        until_notified(&mut stream).await;
        assert_eq!(stream.offered_target(), Some(target));
        if let Some(token) = stream.offer() {
            assert_eq!(token.expiry(), service.clock.now() + Duration::HOUR);
        }

        let landing = stream.migrate(b"early").await.unwrap();
        assert_eq!(landing.handshake, HandshakeKind::Resumed);
        assert_eq!(
            landing.early_data,
            EarlyDataOutcome::Accepted,
            "after {waited}"
        );
        expect(&mut stream, b"early").await;
        let Arrival::Migrated {
            early_data,
            state: Some(state),
        } = b.arrival().await
        else {
            panic!("no stream arrived");
        };
        assert!(early_data);
        assert_eq!(*state, expected);
    }
}

#[tokio::test]
async fn the_newest_offer_counts() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let (target, elsewhere) = (b.address(), "127.0.0.9:1".parse().unwrap());
    a.serve(service.node().target(elsewhere), move |stream| {
        send_on(stream, target, Vec::new())
    });
    b.serve_echo(service.node());
    let mut stream = connect(&service, &a).await;
    stream.write_all(b"hello").await.unwrap();
    expect(&mut stream, b"hello").await;
    until_notified(&mut stream).await;
    let landing = stream.migrate(b"early").await.unwrap();
    assert_eq!(landing.at, b.address());
    assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
}

/// The failure inside an error of `migrate_to`.
fn failure(error: std::io::Error) -> OfferError {
    *error
        .get_ref()
        .unwrap()
        .downcast_ref::<OfferError>()
        .unwrap()
}

#[tokio::test]
async fn a_state_that_is_too_long_is_an_error_and_the_connection_goes_on() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let target = "127.0.0.3:443".parse().unwrap();
    a.serve(service.node(), move |mut stream| async move {
        let too_long = stream.migrate_to(target, Some(&[0; 8193])).await;
        let refused = failure(too_long.unwrap_err());
        assert_eq!(refused, OfferError::StateTooLong { len: 8193 });
        stream.offer(target, Some(&[0; 8192])).await?;
        stream.write_all(b"all as it should be").await?;
        stream.notify().await?;
        echo(stream).await
    });
    let mut stream = connect(&service, &a).await;
    expect(&mut stream, b"all as it should be").await;
    echoed(&mut stream, b"goes on").await;
    until_notified(&mut stream).await;
    assert_eq!(stream.offered_target().unwrap(), target);
}

#[tokio::test]
async fn that_offers_can_be_made_changes_nothing_for_the_tickets_that_a_client_gets() {
    for tickets in [0, 1, 2, 4] {
        let service = Service::default();
        let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
        let mut config = service.server_config();
        config.send_tls13_tickets = usize::try_from(tickets).unwrap();
        let target = b.address();
        a.serve(service.node_with(config), move |stream| {
            send_on(stream, target, Vec::new())
        });
        b.serve_echo(service.node());
        let mut stream = connect(&service, &a).await;
        let received = stream.get_ref().unwrap().tls13_tickets_received();
        stream.write_all(b"hello").await.unwrap();
        expect(&mut stream, b"hello").await;
        let with_offer = stream.get_ref().unwrap().tls13_tickets_received();
        assert_eq!(
            with_offer,
            tickets + 1,
            "as many as stock rustls, and the offer"
        );
        assert!(received <= tickets);
        let landing = stream.migrate(b"early").await.unwrap();
        assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
    }
}

#[tokio::test]
async fn small_fragments_carry_a_late_offer_whole() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let mut config = service.server_config();
    // Smaller than a ticket of rustls' own.
    config.max_fragment_size = Some(64);
    let target = b.address();
    a.serve(service.node_with(config), move |stream| {
        send_on(stream, target, vec![9; 5000])
    });
    b.serve_echo(service.node());
    let mut stream = connect(&service, &a).await;
    stream.write_all(b"hello").await.unwrap();
    expect(&mut stream, b"hello").await;
    let landing = stream.migrate(b"early").await.unwrap();
    assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
    let Arrival::Migrated {
        state: Some(state), ..
    } = b.arrival().await
    else {
        panic!("no stream arrived");
    };
    assert_eq!(*state, [9; 5000]);
}

#[tokio::test]
async fn a_client_that_was_told_to_move_gets_another_target_only_with_another_notice() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    b.serve_echo(service.node());
    let (target, elsewhere) = (b.address(), "127.0.0.9:1".parse().unwrap());
    a.serve(service.node(), move |mut stream| async move {
        stream.migrate_to(elsewhere, Some(&[])).await?;
        let alone = stream.offer(target, Some(&[])).await;
        assert_eq!(failure(alone.unwrap_err()), OfferError::UnderWay);
        let as_connection = stream.migrate_to(target, None).await;
        assert_eq!(failure(as_connection.unwrap_err()), OfferError::UnderWay);
        stream.migrate_to(target, Some(&[])).await?;
        stream.write_all(b"goes on").await?;
        echo(stream).await
    });
    let mut stream = connect(&service, &a).await;
    expect(&mut stream, b"goes on").await;
    let landing = stream.migrate(b"early").await.unwrap();
    assert_eq!(landing.at, target);
    expect(&mut stream, b"early").await;
}
