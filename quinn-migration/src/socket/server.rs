//! The server's socket: one UDP socket for each of its addresses, or for a whole range of them, added and removed at run
//! time.
//!
//! Never answers from another address than the one a client is on.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::home::{Homes, is_long};
use super::opener::{Opened, Opener};
use super::path_tag::{HIGHEST, tag_path, untag_path};
use super::pool::{AddressRange, Pool};
use super::set::SocketSet;
use super::shared::{Arrival, Shared};
use super::{PathId, Traffic, datagrams};
use crate::policy::canonical;

#[derive(Debug)]
pub(crate) struct ServerSocket {
    /// Kept for its properties only: sending and receiving go through the set.
    first: Properties,
    opener: Opener,
    sockets: Arc<SocketSet>,
    shared: Shared,
    homes: Arc<Homes>,
    /// The number that was given last.
    last: Mutex<u32>,
}

/// What quinn asks for once, when the endpoint starts. The other sockets are the same: these are properties of the host.
#[derive(Debug, Clone, Copy)]
struct Properties {
    address: SocketAddr,
    receive_segments: usize,
    may_fragment: bool,
}

impl ServerSocket {
    pub(crate) fn new(first: UdpSocket, opener: Opener, homes: Arc<Homes>) -> io::Result<Self> {
        let (first, direct) = opener.open(first)?;
        let properties = Properties {
            address: first.local_addr()?,
            receive_segments: first.max_receive_segments(),
            may_fragment: first.may_fragment(),
        };
        let sockets = Arc::new(SocketSet::default());
        sockets.insert(PathId::FIRST, first, direct);
        Ok(Self {
            first: properties,
            opener,
            sockets,
            shared: Shared::default(),
            homes,
            last: Mutex::new(0),
        })
    }

    /// Gives `with` a number that nothing uses. Numbers come round again: 31 bits of them are there at once, not in a
    /// server's life. `None` when all are in use.
    fn numbered<T>(&self, with: impl FnOnce(PathId) -> T) -> Option<T> {
        let mut last = self.last.lock();
        let used = self.sockets.len().saturating_add(self.shared.len());
        if u32::try_from(used).is_ok_and(|used| used >= HIGHEST) {
            return None;
        }
        let in_use = |id| {
            self.sockets.has(id) || self.shared.get(id).is_some() || self.homes.tag(id).is_some()
        };
        loop {
            *last = if *last < HIGHEST {
                last.saturating_add(1)
            } else {
                1
            };
            if !in_use(PathId(*last)) {
                return Some(with(PathId(*last)));
            }
        }
    }

    /// `None` when every number is in use.
    pub(crate) fn add(&self, socket: UdpSocket) -> io::Result<Option<PathId>> {
        self.insert(self.opener.open(socket)?)
    }

    /// The same for a socket of another kind.
    pub(crate) fn add_socket(&self, socket: Arc<dyn AsyncUdpSocket>) -> io::Result<Option<PathId>> {
        self.insert((socket, None))
    }

    fn insert(&self, (socket, direct): Opened) -> io::Result<Option<PathId>> {
        let ip = socket.local_addr()?.ip().to_canonical();
        Ok(self.numbered(|id| {
            self.homes.add(id, ip, self.is_alone(ip));
            self.sockets.insert(id, socket, direct);
            id
        }))
    }

    /// Whether no other socket receives for this address. One on all addresses does.
    fn is_alone(&self, ip: IpAddr) -> bool {
        let first = self.first.address.ip().to_canonical();
        !first.is_unspecified() && first != ip && !self.sockets.has_ip(ip)
    }

    /// Receives for ranges of addresses, none of which is served until it is drawn. A pool for each; `None` when every number
    /// is in use.
    pub(crate) fn add_pools(
        &self,
        socket: UdpSocket,
        ranges: &[AddressRange],
    ) -> io::Result<Option<Vec<Arc<Pool>>>> {
        let local = socket.local_addr()?;
        let both = local.is_ipv6() && !socket2::SockRef::from(&socket).only_v6()?;
        let takes = |v4: bool| both || v4 == local.is_ipv4();
        let mut families = ranges.iter().map(AddressRange::is_ipv4);
        if ranges.is_empty() || !families.all(|v4| v4.is_some_and(takes)) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        answer_from_any_address(&socket, both)?;
        let (socket, direct) = self.opener.open(socket)?;
        Ok(self.numbered(|id| {
            let pools = ranges.iter();
            let pools = pools.map(|range| Arc::new(Pool::new(range, id, local)));
            let pools: Vec<_> = pools.collect();
            pools.iter().for_each(|pool| self.shared.add_pool(pool));
            self.sockets.insert(id, socket, direct);
            pools
        }))
    }

    /// Serves another address of the pool's. `None` when all are in use.
    pub(crate) fn draw(&self, pool: &Arc<Pool>) -> Option<PathId> {
        self.numbered(|id| {
            let ip = self.shared.draw(id, pool)?;
            self.homes.add(id, ip, self.is_alone(ip));
            Some(id)
        })?
    }

    /// Removes a pool, and closes its socket when it was the last one there. Answers `false` when that was done before.
    pub(crate) fn remove_pool(&self, pool: &Pool) -> bool {
        let Some((gone, last)) = self.shared.remove_pool(pool) else {
            return false;
        };
        gone.iter().for_each(|served| self.homes.remove(served.id));
        if last {
            self.sockets.remove(pool.socket);
        }
        true
    }

