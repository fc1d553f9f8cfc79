//! A racer on the path copies the victim's first flight, hello and early data, byte for byte, and delivers the copy before
//! the original, at the same time, or after it, to any node behind the target's address. The victim always lands with its session;
//! early data runs at most once, and each token is spent by the victim.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_tests::client::{Chosen, echoed, expect};
use migration_tests::node::echo;
use migration_tests::raced::{Nodes, Seen};
use migration_tests::racer::{Copied, Racer};
use migration_tests::redis::RedisServer;
use migration_tests::{Node, Service, server_name};
use rustls::HandshakeKind;
use rustls::time_provider::DefaultTimeProvider;
use rustls_migration::SystemClock;
use rustls_migration::server::{Arrival, Verdict};
use rustls_migration::tokio::{
    EarlyDataOutcome, MigrationConnector, MigrationOutcome, MigrationStream,
};
use time::Duration;
use tokio::task::{JoinHandle, JoinSet};

const CAUTIOUS: &str = env!("CARGO_BIN_EXE_cautious");

/// How often each kind of race is run on each store.
const ROUNDS: u64 = 40;

/// How many copies race at the same time.
const AT_ONCE: usize = 3;

/// Where a client is before it is moved, and what it needs to go.
struct Origin {
    a: SocketAddr,
    connector: MigrationConnector,
}

type Moving = JoinHandle<(MigrationStream, MigrationOutcome)>;

impl Origin {
    /// A node whose clients are moved to `target`, by the real clock.
    async fn serving(service: &Service, target: SocketAddr) -> Self {
        let mut a = Node::bind("127.0.0.2").await;
        let mut config = service.server_config();
        config.time_provider = Arc::new(DefaultTimeProvider);
        let settings = service.node_with(config).clock(SystemClock);
        a.serve_echo(settings.target(target));
        let mut config = service.client_config();
        config.time_provider = Arc::new(DefaultTimeProvider);
        let client = service.client_with(config).clock(SystemClock);
        Self {
            a: a.address(),
            connector: MigrationConnector::from(client.build().unwrap())
                .target_resolver(Chosen(vec![target])),
        }
    }

    /// A client that is on its way with `message` as its early data.
    async fn leave(&self, message: u64) -> Moving {
        let connector = self.connector.clone();
        let mut stream = connector.connect(server_name(), self.a).await.unwrap();
        echoed(&mut stream, b"at A").await;
        tokio::spawn(async move {
            let landing = stream.migrate(&message.to_be_bytes()).await.unwrap();
            (stream, landing)
        })
    }
}

/// The victim has its session, its message is answered once, and it goes on.
async fn lands(
    moving: Moving,
    message: u64,
    target: SocketAddr,
) -> (MigrationStream, MigrationOutcome) {
    let (mut stream, landing) = moving.await.unwrap();
    assert_eq!(landing.handshake, HandshakeKind::Resumed, "{landing:?}");
    assert_eq!(landing.at, target);
    assert!(landing.fell_back.is_none());
    expect(&mut stream, &message.to_be_bytes()).await;
    echoed(&mut stream, b"at B").await;
    (stream, landing)
}

/// Runs every race on nodes with these stores, all behind one address.
async fn race(stores: &[String]) {
    let racer = Racer::bind("127.0.0.3").await;
    let mut service = Service::default();
    let mut nodes = Nodes::start(CAUTIOUS, &mut service, racer.address(), stores).await;
    let origin = Origin::serving(&service, racer.address()).await;
    for round in 0..ROUNDS {
        let number = usize::try_from(round).unwrap();
        before(&origin, &racer, &mut nodes, number, 3 * round).await;
        at_once(&origin, &racer, &nodes, number, 3 * round + 1).await;
        after(&origin, &racer, &nodes, number, 3 * round + 2).await;
    }
    judge(&nodes.finish().await);
}

/// The copy's early data has been read before the original is delivered.
async fn before(origin: &Origin, racer: &Racer, nodes: &mut Nodes, number: usize, message: u64) {
    let moving = origin.leave(message).await;
    let victim = racer.catch().await;
    let copy = Copied::deliver(victim.flight(), nodes.address(number)).await;
    nodes.said(number, "early", message).await;
    victim.release(nodes.address(number + 1));
    let (_victim, landing) = lands(moving, message, racer.address()).await;
    assert_eq!(landing.early_data, EarlyDataOutcome::AfterHandshake);
    copy.go_on().await;
}

