//! The server's socket: one UDP socket for each of its addresses, added and removed at run time.
//!
//! Never answers from another address than the one a client is on.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};

use super::alias::{HIGHEST, alias, unalias};
use super::home::{Homes, is_long};
use super::set::{Direct, SocketSet};
use super::{PathId, Traffic};
use crate::policy::canonical;

#[derive(Debug)]
pub(crate) struct ServerSocket {
    /// Kept for its properties only: sending and receiving go through the set.
    first: Properties,
    sockets: Arc<SocketSet>,
    homes: Arc<Homes>,
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
    pub(crate) fn new(
        first: UdpSocket,
        runtime: &dyn Runtime,
        homes: Arc<Homes>,
    ) -> io::Result<Self> {
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
            homes,
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
        self.insert(runtime.wrap_udp_socket(socket)?, Some(direct))
    }

    /// The same for a socket of another kind.
    pub(crate) fn add_socket(&self, socket: Arc<dyn AsyncUdpSocket>) -> io::Result<Option<PathId>> {
        self.insert(socket, None)
    }

    fn insert(
        &self,
        socket: Arc<dyn AsyncUdpSocket>,
        direct: Option<Direct>,
    ) -> io::Result<Option<PathId>> {
        let ip = socket.local_addr()?.ip().to_canonical();
        let next = |number: u32| (number <= HIGHEST).then(|| number.saturating_add(1));
        let taken = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let Ok(number) = taken else { return Ok(None) };
        let id = PathId(number);
        // A first socket on all addresses receives for this one too.
        let first = self.first.address.ip().to_canonical();
        let alone = !first.is_unspecified() && first != ip && !self.sockets.has_ip(ip);
        self.homes.add(id, ip, alone);
        self.sockets.insert(id, socket, direct);
        Ok(Some(id))
    }

    pub(crate) fn remove(&self, id: PathId) -> bool {
        let removed = self.sockets.remove(id);
        if removed && id != PathId::FIRST {
            self.homes.remove(id);
        }
        removed
    }

    /// The local address of a socket; `None` when it was removed.
    pub(crate) fn address(&self, id: PathId) -> Option<SocketAddr> {
        self.sockets.socket(id)?.local_addr().ok()
    }

    /// Whether a client that sends to `address` hears answers from there. A socket on all addresses answers from the one
    /// that the connection began at, `home`, and else from the one that the kernel likes best.
    pub(crate) fn answers_from(&self, address: SocketAddr, home: Option<IpAddr>) -> bool {
        if self.sockets.is_bound_to(canonical(address)) {
            return true;
        }
        let first = self.address(PathId::FIRST);
        let on_all = first
            .is_some_and(|first| first.ip().is_unspecified() && first.port() == address.port());
        on_all && home.is_some_and(|home| home.to_canonical() == address.ip())
    }

    pub(crate) fn traffic(&self, id: PathId) -> Option<Traffic> {
        self.sockets.traffic(id)
    }

    /// The client behind a remote address that quinn shows for a connection that began at the local address `local`, and
    /// the server address that it is on.
    pub(crate) fn client(&self, shown: SocketAddr, local: Option<IpAddr>) -> (SocketAddr, PathId) {
        let (client, on) = unalias(shown);
        let home = self.homes.at(local);
        let at_home = home.filter(|home| self.homes.is_home((shown, *home)));
        (canonical(client), on.or(at_home).unwrap_or(PathId::FIRST))
    }

    /// The server address that an attempt to connect came to.
    pub(crate) fn came_to(&self, local: Option<IpAddr>) -> PathId {
        self.homes.at(local).unwrap_or(PathId::FIRST)
    }

    /// Where a packet leaves that quinn sends to a plain client address, for a connection that began at `home`.
    fn departure(&self, transmit: &Transmit<'_>, home: Option<PathId>) -> PathId {
        let Some(home) = home else {
            return PathId::FIRST;
        };
        if is_long(transmit.contents) {
            self.homes
                .on_handshake((transmit.destination, home), transmit.contents);
            return home;
        }
        // A connection that began at an added address may have moved to the first one.
        if self.homes.is_home((transmit.destination, home)) {
            home
        } else {
            PathId::FIRST
        }
    }

    /// The remote address to show quinn for a packet that came to an address.
    fn shown(&self, client: SocketAddr, at: PathId, packet: &[u8]) -> SocketAddr {
        let plain = if at == PathId::FIRST {
            !self.homes.is_known(client)
        } else {
            self.homes.is_home((client, at))
        };
        if plain || is_long(packet) {
            client
        } else {
            alias(client, at)
        }
    }
}

impl AsyncUdpSocket for ServerSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.sockets.poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let (client, moved_to) = unalias(transmit.destination);
        let home = self.homes.at(transmit.src_ip);
        let id = moved_to.unwrap_or_else(|| self.departure(transmit, home));
        let part = Transmit {
            destination: client,
            // The source that quinn remembers is that of the address where the connection began.
            src_ip: transmit
                .src_ip
                .filter(|_| id == PathId::FIRST && home.is_none()),
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
        for (one, buffer) in meta.iter_mut().zip(buffers.iter()).take(count) {
            one.addr = self.shown(one.addr, id, buffer);
            if id != PathId::FIRST {
                one.dst_ip = self.homes.tag(id);
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
