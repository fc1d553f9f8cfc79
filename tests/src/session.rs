//! A conversation whose every byte is known: the client uploads, and the nodes push by themselves and answer each byte
//! with one of their own. What is handed over is how far both directions are.
//!
//! A gap or a repeat in what either side reads never goes unseen.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use rustls_migration::server::Arrival;
use rustls_migration::tokio::{HandOffError, MigrationAcceptor, TlsStream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Random numbers that a seed decides (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// From `0` to `end - 1`.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap();
        usize::try_from(self.bits() % end).unwrap()
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// One of the two streams of bytes.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    FromClient,
    FromServer,
}

impl Content {
    fn byte(self, position: usize) -> u8 {
        let salt = match self {
            Self::FromClient => 0x51_7c_c1,
            Self::FromServer => 0x27_22_0a,
        };
        let mixed = (position + salt).wrapping_mul(2_654_435_761);
        mixed.to_be_bytes()[5]
    }

    /// The bytes from `start` on.
    pub fn piece(self, start: usize, len: usize) -> Vec<u8> {
        (start..start + len).map(|at| self.byte(at)).collect()
    }

    /// Whether these are the bytes from `start` on.
    pub fn is_at(self, start: usize, bytes: &[u8]) -> bool {
        bytes
            .iter()
            .enumerate()
            .all(|(i, byte)| *byte == self.byte(start + i))
    }
}

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

/// What is said in a conversation.
#[derive(Clone, Debug)]
pub struct Script {
    pub seed: u64,
    /// What the client writes, in bytes.
    pub uploaded: usize,
    /// What the server writes besides its answers, in bytes.
    pub pushed: usize,
    /// After how many bytes from the client each node but the last one tells it to move on.
    pub notify_after: usize,
    /// Whether a node tells the client to go somewhere else at first.
    pub change_of_mind: bool,
    /// Whether the client's reading and writing are two tasks.
    pub halves: bool,
    /// Whether the client gives up waiting now and then, and begins anew.
    pub impatient: bool,
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
            } if here > 0 => Progress::decode(state),
            _ => None,
        };
        let mut log = self.log();
        let before = here.checked_sub(1).and_then(|i| log.nodes.get(i));
        let handed_over = before.map_or(Some(Progress::default()), |node| node.handed_over);
        if progress.is_none() || progress != handed_over {
            let what =
                format!("{arrival:?} with {progress:?}, but {handed_over:?} was handed over");
            log.violations.push(what);
            return None;
        }
        let node = &mut log.nodes[here];
        if node.arrived.is_some() {
            log.violations.push(format!("two arrivals at node {here}"));
            return None;
        }
        node.arrived = progress;
        progress
    }

    async fn converse<IO>(&self, here: usize, mut stream: TlsStream<IO>) -> io::Result<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(mut progress) = self.arrive(here, stream.arrival()) else {
            return Ok(());
        };
        let mut random = Random::new(self.script.seed ^ 0x5e ^ u64::try_from(here).unwrap());
        let (start, next) = (progress.received, self.addresses.get(here + 1).copied());
        let mut told = false;
        let mut buf = [0; 1500];
        loop {
            let budget = self.script.pushed + progress.received - progress.sent;
            let len = 1 + random.below(500);
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
                    stream.migrate_to(self.addresses[0], Some(&[])).await?;
                    sleep(pause).await;
                }
                stream.handshake().await?;
                let state = progress.encode();
                let telling = stream.migrate_to(next, Some(&state));
                match perhaps(&mut random, self.script.impatient, telling).await {
                    Some(done) => done?,
                    // Giving up may have come too early or too late; to be told twice is the same.
                    None => stream.migrate_to(next, Some(&state)).await?,
                }
                told = true;
            }
        }
        if told {
            stream.set_state(&progress.encode())?;
            self.log().nodes[here].handed_over = Some(progress);
        } else {
            let left = self.script.pushed + progress.received - progress.sent;
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

/// What the client saw.
#[derive(Debug, Default)]
pub struct Client {
    /// How many bytes its writes took.
    pub written: usize,
    pub write_error: Option<io::Error>,
    /// Whether it closed its side.
    pub closed: bool,
    pub read: usize,
    pub read_error: Option<io::Error>,
    /// Whether it read to an end without an error.
    pub ended: bool,
}

impl Client {
    /// The hand-off's failure, if that ended the stream.
    pub fn hand_off_error(&self) -> Option<&HandOffError> {
        let error = self.read_error.as_ref()?.get_ref()?;
        error.downcast_ref()
    }
}

/// Polls a future a few times and then drops it, if it is one of the times for that.
async fn perhaps<F: Future>(random: &mut Random, impatient: bool, future: F) -> Option<F::Output> {
    if !impatient || random.once_in(2) {
        return Some(future.await);
    }
    let mut future = pin!(future);
    let mut polls = random.below(4);
    let limited = std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if polls == 0 => Poll::Ready(None),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    });
    // A task that gave up looks again after a while.
    match timeout(Duration::from_millis(7), limited).await {
        Ok(Some(output)) => Some(output),
        Ok(None) | Err(_) => {
            sleep(Duration::from_millis(1)).await;
            None
        }
    }
}

