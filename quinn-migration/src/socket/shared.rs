//! Addresses that share a socket: a packet's destination address tells them apart (IP_PKTINFO, IPV6_PKTINFO).
//!
//! Never takes in a datagram to an address of the socket that is not served now: to the network it is an address without a
//! host. Keeps nothing for an address that is gone.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

use super::pool::Pool;
use super::{PathId, Traffic};

#[derive(Debug, Default)]
pub(super) struct Shared {
    table: RwLock<Table>,
    /// Saves a look at the table in a server that has never had a shared socket.
    any: AtomicBool,
    /// Datagrams to addresses that were not served.
    strays: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<PathId, Arc<Served>>,
    by_socket: HashMap<PathId, OfSocket>,
}

/// What a socket is shared by.
#[derive(Debug, Default)]
struct OfSocket {
    pools: Vec<Arc<Pool>>,
    by_ip: HashMap<IpAddr, Arc<Served>>,
}

/// One address.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) id: PathId,
    pub(super) ip: IpAddr,
    pub(super) pool: Arc<Pool>,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Where a datagram came to.
#[derive(Debug)]
pub(super) enum Arrival {
    /// The socket has one address.
    Socket,
    Address(Arc<Served>),
    Nowhere,
}

impl Served {
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.pool.local.port())
    }

    /// The client's address in the form that the socket takes.
    pub(super) fn destination(&self, client: SocketAddr) -> SocketAddr {
        match (client, self.pool.local) {
            (SocketAddr::V4(v4), SocketAddr::V6(_)) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            _ => client,
        }
    }

    pub(super) fn on_sent(&self, datagrams: u64) {
        self.sent.fetch_add(datagrams, Ordering::Relaxed);
    }

    pub(super) fn on_received(&self, datagrams: u64) {
        self.received.fetch_add(datagrams, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    pub(super) fn add_pool(&self, pool: &Arc<Pool>) {
        let mut table = self.table.write();
        let of_socket = table.by_socket.entry(pool.socket).or_default();
        of_socket.pools.push(Arc::clone(pool));
        self.any.store(true, Ordering::Release);
    }

    /// Answers with the addresses that are gone with it, and whether its socket serves no other; `None` when it was removed
    /// before.
    pub(super) fn remove_pool(&self, pool: &Pool) -> Option<(Vec<Arc<Served>>, bool)> {
        let mut table = self.table.write();
        let of_socket = table.by_socket.get_mut(&pool.socket)?;
        let before = of_socket.pools.len();
        let is_it = |other: &Arc<Pool>| std::ptr::eq(Arc::as_ptr(other), pool);
        of_socket.pools.retain(|other| !is_it(other));
        if of_socket.pools.len() == before {
            return None;
        }
        let gone = of_socket.by_ip.extract_if(|_, served| is_it(&served.pool));
        let gone: Vec<_> = gone.map(|(_, served)| served).collect();
        let last = of_socket.pools.is_empty();
        if last {
            table.by_socket.remove(&pool.socket);
        }
        gone.iter().for_each(|served| {
            table.by_id.remove(&served.id);
        });
        Some((gone, last))
    }

    /// Serves another address of the pool's. `None` when all are in use, or the pool is gone.
    pub(super) fn draw(&self, id: PathId, pool: &Arc<Pool>) -> Option<IpAddr> {
        let mut table = self.table.write();
        let Table { by_id, by_socket } = &mut *table;
        let OfSocket { pools, by_ip } = by_socket.get_mut(&pool.socket)?;
        pools.iter().find(|known| Arc::ptr_eq(known, pool))?;
        let ip = pool.draw(|ip| by_ip.contains_key(&ip))?;
        let served = Arc::new(Served {
            id,
            ip,
            pool: Arc::clone(pool),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        by_ip.insert(ip, Arc::clone(&served));
        by_id.insert(id, served);
        Some(ip)
    }

    pub(super) fn remove(&self, id: PathId) -> bool {
        let mut table = self.table.write();
        let Some(served) = table.by_id.remove(&id) else {
            return false;
        };
        if let Some(of_socket) = table.by_socket.get_mut(&served.pool.socket) {
            of_socket.by_ip.remove(&served.ip);
        }
        served.pool.give_back(served.ip);
        true
    }

    pub(super) fn get(&self, id: PathId) -> Option<Arc<Served>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.table.read().by_id.get(&id).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.table.read().by_id.len()
    }

    /// Sockets that are shared.
    pub(super) fn sockets(&self) -> usize {
        self.table.read().by_socket.len()
    }

    /// The socket of an address of this table.
    pub(super) fn socket_of(&self, address: SocketAddr) -> Option<PathId> {
        let table = self.table.read();
        let sockets = table.by_socket.values();
        let mut found = sockets.filter_map(|of| of.by_ip.get(&address.ip()));
        let found = found.find(|served| served.address() == address);
        found.map(|served| served.pool.socket)
    }

    /// Where a datagram came to that `socket` received for the destination address `to`.
    pub(super) fn arrival(&self, socket: PathId, to: Option<IpAddr>) -> Arrival {
        if !self.any.load(Ordering::Acquire) {
            return Arrival::Socket;
        }
        let table = self.table.read();
        let Some(of_socket) = table.by_socket.get(&socket) else {
            return Arrival::Socket;
        };
        let served = to.and_then(|ip| of_socket.by_ip.get(&ip.to_canonical()));
        if served.is_none() {
            self.strays.fetch_add(1, Ordering::Relaxed);
        }
        served.map_or(Arrival::Nowhere, |served| {
            Arrival::Address(Arc::clone(served))
        })
    }

    pub(super) fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }
}
