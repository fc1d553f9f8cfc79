//! A network in memory between a client and its nodes, which breaks, holds or splits what passes at a chosen byte or TLS
//! record. Its time is tokio's, so that a test which pauses the clock decides every order of events.
//!
//! It never changes a byte: what it delivers is a prefix of what was sent.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use migration_token::BoxFuture;
use rustls_migration::tokio::{Dial, Transport};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, ReadHalf,
    WriteHalf,
};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// Where something happens: after so much of one direction has been delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Byte(usize),
    Record(usize),
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both directions end in order, without what has not been delivered.
    Fin,
    /// Both directions break at once; what has been delivered and not read is gone too.
    Reset,
    /// This direction ends in order. The rest of it is taken from its sender and lost.
    HalfClose,
    /// What follows waits.
    Hold(Duration),
    /// What follows arrives in pieces of this many bytes, with a little time between them.
    Trickle(usize),
}

impl Fault {
    /// Whether something gets lost.
    pub fn loses(self) -> bool {
        matches!(self, Self::Fin | Self::Reset | Self::HalfClose)
    }
}

/// One fault of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Incident {
    /// Which connection, in the order of dialling.
    pub leg: usize,
    pub direction: Direction,
    pub at: At,
    pub fault: Fault,
}

/// How many records each direction of one connection delivered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivered {
    pub to_server: usize,
    pub to_client: usize,
}

/// The network of one test.
#[derive(Clone, Debug)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nodes: Mutex<HashMap<SocketAddr, mpsc::UnboundedSender<End>>>,
    away: Mutex<HashSet<SocketAddr>>,
    incidents: Vec<Incident>,
    delivered: Mutex<Vec<Delivered>>,
    latency: Duration,
    capacity: usize,
}

impl Network {
    /// `latency` is for one direction. `capacity` is what each end buffers, in bytes.
    pub fn new(latency: Duration, capacity: usize, incidents: Vec<Incident>) -> Self {
        Self(Arc::new(Inner {
            nodes: Mutex::default(),
            away: Mutex::default(),
            incidents,
            delivered: Mutex::default(),
            latency,
            capacity,
        }))
    }

    /// The connections that are made to `address`. Nobody listens any more when the receiver is dropped.
    pub fn listen(&self, address: SocketAddr) -> mpsc::UnboundedReceiver<End> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.nodes.lock().unwrap().insert(address, sender);
        receiver
    }

    /// Nobody listens any more. Connections go on.
    pub fn close(&self) {
        self.0.nodes.lock().unwrap().clear();
    }

    /// Whether `address` refuses connections for now. Those that it has go on.
    pub fn set_away(&self, address: SocketAddr, away: bool) {
        let mut all = self.0.away.lock().unwrap();
        match away {
            true => all.insert(address),
            false => all.remove(&address),
        };
    }

    /// What each connection delivered, in the order of dialling.
    pub fn delivered(&self) -> Vec<Delivered> {
        self.0.delivered.lock().unwrap().clone()
    }

    fn faults(&self, leg: usize, direction: Direction) -> Vec<(At, Fault)> {
        let here = |incident: &&Incident| incident.leg == leg && incident.direction == direction;
        let incidents = self.0.incidents.iter().filter(here);
        incidents.map(|one| (one.at, one.fault)).collect()
    }

    fn connect(&self, node: &mpsc::UnboundedSender<End>, leg: usize) -> io::Result<End> {
        let broken = Arc::new(AtomicBool::new(false));
        let (client, near) = tokio::io::duplex(self.0.capacity);
        let (far, server) = tokio::io::duplex(self.0.capacity);
        let end = |io| End {
            io,
            broken: Arc::clone(&broken),
        };
        node.send(end(server))
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
        let client = end(client);
        let (from_client, to_client) = tokio::io::split(near);
        let (from_server, to_server) = tokio::io::split(far);
        let pump = |direction| Pump {
            network: self.clone(),
            leg,
            direction,
            faults: self.faults(leg, direction),
            records: Records::default(),
            bytes: 0,
            pace: None,
        };
        let (up, down) = (pump(Direction::ToServer), pump(Direction::ToClient));
        tokio::spawn(async move {
            let both = async {
                tokio::try_join!(
                    up.run(from_client, to_server),
                    down.run(from_server, to_client)
                )
            };
            if let Err(Break::Reset) = both.await {
                broken.store(true, Ordering::Relaxed);
            }
        });
        Ok(client)
    }
}