/// Nobody knows who comes first.
async fn at_once(origin: &Origin, racer: &Racer, nodes: &Nodes, number: usize, message: u64) {
    let moving = origin.leave(message).await;
    let victim = racer.catch().await;
    let mut copies = JoinSet::new();
    for copy in 0..AT_ONCE {
        let (flight, node) = (victim.flight().to_vec(), nodes.address(number + copy));
        copies.spawn(async move { Copied::deliver(&flight, node).await.go_on().await });
    }
    victim.release(nodes.address(number));
    let (_victim, _) = lands(moving, message, racer.address()).await;
    copies.join_all().await;
}

/// The token has been spent when the copy comes.
async fn after(origin: &Origin, racer: &Racer, nodes: &Nodes, number: usize, message: u64) {
    let moving = origin.leave(message).await;
    let victim = racer.catch().await;
    let flight = victim.flight().to_vec();
    victim.release(nodes.address(number));
    let (_victim, landing) = lands(moving, message, racer.address()).await;
    assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
    let copy = Copied::deliver(&flight, nodes.address(number + 1)).await;
    copy.go_on().await;
}

/// What the nodes must have seen.
fn judge(seen: &Seen) {
    assert!(seen.early.values().all(|times| *times == 1), "{seen:?}");
    // In the first and the last kind of race somebody's early data ran, and in the first kind it was the racer's.
    assert!(seen.early.len() as u64 >= 2 * ROUNDS, "{seen:?}");
    assert!(seen.late.len() as u64 >= ROUNDS, "{seen:?}");
    // Who waits for the handshake acts upon each message once, and only the victim's.
    let all: Vec<u64> = (0..3 * ROUNDS).collect();
    assert!(seen.acted.keys().copied().eq(all), "{seen:?}");
    assert!(seen.acted.values().all(|times| *times == 1), "{seen:?}");
    // Only who completes a handshake asks to commit.
    assert_eq!((seen.committed, seen.lost), (3 * ROUNDS, 0));
    assert!(seen.replayed >= ROUNDS, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_racer_at_a_node_with_a_memory_store_takes_no_session_and_repeats_no_early_data() {
    race(&["memory".to_owned()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_racer_at_a_node_with_a_file_store_takes_no_session_and_repeats_no_early_data() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nonces");
    race(&[format!("file:{}", path.display())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_racer_at_two_nodes_that_share_a_redis_store_takes_no_session_and_repeats_no_early_data()
{
    let server = RedisServer::start(&[]).await;
    let store = format!("redis://{}", server.address());
    race(&[store.clone(), store]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_victim_that_is_held_up_until_its_token_has_expired_lands_in_full() {
    let service = Service::default();
    let racer = Racer::bind("127.0.0.3").await;
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.4").await);
    a.serve_echo(service.node().target(racer.address()));
    let at_b = b.serve(service.node().own_addresses([racer.address()]), echo);
    let connector = service.lenient_connector();
    let connector = connector.target_resolver(Chosen(vec![racer.address()]));
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    echoed(&mut stream, b"at A").await;
    let moving = tokio::spawn(async move {
        let landing = stream.migrate(b"first at B").await.unwrap();
        (stream, landing)
    });
    let victim = racer.catch().await;
    let early = Copied::deliver(victim.flight(), b.address()).await;
    assert!(matches!(b.arrival().await, Arrival::Migrated { .. }));
    service.clock.advance(Duration::hours(2));
    let late = Copied::deliver(victim.flight(), b.address()).await;
    victim.release(b.address());
    let (mut stream, landing) = moving.await.unwrap();
    assert_eq!(landing.handshake, HandshakeKind::Full);
    expect(&mut stream, b"first at B").await;
    echoed(&mut stream, b"more at B").await;
    assert_eq!(b.arrival().await, Arrival::Declined(Verdict::Expired));
    early.go_on().await;
    late.go_on().await;
    b.accepted().await.arrival.unwrap_err();
    let counts = at_b.stats();
    assert_eq!(counts.declined(Verdict::Expired), 2);
    assert_eq!((counts.migrated(), counts.committed()), (1, 0));
}
