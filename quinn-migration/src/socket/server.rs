//! The server's socket: one UDP socket for each of its addresses, added and removed at run time.
//!
//! Never answers from another address than the one a client is on.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};

use super::alias::{HIGHEST, alias, unalias};
use super::set::{Direct, SocketSet};
use super::{PathId, Traffic};

#[derive(Debug)]
pub(crate) struct ServerSocket {
    /// Kept for its properties only: sending and receiving go through the set.
    first: Properties,
    sockets: Arc<SocketSet>,
    next: AtomicU32,
}

/// What quinn asks for once, when the endpoint starts. The other sockets are the same: these are properties of the host.
#[derive(Debug, Clone, Copy)]
struct Properties {
    address: SocketAddr,
    receive_segments: usize,
    may_fragment: bool,
}

impl ServerSocket {
    pub(crate) fn new(first: UdpSocket, runtime: &dyn Runtime) -> io::Result<Self> {
        let direct = Direct::to(&first)?;
        let first = runtime.wrap_udp_socket(first)?;
        let properties = Properties {
            address: first.local_addr()?,
            receive_segments: first.max_receive_segments(),
            may_fragment: first.may_fragment(),
        };
        let sockets = Arc::new(SocketSet::default());
        sockets.insert(PathId::FIRST, first, Some(direct));
        Ok(Self {
            first: properties,
            sockets,
            next: AtomicU32::new(1),
        })
    }

    /// `None` when every number has been used.
    pub(crate) fn add(
        &self,
        socket: UdpSocket,
        runtime: &dyn Runtime,
    ) -> io::Result<Option<PathId>> {
        let direct = Direct::to(&socket)?;
        let socket = runtime.wrap_udp_socket(socket)?;
        let next = |number: u32| (number <= HIGHEST).then(|| number.saturating_add(1));
        let taken = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let Ok(number) = taken else { return Ok(None) };
        let id = PathId(number);
        self.sockets.insert(id, socket, Some(direct));
        Ok(Some(id))
    }

    pub(crate) fn remove(&self, id: PathId) -> bool {
        self.sockets.remove(id)
    }

    pub(crate) fn traffic(&self, id: PathId) -> Option<Traffic> {
        self.sockets.traffic(id)
    }

    /// The client behind a remote address that quinn shows, and the server address that it is on.
    pub(crate) fn client(shown: SocketAddr) -> (SocketAddr, PathId) {
        unalias(shown)
    }
}

impl AsyncUdpSocket for ServerSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.sockets.poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let (client, id) = unalias(transmit.destination);
        let part = Transmit {
            destination: client,
            // The source that quinn remembers is that of the connection's first address.
            src_ip: transmit.src_ip.filter(|_| id == PathId::FIRST),
            ..transmit.clone()
        };
        self.sockets.try_send(id, &part)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (id, count) = match self.sockets.poll_recv(cx, buffers, meta) {
            Poll::Ready(Ok(received)) => received,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        if id != PathId::FIRST {
            for one in meta.iter_mut().take(count) {
                one.addr = alias(one.addr, id);
                one.dst_ip = None;
            }
        }
        Poll::Ready(Ok(count))
    }

    /// The first address, also after it was removed.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.first.address)
    }

    fn max_transmit_segments(&self) -> usize {
        self.sockets.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.first.receive_segments
    }

    fn may_fragment(&self) -> bool {
        self.first.may_fragment
    }
}
