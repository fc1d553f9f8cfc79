//! The hand-off itself: a client goes from A to B, with its session and its early data.

use std::time::Duration;

use migration_tests::client::{expect, until_notified};
use migration_tests::node::echo_then_notify;
use migration_tests::{Node, Service, server_name};
use rustls::HandshakeKind;
use rustls_migration::server::Arrival;
use rustls_migration::tokio::EarlyDataOutcome;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn a_notified_client_resumes_at_the_target_with_early_data() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve(service.node().target(b.address()), echo_then_notify);
    b.serve_echo(service.node());

    let mut stream = service
        .connector()
        .connect(server_name(), a.address())
        .await
        .unwrap();
    stream.write_all(b"hello").await.unwrap();
    expect(&mut stream, b"hello").await;
    assert_eq!(a.arrival().await, Arrival::Fresh);
    until_notified(&mut stream).await;
    assert_eq!(stream.offered_target().unwrap(), b.address());

    let landing = stream.migrate(b"early").await.unwrap();
    assert_eq!(landing.at, b.address());
    assert_eq!(landing.handshake, HandshakeKind::Resumed);
    assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
    assert!(landing.fell_back.is_none());
    expect(&mut stream, b"early").await;
    let Arrival::Migrated { early_data, .. } = b.arrival().await else {
        panic!("not migrated");
    };
    assert!(early_data);

    stream.write_all(b"late").await.unwrap();
    expect(&mut stream, b"late").await;
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest))
        .await
        .expect("B closes when the client does")
        .unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_stream_can_migrate_in_a_task_of_its_own() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve(service.node().target(b.address()), echo_then_notify);
    b.serve_echo(service.node());
    let connector = service.connector();
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    expect(&mut stream, b"hello").await;
    until_notified(&mut stream).await;
    // Tasks may go from thread to thread.
    let task = tokio::spawn(async move { stream.migrate(b"early").await.unwrap().at });
    assert_eq!(task.await.unwrap(), b.address());
}
