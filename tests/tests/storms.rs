//! Many clients at once, and a nonce store that is slower than they come: nobody is refused for that, and nobody who says
//! nothing is in their way. Time is tokio's and stands still while anybody has something to do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use migration_tests::client::echoed;
use migration_tests::node::echo;
use migration_tests::peer::{Peer, Setting, acceptor};
use migration_tests::{HeldStore, Node, Service, TestClock, server_name};
use migration_token::{
    BoxFuture, Claim, ClaimOutcome, CommitOutcome, MemoryNonceStore, NonceStore, StoreError,
};
use rustls_migration::server::{Arrival, Verdict};
use rustls_migration::tokio::{HandOff, HandshakeTimeout, MigrationAcceptor, StartHandshake};
use time::OffsetDateTime;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

type Started = JoinHandle<io::Result<StartHandshake<DuplexStream>>>;

/// A client of `setting` that moves to `at`, up to the verdict.
async fn presented(setting: &Setting, at: &MigrationAcceptor) -> (Peer, Started) {
    let (mut peer, io) = setting.moved(b"early").await;
    peer.send().await;
    (peer, tokio::spawn(at.start(io, None, None)))
}

async fn arrival(started: Started) -> Arrival {
    started.await.unwrap().unwrap().arrival().clone()
}

fn is_migrated(arrival: &Arrival) -> bool {
    matches!(
        arrival,
        Arrival::Migrated {
            early_data: true,
            ..
        }
    )
}

fn assert_timed_out<T>(result: io::Result<T>) {
    let error = result.err().expect("it took too long");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(error.get_ref().unwrap().is::<HandshakeTimeout>());
}

