//! The nodes: every client of the first goes to the second when it is told to. Stock ones are one process, since they share the
//! keys of a ticketer; migrating ones are a process each, and share a folder with keys.
//!
//! A node says one byte to each client, and then listens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use migration_token::{FileNonceStore, NonceStore, RedisNonceStore};
use rustls::crypto::ring::Ticketer;
use rustls_migration::provider;
use rustls_migration::server::MigrationServer;
use rustls_migration::tokio::{DrainPlan, MigrationAcceptor, listen};
use time::OffsetDateTime;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
    Lines, Stdin,
};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::Moves;
use super::process::{say, say_sample};
use super::service::of_nodes;
use crate::case::Side;
use crate::error::BenchError;
use crate::peers::{Service, Suite};

/// How long the notices of a drain are spread: not at all.
const AT_ONCE: Duration = Duration::ZERO;

/// How long a drain may take.
const DEADLINE: Duration = Duration::from_secs(300);

/// What a node is told when it starts.
#[derive(Debug, Args)]
pub(crate) struct Node {
    side: Side,
    moves: Moves,
    /// How many clients may be on their way elsewhere at once.
    moving: usize,
    /// What the service is made of. The first node makes it.
    folder: PathBuf,
    /// Where nonces are spent: `memory`, `file`, or the address of a redis server.
    store: String,
}

impl Node {
    /// Serves until nobody listens any more.
    pub(crate) fn run(&self, suite: Suite) -> Result<(), BenchError> {
        let service = of_nodes(suite, &self.folder)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            match self.side {
                Side::Stock => serve_stock(&service).await,
                Side::Migrating => serve_migrating(&service, self).await,
            }
        })
    }
}

/// Where nodes listen, at free ports.
const A: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 0);
const B: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)), 0);

fn commands() -> Lines<BufReader<Stdin>> {
    BufReader::new(tokio::io::stdin()).lines()
}

/// Two nodes, whose addresses are said. The first closes its connections when it is told to leave.
async fn serve_stock(service: &Service) -> Result<(), BenchError> {
    let listeners = [listen(A)?, listen(B)?];
    let [here, there] = [listeners[0].local_addr()?, listeners[1].local_addr()?];
    let (leave, left) = watch::channel(false);
    let mut config = service.server_config(service.stock_provider(), false)?;
    config.ticketer = Ticketer::new()?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    for (listener, stays) in listeners.into_iter().zip([false, true]) {
        let (acceptor, left) = (acceptor.clone(), left.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(stock(acceptor.clone(), tcp, left.clone(), stays));
            }
        });
    }
    say(&format!("{here} {there}"))?;
    let mut commands = commands();
    while let Some(command) = commands.next_line().await? {
        if command == "sample" {
            say_sample()?;
        } else if command == "leave" {
            leave.send_replace(true);
        }
    }
    Ok(())
}

/// One node, whose address is said. It is drained to the address that it is told, at once or by a drain that stands still.
/// Another drain takes the place of the first.
async fn serve_migrating(service: &Service, node: &Node) -> Result<(), BenchError> {
    let listener = listen(A)?;
    let here = listener.local_addr()?;
    let config = service.server_config(provider::wrap(service.stock_provider()), true)?;
    let server = MigrationServer::builder(config, "bench", service.ticket_keys())
        .own_addresses([here])
        .clock_skew(Duration::ZERO)
        .nonce_store(nonce_store(&node.store, &node.folder).await?);
    let acceptor = MigrationAcceptor::from(server.build()?);
    let (accepting, moves) = (acceptor.clone(), node.moves);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = accepting.clone();
            match moves {
                Moves::Stream => drop(tokio::spawn(moving_stream(acceptor, tcp))),
                Moves::Connection => drop(tokio::spawn(moving_connection(acceptor, tcp))),
            }
        }
    });
    say(&here.to_string())?;
    // Nobody is told by a drain that stands still.
    let mut paused = Vec::new();
    let mut commands = commands();
    while let Some(command) = commands.next_line().await? {
        if command == "sample" {
            say_sample()?;
        } else {
            const NOWHERE: BenchError = BenchError::Unexpected("a node leaves for another");
            let (how, there) = command.split_once(' ').ok_or(NOWHERE)?;
            let plan = DrainPlan::to([(there.parse().map_err(|_| NOWHERE)?, 1)])
                .spread_over(AT_ONCE)
                .max_moving(node.moving)
                .deadline(DEADLINE);
            let drain = acceptor.drain(plan);
            if how == "pause" {
                drain.pause();
                paused.push(drain);
            } else {
                paused.clear();
            }
        }
    }
    Ok(())
}

/// The store `memory`, `file` or that of a redis server with this address.
async fn nonce_store(store: &str, folder: &Path) -> Result<Arc<dyn NonceStore>, BenchError> {
    let now = OffsetDateTime::now_utc();
    Ok(match store {
        "memory" => Service::nonce_store(),
        "file" => {
            let path = folder.join(format!("nonces.{}", std::process::id()));
            let capacity = FileNonceStore::DEFAULT_CAPACITY;
            Arc::new(FileNonceStore::open(path, capacity, now)?)
        }
        address => {
            let store = RedisNonceStore::builder(address).build()?;
            store.check(now).await?;
            Arc::new(store)
        }
    })
}

async fn stock(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    mut left: watch::Receiver<bool>,
    stays: bool,
) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = acceptor.accept(tcp).await?;
    greet(&mut stream).await?;
    let mut buf = [0; 64];
    tokio::select! {
        _ = stream.read(&mut buf) => {}
        _ = left.wait_for(|left| *left && !stays) => {}
    }
    stream.shutdown().await
}

async fn moving_stream(acceptor: MigrationAcceptor, tcp: TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = acceptor.accept(tcp).await?;
    stream.set_state(&[]).map_err(std::io::Error::from)?;
    greet(&mut stream).await?;
    let mut buf = [0; 64];
    while stream.read(&mut buf).await? > 0 {}
    stream.shutdown().await
}

/// It finishes when its client has been told to move.
async fn moving_connection(acceptor: MigrationAcceptor, tcp: TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = acceptor.accept(tcp).await?;
    let handle = stream.handle();
    greet(&mut stream).await?;
    let mut buf = [0; 64];
    tokio::select! {
        _ = stream.read(&mut buf) => {}
        _ = handle.told() => {}
    }
    stream.shutdown().await
}

async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all(b".").await?;
    stream.flush().await
}
