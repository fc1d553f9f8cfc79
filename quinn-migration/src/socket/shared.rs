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
    /// For each shared socket.
    by_ip: HashMap<PathId, HashMap<IpAddr, Arc<Served>>>,
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
    pub(super) fn add_socket(&self, socket: PathId) {
        self.table.write().by_ip.entry(socket).or_default();
        self.any.store(true, Ordering::Release);
    }

    /// Answers with the addresses that are gone with it.
    pub(super) fn remove_socket(&self, socket: PathId) -> Vec<Arc<Served>> {
        let mut table = self.table.write();
        let gone = table.by_ip.remove(&socket).unwrap_or_default();
        let gone: Vec<_> = gone.into_values().collect();
        gone.iter().for_each(|served| {
            table.by_id.remove(&served.id);
        });
        gone
    }

    /// Serves another address of the pool's. `None` when all are in use, or the pool is gone.
    pub(super) fn draw(&self, id: PathId, pool: &Arc<Pool>) -> Option<IpAddr> {
        let mut table = self.table.write();
        let Table { by_id, by_ip } = &mut *table;
        let of_socket = by_ip.get_mut(&pool.socket)?;
        let ip = pool.draw(|ip| of_socket.contains_key(&ip))?;
        let served = Arc::new(Served {
            id,
            ip,
            pool: Arc::clone(pool),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        of_socket.insert(ip, Arc::clone(&served));
        by_id.insert(id, served);
        Some(ip)
    }

    pub(super) fn remove(&self, id: PathId) -> bool {
        let mut table = self.table.write();
        let Some(served) = table.by_id.remove(&id) else {
            return false;
        };
        if let Some(of_socket) = table.by_ip.get_mut(&served.pool.socket) {
            of_socket.remove(&served.ip);
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
        self.table.read().by_ip.len()
    }

    /// The socket of an address of this table.
    pub(super) fn socket_of(&self, address: SocketAddr) -> Option<PathId> {
        let table = self.table.read();
        let mut found = table.by_ip.values().filter_map(|of| of.get(&address.ip()));
        let found = found.find(|served| served.address() == address);
        found.map(|served| served.pool.socket)
    }

    /// Where a datagram came to that `socket` received for the destination address `to`.
    pub(super) fn arrival(&self, socket: PathId, to: Option<IpAddr>) -> Arrival {
        if !self.any.load(Ordering::Acquire) {
            return Arrival::Socket;
        }
        let table = self.table.read();
        let Some(of_socket) = table.by_ip.get(&socket) else {
            return Arrival::Socket;
        };
        let served = to.and_then(|ip| of_socket.get(&ip.to_canonical()));
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
