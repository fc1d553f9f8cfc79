//! Clients that connect, wait, and go where their node sends them.
//!
//! Each is a task that waits for one byte at a time, as an idle client does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use clap::Args;
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, NamedGroup};
use rustls_migration::client::{MigrationClient, NoWider};
use rustls_migration::provider;
use rustls_migration::tokio::{HandOff, MigrationConnector, MigrationStream};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsConnector;

use super::Moves;
use super::process::{say, say_sample};
use super::service::of_clients;
use crate::case::Side;
use crate::error::BenchError;
use crate::peers::Suite;

/// How many clients make their first connection at once.
const AT_ONCE: usize = 64;

/// What a client says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Connected,
    Elsewhere,
    Failed(String),
}

#[derive(Clone)]
enum Connector {
    Stock(TlsConnector),
    Migrating(Arc<MigrationConnector>),
}

/// What all clients share.
#[derive(Clone)]
struct World {
    connector: Connector,
    moves: Moves,
    sessions: Arc<Sessions>,
    name: ServerName<'static>,
    nodes: [SocketAddr; 2],
    at_once: Arc<Semaphore>,
    moving: Arc<Semaphore>,
    progress: mpsc::UnboundedSender<Progress>,
}

/// What the clients are told when they start.
#[derive(Debug, Args)]
pub(crate) struct Clients {
    side: Side,
    moves: Moves,
    /// How many of them may be on their way elsewhere at once.
    moving: usize,
    here: SocketAddr,
    there: SocketAddr,
    /// What the service is made of.
    folder: PathBuf,
}

impl Clients {
    /// Carries out commands until there are no more.
    pub(crate) fn run(&self, suite: Suite) -> Result<(), BenchError> {
        let service = of_clients(suite, &self.folder)?;
        let sessions = Arc::new(Sessions::default());
        let connector = match self.side {
            Side::Stock => {
                let mut config = service.client_config(service.stock_provider(), false)?;
                config.resumption = Resumption::store(sessions.clone());
                Connector::Stock(Arc::new(config).into())
            }
            Side::Migrating => {
                let provider = provider::wrap(service.stock_provider());
                let config = service.client_config(provider, true)?;
                let client = MigrationClient::builder(config)
                    .target_policy(NoWider::any_port())
                    .session_store(sessions.clone());
                let connector = MigrationConnector::from(client.build()?).hand_off(HandOff::Drain);
                Connector::Migrating(Arc::new(connector))
            }
        };
        let (sender, mut progress) = mpsc::unbounded_channel();
        let world = World {
            connector,
            moves: self.moves,
            sessions,
            name: service.name()?,
            nodes: [self.here, self.there],
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            moving: Arc::new(Semaphore::new(self.moving)),
            progress: sender,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(obey(&world, &mut progress))
    }
}

async fn obey(
    world: &World,
    progress: &mut mpsc::UnboundedReceiver<Progress>,
) -> Result<(), BenchError> {
    let mut commands = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    let mut all = 0;
    while let Some(command) = commands.next_line().await? {
        if command == "sample" {
            say_sample()?;
        } else if let Some(count) = command.strip_prefix("connect ") {
            let count = count.parse().unwrap_or(0);
            all += count;
            for _ in 0..count {
                // A task is as large as the larger of what it may run, so each side has its own.
                let world = world.clone();
                match &world.connector {
                    Connector::Stock(connector) => {
                        let connector = connector.clone();
                        tokio::spawn(async move { told(stock(&world, &connector).await, &world) });
                    }
                    Connector::Migrating(connector) => {
                        let connector = Arc::clone(connector);
                        tokio::spawn(
                            async move { told(migrating(&world, &connector).await, &world) },
                        );
                    }
                }
            }
            all_have(&Progress::Connected, count, progress).await?;
            say("connected")?;
        } else {
            world.sessions.resume.store(true, Ordering::Relaxed);
            say("ready")?;
            let started = Instant::now();
            all_have(&Progress::Elsewhere, all, progress).await?;
            say(&started.elapsed().as_secs_f64().to_string())?;
        }
    }
    Ok(())
}

async fn all_have(
    wanted: &Progress,
    count: usize,
    progress: &mut mpsc::UnboundedReceiver<Progress>,
) -> Result<(), BenchError> {
    for _ in 0..count {
        match progress.recv().await {
            Some(found) if found == *wanted => {}
            Some(Progress::Failed(why)) => return Err(BenchError::Lost(why)),
            Some(_) | None => return Err(BenchError::Unexpected("a client is early")),
        }
    }
    Ok(())
}

/// Tells of a client that failed.
fn told(lived: Result<(), BenchError>, world: &World) {
    if let Err(error) = lived {
        // Whoever counted has given up, if nobody hears it.
        let _ = world.progress.send(Progress::Failed(error.to_string()));
    }
}

async fn stock(world: &World, connector: &TlsConnector) -> Result<(), BenchError> {
    let mut byte = [0; 1];
    for (node, reached) in world
        .nodes
        .iter()
        .zip([Progress::Connected, Progress::Elsewhere])
    {
        let permit = match reached {
            Progress::Elsewhere => world.moving.acquire().await,
            Progress::Connected | Progress::Failed(_) => world.at_once.acquire().await,
        };
        let tcp = TcpStream::connect(node).await?;
        tcp.set_nodelay(true)?;
        let mut stream = connector.connect(world.name.clone(), tcp).await?;
        stream.read_exact(&mut byte).await?;
        drop(permit);
        let (_, tls) = stream.get_ref();
        let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        if reached == Progress::Elsewhere && !resumed {
            return Err(BenchError::Unexpected("a stock client resumes"));
        }
        let _ = world.progress.send(reached);
        while stream.read(&mut byte).await? > 0 {}
    }
    Ok(())
}

async fn migrating(world: &World, connector: &MigrationConnector) -> Result<(), BenchError> {
    let [node, _] = world.nodes;
    let mut byte = [0; 1];
    let permit = world.at_once.acquire().await;
    let mut stream = connector.connect(world.name.clone(), node).await?;
    stream.read_exact(&mut byte).await?;
    drop(permit);
    let _ = world.progress.send(Progress::Connected);
    if let Moves::Connection = world.moves {
        return follow(world, stream).await;
    }
    // The next byte comes from the other node.
    stream.read_exact(&mut byte).await?;
    let _ = world.progress.send(Progress::Elsewhere);
    while stream.read(&mut byte).await? > 0 {}
    Ok(())
}

/// Opens the next connection where the node asks it to.
async fn follow(world: &World, mut stream: MigrationStream) -> Result<(), BenchError> {
    let mut byte = [0; 1];
    // The end comes with the notice, or behind it.
    while stream.read(&mut byte).await? > 0 {}
    let permit = world.moving.acquire().await;
    let successor = stream.handle().successor().await;
    let mut stream = successor.map_err(std::io::Error::other)?;
    stream.read_exact(&mut byte).await?;
    drop(permit);
    let _ = world.progress.send(Progress::Elsewhere);
    while stream.read(&mut byte).await? > 0 {}
    Ok(())
}

/// The tickets of all clients. A client takes whichever is there: they are of one service.
#[derive(Debug, Default)]
struct Sessions {
    kept: Mutex<Vec<Tls13ClientSessionValue>>,
    /// Whether they may be resumed: each first connection is a full handshake.
    resume: AtomicBool,
}

impl Sessions {
    fn kept(&self) -> MutexGuard<'_, Vec<Tls13ClientSessionValue>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.kept().push(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let resume = self.resume.load(Ordering::Relaxed);
        resume.then(|| self.kept().pop())?
    }
}