impl Dial for Network {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let leg = {
                let mut delivered = self.0.delivered.lock().unwrap();
                delivered.push(Delivered::default());
                delivered.len() - 1
            };
            sleep(self.0.latency * 2).await;
            let node = self.0.nodes.lock().unwrap().get(&address).cloned();
            let away = self.0.away.lock().unwrap().contains(&address);
            let node = node.filter(|_| !away);
            let node = node.ok_or(io::ErrorKind::ConnectionRefused)?;
            let end: Box<dyn Transport> = Box::new(self.connect(&node, leg)?);
            Ok(end)
        })
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct End {
    io: DuplexStream,
    broken: Arc<AtomicBool>,
}

impl End {
    fn check(&self) -> io::Result<()> {
        match self.broken.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for End {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Why a connection ended before its time.
enum Break {
    Fin,
    Reset,
}

/// One direction of one connection.
struct Pump {
    network: Network,
    leg: usize,
    direction: Direction,
    faults: Vec<(At, Fault)>,
    records: Records,
    bytes: usize,
    /// The length of pieces, if not all is delivered at once.
    pace: Option<usize>,
}

impl Pump {
    async fn run(
        mut self,
        mut from: ReadHalf<DuplexStream>,
        mut to: WriteHalf<DuplexStream>,
    ) -> Result<(), Break> {
        let mut buf = [0; 4096];
        let mut open = self.apply_faults().await?;
        while open {
            let len = from.read(&mut buf).await.unwrap_or(0);
            if len == 0 {
                break;
            }
            sleep(self.network.0.latency).await;
            let mut rest = buf.get(..len).unwrap_or_default();
            while open && !rest.is_empty() {
                let (piece, tail) = rest.split_at(self.step(rest.len()));
                rest = tail;
                // Who does not listen any more gets nothing.
                open = to.write_all(piece).await.is_ok();
                self.note(piece);
                open &= self.apply_faults().await?;
                if self.pace.is_some() {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        }
        let _ = to.shutdown().await;
        while from.read(&mut buf).await.is_ok_and(|len| len > 0) {}
        Ok(())
    }

    /// How many of `len` bytes go at once: never past the end of a record or the place of a fault.
    fn step(&self, len: usize) -> usize {
        let next_fault = self.faults.iter().filter_map(|(at, _)| match at {
            At::Byte(byte) => byte.checked_sub(self.bytes).filter(|left| *left > 0),
            At::Record(_) => None,
        });
        let limits = next_fault.chain(self.pace).chain([self.records.left()]);
        limits.fold(len, usize::min).max(1)
    }

    fn note(&mut self, piece: &[u8]) {
        self.bytes += piece.len();
        self.records.pass(piece);
        let mut delivered = self.network.0.delivered.lock().unwrap();
        let delivered = &mut delivered[self.leg];
        match self.direction {
            Direction::ToServer => delivered.to_server = self.records.complete,
            Direction::ToClient => delivered.to_client = self.records.complete,
        }
    }

    /// `Ok(false)` when nothing more of this direction is delivered.
    async fn apply_faults(&mut self) -> Result<bool, Break> {
        let here = |at: At| match at {
            At::Byte(byte) => byte == self.bytes,
            At::Record(record) => record == self.records.complete && self.records.at_boundary(),
        };
        let (due, later) = self.faults.iter().partition(|(at, _)| here(*at));
        self.faults = later;
        let due: Vec<(At, Fault)> = due;
        for (_, fault) in due {
            match fault {
                Fault::Fin => return Err(Break::Fin),
                Fault::Reset => return Err(Break::Reset),
                Fault::HalfClose => return Ok(false),
                Fault::Hold(time) => sleep(time).await,
                Fault::Trickle(len) => self.pace = Some(len),
            }
        }
        Ok(true)
    }
}

/// Where a direction is in its sequence of TLS records.
#[derive(Default)]
struct Records {
    complete: usize,
    header: Vec<u8>,
    body_left: usize,
}

impl Records {
    fn at_boundary(&self) -> bool {
        self.header.is_empty() && self.body_left == 0
    }

    /// How many bytes there are at the most to the end of the header or of the body.
    fn left(&self) -> usize {
        match self.body_left {
            0 => 5 - self.header.len(),
            left => left,
        }
    }

    /// Takes at most [`left`](Self::left) bytes.
    fn pass(&mut self, piece: &[u8]) {
        if self.body_left == 0 {
            self.header.extend_from_slice(piece);
            if let [_, _, _, high, low] = *self.header {
                self.body_left = usize::from(u16::from_be_bytes([high, low]));
            }
        } else {
            self.body_left -= piece.len();
            if self.body_left == 0 {
                self.header.clear();
                self.complete += 1;
            }
        }
    }
}
