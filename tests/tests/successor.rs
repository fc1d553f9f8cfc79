//! The client's next connection, opened while its server still answers on the present one. Neither takes anything of the
//! other.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use migration_tests::client::{echoed, until_notified};
use migration_tests::network::End;
use migration_tests::node::echo;
use migration_tests::server_name;
use migration_tests::session::Content;
use migration_tests::simulated::{Pair, run};
use rustls::HandshakeKind;
use rustls_migration::MoveKind;
use rustls_migration::tokio::{
    Event, HandOff, MigrateError, MigrationStream, StreamHandle, TlsStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

const MODES: [HandOff; 3] = [HandOff::Manual, HandOff::Drain, HandOff::Overlap];

/// Answers with `len` bytes, and tells the client in the middle that its next connection goes to `target`.
async fn answer(mut stream: TlsStream<End>, len: usize, target: SocketAddr) -> io::Result<()> {
    stream.read_u8().await?;
    let content = Content::FromServer.piece(0, len);
    let (before, after) = content.split_at(len / 10);
    stream.write_all(before).await?;
    stream.migrate_to(target, None).await?;
    stream.write_all(after).await?;
    stream.shutdown().await?;
    stream.read_to_end(&mut Vec::new()).await.map(|_| ())
}

/// Reads `stream` at 200 kB/s until its end, or until it has read `limit` bytes in all.
async fn read_slowly(stream: &mut MigrationStream, read: &mut usize, limit: usize) -> bool {
    let mut buf = [0; 2000];
    while *read < limit {
        let len = stream.read(&mut buf).await.unwrap();
        if len == 0 {
            return true;
        }
        assert!(
            Content::FromServer.is_at(*read, &buf[..len]),
            "what was read is not at {read}"
        );
        *read += len;
        sleep(Duration::from_millis(10)).await;
    }
    false
}

fn resumed(successor: &MigrationStream, at: SocketAddr) {
    assert_eq!(successor.peer_addr(), at);
    let tls = successor.get_ref().unwrap();
    assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn both_connections_live_while_the_old_server_sends_a_long_answer() {
    for mode in MODES {
        for len in [100_000, 4_000_000] {
            run(async {
                let pair = Pair::new(65_536);
                let target = pair.b;
                let settings = pair.service.node();
                let settings = settings.departure_deadline(Duration::from_secs(60));
                pair.serve(pair.a, settings, move |stream| answer(stream, len, target));
                pair.serve(pair.b, pair.service.node(), echo);
                let mut stream = pair.connect(mode).await;
                let (handle, mut events) = (stream.handle(), stream.events());
                stream.write_all(b"?").await.unwrap();
                let mut read = 0;
                while !handle.is_notified() {
                    let limit = read + 1;
                    assert!(!read_slowly(&mut stream, &mut read, limit).await);
                }
                assert!(read < len, "A still sends");
                let kind = std::iter::from_fn(|| events.try_next()).find_map(|event| match event {
                    Event::Notified { kind } => Some(kind),
                    _ => None,
                });
                assert_eq!(kind, Some(MoveKind::Connection));

                let mut successor = handle.successor().await.unwrap();
                resumed(&successor, pair.b);
                let rest = len - read;
                for tenth in 1..10 {
                    echoed(&mut successor, b"at B").await;
                    let limit = len - rest + rest * tenth / 10;
                    assert!(!read_slowly(&mut stream, &mut read, limit).await);
                    assert_eq!(stream.peer_addr(), pair.a);
                }
                assert!(read_slowly(&mut stream, &mut read, usize::MAX).await);
                assert_eq!(read, len);
                // The end of one is not the end of the other.
                stream.shutdown().await.unwrap();
                drop(stream);
                echoed(&mut successor, b"still at B").await;
                successor.shutdown().await.unwrap();
                assert_eq!(successor.read(&mut [0]).await.unwrap(), 0);
            });
        }
    }
}

/// Tells the client at once that its next connection goes to `target`, and echoes.
async fn tell(
    mut stream: TlsStream<End>,
    target: SocketAddr,
    state: Option<&'static [u8]>,
) -> io::Result<()> {
    stream.migrate_to(target, state).await?;
    echo(stream).await
}

async fn told(pair: &Pair, mode: HandOff) -> (MigrationStream, StreamHandle) {
    let mut stream = pair.connect(mode).await;
    until_notified(&mut stream).await;
    let handle = stream.handle();
    (stream, handle)
}

#[test]
fn an_offer_that_was_taken_resumes_once_and_by_any_connector_of_its_client() {
    run(async {
        let pair = Pair::new(65_536);
        let target = pair.b;
        let settings = pair.service.node();
        pair.serve(pair.a, settings, move |stream| tell(stream, target, None));
        pair.serve(pair.b, pair.service.node(), echo);
        let (mut stream, handle) = told(&pair, HandOff::Drain).await;
        let offer = handle.take_offer().unwrap();
        assert!(matches!(handle.take_offer(), Err(MigrateError::NoOffer)));
        let again = handle.successor().await;
        assert!(matches!(again.unwrap_err(), MigrateError::NoOffer));
        let connector = pair.connector(HandOff::Manual);
        let mut successor = connector.resume(server_name(), offer).await.unwrap();
        resumed(&successor, pair.b);
        echoed(&mut successor, b"at B").await;
        echoed(&mut stream, b"at A").await;
    });
}

#[test]
fn another_client_begins_with_a_full_handshake() {
    run(async {
        let pair = Pair::new(65_536);
        let target = pair.b;
        let settings = pair.service.node();
        pair.serve(pair.a, settings, move |stream| tell(stream, target, None));
        pair.serve(pair.b, pair.service.node(), echo);
        let (_stream, handle) = told(&pair, HandOff::Drain).await;
        let offer = handle.take_offer().unwrap();
        let other = pair.service.lenient_connector();
        let other = other.dialer(pair.network.clone());
        let mut successor = other.resume(server_name(), offer).await.unwrap();
        let tls = successor.get_ref().unwrap();
        assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Full));
        echoed(&mut successor, b"at B").await;
    });
}

