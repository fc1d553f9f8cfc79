//! What a client's errors tell, and to whom: each is found by a downcast, in every call, as often as it is asked for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::client::{echoed, expect, hand_off_error, until};
use migration_tests::direct::{Direct, PLACES};
use migration_tests::node::echo;
use migration_tests::{Node, Service, server_name};
use rustls_migration::tokio::{
    Event, HandOff, HandOffError, MigrateError, MigrationAcceptor, MigrationStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn a_migration_after_the_application_closed_its_side_is_an_error() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve_echo(service.node().target(b.address()));
    b.serve_echo(service.node());
    let connector = service.connector();
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    echoed(&mut stream, b"hello").await;
    stream.shutdown().await.unwrap();
    for _ in 0..2 {
        let refused = stream.migrate(b"too late").await;
        assert!(matches!(refused, Err(MigrateError::Closed)), "{refused:?}");
    }
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(stream.peer_addr(), a.address());
}

/// A stream whose old server is done and whose target is gone.
async fn stranded() -> MigrationStream {
    let service = Service::default();
    let network = Direct::default();
    let [at_a, at_b] = PLACES;
    let mut to_a = network.listen(at_a);
    let mut to_b = network.listen(at_b);
    let settings = service.node().own_addresses([at_a]);
    let acceptor = MigrationAcceptor::from(settings.build().unwrap());
    let gone = network.clone();
    tokio::spawn(async move {
        let mut stream = acceptor.accept(to_a.recv().await.unwrap()).await?;
        stream.migrate_to(at_b, Some(b"")).await?;
        drop(to_b.recv().await);
        gone.close(at_b);
        echo(stream).await
    });
    let connector = service.connector().hand_off(HandOff::Drain);
    let connector = connector.dialer(network);
    connector.connect(server_name(), at_a).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_failed_hand_off_is_found_in_each_call_and_each_time() {
    let mut stream = stranded().await;
    let mut errors = vec![stream.read_u8().await.unwrap_err()];
    for _ in 0..2 {
        errors.push(stream.read_u8().await.unwrap_err());
        errors.push(stream.write_all(b"hello").await.unwrap_err());
        errors.push(stream.flush().await.unwrap_err());
    }
    errors.push(stream.shutdown().await.unwrap_err());
    for error in &errors {
        let HandOffError::TargetLost { error: why, .. } = hand_off_error(error) else {
            panic!("{error:?}");
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        // The whole chain is there.
        let inside = error.get_ref().unwrap();
        let source = inside.source().unwrap();
        assert_eq!(source.to_string(), why.to_string());
        assert!(source.source().is_some());
    }
    let refused = stream.migrate(b"").await;
    assert!(matches!(refused, Err(MigrateError::Closed)), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn the_longest_times_are_times() {
    let service = Service::default();
    let network = Direct::default();
    let [at_a, at_b] = PLACES;
    let (mut to_a, mut to_b) = (network.listen(at_a), network.listen(at_b));
    let acceptors = PLACES.map(|at| {
        let settings = service.node().own_addresses([at]);
        MigrationAcceptor::from(settings.build().unwrap())
    });
    let [acceptor_a, acceptor_b] = acceptors;
    let closing = Arc::new(tokio::sync::Notify::new());
    let close = Arc::clone(&closing);
    tokio::spawn(async move {
        let mut stream = acceptor_a.accept(to_a.recv().await.unwrap()).await?;
        stream.migrate_to(at_b, Some(b"")).await?;
        // It says something while its end is awaited.
        stream.read_to_end(&mut Vec::new()).await?;
        stream.write_all(b"a").await?;
        stream.flush().await?;
        close.notified().await;
        stream.shutdown().await
    });
    tokio::spawn(async move {
        let stream = acceptor_b.accept(to_b.recv().await.unwrap()).await?;
        echo(stream).await
    });
    let connector = service
        .connector()
        .hand_off(HandOff::Drain)
        .connect_timeout(Duration::MAX)
        .source_timeout(Duration::MAX)
        .follow_offers_within(Duration::MAX)
        .dialer(network);
    let mut stream = connector.connect(server_name(), at_a).await.unwrap();
    expect(&mut stream, b"a").await;
    let mut events = stream.events();
    closing.notify_one();
    until(&mut stream, &mut events, |event| {
        matches!(event, Event::Migrated(_))
    })
    .await;
    echoed(&mut stream, b"at B").await;
}
