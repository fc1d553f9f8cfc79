//! A node that dies with all its clients, which recover at another one in the same moment, with each kind of nonce store there: none is
//! lost, and each byte comes exactly once.
//!
//! `STORM=10000 cargo test -p migration-tests --test storm_of_recoveries -- --nocapture` shows the rates. A process needs three
//! descriptors for each client; more clients than it may have connect in memory.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::client::word_echoed;
use migration_tests::mortal::from_environment;
use migration_tests::node::echo;
use migration_tests::redis::RedisServer;
use migration_tests::{Node, Service, named_store, server_name};
use migration_token::{BoxFuture, FileNonceStore, MemoryNonceStore, NonceStore};
use rustls_migration::SystemClock;
use rustls_migration::tokio::{
    Dial, HandOff, MigrationAcceptor, MigrationConnector, MigrationStream, TlsStream, Transport,
};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How slow a machine may be that builds other things besides.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many clients connect over sockets.
const OVER_SOCKETS: usize = 5000;

fn clients() -> usize {
    usize::try_from(from_environment("STORM", 300)).unwrap()
}

/// What it says again after a recovery is the same, since that begins at the beginning.
async fn echo_from_the_start<IO>(mut stream: TlsStream<IO>, next: SocketAddr) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    stream.checkpoint(next, b"").await?;
    echo(stream).await
}

/// Talks until the stream is elsewhere, and to its end there. Says when it has spoken first, and when it was there.
async fn talk(
    mut stream: MigrationStream,
    from: SocketAddr,
    speaking: watch::Sender<usize>,
) -> io::Result<Instant> {
    let mut said = 0u32;
    while stream.peer_addr() == from {
        word_echoed(&mut stream, &said.to_be_bytes()).await?;
        if said == 0 {
            speaking.send_modify(|count| *count += 1);
        }
        said += 1;
        // All of them together say some thousand words a second.
        tokio::time::sleep(Duration::from_micros(200 * clients() as u64)).await;
    }
    word_echoed(&mut stream, b"here").await?;
    let there = Instant::now();
    stream.shutdown().await?;
    assert_eq!(stream.read(&mut [0; 1]).await?, 0);
    Ok(there)
}

/// Connections of this process without descriptors, by the address of the node, with the runtime in which that lives.
#[derive(Clone, Debug)]
struct InMemory([(SocketAddr, MigrationAcceptor, Handle); 2]);

impl Dial for InMemory {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        let (client, server) = tokio::io::duplex(1 << 14);
        let [(_, _, _), (next, _, _)] = &self.0;
        if let Some((_, acceptor, runtime)) = self.0.iter().find(|(at, ..)| *at == address) {
            let (accepting, next) = (acceptor.accept(server), *next);
            runtime.spawn(async move { echo_from_the_start(accepting.await?, next).await });
        }
        let client: Box<dyn Transport> = Box::new(client);
        Box::pin(std::future::ready(Ok(client)))
    }
}

/// Connects all clients, some at a time.
async fn connected(connector: &MigrationConnector, node: SocketAddr) -> Vec<MigrationStream> {
    let mut connecting = JoinSet::new();
    let mut streams = Vec::new();
    for _ in 0..clients() {
        if connecting.len() == 64 {
            streams.push(connecting.join_next().await.unwrap().unwrap());
        }
        let connector = connector.clone();
        connecting.spawn(async move { connector.connect(server_name(), node).await.unwrap() });
    }
    while let Some(stream) = connecting.join_next().await {
        streams.push(stream.unwrap());
    }
    streams
}

async fn storm(name: &str, store: Arc<dyn NonceStore>) {
    let service = Service::default();
    let settings = || service.node().clock(SystemClock);
    // With it, everything of the node is gone at once, as when its process is killed.
    let mortal = Runtime::new().unwrap();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let (from, next) = (a.address(), b.address());
    let at_a = {
        let _mortal = mortal.enter();
        a.serve(settings(), move |stream| echo_from_the_start(stream, next))
    };
    let settings = settings().nonce_store(store).handshake_timeout(PATIENCE);
    let settings = settings.hello_timeout(PATIENCE);
    let at_b = b.serve(settings, move |stream| echo_from_the_start(stream, next));
    let mut connector = service.connector().hand_off(HandOff::Drain);
    if clients() > OVER_SOCKETS {
        let (dying, living) = (mortal.handle().clone(), Handle::current());
        let nodes = [(from, at_a.clone(), dying), (next, at_b.clone(), living)];
        connector = connector.dialer(InMemory(nodes));
    }
    let connector = connector.connect_timeout(PATIENCE).recover_from_start();
    let streams = connected(&connector, from).await;

    let mut talking = JoinSet::new();
    let (speaking, mut spoken) = watch::channel(0);
    for stream in streams {
        talking.spawn(talk(stream, from, speaking.clone()));
    }
    let all = |count: &usize| *count == clients();
    spoken.wait_for(all).await.unwrap();
    let died = Instant::now();
    mortal.shutdown_background();
    drop(a);
    let (mut lost, mut there) = (0, Vec::new());
    while let Some(result) = talking.join_next().await {
        match result.unwrap() {
            Ok(moment) => there.push(moment - died),
            Err(error) => {
                lost += 1;
                println!("{name}: {error:?}");
            }
        }
    }
    there.sort();
    let took = there.last().copied().unwrap_or_default();
    let counts = at_b.stats();
    println!(
        "{name}: {} recovered, half of them after {:.2?}, all after {took:.2?}, {:.0}/s; {} committed",
        there.len(),
        there.get(there.len() / 2),
        clients() as f64 / took.as_secs_f64(),
        counts.committed(),
    );
    assert_eq!(lost, 0, "{counts:?}");
    let all = clients() as u64;
    assert_eq!((counts.recovered(), counts.committed()), (all, all));
}

fn a_day_ago() -> OffsetDateTime {
    OffsetDateTime::now_utc() - time::Duration::DAY
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_loses_no_one_with_a_store_in_memory() {
    let store = MemoryNonceStore::new(100_000, a_day_ago());
    storm("memory", Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_loses_no_one_with_a_store_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileNonceStore::open(dir.path().join("nonces"), 100_000, a_day_ago()).unwrap();
    storm("file", Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_loses_no_one_with_a_store_on_redis() {
    let redis = RedisServer::start(&[]).await;
    let store = named_store::open(&format!("redis://{}", redis.address())).await;
    storm("redis", store.unwrap()).await;
}
