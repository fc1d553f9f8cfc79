//! The limits of a server, and what happens past each. Time is tokio's and stands still while anybody has something to do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::peer::{Setting, acceptor};
use migration_tests::{FailingStore, HeldStore};
use rustls_migration::server::{Arrival, Verdict};
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
async fn a_client_that_says_nothing_is_dropped_after_ten_seconds() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (mut peer, io) = setting.fresh();
    let began = Instant::now();
    assert_timed_out(at_b.accept(io).await, began);
    assert_eq!(at_b.counts().handshakes_timed_out(), 1);
    assert_eq!(peer.io.read(&mut [0; 1]).await.unwrap(), 0, "it is closed");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_after_its_hello_is_dropped_ten_seconds_after_its_arrival() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (mut peer, io) = setting.fresh();
    let began = Instant::now();
    let hello = async {
        sleep(Duration::from_secs(4)).await;
        peer.send().await;
    };
    let (start, ()) = tokio::join!(at_b.start(io, None, None), hello);
    let start = start.unwrap();
    assert_eq!(*start.arrival(), Arrival::Fresh);
    assert_timed_out(start.into_stream().await, began);
    assert_eq!(
        (at_b.counts().fresh(), at_b.counts().handshakes_timed_out()),
        (1, 1)
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
    let counts = at_b.counts();
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
    assert_eq!(at_b.counts().handshakes_timed_out(), 0);
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
async fn more_handshakes_than_may_be_under_way_wait_and_their_time_runs() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node().max_handshakes(1));
    let ((_silent, first), (mut beside, second)) = (setting.fresh(), setting.fresh());
    let began = Instant::now();
    let first = accepting(&at_b, first);
    sleep(Duration::from_millis(1)).await;
    // This one comes with the first and has no time left when its turn comes.
    let second = accepting(&at_b, second);
    beside.send().await;
    sleep(Duration::from_secs(5)).await;
    let later = Instant::now();
    let (mut third, io) = setting.fresh();
    let accepted = accepting(&at_b, io);
    third.say(b"hello").await;
    let mut stream = accepted.await.unwrap().unwrap();
    assert!(later.elapsed() < Duration::from_secs(6));
    assert_timed_out(first.await.unwrap(), began);
    assert!(second.await.unwrap().is_err());
    stream.read_exact(&mut [0; 5]).await.unwrap();

    // A handshake that is complete has left its place, although the connection lives.
    let (mut fourth, io) = setting.fresh();
    let accepted = accepting(&at_b, io);
    fourth.say(b"hello").await;
    accepted.await.unwrap().unwrap();
    assert_eq!(at_b.counts().handshakes_timed_out(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_question_too_many_is_refused_at_once_and_a_commit_waits_for_its_turn() {
    let setting = Setting::new();
    let store = Arc::new(HeldStore::new(setting.store()));
    let settings = setting.node().nonce_store(store.clone());
    let at_b = acceptor(settings.max_store_questions(1));
    store.answer();
    let (mut first, io) = setting.moved(b"early").await;
    first.send().await;
    let mut stream = at_b.accept(io).await.unwrap();

    // The store does not answer the second.
    let (mut second, io) = setting.moved(b"early").await;
    second.send().await;
    let waiting = accepting(&at_b, io);
    tokio::task::yield_now().await;
    let (mut third, io) = setting.moved(b"early").await;
    third.send().await;
    let began = Instant::now();
    let start = at_b.start(io, None, None).await.unwrap();
    assert_eq!(
        *start.arrival(),
        Arrival::Declined(Verdict::StoreUnavailable)
    );
    assert_eq!(began.elapsed(), Duration::ZERO);
    let landing = third.say(b"all the same");
    let (landed, ()) = tokio::join!(start.into_stream(), landing);
    landed.unwrap();

    // Nor is there a place for the first one's commit, until it does.
    let finished = first.say(b"later");
    let answered = async {
        sleep(Duration::from_millis(500)).await;
        assert_eq!(at_b.counts().committed(), 0);
        store.answer();
    };
    let (done, (), ()) = tokio::join!(stream.handshake(), finished, answered);
    done.unwrap();
    let counts = at_b.counts();
    assert_eq!((counts.committed(), counts.commits_failed()), (1, 0));
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
    let at_b = acceptor(setting.service.node_with(config).answers_for([setting.b]));
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
        assert_eq!(at_b.counts().migrated(), 2);
    }
}
