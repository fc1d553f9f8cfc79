//! What a stream that follows by itself makes of failures: it stays, or it says what is certain. It never goes on with a gap.

use std::io;
use std::net::SocketAddr;

use migration_tests::client::{echoed, expect, hand_off_error as failure, until as event};
use migration_tests::node::{ServerStream, echo};
use migration_tests::ports::unused;
use migration_tests::{Node, Service, server_name};
use rustls_migration::TicketKeys;
use rustls_migration::server::{Arrival, Verdict};
use rustls_migration::tokio::{
    ConnectError, EarlyDataOutcome, Event, HandOff, HandOffError, MigrateError, MigrationAcceptor,
    MigrationStream,
};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// Tells the client to move at its first word, then echoes, and hands over when it leaves.
async fn move_to(mut stream: ServerStream, target: SocketAddr) -> io::Result<()> {
    let mut word = [0; 5];
    stream.read_exact(&mut word).await?;
    stream.migrate_to(target, Some(&[])).await?;
    stream.write_all(&word).await?;
    echo(stream).await
}

async fn connect(service: &Service, node: &Node, mode: HandOff) -> MigrationStream {
    let connector = service.connector().hand_off(mode);
    connector
        .connect(server_name(), node.address())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_target_that_is_not_there_yet_is_dialled_again_while_the_old_server_serves() {
    for mode in [HandOff::Drain, HandOff::Overlap] {
        let service = Service::default();
        let mut a = Node::bind("127.0.0.2").await;
        let target = unused("127.0.0.3");
        a.serve(service.node(), move |stream| move_to(stream, target));
        let mut stream = connect(&service, &a, mode).await;
        let mut events = stream.events();
        stream.write_all(b"hello").await.unwrap();
        expect(&mut stream, b"hello").await;
        for _ in 0..3 {
            event(&mut stream, &mut events, |event| {
                matches!(event, Event::TargetUnreachable { .. })
            })
            .await;
            echoed(&mut stream, b"still here").await;
        }
        assert_eq!(stream.peer_addr(), a.address());
        let mut late = Node::bind_at(target).await;
        late.serve_echo(service.node());
        event(&mut stream, &mut events, |event| {
            matches!(event, Event::Ready { .. } | Event::Migrated(_))
        })
        .await;
        if mode == HandOff::Overlap {
            stream.switch().unwrap();
        }
        echoed(&mut stream, b"at last").await;
        assert!(matches!(late.arrival().await, Arrival::Migrated { .. }));
        assert_eq!(stream.peer_addr(), target);
    }
}

#[tokio::test]
async fn a_server_that_dies_while_it_is_drained_is_an_error_and_not_an_end() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let target = b.address();
    b.serve_echo(service.node());
    a.serve(service.node(), move |mut stream| async move {
        stream.migrate_to(target, Some(&[])).await?;
        // It reads to the end, and then dies.
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        Ok(())
    });
    let mut stream = connect(&service, &a, HandOff::Drain).await;
    let error = stream.read_u8().await.unwrap_err();
    assert!(
        matches!(failure(&error), HandOffError::SourceLost(_)),
        "{error:?}"
    );
    // It stays an error, for both directions.
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let error = stream.write_all(b"hello").await.unwrap_err();
    assert!(matches!(failure(&error), HandOffError::SourceLost(_)));
}

#[tokio::test]
async fn a_target_that_refuses_the_session_gets_nothing_of_it() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let target = b.address();
    a.serve(service.node(), move |stream| move_to(stream, target));
    let other = TicketKeys::generate(service.provider.secure_random).unwrap();
    let config = service.server_config();
    let (sender, mut got) = tokio::sync::mpsc::unbounded_channel();
    b.serve(
        service.node_of(config, "files", other),
        move |mut stream| {
            let sender = sender.clone();
            async move {
                let mut all = Vec::new();
                let _ = stream.read_to_end(&mut all).await;
                sender.send(all).unwrap();
                Ok(())
            }
        },
    );
    let mut stream = connect(&service, &a, HandOff::Drain).await;
    stream.write_all(b"hello").await.unwrap();
    expect(&mut stream, b"hello").await;
    let error = loop {
        // What is written meanwhile goes to A, or is held and then goes nowhere.
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
    } = failure(&error)
    else {
        panic!("{error:?}");
    };
    assert!(matches!(**why, ConnectError::SessionRefused { .. }));
    assert_eq!(*written_since, EarlyDataOutcome::None);
    // In draft -03 a ticket that B cannot open is any ticket.
    assert!(matches!(
        b.arrival().await,
        Arrival::Declined(Verdict::UnknownTicket) | Arrival::Fresh
    ));
    assert_eq!(got.recv().await.unwrap(), b"");
}

