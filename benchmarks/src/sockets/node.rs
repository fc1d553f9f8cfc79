//! Two nodes in one process: every client of the first goes to the second when it is told to.
//!
//! A node says one byte to each client, and then listens.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustls::server::ServerSessionMemoryCache;
use rustls_migration::provider;
use rustls_migration::server::MigrationServer;
use rustls_migration::tokio::{DrainPlan, MigrationAcceptor};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::process::{say, say_sample};
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
    /// How many connections there will be.
    total: u32,
    /// How many clients may be on their way elsewhere at once.
    moving: usize,
    /// Where the certificate's root is written to.
    root: PathBuf,
}

impl Node {
    /// Serves until nobody listens any more.
    pub(crate) fn run(&self, suite: Suite) -> Result<(), BenchError> {
        let service = Service::new(suite)?;
        std::fs::write(&self.root, service.root())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(serve(&service, self))
    }
}

async fn serve(service: &Service, node: &Node) -> Result<(), BenchError> {
    let listeners = [
        TcpListener::bind("127.0.0.2:0").await?,
        TcpListener::bind("127.0.0.3:0").await?,
    ];
    let [here, there] = [listeners[0].local_addr()?, listeners[1].local_addr()?];
    let (leave, left) = watch::channel(false);
    let sessions = usize::try_from(node.total).unwrap_or(usize::MAX) * 4;
    let mut drained = None;
    match node.side {
        Side::Stock => {
            let mut config = service.server_config(service.stock_provider(), true)?;
            config.session_storage = ServerSessionMemoryCache::new(sessions);
            let acceptor = TlsAcceptor::from(Arc::new(config));
            for (listener, stays) in listeners.into_iter().zip([false, true]) {
                let (acceptor, left) = (acceptor.clone(), left.clone());
                tokio::spawn(async move {
                    while let Ok((tcp, _)) = listener.accept().await {
                        tokio::spawn(stock(acceptor.clone(), tcp, left.clone(), stays));
                    }
                });
            }
        }
        Side::Migrating => {
            for (listener, address) in listeners.into_iter().zip([here, there]) {
                let provider = provider::wrap(service.stock_provider());
                let mut config = service.server_config(provider, true)?;
                config.session_storage = ServerSessionMemoryCache::new(sessions);
                let server = MigrationServer::builder(config, "bench", service.ticket_keys())
                    .answers_for([address])
                    .nonce_store(Service::nonce_store());
                let acceptor = MigrationAcceptor::from(server.build()?);
                drained.get_or_insert(acceptor.clone());
                tokio::spawn(async move {
                    while let Ok((tcp, _)) = listener.accept().await {
                        tokio::spawn(migrating(acceptor.clone(), tcp));
                    }
                });
            }
        }
    }
    say(&format!("{here} {there}"))?;
    let mut commands = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(command) = commands.next_line().await? {
        if command == "sample" {
            say_sample()?;
        } else if let Some(acceptor) = &drained {
            let plan = DrainPlan::to([(there, 1)])
                .spread_over(AT_ONCE)
                .max_moving(node.moving)
                .deadline(DEADLINE);
            drop(acceptor.drain(plan));
        } else {
            leave.send_replace(true);
        }
    }
    Ok(())
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

async fn migrating(acceptor: MigrationAcceptor, tcp: TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = acceptor.accept(tcp).await?;
    stream.set_state(&[]).map_err(std::io::Error::from)?;
    greet(&mut stream).await?;
    let mut buf = [0; 64];
    while stream.read(&mut buf).await? > 0 {}
    stream.shutdown().await
}

async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all(b".").await?;
    stream.flush().await
}
