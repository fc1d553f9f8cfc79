//! A target that is ready beside the old server (Overlap), and then dies, or outlives it. The application never writes for a
//! target and reaches the old server.

use std::io;

use migration_tests::client::{expect, hand_off_error, until};
use migration_tests::direct::{Direct, PLACES};
use migration_tests::{Service, server_name};
use rustls_migration::server::Arrival;
use rustls_migration::tokio::{
    ConnectError, Event, HandOff, HandOffError, MigrateError, MigrationAcceptor, MigrationStream,
    TlsStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

type ServerStream = TlsStream<DuplexStream>;

/// A client at A for which B is ready, and both servers' ends.
struct Ready {
    stream: MigrationStream,
    a: ServerStream,
    b: ServerStream,
}

async fn ready() -> Ready {
    let service = Service::default();
    let network = Direct::default();
    let acceptor = |at| {
        let settings = service.node().own_addresses([at]);
        MigrationAcceptor::from(settings.build().unwrap())
    };
    let [at_a, at_b] = PLACES;
    let (mut to_a, mut to_b) = (network.listen(at_a), network.listen(at_b));
    let connector = service.connector().hand_off(HandOff::Overlap);
    let connector = connector.dialer(network);
    let (stream, a) = tokio::join!(connector.connect(server_name(), at_a), async {
        acceptor(at_a).accept(to_a.recv().await.unwrap()).await
    });
    let (mut stream, mut a) = (stream.unwrap(), a.unwrap());
    let mut events = stream.events();
    a.migrate_to(at_b, Some(b"")).await.unwrap();
    let (_, b) = tokio::join!(
        until(&mut stream, &mut events, |event| matches!(
            event,
            Event::Ready { .. }
        )),
        async { acceptor(at_b).accept(to_b.recv().await.unwrap()).await }
    );
    let b = b.unwrap();
    assert!(matches!(b.arrival(), Arrival::Migrated { .. }));
    Ready { stream, a, b }
}

/// A word from the client to `server` and back.
async fn exchange(stream: &mut MigrationStream, server: &mut ServerStream, word: &[u8]) {
    stream.write_all(word).await.unwrap();
    let mut heard = vec![0; word.len()];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, word);
    server.write_all(word).await.unwrap();
    server.flush().await.unwrap();
    expect(stream, word).await;
}

/// How B ends: it says so, or its transport is gone.
async fn end(mut server: ServerStream, in_order: bool) {
    if in_order {
        server.shutdown().await.unwrap();
    }
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn a_dead_target_is_not_gone_over_to() {
    for in_order in [true, false] {
        let Ready {
            mut stream,
            mut a,
            b,
        } = ready().await;
        let mut events = stream.events();
        end(b, in_order).await;
        // Nobody has polled the stream since.
        let refused = stream.switch();
        assert!(
            matches!(refused, Err(MigrateError::NotReady)),
            "{refused:?}"
        );
        let stayed = events.try_next();
        assert!(
            matches!(&stayed, Some(Event::Stayed { target, why })
                if *target == PLACES[1] && matches!(**why, ConnectError::Closed { .. })),
            "{stayed:?}"
        );
        exchange(&mut stream, &mut a, b"at A").await;
        assert_eq!(stream.peer_addr(), PLACES[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_only_read_or_written_sees_it_too() {
    let Ready {
        mut stream,
        mut a,
        b,
    } = ready().await;
    let mut events = stream.events();
    drop(b);
    until(&mut stream, &mut events, |event| {
        matches!(event, Event::Stayed { .. })
    })
    .await;
    let switched = stream.handle().switch();
    assert!(matches!(switched, Err(MigrateError::NotReady)));
    exchange(&mut stream, &mut a, b"at A").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_written_after_a_switch_from_outside_reaches_the_target_or_fails() {
    let Ready {
        mut stream,
        mut a,
        b,
    } = ready().await;
    drop(b);
    // The handle knows of no end, and has promised the target.
    stream.handle().switch().unwrap();
    let error = stream.write_all(b"for B alone").await.unwrap_err();
    assert!(
        matches!(hand_off_error(&error), HandOffError::TargetLost { .. }),
        "{error:?}"
    );
    let error = stream.read_u8().await.unwrap_err();
    assert!(matches!(
        hand_off_error(&error),
        HandOffError::TargetLost { .. }
    ));
    drop(stream);
    let mut heard = Vec::new();
    // The client has gone without a word, and without a byte.
    let _ = a.read_to_end(&mut heard).await;
    assert!(heard.is_empty(), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_ready_target_outlives_the_old_server() {
    for in_order in [true, false] {
        let Ready {
            mut stream,
            a,
            mut b,
        } = ready().await;
        end(a, in_order).await;
        // The old server's end is the stream's, as long as the application does not go over.
        match stream.read_u8().await {
            Err(error) if in_order => {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error:?}");
                assert!(
                    error
                        .get_ref()
                        .is_none_or(|inside| !inside.is::<HandOffError>())
                );
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof),
            Ok(byte) => panic!("unexpected: {byte}"),
        }
        stream.switch().unwrap();
        exchange(&mut stream, &mut b, b"at B").await;
        assert_eq!(stream.peer_addr(), PLACES[1]);
    }
}

#[tokio::test(start_paused = true)]
async fn and_when_it_dies_as_well_the_stream_has_ended() {
    let Ready { mut stream, a, b } = ready().await;
    let mut events = stream.events();
    end(a, true).await;
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    drop(b);
    let refused = stream.switch();
    assert!(
        matches!(refused, Err(MigrateError::NotReady)),
        "{refused:?}"
    );
    assert!(matches!(events.try_next(), Some(Event::Stayed { .. })));
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
}
