//! A long run: random services over a bad network, whose nodes are drained every few seconds and come back.
//!
//! `soak SECONDS [--clients N] [--seed N]`, as root. It prints figures, and fails when a byte is lost or repeated, when a clean
//! end comes in the middle, when a stream hangs, or when something goes wrong that nothing explains.

mod client;
mod net;
mod node;
mod step;
mod wire;
mod world;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use migration_tests::hosts::{self, Host};
use migration_tests::session::Random;
use migration_tests::{NAME, Pki};
use migration_token::MemoryNonceStore;
use rustls::{ClientConfig, ServerConfig};
use rustls_migration::client::{MigrationClient, MigrationLimit};
use rustls_migration::server::MigrationServer;
use rustls_migration::tokio::MigrationConnector;
use rustls_migration::{TicketKeys, provider};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use self::client::Clients;
use self::net::{Line, LineFigures};
use self::node::Order;
use self::world::World;

const NODES: [(&str, Ipv4Addr); 3] = [
    ("a", Ipv4Addr::new(10, 77, 0, 11)),
    ("b", Ipv4Addr::new(10, 77, 0, 12)),
    ("c", Ipv4Addr::new(10, 77, 0, 13)),
];
const PORT: u16 = 4433;

/// How long a drain waits before it gives clients up.
const DRAIN_DEADLINE: Duration = Duration::from_secs(12);

/// How long the streams that are under way at the end may take. Longer than one may hang.
const FINISHING: Duration = Duration::from_secs(90);

const LINE: Line = Line {
    delay: Duration::from_millis(10),
    jitter: Duration::from_millis(6),
    lost_one_in: 200,
    late_one_in: 100,
    twice_one_in: 1000,
    gap_one_in: 20_000,
};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
struct Arguments {
    time: Duration,
    clients: usize,
    seed: u64,
}

