//! A dialer that notes every byte of its connections, and may send a connection elsewhere than it was meant to go.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use migration_token::BoxFuture;
use rustls_migration::tokio::{Dial, TcpDialer, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What went over one connection.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    pub sent: Vec<u8>,
    pub received: Vec<u8>,
}

impl Recorded {
    /// Content type and length of every record that was sent.
    pub fn sent_shape(&self) -> Vec<(u8, usize)> {
        shape(&self.sent)
    }

    /// Content type and length of every record that was received.
    pub fn received_shape(&self) -> Vec<(u8, usize)> {
        shape(&self.received)
    }
}

fn shape(mut records: &[u8]) -> Vec<(u8, usize)> {
    let mut shape = Vec::new();
    while let [kind, _, _, high, low, tail @ ..] = records {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        shape.push((*kind, len));
        records = tail.get(len..).unwrap_or_default();
    }
    shape
}

/// Dials by TCP and records.
#[derive(Clone, Debug, Default)]
pub struct RecordingDialer {
    connections: Arc<Mutex<Vec<Arc<Mutex<Recorded>>>>>,
    redirect: Arc<Mutex<Option<(SocketAddr, SocketAddr)>>>,
}

impl RecordingDialer {
    /// From now on dials `to` for `from`.
    pub fn redirect(&self, from: SocketAddr, to: SocketAddr) {
        *self.redirect.lock().unwrap() = Some((from, to));
    }

    /// All connections so far.
    pub fn all(&self) -> Vec<Recorded> {
        let connections = self.connections.lock().unwrap();
        connections
            .iter()
            .map(|recorded| recorded.lock().unwrap().clone())
            .collect()
    }

    /// The latest connection.
    pub fn last(&self) -> Recorded {
        self.all().pop().expect("something was dialled")
    }
}

impl Dial for RecordingDialer {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        let address = match *self.redirect.lock().unwrap() {
            Some((from, to)) if from == address => to,
            _ => address,
        };
        let recorded = Arc::new(Mutex::new(Recorded::default()));
        self.connections.lock().unwrap().push(Arc::clone(&recorded));
        Box::pin(async move {
            let io = TcpDialer.dial(address).await?;
            let recording: Box<dyn Transport> = Box::new(Recording { io, recorded });
            Ok(recording)
        })
    }
}

struct Recording {
    io: Box<dyn Transport>,
    recorded: Arc<Mutex<Recorded>>,
}

impl AsyncRead for Recording {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        self.recorded
            .lock()
            .unwrap()
            .received
            .extend_from_slice(new);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recording {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        let new = buf.get(..written).unwrap_or_default();
        self.recorded.lock().unwrap().sent.extend_from_slice(new);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