    pub(crate) fn remove(&self, id: PathId) -> bool {
        let removed = self.shared.remove(id) || self.sockets.remove(id);
        if removed && id != PathId::FIRST {
            self.homes.remove(id);
        }
        removed
    }

    /// Addresses served now.
    pub(crate) fn address_count(&self) -> usize {
        let (sockets, shared) = (self.sockets.len(), self.shared.sockets());
        sockets
            .saturating_sub(shared)
            .saturating_add(self.shared.len())
    }

    /// Datagrams to addresses of a pool that were not served.
    pub(crate) fn strays(&self) -> u64 {
        self.shared.strays()
    }

    /// The local address of a socket; `None` when it was removed.
    pub(crate) fn address(&self, id: PathId) -> Option<SocketAddr> {
        match self.shared.get(id) {
            Some(served) => Some(served.address()),
            None => self.sockets.socket(id)?.local_addr().ok(),
        }
    }

    /// Whether a client that sends to `address` hears answers from there. A socket on all addresses answers from the one
    /// that the connection began at, `home`, and else from the one that the kernel likes best.
    pub(crate) fn answers_from(&self, address: SocketAddr, home: Option<IpAddr>) -> bool {
        if self.sockets.bound_to(canonical(address)).is_some()
            || self.shared.socket_of(canonical(address)).is_some()
        {
            return true;
        }
        let first = self.address(PathId::FIRST);
        let on_all = first
            .is_some_and(|first| first.ip().is_unspecified() && first.port() == address.port());
        on_all && home.is_some_and(|home| home.to_canonical() == address.ip())
    }

    /// A client may go from address `from` to one of these.
    pub(crate) fn expect(&self, from: PathId, to: impl Iterator<Item = SocketAddr>) {
        let from = self.shared.get(from).map_or(from, |at| at.pool.socket);
        self.sockets.expect(from);
        for address in to.map(canonical) {
            let shared = self.shared.socket_of(address);
            match shared.or_else(|| self.sockets.bound_to(address)) {
                Some(id) => self.sockets.expect(id),
                // Something forwards it.
                None => self.sockets.expect_all(),
            }
        }
    }

    pub(crate) fn traffic(&self, id: PathId) -> Option<Traffic> {
        match self.shared.get(id) {
            Some(served) => Some(served.traffic()),
            None => self.sockets.traffic(id),
        }
    }

    /// The client behind a remote address that quinn shows for a connection that began at the local address `local`, and
    /// the server address that it is on.
    pub(crate) fn client(&self, shown: SocketAddr, local: Option<IpAddr>) -> (SocketAddr, PathId) {
        let (client, on) = untag_path(shown);
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
            tag_path(client, at)
        }
    }
}

impl AsyncUdpSocket for ServerSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.sockets.poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let (client, moved_to) = untag_path(transmit.destination);
        let home = self.homes.at(transmit.src_ip);
        let id = moved_to.unwrap_or_else(|| self.departure(transmit, home));
        if let Some(served) = self.shared.get(id) {
            let part = Transmit {
                destination: served.destination(client),
                src_ip: Some(served.ip),
                ..transmit.clone()
            };
            self.sockets.try_send(served.pool.socket, &part)?;
            let length = transmit.contents.len();
            served.on_sent(datagrams(length, transmit.segment_size.unwrap_or(length)));
            return Ok(());
        }
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
        let (socket, count) = match self.sockets.poll_recv(cx, buffers, meta) {
            Poll::Ready(Ok(received)) => received,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        for (one, buffer) in meta.iter_mut().zip(buffers.iter()).take(count) {
            let id = match self.shared.arrival(socket, one.dst_ip) {
                Arrival::Socket => socket,
                Arrival::Address(served) => {
                    served.on_received(datagrams(one.len, one.stride));
                    one.addr = canonical(one.addr);
                    served.id
                }
                Arrival::Nowhere => {
                    // quinn passes over an empty buffer.
                    one.len = 0;
                    continue;
                }
            };
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

/// An address of a pool need not be one of an interface: it may only be routed to this host.
#[cfg(target_os = "linux")]
fn answer_from_any_address(socket: &UdpSocket, both_families: bool) -> io::Result<()> {
    let v4 = socket.local_addr()?.is_ipv4();
    let socket = socket2::SockRef::from(socket);
    if v4 || both_families {
        socket.set_freebind_v4(true)?;
    }
    if !v4 {
        socket.set_freebind_v6(true)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn answer_from_any_address(_: &UdpSocket, _: bool) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numbers_come_round_again_and_pass_over_those_in_use() {
        let bind = |address: &str| UdpSocket::bind(address).unwrap();
        let first = bind("127.0.0.2:0");
        let socket = ServerSocket::new(first, Opener::default(), Arc::default()).unwrap();
        let range = "127.90.0.0/16".parse().unwrap();
        let pools = socket.add_pools(bind("0.0.0.0:0"), &[range]);
        let pool = pools.unwrap().unwrap().remove(0);
        let added = socket.add(bind("127.0.0.3:0")).unwrap().unwrap();
        assert_eq!((pool.socket, added), (PathId(1), PathId(2)));
        *socket.last.lock() = HIGHEST - 1;
        let draw = || socket.draw(&pool).unwrap();
        assert_eq!([draw(), draw()], [PathId(HIGHEST), PathId(3)]);
        assert!(socket.remove(PathId(3)));
        *socket.last.lock() = 2;
        assert_eq!(draw(), PathId(3));
        assert_eq!(socket.address_count(), 4);
    }
}
