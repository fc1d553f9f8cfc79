//! Datagrams in batches: what the kernel coalesces is taken apart, and what it can segment is put together.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::address::for_family;

/// Buffers that one system call fills, and the size of each: the most that the kernel coalesces.
const BUFFERS: usize = 8;
const BUFFER_LEN: usize = 65_536;
/// UDP's length field has room for this much payload over IPv4.
const LARGEST_BATCH: usize = 65_507;
/// Errors in a row at receiving, after which a socket is broken; fewer pass.
const MOST_ERRORS: u32 = 16;

/// One datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) datagram: &'a [u8],
}

/// What one system call has received.
pub(crate) struct Arrivals {
    buffers: Vec<Vec<u8>>,
    meta: Vec<RecvMeta>,
    filled: usize,
    /// The buffer, and the place in it, of the next datagram.
    next: (usize, usize),
    errors: u32,
}

impl Arrivals {
    pub(crate) fn new() -> Self {
        Self {
            buffers: vec![vec![0; BUFFER_LEN]; BUFFERS],
            meta: vec![RecvMeta::default(); BUFFERS],
            filled: 0,
            next: (0, 0),
            errors: 0,
        }
    }

    /// Receives more. What was there before is gone.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        socket: &dyn AsyncUdpSocket,
    ) -> Poll<io::Result<()>> {
        (self.filled, self.next) = (0, (0, 0));
        loop {
            let mut slices: Vec<IoSliceMut<'_>> = self
                .buffers
                .iter_mut()
                .map(|b| IoSliceMut::new(b))
                .collect();
            match socket.poll_recv(cx, &mut slices, &mut self.meta) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(filled)) => {
                    (self.filled, self.errors) = (filled, 0);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) if self.errors >= MOST_ERRORS => {
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "receiving failed; again");
                    self.errors = self.errors.saturating_add(1);
                }
            }
        }
    }

    /// Waits for more.
    pub(crate) async fn fill(&mut self, socket: &dyn AsyncUdpSocket) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_fill(cx, socket)).await
    }

    /// The next datagram; `None` when all have been taken.
    pub(crate) fn next(&mut self) -> Option<Arrival<'_>> {
        loop {
            let (index, start) = self.next;
            if index >= self.filled {
                return None;
            }
            let meta = self.meta.get(index)?;
            if start >= meta.len {
                self.next = (index.saturating_add(1), 0);
                continue;
            }
            let end = start.saturating_add(meta.stride.max(1)).min(meta.len);
            self.next = (index, end);
            let datagram = self.buffers.get(index)?.get(start..end)?;
            return Some(Arrival {
                from: meta.addr,
                ecn: meta.ecn,
                datagram,
            });
        }
    }
}

/// Datagrams on their way out; those for one destination leave together where the device can do that.
pub(crate) struct Outgoing {
    socket: Arc<dyn AsyncUdpSocket>,
    poller: Pin<Box<dyn UdpPoller>>,
    v6: bool,
    contents: Vec<u8>,
    way: Option<Way>,
    /// Length of the first datagram; the others are not longer.
    segment: usize,
    segments: usize,
}

/// Where a datagram goes, and its congestion mark.
pub(crate) type Way = (SocketAddr, Option<EcnCodepoint>);

impl Outgoing {
    pub(crate) fn new(socket: Arc<dyn AsyncUdpSocket>) -> io::Result<Self> {
        Ok(Self {
            poller: Arc::clone(&socket).create_io_poller(),
            v6: socket.local_addr()?.is_ipv6(),
            socket,
            contents: Vec::new(),
            way: None,
            segment: 0,
            segments: 0,
        })
    }

    /// Adds a datagram of `length` bytes that `write` appends. Sends what is there first when it cannot leave with it.
    pub(crate) async fn push(
        &mut self,
        way: Way,
        length: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<()> {
        let total = self.contents.len().saturating_add(length);
        let all_full = self.contents.len() == self.segment.saturating_mul(self.segments);
        let fits = self.way == Some(way)
            && all_full
            && length <= self.segment
            && total <= LARGEST_BATCH
            && self.segments < self.socket.max_transmit_segments();
        if !fits {
            self.flush().await?;
            (self.way, self.segment) = (Some(way), length);
        }
        write(&mut self.contents);
        self.segments = self.segments.saturating_add(1);
        Ok(())
    }

    /// Sends what is there. A datagram that the socket refuses is lost, as on any network.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if let Some((destination, ecn)) = self.way.take() {
            let transmit = Transmit {
                destination: for_family(destination, self.v6),
                ecn,
                contents: &self.contents,
                segment_size: (self.segments > 1).then_some(self.segment),
                src_ip: None,
            };
            while let Err(error) = self.socket.try_send(&transmit) {
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!(%error, to = %destination, "datagrams not sent");
                    break;
                }
                std::future::poll_fn(|cx| self.poller.as_mut().poll_writable(cx)).await?;
            }
        }
        self.contents.clear();
        self.segments = 0;
        Ok(())
    }
}