#[test]
fn a_handle_opens_the_successor_of_a_stream_that_is_gone() {
    run(async {
        let pair = Pair::new(65_536);
        let target = pair.b;
        let settings = pair.service.node();
        pair.serve(pair.a, settings, move |stream| tell(stream, target, None));
        pair.serve(pair.b, pair.service.node(), echo);
        let (stream, handle) = told(&pair, HandOff::Manual).await;
        drop(stream);
        let mut successor = handle.successor().await.unwrap();
        resumed(&successor, pair.b);
        echoed(&mut successor, b"at B").await;
    });
}

#[test]
fn a_target_that_is_not_there_is_an_error_and_the_stream_goes_on() {
    run(async {
        let pair = Pair::new(65_536);
        let target = pair.b;
        let settings = pair.service.node();
        pair.serve(pair.a, settings, move |stream| tell(stream, target, None));
        let (mut stream, handle) = told(&pair, HandOff::Drain).await;
        let error = handle.successor().await.unwrap_err();
        assert!(matches!(error, MigrateError::Unreachable(_)), "{error:?}");
        echoed(&mut stream, b"at A").await;
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    });
}

#[test]
fn an_offer_for_the_stream_itself_is_nobody_elses() {
    run(async {
        let pair = Pair::new(65_536);
        let target = pair.b;
        let settings = pair.service.node();
        pair.serve(pair.a, settings, move |stream| {
            tell(stream, target, Some(b"state"))
        });
        pair.serve(pair.b, pair.service.node(), echo);
        let (mut stream, handle) = told(&pair, HandOff::Manual).await;
        let refused = handle.successor().await.unwrap_err();
        assert!(matches!(refused, MigrateError::StreamOffer), "{refused:?}");
        let refused = handle.take_offer().unwrap_err();
        assert!(matches!(refused, MigrateError::StreamOffer), "{refused:?}");
        // It has not been used up.
        let outcome = stream.migrate(b"").await.unwrap();
        assert_eq!((outcome.at, outcome.fell_back.is_none()), (pair.b, true));
        echoed(&mut stream, b"at B").await;
    });
}

#[test]
fn a_hand_over_cannot_be_taken_from_the_stream_that_follows_it() {
    run(async {
        let pair = Pair::new(65_536);
        let target = pair.b;
        let settings = pair.service.node();
        pair.serve(pair.a, settings, move |stream| {
            tell(stream, target, Some(b"state"))
        });
        pair.serve(pair.b, pair.service.node(), echo);
        let mut stream = pair.connect(HandOff::Drain).await;
        let (handle, mut events) = (stream.handle(), stream.events());
        let thief = async {
            while let Some(event) = events.next().await {
                // At no time of the hand-over.
                let taken = handle.take_offer();
                assert!(
                    matches!(
                        taken,
                        Err(MigrateError::StreamOffer | MigrateError::NoOffer)
                    ),
                    "{taken:?}"
                );
                if let Event::Migrated(outcome) = event {
                    return outcome.at;
                }
            }
            panic!("the stream has not moved");
        };
        let moved = async {
            echoed(&mut stream, b"from here to there").await;
            // Nothing more is said, and it does not end.
            let read = timeout(Duration::from_secs(60), stream.read_u8()).await;
            assert!(read.is_err(), "{read:?}");
        };
        assert_eq!(tokio::join!(thief, moved).0, target);
    });
}
