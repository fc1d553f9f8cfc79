//! A range of addresses behind one socket, from which a server takes as many as it needs.
//!
//! Never takes in a datagram to an address of the range that nobody has drawn.

use std::net::UdpSocket;
use std::sync::Arc;

use super::{AddressId, MigrationServer};
use crate::error::AddressError;
use crate::socket::{AddressRange, Pool};

/// A range of addresses that shares one socket; see [`MigrationServer::add_pool`]. Clones are the same pool.
#[derive(Debug, Clone)]
pub struct AddressPool(pub(super) Arc<Pool>);

impl AddressPool {
    /// Whether it is of IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.0.is_ipv4()
    }
}

impl MigrationServer {
    /// Serves addresses of `range` through `socket`, which is bound to 0.0.0.0 or `[::]`; its port is that of all of them. A
    /// packet's destination address tells them apart, so an address costs no descriptor and nothing once it is gone.
    ///
    /// The addresses must reach this host, by an interface that has them or by a local route to all of them. On Linux
    /// that is `ip -6 route add local 2001:db8:1:2::/64 dev lo`, with the prefix routed to the host. An address that nobody
    /// has drawn does not answer. The port may be that of sockets that are bound to one address each, such as the server's
    /// first one, when all of them have SO_REUSEADDR.
    ///
    /// # Errors
    ///
    /// [`AddressError`]: the socket cannot be used, is bound to one address, or is of another family than the range, or the
    /// range is of both families or of no address.
    pub fn add_pool(
        &self,
        socket: UdpSocket,
        range: &AddressRange,
    ) -> Result<AddressPool, AddressError> {
        let pools = self.add_pools(socket, std::slice::from_ref(range))?;
        pools.into_iter().next().ok_or(AddressError::NoneFree)
    }

    /// The same for several ranges behind one socket: a pool for each, in this order. A socket on `[::]` that is not for IPv6
    /// alone serves ranges of both families; a [`Rotation`](super::Rotation) over two such pools moves every client.
    ///
    /// # Errors
    ///
    /// As for [`MigrationServer::add_pool`].
    pub fn add_pools(
        &self,
        socket: UdpSocket,
        ranges: &[AddressRange],
    ) -> Result<Vec<AddressPool>, AddressError> {
        if !socket.local_addr()?.ip().is_unspecified() {
            return Err(AddressError::Specific);
        }
        let pools = self.core.socket.add_pools(socket, ranges)?;
        let pools = pools.ok_or(AddressError::TooMany)?;
        Ok(pools.into_iter().map(AddressPool).collect())
    }

    /// Serves another address of the pool's until [`MigrationServer::remove_address`]: a random one of a large prefix; of up
    /// to 4096 addresses the one that was used longest ago.
    ///
    /// # Errors
    ///
    /// [`AddressError::NoneFree`].
    pub fn draw_address(&self, pool: &AddressPool) -> Result<AddressId, AddressError> {
        self.core.draw(pool)
    }

    /// The address itself, with its port; `None` when it was removed.
    pub fn address(&self, address: AddressId) -> Option<std::net::SocketAddr> {
        self.core.socket.address(address.0)
    }

    /// Stops serving all addresses of a pool at once, and closes its socket when no other pool is behind it. Answers `false`
    /// when that was done before.
    pub fn remove_pool(&self, pool: &AddressPool) -> bool {
        self.core.socket.remove_pool(&pool.0)
    }
}

impl super::core::Core {
    pub(super) fn draw(&self, pool: &AddressPool) -> Result<AddressId, AddressError> {
        let drawn = self.socket.draw(&pool.0).ok_or(AddressError::NoneFree)?;
        self.counters.added.add_one();
        Ok(AddressId(drawn))
    }
}
