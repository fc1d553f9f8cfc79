//! A conversation whose every byte is known: the client uploads, and the nodes push by themselves and answer each byte
//! with one of their own. What is handed over is how far both directions are.
//!
//! A gap or a repeat in what either side reads never goes unseen.

mod client;
mod script;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls_migration::server::Arrival;
use rustls_migration::tokio::conversation::{Checkpointed, Checkpoints};
use rustls_migration::tokio::{MigrationAcceptor, TlsStream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::client::perhaps;
pub use self::client::{Client, Habit, Lull, converse, converse_as};
pub use self::script::Script;
pub use crate::content::{Content, Random};

/// How far both directions are, as it is handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub received: usize,
    pub sent: usize,
}

impl Progress {
    pub(crate) fn encode(self) -> [u8; 16] {
        let mut encoded = [0; 16];
        encoded[..8].copy_from_slice(&self.received.to_be_bytes());
        encoded[8..].copy_from_slice(&self.sent.to_be_bytes());
        encoded
    }

    pub(crate) fn decode(state: &[u8]) -> Option<Self> {
        let (received, sent) = state.split_first_chunk()?;
        Some(Self {
            received: usize::from_be_bytes(*received),
            sent: usize::from_be_bytes(sent.try_into().ok()?),
        })
    }
}

/// What became of the conversation at one node.
#[derive(Debug, Default)]
pub struct AtNode {
    /// How far it was when it came here.
    pub arrived: Option<Progress>,
    pub reached: Progress,
    /// Up to where it has tried to write. A write or flush that failed may have sent all of it.
    pub tried: usize,
    pub handed_over: Option<Progress>,
    pub checkpoints: Vec<Progress>,
    /// Whether it is another process.
    pub elsewhere: bool,
    /// Whether it went on from a checkpoint.
    pub recovered: bool,
    pub ended: bool,
    pub error: Option<io::Error>,
}

/// What the nodes noted.
#[derive(Debug, Default)]
pub struct Log {
    pub nodes: Vec<AtNode>,
    /// What must never happen.
    pub violations: Vec<String>,
}

/// One conversation's nodes.
#[derive(Debug)]
pub struct Nodes {
    script: Script,
    addresses: Vec<SocketAddr>,
    log: Mutex<Log>,
}

impl Nodes {
    pub fn new(script: Script, addresses: Vec<SocketAddr>) -> Arc<Self> {
        let nodes = addresses.iter().map(|_| AtNode::default()).collect();
        let log = Log {
            nodes,
            violations: Vec::new(),
        };
        Arc::new(Self {
            script,
            addresses,
            log: Mutex::new(log),
        })
    }

    pub fn script(&self) -> &Script {
        &self.script
    }

    /// Only node `here` is in this process.
    pub fn come_from_elsewhere(&self, here: usize) {
        for node in self.log().nodes.iter_mut().take(here) {
            node.elsewhere = true;
        }
    }

    /// What has been noted so far.
    pub fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    fn violation(&self, what: String) {
        self.log().violations.push(what);
    }