#[tokio::test]
async fn a_server_that_ends_the_stream_itself_ends_it() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let mut b = Node::bind("127.0.0.3").await;
    b.serve_echo(service.node());
    let target = b.address();
    a.serve(service.node(), move |mut stream| async move {
        stream.migrate_to(target, Some(&[])).await?;
        stream.write_all(b"goodbye").await?;
        // It does not wait for the client's end.
        stream.shutdown().await
    });
    let mut stream = connect(&service, &a, HandOff::Drain).await;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"goodbye");
    assert_eq!(stream.peer_addr(), a.address());
}

#[tokio::test]
async fn a_stream_that_may_not_migrate_again_says_so_and_stays() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let target = unused("127.0.0.3");
    a.serve(service.node(), move |stream| move_to(stream, target));
    let none = rustls_migration::client::MigrationLimit {
        count: 0,
        window: time::Duration::HOUR,
    };
    let client = service.client_with(service.client_config()).limit(none);
    let connector = rustls_migration::tokio::MigrationConnector::from(client.build().unwrap());
    let connector = connector.hand_off(HandOff::Drain);
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    let mut events = stream.events();
    stream.write_all(b"hello").await.unwrap();
    expect(&mut stream, b"hello").await;
    event(&mut stream, &mut events, |event| {
        matches!(event, Event::Refused { why, .. } if matches!(**why, MigrateError::TooOften))
    })
    .await;
    echoed(&mut stream, b"still here").await;
}

#[tokio::test]
async fn overlap_goes_over_when_the_application_says_so() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let target = b.address();
    a.serve(service.node(), move |stream| move_to(stream, target));
    b.serve_echo(service.node());
    let mut stream = connect(&service, &a, HandOff::Overlap).await;
    assert!(matches!(stream.switch(), Err(MigrateError::NotReady)));
    let mut events = stream.events();
    stream.write_all(b"hello").await.unwrap();
    expect(&mut stream, b"hello").await;
    event(&mut stream, &mut events, |event| {
        matches!(event, Event::Ready { .. })
    })
    .await;
    // The session is resumed at B, and A serves.
    assert!(matches!(b.arrival().await, Arrival::Migrated { .. }));
    echoed(&mut stream, b"at A").await;
    assert_eq!(stream.peer_addr(), a.address());

    stream.write_all(b"last at A, ").await.unwrap();
    stream.switch().unwrap();
    stream.write_all(b"first at B").await.unwrap();
    expect(&mut stream, b"last at A, first at B").await;
    assert_eq!(stream.peer_addr(), b.address());
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

/// A target that closes its first connection before a word was said, and serves the next one as an echo.
async fn impatient(service: &Service, closed: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.3:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let settings = service.node().own_addresses([target]);
    let acceptor = MigrationAcceptor::from(settings.build().unwrap());
    tokio::spawn(async move {
        drop(listener.accept().await.unwrap());
        closed.notify_one();
        let (tcp, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(tcp).await.unwrap();
        assert!(matches!(stream.arrival(), Arrival::Migrated { .. }));
        echo(stream).await.unwrap();
    });
    target
}

#[tokio::test]
async fn a_target_that_lost_patience_while_the_old_server_finished_is_dialled_again() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let closed = Arc::new(Notify::new());
    let target = impatient(&service, Arc::clone(&closed)).await;
    a.serve(service.node(), move |mut stream| {
        let closed = Arc::clone(&closed);
        async move {
            stream.migrate_to(target, Some(&[])).await?;
            stream.read_to_end(&mut Vec::new()).await?;
            closed.notified().await;
            stream.shutdown().await
        }
    });
    let mut stream = connect(&service, &a, HandOff::Drain).await;
    let mut events = stream.events();
    event(&mut stream, &mut events, |event| {
        matches!(event, Event::Migrated(_))
    })
    .await;
    assert_eq!(stream.peer_addr(), target);
    echoed(&mut stream, b"at B").await;
}

#[tokio::test]
async fn a_migration_over_a_connection_that_was_closed_meanwhile_opens_another() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let closed = Arc::new(Notify::new());
    let target = impatient(&service, Arc::clone(&closed)).await;
    a.serve(service.node(), move |stream| move_to(stream, target));
    let mut stream = connect(&service, &a, HandOff::Manual).await;
    assert!(matches!(
        stream.open_target().err(),
        Some(MigrateError::NoOffer)
    ));
    echoed(&mut stream, b"hello").await;
    let opened = stream.open_target().unwrap().await.unwrap();
    assert_eq!(opened.address(), target);
    closed.notified().await;
    let landing = stream.migrate_over(opened, b"").await.unwrap();
    assert_eq!((landing.at, landing.fell_back.is_none()), (target, true));
    echoed(&mut stream, b"at B").await;
}
