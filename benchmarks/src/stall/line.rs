//! A delay line: what is sent at one end arrives at the other after a fixed time, and connections take as long to be set
//! up as over TCP.
//!
//! It has no limit of throughput and loses nothing.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use migration_token::BoxFuture;
use rustls_migration::tokio::{Dial, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::moment::Exactness;

/// What is under way, and when it arrives. Nothing in it is the end.
type Piece = (Instant, Vec<u8>);

/// The line between one client and its nodes.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    round_trip: Duration,
    exactness: Exactness,
    nodes: Arc<Mutex<HashMap<SocketAddr, UnboundedSender<End>>>>,
}

impl Line {
    pub(super) fn new(round_trip: Duration, exactness: Exactness) -> Self {
        Self {
            round_trip,
            exactness,
            nodes: Arc::default(),
        }
    }

    /// The connections that are made to `address`.
    pub(crate) fn listen(&self, address: SocketAddr) -> UnboundedReceiver<End> {
        let (sender, receiver) = unbounded_channel();
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.insert(address, sender);
        receiver
    }

    async fn open(&self, address: SocketAddr) -> io::Result<End> {
        let exactness = self.exactness;
        exactness.wait_until(Instant::now() + self.round_trip).await;
        let (up, down) = (unbounded_channel(), unbounded_channel());
        let delay = self.round_trip / 2;
        let end = |sender, receiver| End {
            delay,
            exactness,
            sender: Some(sender),
            receiver,
            arriving: None,
            arrived: Vec::new(),
        };
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let node = nodes
            .get(&address)
            .ok_or(io::ErrorKind::ConnectionRefused)?;
        node.send(end(down.0, up.1))
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(end(up.0, down.1))
    }
}

impl Dial for Line {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let end: Box<dyn Transport> = Box::new(self.open(address).await?);
            Ok(end)
        })
    }
}

/// One end of a connection.
pub(crate) struct End {
    delay: Duration,
    exactness: Exactness,
    sender: Option<UnboundedSender<Piece>>,
    receiver: UnboundedReceiver<Piece>,
    arriving: Option<(BoxFuture<'static, ()>, Vec<u8>)>,
    arrived: Vec<u8>,
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.arrived.is_empty() {
            if this.arriving.is_none() {
                let Some((at, piece)) = ready!(this.receiver.poll_recv(cx)) else {
                    return Poll::Ready(Ok(()));
                };
                this.arriving = Some((Box::pin(this.exactness.wait_until(at)), piece));
            }
            let Some((arrival, piece)) = &mut this.arriving else {
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
        let rest = this.arrived.split_off(amount);
        buf.put_slice(&std::mem::replace(&mut this.arrived, rest));
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End")
            .field("delay", &self.delay)
            .finish_non_exhaustive()
    }
}

impl End {
    fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        let sender = self.sender.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        sender
            .send((Instant::now() + self.delay, piece.to_vec()))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for End {
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