fn arguments() -> Option<Arguments> {
    let mut arguments = std::env::args().skip(1);
    let mut asked = Arguments {
        time: Duration::from_secs(arguments.next()?.parse().ok()?),
        clients: 40,
        seed: 1,
    };
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match &*name {
            "--clients" => asked.clients = value.parse().ok()?,
            "--seed" => asked.seed = value.parse().ok()?,
            _ => return None,
        }
    }
    Some(asked)
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("usage: soak SECONDS [--clients N] [--seed N]");
        return ExitCode::from(2);
    };
    match run(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// `true` when there was no fault.
fn run(arguments: Arguments) -> io::Result<bool> {
    hosts::permitted()?;
    let mut hosts = vec![Host::add("soak", "client", Ipv4Addr::new(10, 77, 0, 1))?];
    for (name, address) in NODES {
        hosts.push(Host::add("soak", name, address)?);
    }
    let figures = Arc::new(LineFigures::default());
    let runtime = runtime()?;
    runtime.block_on(async {
        net::connect(&hosts, LINE, arguments.seed, &figures)?;
        tokio::select! {
            clean = conduct(arguments, &hosts, &figures) => clean,
            _ = tokio::signal::ctrl_c() => Err(io::Error::other("interrupted")),
        }
    })
}

/// Runs `main` on a thread of its own, at `host`.
fn at<F, R>(
    host: &Host,
    main: impl FnOnce() -> F + Send + 'static,
) -> io::Result<JoinHandle<io::Result<R>>>
where
    F: Future<Output = io::Result<R>>,
    R: Send + 'static,
{
    std::thread::scope(|scope| {
        // A thread's children are where it is.
        let spawned = scope.spawn(|| {
            host.enter()?;
            Ok(std::thread::spawn(move || runtime()?.block_on(main())))
        });
        spawned
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")))
    })
}

async fn conduct(arguments: Arguments, hosts: &[Host], line: &LineFigures) -> io::Result<bool> {
    println!(
        "soak: {} s, {} clients, seed {}; {} ms of delay each way, {} ms of jitter, one packet of {} lost, and gaps of up to 300 ms",
        arguments.time.as_secs(),
        arguments.clients,
        arguments.seed,
        LINE.delay.as_millis(),
        LINE.jitter.as_millis(),
        LINE.lost_one_in,
    );
    let service = Service::new();
    let (client_host, node_hosts) = hosts.split_first().ok_or(io::ErrorKind::NotFound)?;
    let addresses = node_hosts.iter().map(|host| (host.address(), PORT).into());
    let world = Arc::new(World::new(addresses.collect()));
    let mut nodes = Vec::new();
    for (host, address) in node_hosts.iter().zip(&world.nodes) {
        let (orders, received) = mpsc::channel(4);
        let (world, address) = (Arc::clone(&world), *address);
        let server = service.node(address);
        world.set_away(address, true);
        let run = move || node::run(world, address, server, received);
        nodes.push((orders, at(host, run)?));
    }
    let orders: Vec<_> = nodes.iter().map(|(orders, _)| orders.clone()).collect();
    let clients = Arc::new(Clients {
        world: Arc::clone(&world),
        connector: service.connector(),
        seed: arguments.seed,
        last_id: AtomicU64::new(1),
    });
    let until = Instant::now() + arguments.time;
    let (done, finished) = oneshot::channel();
    let count = arguments.clients;
    let client_thread = at(client_host, move || async move {
        let mut running = JoinSet::new();
        for _ in 0..count {
            running.spawn(client::run(Arc::clone(&clients), until));
        }
        while let Some(ended) = running.join_next().await {
            ended.map_err(io::Error::other)?;
        }
        let _ = done.send(());
        Ok(())
    })?;
    tokio::select! {
        () = disturb(&world, &orders, arguments.seed) => {}
        () = sleep(arguments.time) => {}
    }
    match timeout(FINISHING, finished).await {
        Ok(Ok(())) => {
            for (orders, node) in nodes {
                let _ = orders.send(Order::Stop).await;
                while !node.is_finished() {
                    sleep(Duration::from_millis(20)).await;
                }
                joined(node)?;
            }
            joined(client_thread)?;
        }
        Ok(Err(_)) => world.fault("a client has panicked"),
        Err(_) => world.fault("streams hang at the end"),
    }
    report(&world, line)
}

fn joined(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
}

fn report(world: &World, line: &LineFigures) -> io::Result<bool> {
    let figures = world.figures();
    print!("{figures}");
    let count = |what: &AtomicU64| what.load(Ordering::Relaxed);
    println!(
        "line: {} packets, {} lost, {} late, {} twice, {} gaps",
        count(&line.packets),
        count(&line.lost),
        count(&line.late),
        count(&line.twice),
        count(&line.gaps),
    );
    let nothing = figures.moves.values().sum::<u64>() == 0;
    if nothing {
        return Err(io::Error::other("nothing has moved"));
    }
    Ok(figures.faults.is_empty())
}

/// Drains one node after the other, and lets one be away now and then.
async fn disturb(world: &World, orders: &[mpsc::Sender<Order>], seed: u64) {
    let mut random = Random::new(seed ^ 0xd1);
    let mut part = |from: usize, more: usize| {
        Duration::from_millis(u64::try_from(from + random.below(more)).unwrap())
    };
    let mut choice = Random::new(seed ^ 0xd2);
    loop {
        sleep(part(300, 1200)).await;
        let drained = choice.below(orders.len());
        let others: Vec<_> = (0..orders.len()).filter(|node| *node != drained).collect();
        // Sometimes a target is away just when it is needed.
        if choice.once_in(2) {
            let away = others[choice.below(others.len())];
            world.event("a target was away when a drain began");
            let _ = orders[away].send(Order::Away(part(300, 1500))).await;
        }
        let (done, drain) = oneshot::channel();
        let order = Order::Drain {
            targets: others.iter().map(|node| (world.nodes[*node], 1)).collect(),
            deadline: DRAIN_DEADLINE,
            done,
        };
        let _ = orders[drained].send(order).await;
        let _ = drain.await;
    }
}

/// What the nodes and the clients have in common.
struct Service {
    pki: Pki,
    keys: TicketKeys,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl Service {
    fn new() -> Self {
        let provider = Arc::new(provider::ring());
        Self {
            pki: Pki::new(),
            keys: TicketKeys::generate(provider.secure_random).unwrap(),
            provider,
        }
    }

    /// What a node remembers outlives its being away.
    fn node(&self, address: SocketAddr) -> Arc<MigrationServer> {
        let (certificate, key) = self.pki.issue(NAME, &rcgen::PKCS_ECDSA_P256_SHA256);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.max_early_data_size = 16_384;
        // The nodes have one clock, so the store knows from its first moment what it has seen.
        let began = OffsetDateTime::now_utc();
        let server = MigrationServer::builder(config, "soak", self.keys.clone())
            .own_addresses([address])
            .clock_skew(Duration::ZERO)
            .nonce_store(Arc::new(MemoryNonceStore::new(1 << 20, began)));
        Arc::new(server.build().unwrap())
    }

    /// The default policy, but for how often a stream may move.
    fn connector(&self) -> MigrationConnector {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.pki.roots())
            .with_no_client_auth();
        config.enable_early_data = true;
        let limit = MigrationLimit {
            count: 1000,
            ..MigrationLimit::default()
        };
        MigrationClient::builder(config)
            .limit(limit)
            .build()
            .unwrap()
            .into()
    }
}
