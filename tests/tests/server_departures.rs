//! What ends a departure at the server: a client that leaves, one that stays, one that never reads, and hand-overs that
//! fail. A deadline never says a clean end, and never for bytes that only wait.
//!
//! Time is tokio's: it passes only when nobody has anything left to do.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use migration_tests::peer::{Peer, Setting, acceptor};
use migration_tests::watched::{Pace, Watched, WhenTold};
use rustls_migration::Connection as _;
use rustls_migration::MoveKind;
use rustls_migration::server::{MigrationServerBuilder, NotifyError, OfferError};
use rustls_migration::tokio::{
    DepartureOverdue, DepartureStatus, DrainPlan, MigrationAcceptor, TlsStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::{Instant, sleep, timeout};

fn elsewhere() -> SocketAddr {
    "127.0.0.4:443".parse().unwrap()
}

fn plan(deadline: Duration) -> DrainPlan {
    DrainPlan::to([(elsewhere(), 1)])
        .spread_over(Duration::ZERO)
        .deadline(deadline)
}

fn assert_overdue<T: std::fmt::Debug>(result: io::Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(error.get_ref().unwrap().is::<DepartureOverdue>());
}

/// The failure inside an error.
fn failure<T: std::fmt::Debug>(result: io::Result<T>) -> OfferError {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    *error.get_ref().unwrap().downcast_ref().unwrap()
}

/// A client at a server's application, joined by a pipe of so many bytes each way.
async fn joined(
    setting: &Setting,
    at: &MigrationAcceptor,
    pipe: usize,
) -> (Peer, TlsStream<DuplexStream>) {
    let (mut peer, _) = setting.fresh();
    let (client, server) = duplex(pipe);
    peer.io = client;
    let (stream, ()) = tokio::join!(at.accept(server), peer.say(b"hello"));
    let mut stream = stream.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    (peer, stream)
}

const PIPE: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn an_overdue_client_is_told_nothing_and_the_applications_calls_fail_each_time() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (peer, mut stream) = joined(&setting, &at_b, PIPE).await;
    let client = Watched::start(peer, b"");
    stream.migrate_to(elsewhere(), None).await.unwrap();
    let told = Instant::now();
    stream.write_all(b"in the middle of").await.unwrap();
    assert_overdue(stream.read(&mut [0; 1]).await);
    assert_eq!(told.elapsed().as_secs(), 10);
    for _ in 0..2 {
        assert_overdue(stream.read(&mut [0; 1]).await);
        assert_overdue(stream.write(b"an answer").await);
        assert_overdue(stream.flush().await);
        assert_overdue(stream.handshake().await);
        assert_overdue(stream.notify().await);
        assert_overdue(stream.offer(elsewhere(), None).await);
        assert_overdue(stream.migrate_to(elsewhere(), None).await);
    }
    let (end, at) = client.end().await;
    assert_eq!(end, Err(io::ErrorKind::UnexpectedEof));
    assert_eq!(at.duration_since(told).as_secs(), 11);
}