    /// Serves node `here` until nobody connects any more.
    pub async fn serve<IO>(
        self: Arc<Self>,
        here: usize,
        acceptor: MigrationAcceptor,
        mut incoming: mpsc::UnboundedReceiver<IO>,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let local = Some(self.addresses[here]);
        while let Some(io) = incoming.recv().await {
            let (nodes, acceptor) = (Arc::clone(&self), acceptor.clone());
            tasks.spawn(async move {
                // Who opens a connection and says nothing concerns no conversation.
                let Ok(stream) = acceptor.accept_from(io, None, local).await else {
                    return;
                };
                if let Err(error) = nodes.converse(here, stream).await {
                    nodes.log().nodes[here].error = Some(error);
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    }

    fn arrive(&self, here: usize, arrival: &Arrival) -> Option<Progress> {
        let progress = match arrival {
            Arrival::Fresh if here == 0 => Some(Progress::default()),
            Arrival::Migrated {
                state: Some(state), ..
            }
            | Arrival::Recovered { state, .. }
                if here > 0 =>
            {
                Progress::decode(state)
            }
            _ => None,
        };
        let recovered = matches!(arrival, Arrival::Recovered { .. });
        let mut log = self.log();
        let before = here.checked_sub(1).and_then(|i| log.nodes.get(i));
        let may_arrive = match (progress, before) {
            (None, _) => false,
            (Some(_), Some(node)) if node.elsewhere => recovered || self.script.hands_over(),
            (Some(progress), Some(node)) if recovered => node.checkpoints.contains(&progress),
            (Some(_), Some(node)) => progress == node.handed_over,
            (Some(progress), None) => progress == Progress::default(),
        };
        if !may_arrive {
            let what = format!("{arrival:?} with {progress:?}, which {before:?} did not say");
            log.violations.push(what);
            return None;
        }
        let node = &mut log.nodes[here];
        node.recovered = recovered;
        if node.arrived.is_some() {
            log.violations.push(format!("two arrivals at node {here}"));
            return None;
        }
        node.arrived = progress;
        progress
    }

    /// Where the conversation goes on if node `here` dies.
    fn checkpoints(&self, here: usize) -> Checkpoints {
        match (self.addresses.get(here + 1), self.script.checkpoint_every) {
            (None, _) | (_, 0) => Checkpoints::none(),
            (Some(next), every) => {
                Checkpoints::to(*next).every(u64::try_from(every).unwrap(), Duration::MAX)
            }
        }
    }

    async fn converse<IO>(&self, here: usize, mut stream: TlsStream<IO>) -> io::Result<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(mut progress) = self.arrive(here, stream.arrival()) else {
            return Ok(());
        };
        if self.script.takes_number {
            progress.sent += usize::try_from(stream.take_received()).unwrap();
        }
        let mut stream = Checkpointed::new(&mut stream, self.checkpoints(here));
        let mut random = Random::new(self.script.seed ^ 0x5e ^ u64::try_from(here).unwrap());
        let (start, next) = (progress.received, self.addresses.get(here + 1).copied());
        let mut told = false;
        let mut buf = vec![0; self.script.largest.max(1500)];
        loop {
            if stream.is_due() {
                self.log().nodes[here].checkpoints.push(progress);
            }
            stream.settle(&progress.encode()).await?;
            let said = self.script.said(progress.received);
            let budget = said.saturating_sub(progress.sent);
            let len = 1 + random.below(self.script.largest * 5 / 4);
            let pause = Duration::from_millis(u64::try_from(random.below(4)).unwrap());
            tokio::select! {
                read = stream.read(&mut buf) => {
                    let len = read?;
                    if len == 0 {
                        break;
                    }
                    if !Content::FromClient.is_at(progress.received, &buf[..len]) {
                        self.violation(format!("node {here} read what is not at {}", progress.received));
                    }
                    progress.received += len;
                }
                () = sleep(pause), if budget > 0 => {
                    let piece = Content::FromServer.piece(progress.sent, len.min(budget));
                    self.log().nodes[here].tried = progress.sent + piece.len();
                    progress.sent += stream.write(&piece).await?;
                    stream.flush().await?;
                }
            }
            self.log().nodes[here].reached = progress;
            if let Some(next) = next
                && !told
                && progress.received - start >= self.script.notify_after
            {
                if self.script.change_of_mind {
                    stream
                        .tls()
                        .migrate_to(self.addresses[0], Some(&[]))
                        .await?;
                    sleep(pause).await;
                }
                stream.tls().handshake().await?;
                let state = progress.encode();
                let telling = stream.tls().migrate_to(next, Some(&state));
                match perhaps(&mut random, self.script.impatient, telling).await {
                    Some(done) => done?,
                    // Giving up may have come too early or too late; to be told twice is the same.
                    None => stream.tls().migrate_to(next, Some(&state)).await?,
                }
                told = true;
            }
        }
        if told {
            stream.tls().set_state(&progress.encode())?;
            self.log().nodes[here].handed_over = Some(progress);
        } else {
            let left = self.script.said(progress.received) - progress.sent;
            let rest = Content::FromServer.piece(progress.sent, left);
            self.log().nodes[here].tried = progress.sent + left;
            stream.write_all(&rest).await?;
            progress.sent += left;
            let mut log = self.log();
            log.nodes[here].reached = progress;
            log.nodes[here].ended = true;
        }
        stream.shutdown().await
    }
}
