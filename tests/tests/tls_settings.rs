//! Settings of rustls that migration must leave in force: the size of records, and how many tickets a client wants.

use migration_tests::client::{echoed, expect, until_notified};
use migration_tests::node::echo;
use migration_tests::{Node, RecordingDialer, Service, server_name};
use rustls::HandshakeKind;
use rustls::client::TicketRequest;
use rustls_migration::server::Arrival;
use rustls_migration::tokio::{EarlyDataOutcome, MigrationConnector, MigrationStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn no_record_of_a_server_is_larger_than_its_fragments_may_be() {
    // Of header, content type and tag, rustls counts the header only.
    for (fragment, tickets) in [(512, 2), (512, 1), (64, 2)] {
        let most = fragment - 5 + 1 + 16;
        let service = Service::default();
        let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
        let mut config = service.server_config();
        config.max_fragment_size = Some(fragment);
        config.send_tls13_tickets = tickets;
        a.serve_echo(service.node_with(config).target(b.address()));
        b.serve_echo(service.node());
        let dialer = RecordingDialer::default();
        let connector = service.connector().dialer(dialer.clone());
        let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
        echoed(&mut stream, b"at A").await;
        let shape = dialer.last().received_shape();
        assert!(shape.iter().all(|(_, len)| *len <= most), "{shape:?}");
        let landing = stream.migrate(b"early").await.unwrap();
        assert_eq!(landing.handshake, HandshakeKind::Resumed);
        expect(&mut stream, b"early").await;
    }
}

fn tickets(stream: &MigrationStream) -> u32 {
    stream.get_ref().unwrap().tls13_tickets_received()
}

#[tokio::test]
async fn a_client_gets_as_many_tickets_as_it_wants_and_one_with_a_token_at_least() {
    for (new, resumed, most, expected) in [
        (1, 3, 4, (1, 3)),
        (9, 1, 4, (4, 1)),
        (0, 0, 4, (1, 1)),
        (0, 3, 4, (1, 3)),
        (2, 0, 4, (2, 1)),
        (1, 1, 0, (2, 2)),
    ] {
        let service = Service::default();
        let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
        for (node, other) in [
            (&mut a, b.address()),
            (&mut b, "127.0.0.9:1".parse().unwrap()),
        ] {
            let mut config = service.server_config();
            config.max_tls13_tickets = most;
            let settings = service.node_with(config).target(other);
            node.serve_echo(settings);
        }
        let mut config = service.client_config();
        config.send_ticket_request = Some(TicketRequest {
            new_session_count: new,
            resumption_count: resumed,
        });
        let connector = MigrationConnector::from(service.client_with(config).build().unwrap());
        let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
        echoed(&mut stream, b"at A").await;
        assert_eq!(tickets(&stream), expected.0, "asked for {new}");

        let landing = stream.migrate(b"early").await.unwrap();
        assert_eq!(landing.handshake, HandshakeKind::Resumed);
        expect(&mut stream, b"early").await;
        echoed(&mut stream, b"at B").await;
        assert_eq!(tickets(&stream), expected.1, "asked for {resumed}");
        assert!(matches!(b.arrival().await, Arrival::Migrated { .. }));
    }
}

#[tokio::test]
async fn a_client_that_wants_no_tickets_gets_none_and_follows_a_late_offer() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let mut config = service.server_config();
    config.max_tls13_tickets = 4;
    let target = b.address();
    a.serve(service.node_with(config), move |mut stream| async move {
        stream.read_exact(&mut [0; 2]).await?;
        stream.write_all(b"at A").await?;
        stream.read_exact(&mut [0; 2]).await?;
        stream.migrate_to(target, Some(b"state")).await?;
        echo(stream).await
    });
    b.serve_echo(service.node());
    let mut config = service.client_config();
    config.send_ticket_request = Some(TicketRequest {
        new_session_count: 0,
        resumption_count: 0,
    });
    let connector = MigrationConnector::from(service.client_with(config).build().unwrap());
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    stream.write_all(b"go").await.unwrap();
    expect(&mut stream, b"at A").await;
    assert_eq!(tickets(&stream), 0);
    stream.write_all(b"on").await.unwrap();
    until_notified(&mut stream).await;
    let landing = stream.migrate(b"early").await.unwrap();
    assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
    expect(&mut stream, b"early").await;
}

#[tokio::test]
async fn a_client_survives_any_number_of_notices() {
    let service = Service::default();
    let (mut a, b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve(
        service.node().target(b.address()),
        |mut stream| async move {
            for round in 0..3 {
                for _ in 0..40 {
                    stream.notify().await?;
                }
                stream.write_all(&[round]).await?;
            }
            echo(stream).await
        },
    );
    let connector = service.connector();
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    let mut rounds = [0; 3];
    stream.read_exact(&mut rounds).await.unwrap();
    assert_eq!(rounds, [0, 1, 2]);
    assert!(stream.is_notified());
    echoed(&mut stream, b"at A").await;
}