#[tokio::test(start_paused = true)]
async fn a_claim_waits_for_its_turn_as_long_as_the_store_answers_others() {
    let setting = Setting::new();
    let store = Arc::new(HeldStore::new(setting.store()));
    let settings = setting.node().nonce_store(store.clone());
    let at_b = acceptor(settings.max_nonce_store_requests(1));
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(presented(&setting, &at_b).await);
    }
    let began = Instant::now();
    // Each answer takes most of what it may: the last one waits for five times the store's timeout.
    let slowly = async {
        for _ in 0..6 {
            sleep(Duration::from_millis(900)).await;
            store.answer();
        }
    };
    let arrivals = async {
        for (_peer, started) in clients {
            assert!(is_migrated(&arrival(started).await));
        }
    };
    tokio::join!(slowly, arrivals);
    assert!(began.elapsed() > Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_nobody_refuses_everybody_within_its_timeout() {
    let setting = Setting::new();
    let store = Arc::new(HeldStore::new(setting.store()));
    let settings = setting.node().nonce_store(store);
    let at_b = acceptor(settings.max_nonce_store_requests(1));
    let began = Instant::now();
    let (_first, one) = presented(&setting, &at_b).await;
    let (_second, two) = presented(&setting, &at_b).await;
    for started in [one, two] {
        let refused = Arrival::Declined(Verdict::StoreUnavailable);
        assert_eq!(arrival(started).await, refused);
    }
    let timeout = Duration::from_secs(1);
    assert!(began.elapsed() < timeout + Duration::from_millis(5));
}

/// A store that says that it is busy a number of times, to claims and to commits.
#[derive(Debug)]
struct BusyStore {
    store: MemoryNonceStore,
    busy: AtomicUsize,
    /// Goes on by a second whenever it is busy.
    clock: TestClock,
    /// When it was asked to claim, by the asker's clock.
    asked: std::sync::Mutex<Vec<OffsetDateTime>>,
}

impl BusyStore {
    fn is_busy(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
        self.busy.fetch_update(set, get, less).is_ok()
    }
}

impl NonceStore for BusyStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>> {
        self.asked.lock().unwrap().push(claim.now);
        match self.is_busy() {
            true => {
                self.clock.advance(time::Duration::seconds(1));
                Box::pin(std::future::ready(Err(StoreError::Busy)))
            }
            false => self.store.claim(claim),
        }
    }

    fn commit(&self, claim: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>> {
        match self.is_busy() {
            true => Box::pin(std::future::ready(Err(StoreError::Busy))),
            false => self.store.commit(claim),
        }
    }

    fn remembers_since(&self) -> Option<OffsetDateTime> {
        self.store.remembers_since()
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_failed_is_made_again_while_there_is_time() {
    let setting = Setting::new();
    let store = Arc::new(BusyStore {
        store: setting.store(),
        busy: AtomicUsize::new(5),
        clock: setting.service.clock.clone(),
        asked: std::sync::Mutex::default(),
    });
    let at_b = acceptor(setting.node().nonce_store(store.clone()));
    let (_peer, started) = presented(&setting, &at_b).await;
    assert!(is_migrated(&arrival(started).await));
    // The store compares clocks, so each question says how late it is.
    let asked = store.asked.lock().unwrap();
    let took = *asked.last().unwrap() - *asked.first().unwrap();
    assert_eq!((asked.len(), took), (6, time::Duration::seconds(5)));
}

#[tokio::test]
async fn a_hand_over_waits_for_a_store_that_fails_for_a_while() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let at_b = b.address();
    a.serve(service.node(), move |mut stream| async move {
        stream.migrate_to(at_b, Some(b"state")).await?;
        echo(stream).await
    });
    let store = Arc::new(BusyStore {
        store: service.store(10),
        // Longer than a connection's claim would be made again.
        busy: AtomicUsize::new(20),
        clock: service.clock.clone(),
        asked: std::sync::Mutex::default(),
    });
    let settings = service.node().nonce_store(store);
    let settings = settings
        .nonce_store_timeout(Duration::from_millis(120))
        .handshake_timeout(Duration::from_secs(60));
    let acceptor = b.serve(settings, echo);
    let connector = service.connector().hand_off(HandOff::Drain);
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    while stream.peer_addr() != at_b {
        echoed(&mut stream, b"word").await;
    }
    echoed(&mut stream, b"there").await;
    let arrival = b.arrival().await;
    let Arrival::Migrated { state, .. } = arrival else {
        panic!("{arrival:?}");
    };
    assert_eq!(state.unwrap().as_slice(), b"state");
    assert_eq!(acceptor.stats().committed(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_takes_no_place_and_is_no_handshake() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node().max_handshakes(1));
    let (_silent, io) = setting.fresh();
    let began = Instant::now();
    let silent = tokio::spawn(at_b.accept(io));
    tokio::task::yield_now().await;
    let (mut peer, io) = setting.fresh();
    let accepted = tokio::spawn(at_b.accept(io));
    peer.say(b"hello").await;
    accepted.await.unwrap().unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_timed_out(silent.await.unwrap());
    let patience = Duration::from_secs(30);
    assert!((patience..patience + Duration::from_millis(5)).contains(&began.elapsed()));
    let counts = at_b.stats();
    assert_eq!((counts.silent(), counts.handshakes_timed_out()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_time_for_a_handshake_runs_from_the_hello() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (mut peer, io) = setting.fresh();
    let accepted = tokio::spawn(at_b.accept(io));
    sleep(Duration::from_secs(25)).await;
    let hello = peer.send().await;
    assert!(!hello.is_empty());
    let began = Instant::now();
    assert_timed_out(accepted.await.unwrap());
    let over = began.elapsed() - Duration::from_secs(10);
    assert!(over < Duration::from_millis(5), "{over:?}");
    assert_eq!(at_b.stats().handshakes_timed_out(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_loses_none_of_its_handshakes_time() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node().max_handshakes(1));
    // This one stops after its hello, and holds the only place for ten seconds.
    let (mut stops, io) = setting.fresh();
    let stopped = tokio::spawn(at_b.accept(io));
    stops.send().await;
    tokio::task::yield_now().await;
    let (mut peer, io) = setting.moved(b"early").await;
    peer.send().await;
    let mut stream = at_b.accept(io).await.unwrap();
    assert_timed_out(stopped.await.unwrap());
    // It has ten seconds of its own from now on.
    sleep(Duration::from_secs(9)).await;
    let (done, ()) = tokio::join!(stream.handshake(), peer.say(b"later"));
    done.unwrap();
}

#[tokio::test]
async fn a_node_is_ready_when_its_store_answers_and_remembers_long_enough() {
    let setting = Setting::new();
    let ready = acceptor(setting.node()).readiness().await;
    assert!(ready.is_ready(), "{ready:?}");

    let held = Arc::new(HeldStore::new(setting.store()));
    let settings = setting.node().nonce_store(held);
    let settings = settings.nonce_store_timeout(Duration::from_millis(20));
    let out_of_reach = acceptor(settings).readiness().await;
    assert!(!out_of_reach.nonce_store && !out_of_reach.is_ready());
    assert!(out_of_reach.admits_tokens);

    let clock: TestClock = setting.service.clock.clone();
    let now = rustls_migration::Clock::now(&clock);
    let monotonic = Arc::new(clock.clone());
    let young = Arc::new(MemoryNonceStore::with_monotonic(10, now, monotonic));
    let settings = setting.node().nonce_store(young);
    let node = acceptor(settings.clock_skew(Duration::from_secs(5)));
    assert!(!node.readiness().await.admits_tokens);
    clock.advance(time::Duration::seconds(5));
    assert!(node.readiness().await.is_ready());

    let node = acceptor(setting.node().max_handshakes(1));
    let (mut stops, io) = setting.fresh();
    let stopped = tokio::spawn(node.accept(io));
    stops.send().await;
    tokio::task::yield_now().await;
    assert_eq!(node.readiness().await.free_places, 0);
    assert!(!node.readiness().await.is_ready());
    stopped.abort();
}