/// The client's reading.
struct Reading {
    seed: u64,
    random: Random,
    impatient: bool,
    client: Client,
}

impl Reading {
    /// One read, or the attempt at one. `false` when there is nothing more to read.
    async fn step(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> bool {
        // Now and then into no room at all.
        let room = match self.random.once_in(8) {
            true => 0,
            false => 1 + self.random.below(1500),
        };
        let mut buf = vec![0; room];
        let read = perhaps(&mut self.random, self.impatient, stream.read(&mut buf)).await;
        match read {
            None => true,
            Some(Ok(0)) if buf.is_empty() => true,
            Some(Ok(0)) => {
                self.client.ended = true;
                false
            }
            Some(Ok(len)) => {
                let at = self.client.read;
                let right = Content::FromServer.is_at(at, &buf[..len]);
                assert!(right, "seed {}: what was read is not at {at}", self.seed);
                self.client.read += len;
                true
            }
            Some(Err(error)) => {
                self.client.read_error = Some(error);
                false
            }
        }
    }
}

/// The client's writing.
struct Writing {
    random: Random,
    impatient: bool,
    uploaded: usize,
    client: Client,
}

impl Writing {
    /// One write, flush or shutdown, or the attempt at one. `false` when there is nothing more to do.
    async fn step(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> bool {
        let random = &mut self.random;
        let left = self.uploaded - self.client.written;
        let done = if left == 0 {
            let shutdown = perhaps(random, self.impatient, stream.shutdown()).await;
            self.client.closed |= matches!(shutdown, Some(Ok(())));
            shutdown
        } else if random.once_in(6) {
            perhaps(random, self.impatient, stream.flush()).await
        } else {
            let len = left.min(1 + random.below(400));
            let piece = Content::FromClient.piece(self.client.written, len);
            let written = perhaps(random, self.impatient, stream.write(&piece)).await;
            written.map(|written| written.map(|len| self.client.written += len))
        };
        if random.once_in(3) {
            sleep(Duration::from_millis(
                u64::try_from(random.below(6)).unwrap(),
            ))
            .await;
        }
        match done {
            Some(Err(error)) => {
                self.client.write_error = Some(error);
                false
            }
            Some(Ok(())) | None => !self.client.closed,
        }
    }
}

/// The client's side of the conversation. Panics at a gap or a repeat.
pub async fn converse<S>(script: &Script, mut stream: S) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut reading = Reading {
        seed: script.seed,
        random: Random::new(script.seed ^ 0xc1),
        impatient: script.impatient,
        client: Client::default(),
    };
    let mut writing = Writing {
        random: Random::new(script.seed ^ 0xc2),
        impatient: script.impatient,
        uploaded: script.uploaded,
        client: Client::default(),
    };
    if script.halves {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let reader = tokio::spawn(async move {
            while reading.step(&mut reader).await {}
            reading
        });
        let writer = tokio::spawn(async move {
            while writing.step(&mut writer).await {}
            writing
        });
        reading = reader.await.unwrap();
        writing = writer.await.unwrap();
    } else {
        // One task can do only one thing at a time, so it never waits for long.
        (reading.impatient, writing.impatient) = (true, true);
        let (mut reads, mut writes) = (true, true);
        while reads || writes {
            reads = reads
                && step_a_while(reading.step(&mut stream))
                    .await
                    .unwrap_or(true);
            writes = writes
                && step_a_while(writing.step(&mut stream))
                    .await
                    .unwrap_or(true);
        }
    }
    Client {
        written: writing.client.written,
        write_error: writing.client.write_error,
        closed: writing.client.closed,
        ..reading.client
    }
}

/// Drops what takes longer than a few milliseconds.
async fn step_a_while<F: Future>(step: F) -> Option<F::Output> {
    timeout(Duration::from_millis(5), step).await.ok()
}
