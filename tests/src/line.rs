//! A line between a client and its nodes: what is sent at one end arrives at the other after a fixed time, however much is under
//! way, and connections take as long to be set up as over TCP. For tests that measure round trips in virtual time.
//!
//! It has no limit of throughput. Whole milliseconds are exact.

use std::collections::{HashMap, HashSet};
use std::future::{Future as _, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use migration_token::BoxFuture;
use rustls_migration::tokio::{Dial, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// What is under way, and when it arrives. Nothing in it is the end.
type Piece = (Instant, Vec<u8>);

/// The line of one client.
#[derive(Clone, Debug)]
pub struct Line(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    latency: Duration,
    nodes: Mutex<HashMap<SocketAddr, UnboundedSender<LineEnd>>>,
    dialled: Mutex<Vec<SocketAddr>>,
    without_power: Mutex<HashSet<SocketAddr>>,
}

impl Line {
    /// With so much in each direction.
    pub fn new(latency: Duration) -> Self {
        Self(Arc::new(Inner {
            latency,
            nodes: Mutex::default(),
            dialled: Mutex::default(),
            without_power: Mutex::default(),
        }))
    }

    pub fn round_trip(&self) -> Duration {
        self.0.latency * 2
    }

    /// The connections that are made to `address`. Nobody listens any more when the receiver is dropped.
    pub fn listen(&self, address: SocketAddr) -> UnboundedReceiver<LineEnd> {
        let (sender, receiver) = unbounded_channel();
        self.0.nodes.lock().unwrap().insert(address, sender);
        receiver
    }

    /// How often `address` has been dialled.
    pub fn dialled(&self, address: SocketAddr) -> usize {
        let dialled = self.0.dialled.lock().unwrap();
        dialled.iter().filter(|one| **one == address).count()
    }

    /// From now on nothing leaves or reaches the node at `address`, and nobody is told.
    pub fn cut_power(&self, address: SocketAddr) {
        self.0.without_power.lock().unwrap().insert(address);
    }

    fn has_power(&self, address: SocketAddr) -> bool {
        !self.0.without_power.lock().unwrap().contains(&address)
    }
}

impl Dial for Line {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            self.0.dialled.lock().unwrap().push(address);
            sleep(self.round_trip()).await;
            if !self.has_power(address) {
                pending::<()>().await;
            }
            let (up, down) = (unbounded_channel(), unbounded_channel());
            let end = |sender, receiver| LineEnd {
                line: self.clone(),
                node: address,
                sender: Some(sender),
                receiver,
                arriving: None,
                arrived: Vec::new(),
            };
            let node = self.0.nodes.lock().unwrap().get(&address).cloned();
            let node = node.ok_or(io::ErrorKind::ConnectionRefused)?;
            node.send(end(down.0, up.1))
                .map_err(|_| io::ErrorKind::ConnectionRefused)?;
            let client: Box<dyn Transport> = Box::new(end(up.0, down.1));
            Ok(client)
        })
    }
}

/// One end of a connection. When one is dropped, the other comes to its end at once, behind what is under way.
#[derive(Debug)]
pub struct LineEnd {
    line: Line,
    node: SocketAddr,
    sender: Option<UnboundedSender<Piece>>,
    receiver: UnboundedReceiver<Piece>,
    arriving: Option<(Pin<Box<Sleep>>, Vec<u8>)>,
    arrived: Vec<u8>,
}

impl LineEnd {
    fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        let sender = self.sender.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        if !self.line.has_power(self.node) {
            return Ok(());
        }
        sender
            .send((Instant::now() + self.line.0.latency, piece.to_vec()))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for LineEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.arrived.is_empty() {
            let Some((arrival, piece)) = &mut this.arriving else {
                let Some((at, piece)) = ready!(this.receiver.poll_recv(cx)) else {
                    return Poll::Ready(Ok(()));
                };
                this.arriving = Some((Box::pin(sleep_until(at)), piece));
                continue;
            };
            ready!(arrival.as_mut().poll(cx));
            if piece.is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.arrived = std::mem::take(piece);
            this.arriving = None;
        }
        let amount = this.arrived.len().min(buf.remaining());
        buf.put_slice(&this.arrived[..amount]);
        this.arrived.drain(..amount);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LineEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.get_mut().send(buf).map(|()| buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Who is gone needs no end.
        let _ = this.send(&[]);
        this.sender = None;
        Poll::Ready(Ok(()))
    }
}
