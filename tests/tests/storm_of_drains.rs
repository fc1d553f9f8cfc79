//! A node whose clients are all told to move in the same moment, with each kind of nonce store at the target: none is lost.
//!
//! `STORM=4000 cargo test --release -p migration-tests --test storm_of_drains -- --nocapture` shows the rates. A process needs
//! four descriptors for each client; more clients than it may have connect in memory.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::client::word_echoed;
use migration_tests::node::echo;
use migration_tests::redis::RedisServer;
use migration_tests::{Node, Service, named_store, server_name};
use migration_token::{BoxFuture, FileNonceStore, MemoryNonceStore, NonceStore};
use rustls_migration::SystemClock;
use rustls_migration::tokio::{
    Dial, DrainPlan, HandOff, MigrationAcceptor, MigrationConnector, MigrationStream, Transport,
};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many clients there are unless `STORM` says so.
const CLIENTS: usize = 300;

/// How slow a machine may be that builds other things besides.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many descriptors a process may have.
const DESCRIPTORS: usize = 20_000;

fn clients() -> usize {
    std::env::var("STORM").map_or(CLIENTS, |clients| clients.parse().unwrap())
}

/// Talks without a pause until the stream is elsewhere, and to its end there.
async fn talk(mut stream: MigrationStream, from: SocketAddr) -> io::Result<()> {
    let mut said = 0u32;
    while stream.peer_addr() == from {
        word_echoed(&mut stream, &said.to_be_bytes()).await?;
        said += 1;
        // All of them together say some thousand words a second.
        tokio::time::sleep(Duration::from_micros(200 * clients() as u64)).await;
    }
    word_echoed(&mut stream, b"here").await?;
    stream.shutdown().await?;
    assert_eq!(stream.read(&mut [0; 1]).await?, 0);
    Ok(())
}

/// Connects all clients of a node, some at a time.
async fn connected(connector: &MigrationConnector, node: &Node) -> Vec<MigrationStream> {
    let mut connecting = JoinSet::new();
    let mut streams = Vec::new();
    for _ in 0..clients() {
        if connecting.len() == 64 {
            streams.push(connecting.join_next().await.unwrap().unwrap());
        }
        let (connector, address) = (connector.clone(), node.address());
        connecting.spawn(async move { connector.connect(server_name(), address).await.unwrap() });
    }
    while let Some(stream) = connecting.join_next().await {
        streams.push(stream.unwrap());
    }
    streams
}

/// Connections of this process without descriptors, by the address of the node.
#[derive(Clone, Debug)]
struct InMemory([(SocketAddr, MigrationAcceptor); 2]);

impl Dial for InMemory {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        let (client, server) = tokio::io::duplex(1 << 14);
        if let Some((_, acceptor)) = self.0.iter().find(|(at, _)| *at == address) {
            let accepting = acceptor.accept(server);
            tokio::spawn(async move {
                let mut stream = accepting.await?;
                stream.set_state(b"")?;
                echo(stream).await
            });
        }
        let client: Box<dyn Transport> = Box::new(client);
        Box::pin(std::future::ready(Ok(client)))
    }
}

async fn storm(name: &str, store: Arc<dyn NonceStore>) {
    let service = Service::default();
    let settings = || service.node().clock(SystemClock);
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let at_a = a.serve(settings(), |mut stream| async move {
        stream.set_state(b"")?;
        echo(stream).await
    });
    let settings = settings().nonce_store(store).handshake_timeout(PATIENCE);
    let at_b = b.serve(settings.hello_timeout(PATIENCE), echo);
    let mut connector = service.connector().hand_off(HandOff::Drain);
    if clients() > DESCRIPTORS / 4 {
        let nodes = [(a.address(), at_a.clone()), (b.address(), at_b.clone())];
        connector = connector.dialer(InMemory(nodes));
    }
    let connector = connector.connect_timeout(PATIENCE);
    let streams = connected(&connector, &a).await;

    let mut talking = JoinSet::new();
    for stream in streams {
        talking.spawn(talk(stream, a.address()));
    }
    let began = Instant::now();
    let plan = DrainPlan::to([(b.address(), 1)]).spread_over(Duration::ZERO);
    let drain = at_a.drain(plan.deadline(PATIENCE));
    let told = drain.all_told().await;
    let all_told = began.elapsed();
    let mut lost = 0;
    while let Some(result) = talking.join_next().await {
        if let Err(error) = result.unwrap() {
            lost += 1;
            println!("{name}: {error:?}");
        }
    }
    let took = began.elapsed();
    let summary = drain.finished().await;
    let counts = at_b.stats();
    println!(
        "{name}: {} told in {all_told:?}, all moved in {took:?}, {:.0}/s; {} with early data, {} committed",
        told.notified,
        clients() as f64 / took.as_secs_f64(),
        counts.migrated_with_early_data(),
        counts.committed(),
    );
    assert_eq!(lost, 0, "{counts:?}");
    assert_eq!(counts.committed(), clients() as u64);
    assert_eq!(
        summary.progress.handed_over,
        clients(),
        "{:?}",
        summary.progress
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_loses_no_one_with_a_store_in_memory() {
    let started = OffsetDateTime::now_utc() - time::Duration::DAY;
    storm("memory", Arc::new(MemoryNonceStore::new(100_000, started))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_loses_no_one_with_a_store_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let started = OffsetDateTime::now_utc() - time::Duration::DAY;
    let store = FileNonceStore::open(dir.path().join("nonces"), 100_000, started).unwrap();
    storm("file", Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_loses_no_one_with_a_store_on_redis() {
    let redis = RedisServer::start(&[]).await;
    let store = named_store::open(&format!("redis://{}", redis.address())).await;
    storm("redis", store.unwrap()).await;
}

/// What stock TLS does when a node is emptied: every client connects again.
#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_connect_again() {
    let service = Service::default();
    let mut b = Node::bind("127.0.0.3").await;
    b.serve_echo(service.node());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = Arc::new(service.client_config_with(provider));
    let mut connecting = JoinSet::new();
    let began = Instant::now();
    for _ in 0..clients() {
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        let address = b.address();
        connecting.spawn(async move {
            let tcp = TcpStream::connect(address).await?;
            let mut stream = connector.connect(server_name(), tcp).await?;
            stream.write_all(b"here").await?;
            stream.read_exact(&mut [0; 4]).await
        });
    }
    while let Some(result) = connecting.join_next().await {
        result.unwrap().unwrap();
    }
    let took = began.elapsed();
    let rate = clients() as f64 / took.as_secs_f64();
    println!(
        "stock: {} connected again in {took:?}, {rate:.0}/s",
        clients()
    );
}
