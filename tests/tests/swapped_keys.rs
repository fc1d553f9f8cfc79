//! Ticket keys that are replaced under load, as Kubernetes replaces a mounted secret: nodes that watch them refuse nobody.
//!
//! For a long run: `KEY_SWAPS=30 cargo test --release -p migration-tests --test swapped_keys -- --nocapture`

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use migration_tests::client::echoed;
use migration_tests::mounted::MountedKeys;
use migration_tests::node::echo;
use migration_tests::{Node, Service, server_name};
use rustls::HandshakeKind;
use rustls_migration::TicketKeys;
use rustls_migration::server::{Stats, Verdict};
use rustls_migration::tokio::MigrationConnector;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How many clients come at a time.
const CLIENTS: u32 = 48;

/// How long the first of them keeps its token before it presents it; each other one longer by as much. So there are always tokens that
/// were sealed before a swap and are presented after it.
const KEPT: Duration = Duration::from_millis(1);

/// How many handshakes there are between two swaps, at least.
const BETWEEN: u64 = 500;

/// What clients have done.
#[derive(Default)]
struct Count {
    handshakes: AtomicU64,
    stopped: AtomicBool,
}

impl Count {
    fn handshakes(&self) -> u64 {
        self.handshakes.load(Ordering::SeqCst)
    }
}

/// Comes to A, and goes on at B by the token that A has sealed, again and again.
async fn comes_and_moves(
    connector: MigrationConnector,
    a: SocketAddr,
    kept: Duration,
    count: Arc<Count>,
) {
    while !count.stopped.load(Ordering::SeqCst) {
        let mut stream = connector.connect(server_name(), a).await.unwrap();
        let mut events = stream.events();
        while stream.offer().is_none() {
            // The tickets come after the handshake; reading takes them.
            tokio::select! {
                _ = events.next() => {}
                read = stream.read_u8() => panic!("{read:?}"),
            }
        }
        sleep(kept).await;
        let moved = stream.migrate(&[]).await.unwrap();
        assert_eq!(
            (moved.handshake, moved.fell_back.is_none()),
            (HandshakeKind::Resumed, true)
        );
        // B has completed its handshake when it answers.
        echoed(&mut stream, b"here").await;
        count.handshakes.fetch_add(2, Ordering::SeqCst);
    }
}

fn declined(stats: Stats) -> u64 {
    Verdict::ALL
        .map(|verdict| stats.declined(verdict))
        .iter()
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_mounted_keys_are_swapped_under_load_no_token_is_refused() {
    let swaps: u64 = std::env::var("KEY_SWAPS").map_or(3, |swaps| swaps.parse().unwrap());
    let random = rustls::crypto::ring::default_provider().secure_random;
    let mut mounted = MountedKeys::new(|path| TicketKeys::create(path, random).unwrap());
    let service = Service::default();
    let (reloads, mut reloaded) = mpsc::unbounded_channel();
    let node_keys = |at: usize| {
        let keys = TicketKeys::load(mounted.path()).unwrap();
        let reloads = reloads.clone();
        let watcher = keys.watch(move |done| reloads.send((at, done.is_ok())).unwrap());
        (keys, watcher.unwrap())
    };
    let [(keys_a, _watch_a), (keys_b, _watch_b)] = [node_keys(0), node_keys(1)];
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let at_a = service.node_of(service.server_config(), "files", keys_a);
    let at_a = a.serve(at_a.target(b.address()), echo);
    let at_b = b.serve(
        service.node_of(service.server_config(), "files", keys_b),
        echo,
    );

    let count = Arc::new(Count::default());
    let mut clients = JoinSet::new();
    for nth in 1..=CLIENTS {
        clients.spawn(comes_and_moves(
            service.connector(),
            a.address(),
            KEPT * nth,
            Arc::clone(&count),
        ));
    }
    let began = Instant::now();
    for _ in 0..swaps {
        let enough = count.handshakes() + BETWEEN;
        while count.handshakes() < enough {
            sleep(Duration::from_millis(5)).await;
        }
        let before = fs::read(mounted.path()).unwrap();
        mounted.replace(|path| {
            fs::write(path, before).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            TicketKeys::rotate(path, 1, random).unwrap();
        });
        // Both have read them before the next swap, as an operator sees to.
        let mut read = [false; 2];
        while read != [true; 2] {
            let (at, done) = reloaded.recv().await.unwrap();
            read[at] |= done;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    count.stopped.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let handshakes = count.handshakes();
    println!(
        "{swaps} swaps, {handshakes} handshakes, {:.0} a second",
        handshakes as f64 / seconds
    );
    let (at_a, at_b) = (at_a.stats(), at_b.stats());
    assert_eq!(
        (declined(at_a), declined(at_b), at_b.bad_binders()),
        (0, 0, 0)
    );
    assert_eq!(at_b.committed(), handshakes / 2);
}
