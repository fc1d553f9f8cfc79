//! The application protocol (ALPN) is negotiated anew by each handshake, and a stream in the middle of one cannot go on in
//! another: nothing of it reaches a target that speaks something else.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use migration_tests::client::{echoed, expect, hand_off_error, until, until_notified};
use migration_tests::node::{ServerStream, echo};
use migration_tests::{Node, Service, server_name};
use rustls_migration::server::MigrationServerBuilder;
use rustls_migration::tokio::{
    ConnectError, EarlyDataOutcome, Event, HandOff, HandOffError, MigrateError, MigrationStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const H2: &[u8] = b"h2";
const HTTP: &[u8] = b"http/1.1";

fn speaking(service: &Service, protocols: &[&[u8]]) -> MigrationServerBuilder {
    let mut config = service.server_config();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    service.node_with(config)
}

/// What a node has read.
type Heard = Arc<Mutex<Vec<u8>>>;

/// Echoes and notes.
async fn note(mut stream: ServerStream, heard: Heard) -> io::Result<()> {
    let mut buf = [0; 1000];
    loop {
        let len = stream.read(&mut buf).await?;
        if len == 0 {
            return stream.shutdown().await;
        }
        heard.lock().unwrap().extend_from_slice(&buf[..len]);
        stream.write_all(&buf[..len]).await?;
    }
}

/// Tells the client to move at its first word, and echoes.
async fn move_to(mut stream: ServerStream, target: SocketAddr) -> io::Result<()> {
    let mut word = [0; 5];
    stream.read_exact(&mut word).await?;
    stream.migrate_to(target, Some(b"state")).await?;
    stream.write_all(&word).await?;
    echo(stream).await
}

struct World {
    a: Node,
    b: Node,
    /// What B has read.
    heard: Heard,
    stream: MigrationStream,
}

/// A client that speaks both, at a node that prefers h2, with an offer to one that speaks what `target_speaks` says.
async fn world(mode: HandOff, target_speaks: &[&[u8]]) -> World {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let (target, heard) = (b.address(), Heard::default());
    a.serve(speaking(&service, &[H2]), move |stream| {
        move_to(stream, target)
    });
    let noted = Arc::clone(&heard);
    b.serve(speaking(&service, target_speaks), move |stream| {
        note(stream, Arc::clone(&noted))
    });
    let mut config = service.client_config();
    config.alpn_protocols = vec![H2.to_vec(), HTTP.to_vec()];
    let connector = service.client_with(config).build().unwrap();
    let connector = rustls_migration::tokio::MigrationConnector::from(connector).hand_off(mode);
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    assert_eq!(stream.get_ref().unwrap().alpn_protocol(), Some(H2));
    stream.write_all(b"hello").await.unwrap();
    expect(&mut stream, b"hello").await;
    World {
        a,
        b,
        heard,
        stream,
    }
}

#[tokio::test]
async fn a_drained_stream_fails_at_a_target_that_speaks_something_else_and_says_nothing_to_it() {
    // Another protocol, and none at all.
    for target_speaks in [&[HTTP][..], &[]] {
        let mut world = world(HandOff::Drain, target_speaks).await;
        let stream = &mut world.stream;
        let error = loop {
            // Some of it is held for the target, and goes with the hello as early data.
            if let Err(error) = stream.write_all(b"w").await {
                break error;
            }
            match stream.read_u8().await {
                Ok(byte) => assert_eq!(byte, b'w'),
                Err(error) => break error,
            }
        };
        let HandOffError::TargetLost {
            error: why,
            written_since,
        } = hand_off_error(&error)
        else {
            panic!("{error:?}");
        };
        assert!(
            matches!(**why, ConnectError::AlpnChanged { address } if address == world.b.address()),
            "{why:?}"
        );
        assert_eq!(*written_since, EarlyDataOutcome::None);
        world.b.arrival().await;
        assert!(world.heard.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn by_overlap_it_stays_with_the_old_server() {
    let mut world = world(HandOff::Overlap, &[HTTP]).await;
    let mut events = world.stream.events();
    let stayed = until(&mut world.stream, &mut events, |event| {
        matches!(event, Event::Stayed { .. })
    })
    .await;
    assert!(
        matches!(&stayed, Event::Stayed { why, .. } if matches!(**why, ConnectError::AlpnChanged { .. })),
        "{stayed:?}"
    );
    assert!(matches!(world.stream.switch(), Err(MigrateError::NotReady)));
    echoed(&mut world.stream, b"at A").await;
    assert!(world.heard.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_immediate_migration_falls_back_to_where_its_protocol_is_spoken() {
    let mut world = world(HandOff::Manual, &[HTTP]).await;
    until_notified(&mut world.stream).await;
    let outcome = world.stream.migrate(b"hello").await.unwrap();
    assert_eq!(outcome.at, world.a.address());
    // The target has refused the early data, so it is sent again.
    assert_eq!(outcome.early_data, EarlyDataOutcome::AfterHandshake);
    let why = outcome.fell_back.unwrap();
    assert!(matches!(why.error(), ConnectError::AlpnChanged { .. }));
    expect(&mut world.stream, b"hello").await;
    let tls = world.stream.get_ref().unwrap();
    assert_eq!(tls.alpn_protocol(), Some(H2));
    assert!(world.heard.lock().unwrap().is_empty());
}

#[tokio::test]
async fn and_is_lost_when_that_is_spoken_nowhere() {
    let service = Service::default();
    let mut world = world(HandOff::Manual, &[HTTP]).await;
    until_notified(&mut world.stream).await;
    // Another node takes the first address over.
    world.a.stop_listening().await;
    let mut other = Node::bind_at(world.a.address()).await;
    let noted = Arc::clone(&world.heard);
    other.serve(speaking(&service, &[HTTP]), move |stream| {
        note(stream, Arc::clone(&noted))
    });
    let lost = world.stream.migrate(b"hello").await.unwrap_err();
    let MigrateError::Lost { target, .. } = &lost else {
        panic!("{lost:?}");
    };
    assert!(matches!(**target, ConnectError::AlpnChanged { .. }));
    assert!(world.heard.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_target_that_speaks_the_same_gets_the_stream() {
    let mut world = world(HandOff::Drain, &[H2, HTTP]).await;
    let mut events = world.stream.events();
    until(&mut world.stream, &mut events, |event| {
        matches!(event, Event::Migrated(_))
    })
    .await;
    echoed(&mut world.stream, b"at B").await;
    let tls = world.stream.get_ref().unwrap();
    assert_eq!(tls.alpn_protocol(), Some(H2));
}
