//! The example of a service that is moved in the middle of a message: the message is whole where the stream goes on, and no
//! piece of it is answered twice.

#[allow(dead_code, reason = "its main is not run")]
#[path = "../../rustls-migration/examples/partial_message.rs"]
mod example;

use std::io;
use std::time::Duration;

use migration_tests::client::{expect, until};
use migration_tests::{Node, Service, server_name};
use rustls_migration::server::Arrival;
use rustls_migration::tokio::{DrainPlan, Event, HandOff};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn serve(stream: migration_tests::node::ServerStream) -> io::Result<()> {
    example::serve(stream).await.map_err(io::Error::other)
}

#[tokio::test]
async fn a_message_that_is_half_read_at_one_node_is_read_on_at_the_next() {
    let service = Service::default();
    let mut nodes = [Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await];
    let [at_a, at_b] = [nodes[0].address(), nodes[1].address()];
    let acceptors = nodes
        .each_mut()
        .map(|node| node.serve(service.node(), serve));
    let connector = service.connector().hand_off(HandOff::Drain);
    let mut stream = connector.connect(server_name(), at_a).await.unwrap();
    nodes[0].arrival().await;
    let mut events = stream.events();
    stream.write_all(b"first\n").await.unwrap();
    expect(&mut stream, b"1: first\n").await;

    // There and back, with a piece of the second line at each place.
    let hops = [(0, at_b, "the "), (1, at_a, "sec")];
    for (from, to, piece) in hops {
        stream.write_all(piece.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let plan = DrainPlan::to([(to, 1)]).spread_over(Duration::ZERO);
        let drain = acceptors[from].drain(plan);
        until(&mut stream, &mut events, |event| {
            matches!(event, Event::Migrated(_))
        })
        .await;
        assert_eq!(stream.peer_addr(), to);
        assert_eq!(drain.finished().await.progress.moved, 1);
        let arrival = nodes[1 - from].arrival().await;
        assert!(matches!(arrival, Arrival::Migrated { state: Some(_), .. }));
    }
    stream.write_all(b"ond\nthird\n").await.unwrap();
    expect(&mut stream, b"2: the second\n3: third\n").await;
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_line_that_no_state_could_hold_ends_the_stream_with_an_error() {
    let service = Service::default();
    let mut node = Node::bind("127.0.0.2").await;
    node.serve(service.node(), serve);
    let connector = service.connector();
    let mut stream = connector
        .connect(server_name(), node.address())
        .await
        .unwrap();
    echoed_line(&mut stream).await;
    stream.write_all(&[b'x'; 20_000]).await.unwrap();
    assert!(stream.read_u8().await.is_err());
}

async fn echoed_line(stream: &mut rustls_migration::tokio::MigrationStream) {
    stream.write_all(b"one\n").await.unwrap();
    expect(stream, b"1: one\n").await;
}
