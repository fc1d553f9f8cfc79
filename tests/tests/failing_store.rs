//! Clients that are moved while the nodes' shared nonce store fails: each lands, none waits longer than the store may take,
//! and nothing that a client says is heard twice.
//!
//! The redis server is real, and so are its faults.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migration_tests::client::{expect, until_notified};
use migration_tests::node::{ServerStream, echo_then_notify};
use migration_tests::redis::{RedisServer, begin};
use migration_tests::{Node, Service, server_name};
use migration_token::RedisNonceStore;
use rustls::HandshakeKind;
use rustls_migration::SystemClock;
use rustls_migration::tokio::{
    EarlyDataOutcome, MigrationConnector, MigrationOutcome, MigrationStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// What one question to the store may take.
const LIMIT: Duration = Duration::from_millis(400);

/// What a busy machine may add before the test calls a wait unbounded.
const SCHEDULING: Duration = Duration::from_secs(8);

/// Clients at a time.
const CLIENTS: usize = 12;

/// Only a broken test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Length of what a client says first at B, in bytes: a number of its own.
const WORD_LEN: usize = 8;

/// How clients fared.
#[derive(Debug, Default)]
struct Tally {
    with_early_data: AtomicUsize,
    without_early_data: AtomicUsize,
    by_full_handshake: AtomicUsize,
    /// The connection was closed, because its token could not be spent.
    closed: AtomicUsize,
    longest: Mutex<Duration>,
    /// What B's application heard first on each connection.
    heard: Mutex<HashSet<Vec<u8>>>,
    next: AtomicUsize,
    stopped: AtomicBool,
}

impl Tally {
    fn moved(&self) -> usize {
        self.with_early_data.load(Ordering::SeqCst) + self.without_early_data.load(Ordering::SeqCst)
    }

    fn not_resumed(&self) -> usize {
        self.by_full_handshake.load(Ordering::SeqCst) + self.closed.load(Ordering::SeqCst)
    }

    fn word(&self) -> [u8; WORD_LEN] {
        (self.next.fetch_add(1, Ordering::SeqCst) as u64).to_be_bytes()
    }

    /// Waits until `count` has grown by `more`.
    async fn until(&self, count: impl Fn(&Self) -> usize, more: usize) {
        let enough = count(self) + more;
        let waiting = async {
            while count(self) < enough {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let came = timeout(PATIENCE, waiting).await;
        came.unwrap_or_else(|_| panic!("{more} more did not come: {self}"));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "resumed with early data {}, without {}, full handshake {}, closed at the commit {}, longest {:?}",
            self.with_early_data.load(Ordering::SeqCst),
            self.without_early_data.load(Ordering::SeqCst),
            self.by_full_handshake.load(Ordering::SeqCst),
            self.closed.load(Ordering::SeqCst),
            self.longest.lock().unwrap(),
        )
    }
}

/// Hears a word that nobody has said before, and goes on as an echo.
async fn hear(mut stream: ServerStream, tally: Arc<Tally>) -> io::Result<()> {
    let mut word = vec![0; WORD_LEN];
    stream.read_exact(&mut word).await?;
    assert!(
        tally.heard.lock().unwrap().insert(word.clone()),
        "{word:?} was heard twice"
    );
    stream.write_all(&word).await?;
    migration_tests::node::echo(stream).await
}

/// Is moved from A to B again and again.
async fn move_on(connector: MigrationConnector, a: SocketAddr, tally: Arc<Tally>) {
    while !tally.stopped.load(Ordering::SeqCst) {
        let mut stream = connector.connect(server_name(), a).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        expect(&mut stream, b"hello").await;
        until_notified(&mut stream).await;
        let word = tally.word();
        let began = Instant::now();
        let landing = stream.migrate(&word).await.unwrap();
        let stays = goes_on(&mut stream, &word).await;
        let took = began.elapsed();
        let mut longest = tally.longest.lock().unwrap();
        *longest = took.max(*longest);
        drop(longest);
        assert!(landing.fell_back.is_none(), "{landing:?}");
        count(&tally, &landing, stays).fetch_add(1, Ordering::SeqCst);
    }
}

async fn goes_on(stream: &mut MigrationStream, word: &[u8]) -> io::Result<()> {
    let mut echoed = [0; WORD_LEN];
    stream.read_exact(&mut echoed).await?;
    assert_eq!(echoed, word);
    stream.write_all(b"more").await?;
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await?;
    assert_eq!(&echoed, b"more");
    Ok(())
}

fn count<'a>(
    tally: &'a Tally,
    landing: &MigrationOutcome,
    stays: io::Result<()>,
) -> &'a AtomicUsize {
    match (landing.handshake, landing.early_data) {
        (HandshakeKind::Resumed, _) if stays.is_err() => &tally.closed,
        (HandshakeKind::Resumed, EarlyDataOutcome::Accepted) => &tally.with_early_data,
        (HandshakeKind::Resumed, _) => &tally.without_early_data,
        (HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest, _) => {
            // Who lands by a full handshake needs no store.
            stays.unwrap();
            &tally.by_full_handshake
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_lands_whatever_happens_to_the_store() {
    let mut redis = RedisServer::start(&[]).await;
    let service = Service::default();
    let store = RedisNonceStore::builder(&format!("redis://{}", redis.address()));
    let store = store.timeout(LIMIT * 3 / 4).build().unwrap();
    begin(&store).await;

    let (mut node_a, mut node_b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let (a, b) = (node_a.address(), node_b.address());
    // Redis has the system's clock.
    let settings = || service.node().clock(SystemClock);
    node_a.serve(settings().target(b), echo_then_notify);
    let tally = Arc::new(Tally::default());
    let heard = Arc::clone(&tally);
    let settings = settings()
        .nonce_store(Arc::new(store))
        .nonce_store_timeout(LIMIT);
    let acceptor = node_b.serve(settings, move |stream| hear(stream, Arc::clone(&heard)));

    // The store's memory begins when it was first asked, and the clocks may differ a little.
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(move_on(service.lenient_connector(), a, Arc::clone(&tally)));
    }
    tally.until(Tally::moved, 50).await;
    redis.hang();
    tally.until(Tally::not_resumed, 30).await;
    redis.go_on();
    tally.until(Tally::moved, 50).await;
    redis.kill();
    tally.until(Tally::not_resumed, 50).await;
    redis.restart().await;
    tally.until(Tally::moved, 50).await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    tally.until(Tally::not_resumed, 50).await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    tally.until(Tally::moved, 50).await;

    tally.stopped.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    println!("{tally}");
    let longest = *tally.longest.lock().unwrap();
    // A claim and a commit.
    assert!(longest < 2 * LIMIT + SCHEDULING, "{longest:?}");
    let counts = acceptor.stats();
    let closed = tally.closed.load(Ordering::SeqCst) as u64;
    assert_eq!(counts.commits_lost() + counts.commits_failed(), closed);
    assert_eq!(counts.committed(), tally.moved() as u64);
}
