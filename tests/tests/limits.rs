//! The limits of a server, and what happens past each. Time is tokio's and stands still while anybody has something to do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::peer::{Setting, acceptor};
use migration_tests::{FailingStore, HeldStore};
use rustls_migration::server::Arrival;
use rustls_migration::tokio::{HandshakeTimeout, MigrationAcceptor, TlsStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, sleep};

/// Checks that this is a handshake that took ten seconds from `began`.
fn assert_timed_out<T>(result: io::Result<T>, began: Instant) {
    let error = result.err().expect("it took too long");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(error.get_ref().unwrap().is::<HandshakeTimeout>());
    // The timer's resolution is a millisecond.
    let over = began.elapsed().checked_sub(Duration::from_secs(10));
    assert!(
        over.is_some_and(|over| over < Duration::from_millis(5)),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn after_early_data_the_rest_of_the_handshake_has_ten_seconds_too() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (mut peer, io) = setting.moved(b"early").await;
    peer.send().await;
    let began = Instant::now();
    let mut stream = at_b.accept(io).await.unwrap();
    let mut buf = [0; 5];
    stream.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"early");
    assert_timed_out(stream.read(&mut buf).await, began);
    // It stays so, and counts once.
    assert_timed_out(stream.handshake().await, began);
    let counts = at_b.stats();
    assert_eq!((counts.handshakes_timed_out(), counts.committed()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_in_time_is_not_dropped_because_the_application_was_late() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (mut peer, io) = setting.moved(b"early").await;
    peer.send().await;
    let mut stream = at_b.accept(io).await.unwrap();
    stream.flush().await.unwrap();
    peer.say(b"later").await;
    sleep(Duration::from_secs(3600)).await;
    let mut buf = [0; 10];
    stream.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"earlylater");
    sleep(Duration::from_secs(3600)).await;
    stream.write_all(b"still here").await.unwrap();
    assert_eq!(peer.hear().await, b"still here");
    assert_eq!(at_b.stats().handshakes_timed_out(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_stores_answer_counts_in_the_handshakes_time() {
    let setting = Setting::new();
    let hung = Arc::new(FailingStore::Hung);
    let patient = Duration::from_secs(60);
    let at_b = acceptor(
        setting
            .node()
            .nonce_store(hung)
            .nonce_store_timeout(patient),
    );
    let (mut peer, io) = setting.moved(b"early").await;
    peer.send().await;
    let began = Instant::now();
    assert_timed_out(at_b.accept(io).await, began);
}

/// Accepts in a task of its own.
fn accepting(
    at: &MigrationAcceptor,
    io: DuplexStream,
) -> tokio::task::JoinHandle<io::Result<TlsStream<DuplexStream>>> {
    let at = at.clone();
    tokio::spawn(async move { at.accept(io).await })
}

#[tokio::test(start_paused = true)]
async fn more_handshakes_than_may_be_under_way_wait_for_so_long() {
    let setting = Setting::new();
    let patience = Duration::from_secs(5);
    let at_b = acceptor(setting.node().max_handshakes(1).hello_timeout(patience));
    let ((mut stops, first), (mut beside, second)) = (setting.fresh(), setting.fresh());
    let began = Instant::now();
    let first = accepting(&at_b, first);
    stops.send().await;
    sleep(Duration::from_millis(1)).await;
    let second = accepting(&at_b, second);
    beside.send().await;
    // The first one holds the only place for longer than that.
    assert!(second.await.unwrap().is_err());
    assert!(began.elapsed() < patience + Duration::from_millis(5));
    let (mut third, io) = setting.fresh();
    sleep(Duration::from_secs(2)).await;
    let accepted = accepting(&at_b, io);
    third.say(b"hello").await;
    let mut stream = accepted.await.unwrap().unwrap();
    assert_timed_out(first.await.unwrap(), began);
    stream.read_exact(&mut [0; 5]).await.unwrap();

    // A handshake that is complete has left its place, although the connection lives.
    let (mut fourth, io) = setting.fresh();
    let accepted = accepting(&at_b, io);
    fourth.say(b"hello").await;
    accepted.await.unwrap().unwrap();
    assert_eq!(at_b.stats().handshakes_timed_out(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_commit_does_not_wait_for_claims() {
    let setting = Setting::new();
    let store = Arc::new(HeldStore::new(setting.store()));
    let settings = setting.node().nonce_store(store.clone());
    let at_b = acceptor(settings.max_nonce_store_requests(1));
    store.answer();
    let (mut first, io) = setting.moved(b"early").await;
    first.send().await;
    let mut stream = at_b.accept(io).await.unwrap();

    // The store does not answer the second.
    let (mut second, io) = setting.moved(b"early").await;
    second.send().await;
    let waiting = accepting(&at_b, io);
    tokio::task::yield_now().await;
    let began = Instant::now();
    let (done, ()) = tokio::join!(stream.handshake(), first.say(b"later"));
    done.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    let counts = at_b.stats();
    assert_eq!((counts.committed(), counts.commits_failed()), (1, 0));
    store.answer();
    assert!(matches!(
        waiting.await.unwrap().unwrap().arrival(),
        Arrival::Migrated {
            early_data: true,
            ..
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn more_early_data_than_a_node_takes_ends_the_handshake() {
    let setting = Setting::new();
    let mut config = setting.service.server_config();
    config.max_early_data_size = 1000;
    let at_b = acceptor(setting.service.node_with(config).own_addresses([setting.b]));
    for (len, taken) in [(1000, true), (1001, false)] {
        let early_data = vec![7; len];
        let (mut peer, io) = setting.moved(&early_data).await;
        peer.send().await;
        let accepted = at_b.accept(io).await;
        assert_eq!(accepted.is_ok(), taken, "{len} bytes: {accepted:?}");
        if let Ok(mut stream) = accepted {
            let mut read = vec![0; len];
            stream.read_exact(&mut read).await.unwrap();
            assert_eq!(read, early_data);
            continue;
        }
        let refused = accepted.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        let why = format!("{refused:?}");
        assert!(why.contains("TooMuchEarlyDataReceived"), "{why}");
        assert_eq!(at_b.stats().migrated(), 2);
    }
}
