//! A stream's handle: cloned, shared between tasks, and harmless when its stream is gone.

use std::time::Duration;

use migration_tests::client::{Chosen, echoed, expect, until_notified};
use migration_tests::{Node, Service, server_name};
use rustls_migration::MoveKind;
use rustls_migration::tokio::{Event, HandOff, MigrateError, StreamHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

fn is_shared<T: Clone + Send + Sync + 'static>() {}

#[test]
fn a_handle_can_be_shared() {
    is_shared::<StreamHandle>();
}

#[tokio::test]
async fn the_events_end_with_the_stream_and_the_rest_of_a_handle_does_nothing_then() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve_echo(service.node().target(b.address()));
    b.serve_echo(service.node());
    let connector = service.connector().hand_off(HandOff::Overlap);
    let connector = connector.target_resolver(Chosen(vec![b.address()]));
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    let handle = stream.handle();
    let (mut before, other) = (handle.events(), handle.clone());
    let waiting = tokio::spawn(async move { while before.next().await.is_some() {} });
    echoed(&mut stream, b"hello").await;
    let cork = handle.cork();
    drop(stream);
    let ended = timeout(Duration::from_secs(10), waiting).await;
    ended.expect("the events end").unwrap();
    // Who begins to listen now hears the same.
    assert!(other.events().next().await.is_none());
    assert!(other.events().try_next().is_none());
    assert_eq!(other.peer_addr(), a.address());
    assert!(!other.is_notified());
    assert!(matches!(other.switch(), Err(MigrateError::NotReady)));
    drop(cork);
    drop(other.cork());
    // The offer outlives the stream, and is there once.
    let mut next = other.successor().await.unwrap();
    assert_eq!(next.peer_addr(), b.address());
    assert!(handle.offered_target().is_none());
    assert!(matches!(handle.take_offer(), Err(MigrateError::NoOffer)));
    let none = handle.successor().await;
    assert!(matches!(none, Err(MigrateError::NoOffer)), "{none:?}");
    echoed(&mut next, b"at B").await;
}

#[tokio::test]
async fn an_offer_for_the_stream_itself_is_not_for_another_connection() {
    let service = Service::default();
    let (mut a, b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let target = b.address();
    a.serve(service.node(), move |mut stream| async move {
        stream.migrate_to(target, Some(b"")).await?;
        migration_tests::node::echo(stream).await
    });
    let connector = service.connector();
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    until_notified(&mut stream).await;
    let handle = stream.handle();
    assert!(matches!(
        handle.take_offer(),
        Err(MigrateError::StreamOffer)
    ));
    let refused = handle.successor().await;
    assert!(matches!(refused, Err(MigrateError::StreamOffer)));
    assert!(handle.offered_target().is_some());
    echoed(&mut stream, b"at A").await;
}

#[tokio::test]
async fn a_successor_works_beside_a_stream_that_another_task_owns() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let target = b.address();
    a.serve(service.node(), move |mut stream| async move {
        let mut word = [0; 5];
        stream.read_exact(&mut word).await?;
        stream.migrate_to(target, None).await?;
        // It finishes what it does.
        stream.read_exact(&mut word).await?;
        stream.write_all(&[7; 100_000]).await?;
        stream.shutdown().await
    });
    b.serve_echo(service.node());
    let connector = service.connector().hand_off(HandOff::Drain);
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    let handle = stream.handle();
    let mut events = handle.events();
    stream.write_all(b"hello").await.unwrap();
    let owner = tokio::spawn(async move {
        // Nobody else touches the stream. Its server waits for the second word.
        let mut first = [0];
        let early = timeout(Duration::from_millis(200), stream.read(&mut first)).await;
        assert!(early.is_err(), "{early:?}");
        stream.write_all(b"again").await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        (stream.peer_addr(), all.len())
    });
    loop {
        match events.next().await.unwrap() {
            Event::Notified { kind } => break assert_eq!(kind, MoveKind::Connection),
            Event::Offered { .. } | Event::Marked { .. } => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    let mut next = handle.successor().await.unwrap();
    assert_eq!(next.peer_addr(), target);
    next.write_all(b"the next request").await.unwrap();
    expect(&mut next, b"the next request").await;
    // The first one's bytes are complete, and come from where it was.
    assert_eq!(owner.await.unwrap(), (a.address(), 100_000));
}