#[tokio::test(start_paused = true)]
async fn an_application_may_still_end_the_stream_of_an_overdue_client_by_itself() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (peer, mut stream) = joined(&setting, &at_b, PIPE).await;
    let client = Watched::start(peer, b"");
    stream.migrate_to(elsewhere(), None).await.unwrap();
    assert_overdue(stream.read(&mut [0; 1]).await);
    stream.shutdown().await.unwrap();
    assert_eq!(client.end().await.0, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_escapes_neither_deadline() {
    for drained in [true, false] {
        let setting = Setting::new();
        let at_b = acceptor(setting.node());
        let (peer, mut stream) = joined(&setting, &at_b, 4096).await;
        // More than fits anywhere: the notice has to wait.
        let full = timeout(Duration::from_millis(1), stream.write_all(&[0; 1 << 20]));
        full.await.unwrap_err();
        let (started, handle) = (Instant::now(), stream.handle());
        let expected = match drained {
            true => Duration::from_secs(30),
            false => Duration::from_secs(10),
        };
        let drain = drained.then(|| at_b.drain(plan(expected)));
        if !drained {
            handle.migrate_to(elsewhere());
        }
        let given_up = timeout(2 * expected, stream.write_all(&[0; 1 << 20])).await;
        assert_overdue(given_up.expect("nobody gives it up"));
        let waited = started.elapsed();
        assert_eq!(waited.as_secs(), expected.as_secs(), "{waited:?}");
        assert_eq!(handle.status(), DepartureStatus::Overdue);
        if let Some(drain) = drain {
            let progress = drain.finished().await.progress;
            assert_eq!((progress.forced, progress.moved), (1, 0));
        }
        drop(peer);
    }
}

/// 200 kB a second.
const SLOW: Pace = Pace {
    bytes: 2000,
    pause: Duration::from_millis(10),
};

/// What a reader at that pace takes twenty seconds to read.
const LONG: usize = 4_000_000;

#[tokio::test(start_paused = true)]
async fn a_steady_reader_gets_its_notice_from_behind_megabytes_and_leaves_in_time() {
    // Whether the queue is in the transport, where nobody sees it, or before it.
    for (drained, pipe) in [(true, 8 << 20), (true, 1 << 16), (false, 1 << 16)] {
        let setting = Setting::new();
        let at_b = acceptor(setting.node());
        let (peer, mut stream) = joined(&setting, &at_b, pipe).await;
        let client = Watched::paced(peer, b"", SLOW, WhenTold::ClosesItsSide);
        let handle = stream.handle();
        let started = Instant::now();
        let answer = vec![0; LONG];
        let writing = tokio::spawn(async move {
            stream.write_all(&answer).await?;
            stream.flush().await?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await?;
            stream.shutdown().await
        });
        // The queue is as long as it gets.
        sleep(Duration::from_secs(1)).await;
        let drain = drained.then(|| at_b.drain(plan(Duration::from_secs(60))));
        handle.migrate_to(elsewhere());
        writing.await.unwrap().unwrap();
        let seen = client.until(|seen| seen.end.is_some()).await;
        assert_eq!(seen.plaintext, LONG);
        assert!(seen.told.is_some());
        assert_eq!(seen.end.unwrap().0, Ok(()));
        assert!(started.elapsed() > Duration::from_secs(15), "{pipe}");
        if let Some(drain) = drain {
            let progress = drain.finished().await.progress;
            assert_eq!((progress.forced, progress.moved), (0, 1), "{pipe}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drains_deadline_counts_and_no_other_be_it_longer_or_shorter() {
    let departure = Duration::from_secs(10);
    for (drain, told_before) in [(60, false), (60, true), (5, false), (5, true)] {
        let setting = Setting::new();
        let at_b = acceptor(setting.node().departure_deadline(departure));
        let (peer, mut stream) = joined(&setting, &at_b, PIPE).await;
        let client = Watched::start(peer, b"");
        if told_before {
            stream.migrate_to(elsewhere(), None).await.unwrap();
        }
        let started = Instant::now();
        let drained = at_b.drain(plan(Duration::from_secs(drain)));
        client.until(|seen| seen.told.is_some()).await;
        if !told_before {
            // Nor does another notice bring the other deadline back.
            stream.migrate_to(elsewhere(), None).await.unwrap();
        }
        assert_overdue(stream.read(&mut [0; 1]).await);
        assert_eq!(started.elapsed().as_secs(), drain);
        assert_eq!(drained.finished().await.progress.forced, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn no_deadline_is_too_long() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node().departure_deadline(Duration::MAX));
    let (peer, mut stream) = joined(&setting, &at_b, PIPE).await;
    let client = Watched::start(peer, b"");
    stream.migrate_to(elsewhere(), None).await.unwrap();
    sleep(Duration::from_secs(365 * 24 * 3600)).await;
    stream.write_all(b"still here").await.unwrap();
    client.until(|seen| seen.plaintext == 10).await;

    let at_b = acceptor(setting.node());
    let (peer, _stream) = joined(&setting, &at_b, PIPE).await;
    let client = Watched::start(peer, b"");
    let endless = DrainPlan::to([(elsewhere(), 1)]).deadline(Duration::MAX);
    let drain = at_b.drain(endless.spread_over(Duration::MAX));
    sleep(Duration::from_secs(3600)).await;
    assert!(client.seen().told.is_none(), "its turn comes some time");
    drain.abort();
    drop(at_b.drain(plan(Duration::MAX)));
    client.until(|seen| seen.told.is_some()).await;
}

/// A client that has been told to go on elsewhere with the stream, and has closed its side.
async fn left(setting: &Setting, at: &MigrationAcceptor) -> (Peer, TlsStream<DuplexStream>) {
    let (mut peer, mut stream) = joined(setting, at, PIPE).await;
    stream
        .migrate_to(elsewhere(), Some(b"first"))
        .await
        .unwrap();
    peer.connection.send_close_notify();
    peer.send().await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(stream.handle().status(), DepartureStatus::Left);
    (peer, stream)
}

/// How a connection ended to its client, and whether it was handed over.
async fn end_of(peer: Peer) -> (Result<(), io::ErrorKind>, bool) {
    let mut peer = peer;
    loop {
        let end = match peer.connection.fill_buf() {
            Ok([]) => Ok(()),
            Ok(plaintext) => panic!("{plaintext:?}"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                peer.receive_some(16_384).await.unwrap();
                continue;
            }
            Err(error) => Err(error.kind()),
        };
        let handed_over = peer.connection.handed_over();
        return (end, handed_over.is_some_and(|result| result.is_ok()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_failed_is_an_error_each_time_and_never_a_clean_end() {
    for overdue in [false, true] {
        let setting = Setting::new();
        let at_b = acceptor(sealing(&setting, 1));
        let (peer, mut stream) = left(&setting, &at_b).await;
        assert_eq!(failure(stream.shutdown().await), OfferError::SealLimit);
        if overdue {
            let drain = at_b.drain(plan(Duration::ZERO));
            assert_eq!(drain.finished().await.progress.forced, 1);
            assert_overdue(stream.write(b"more").await);
        }
        assert_eq!(failure(stream.shutdown().await), OfferError::SealLimit);
        drop(stream);
        let cut = (Err(io::ErrorKind::UnexpectedEof), false);
        assert_eq!(end_of(peer).await, cut);
    }
}

/// B, which can seal so many offers.
fn sealing(setting: &Setting, offers: u64) -> MigrationServerBuilder {
    let keys = setting.service.keys.clone().seal_limit(offers);
    let config = setting.service.server_config();
    let node = setting.service.node_of(config, "files", keys);
    node.own_addresses([setting.b])
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_lost_patience_makes_no_clean_end_of_a_hand_over() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (peer, mut stream) = left(&setting, &at_b).await;
    let drain = at_b.drain(plan(Duration::from_millis(100)));
    sleep(Duration::from_millis(200)).await;
    assert_overdue(stream.write(b"more").await);
    stream.shutdown().await.unwrap();
    assert_eq!(end_of(peer).await, (Ok(()), true));
    assert_eq!(stream.handle().status(), DepartureStatus::HandedOver);
    drop(stream);
    let progress = drain.finished().await.progress;
    assert_eq!((progress.moved, progress.forced), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_state_that_is_too_long_is_an_error_where_it_is_set_and_the_former_one_stays() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (peer, mut stream) = left(&setting, &at_b).await;
    let too_long = OfferError::StateTooLong { len: 8193 };
    stream.set_state(&[1; 8192]).unwrap();
    assert_eq!(stream.set_state(&[2; 8193]), Err(too_long));
    assert_eq!(stream.handle().set_state(&[2; 8193]), Err(too_long));
    stream.shutdown().await.unwrap();
    assert_eq!(end_of(peer).await, (Ok(()), true));
}

#[tokio::test(start_paused = true)]
async fn an_offer_after_a_notice_is_refused() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node().target(elsewhere()));
    let (_peer, mut stream) = joined(&setting, &at_b, PIPE).await;
    stream.notify().await.unwrap();
    for state in [None, Some(&b"stale"[..])] {
        let refused = stream.offer(elsewhere(), state).await;
        assert_eq!(failure(refused), OfferError::UnderWay);
    }
}

/// How an application comes to a notice.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    Consent,
    OfferOfTheStream,
    OfferOfTheStreamTakenBack,
}

#[tokio::test(start_paused = true)]
async fn a_notice_moves_what_the_application_consents_to_by_then() {
    for (before, kind) in [
        (Before::Nothing, MoveKind::Connection),
        (Before::Consent, MoveKind::Stream),
        (Before::OfferOfTheStream, MoveKind::Stream),
        (Before::OfferOfTheStreamTakenBack, MoveKind::Connection),
    ] {
        let setting = Setting::new();
        let at_b = acceptor(setting.node().target(elsewhere()));
        let (mut peer, mut stream) = joined(&setting, &at_b, PIPE).await;
        match before {
            Before::Nothing => {}
            Before::Consent => stream.set_state(b"state").unwrap(),
            Before::OfferOfTheStream => {
                stream.offer(elsewhere(), Some(b"state")).await.unwrap();
            }
            Before::OfferOfTheStreamTakenBack => {
                stream.offer(elsewhere(), Some(b"state")).await.unwrap();
                stream.withdraw_state();
            }
        }
        stream.notify().await.unwrap();
        stream.write_all(b".").await.unwrap();
        assert_eq!(peer.hear().await, b".");
        let offered = peer.connection.offered_kind();
        assert_eq!(offered, Some(kind), "{before:?}");
        peer.connection.send_close_notify();
        peer.send().await;
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        stream.shutdown().await.unwrap();
        let handed_over = kind == MoveKind::Stream;
        assert_eq!(end_of(peer).await, (Ok(()), handed_over), "{before:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_that_failed_leaves_consent_as_it_was() {
    let setting = Setting::new();
    let at_b = acceptor(sealing(&setting, 2));
    let (mut peer, mut stream) = joined(&setting, &at_b, PIPE).await;
    let too_long = stream.migrate_to(elsewhere(), Some(&[0; 8193])).await;
    assert_eq!(failure(too_long), OfferError::StateTooLong { len: 8193 });
    stream
        .migrate_to(elsewhere(), Some(b"state"))
        .await
        .unwrap();
    stream
        .migrate_to(elsewhere(), Some(b"state"))
        .await
        .unwrap();
    let other = stream.migrate_to(elsewhere(), Some(b"other")).await;
    assert_eq!(failure(other), OfferError::SealLimit);
    // It may be on its way with the stream.
    let empty = stream.migrate_to(elsewhere(), None).await;
    assert_eq!(failure(empty), OfferError::UnderWay);
    peer.connection.send_close_notify();
    peer.send().await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    // The client was told to go on with the stream, so it must not take this for its end.
    assert_eq!(failure(stream.shutdown().await), OfferError::SealLimit);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_left_is_not_told_again() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (_peer, mut stream) = left(&setting, &at_b).await;
    let again = stream.notify().await.unwrap_err();
    let why = again.get_ref().unwrap().downcast_ref();
    assert_eq!(why, Some(&NotifyError::Closed));
    let again = stream.migrate_to(elsewhere(), None).await;
    assert_eq!(failure(again), OfferError::Closed);
}
