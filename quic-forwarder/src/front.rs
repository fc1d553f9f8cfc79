//! A front: owns one address, and carries datagrams between its clients and the nodes.
//!
//! Never sends from its address what no node has sealed.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime};
use thiserror::Error;

use crate::address::canonical;
use crate::batch::{Arrivals, Outgoing};
use crate::envelope::{Carried, ENVELOPE_OVERHEAD, Tunnel};
use crate::keys::Direction;
use crate::place::Places;
use crate::{KeyError, Node, ServerId, SharedKeys, now};

/// One address, and the way from it to the nodes.
///
/// ```no_run
/// # async fn example(keys: quic_forwarder::SharedKeys) -> Result<(), Box<dyn std::error::Error>> {
/// use quic_forwarder::{Front, Node, ServerId};
/// use std::net::UdpSocket;
///
/// let public = UdpSocket::bind("192.0.2.1:443")?;
/// let inside = UdpSocket::bind("10.0.0.1:7000")?;
/// let node = Node { id: ServerId::from(1), address: "10.0.1.1:7001".parse()?, takes_new: true };
/// let front = Front::new(keys, public, inside, [node])?;
/// front.run().await?;
/// # Ok(())
/// # }
/// ```
pub struct Front {
    keys: SharedKeys,
    address: SocketAddr,
    public: Arc<dyn AsyncUdpSocket>,
    inside: Arc<dyn AsyncUdpSocket>,
    table: RwLock<Arc<Table>>,
    counts: Counts,
}

/// Why a front cannot begin.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FrontError {
    /// The public socket is bound to all addresses. Nodes know a front by its address.
    #[error("a front's public socket must be bound to one address, not to all")]
    Unspecified,
    /// No sender number could be drawn.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The operating system refused.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

/// What has become of datagrams so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrontStats {
    /// Carried to a node.
    pub to_nodes: u64,
    /// Carried to a client.
    pub to_clients: u64,
    /// From clients, and dropped: they are not of a first flight, and name no node.
    pub unroutable: u64,
    /// Not from a node, or not for this front, or old, or come before: dropped.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Counts {
    to_nodes: AtomicU64,
    to_clients: AtomicU64,
    unroutable: AtomicU64,
    refused: AtomicU64,
}

/// The nodes, and the tunnels to them.
struct Table {
    places: Places,
    tunnels: HashMap<ServerId, Arc<Tunnel>>,
    /// Nodes by the address that their envelopes come from.
    origins: HashMap<SocketAddr, ServerId>,
}

impl Front {
    /// A front for the address of `public`. Envelopes come and go through `inside`, which only nodes should reach; they are
    /// authenticated all the same. Must be used inside of a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn new(
        keys: SharedKeys,
        public: UdpSocket,
        inside: UdpSocket,
        nodes: impl IntoIterator<Item = Node>,
    ) -> Result<Self, FrontError> {
        let address = canonical(public.local_addr()?);
        if address.ip().is_unspecified() {
            return Err(FrontError::Unspecified);
        }
        let table = Table::new(&keys, address, nodes, &HashMap::new())?;
        Ok(Self {
            keys,
            address,
            public: TokioRuntime.wrap_udp_socket(public)?,
            inside: TokioRuntime.wrap_udp_socket(inside)?,
            table: RwLock::new(Arc::new(table)),
            counts: Counts::default(),
        })
    }

    /// The address that this front owns.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the nodes. Connections of a node that is in both lists go on.
    ///
    /// # Errors
    ///
    /// [`KeyError::Random`]; the nodes are as before.
    pub fn set_nodes(&self, nodes: impl IntoIterator<Item = Node>) -> Result<(), KeyError> {
        let mut table = self.table.write();
        *table = Arc::new(Table::new(&self.keys, self.address, nodes, &table.tunnels)?);
        Ok(())
    }

    /// What has become of datagrams so far.
    pub fn stats(&self) -> FrontStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FrontStats {
            to_nodes: count(&self.counts.to_nodes),
            to_clients: count(&self.counts.to_clients),
            unroutable: count(&self.counts.unroutable),
            refused: count(&self.counts.refused),
        }
    }

    /// Carries datagrams until a socket breaks. Dropping the future ends that, and what is under way is lost.
    ///
    /// # Errors
    ///
    /// What the operating system says of a socket, again and again.
    pub async fn run(&self) -> io::Result<()> {
        tokio::select! {
            ended = self.carry_to_nodes() => ended,
            ended = self.carry_to_clients() => ended,
        }
    }

    async fn carry_to_nodes(&self) -> io::Result<()> {
        let mut arrivals = Arrivals::new();
        let mut outgoing = Outgoing::new(Arc::clone(&self.inside))?;
        loop {
            arrivals.fill(&*self.public).await?;
            let (table, now) = (Arc::clone(&*self.table.read()), now());
            while let Some(arrival) = arrivals.next() {
                let node = table.places.node(arrival.datagram);
                let way = node.and_then(|node| Some((node, table.tunnels.get(&node.id)?)));
                let Some((node, tunnel)) = way else {
                    self.counts.unroutable.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let carried = Carried {
                    client: arrival.from,
                    ecn: arrival.ecn,
                    datagram: arrival.datagram,
                };
                let length = arrival.datagram.len().saturating_add(ENVELOPE_OVERHEAD);
                let seal = |out: &mut Vec<u8>| tunnel.seal(now, &carried, out);
                let way = (node.address, arrival.ecn);
                outgoing.push(way, length, seal).await?;
                self.counts.to_nodes.fetch_add(1, Ordering::Relaxed);
            }
            outgoing.flush().await?;
        }
    }

    async fn carry_to_clients(&self) -> io::Result<()> {
        let mut arrivals = Arrivals::new();
        let mut outgoing = Outgoing::new(Arc::clone(&self.public))?;
        loop {
            arrivals.fill(&*self.inside).await?;
            let (table, now) = (Arc::clone(&*self.table.read()), now());
            while let Some(arrival) = arrivals.next() {
                let origin = table.origins.get(&canonical(arrival.from));
                let tunnel = origin.and_then(|id| table.tunnels.get(id));
                let opened = tunnel.map(|t| t.open(now, arrival.ecn, arrival.datagram));
                let Some(Ok(carried)) = opened else {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(from = %arrival.from, why = ?opened, "envelope refused");
                    continue;
                };
                let write = |out: &mut Vec<u8>| out.extend_from_slice(carried.datagram);
                let way = (carried.client, carried.ecn);
                outgoing.push(way, carried.datagram.len(), write).await?;
                self.counts.to_clients.fetch_add(1, Ordering::Relaxed);
            }
            outgoing.flush().await?;
        }
    }
}

impl Table {
    fn new(
        keys: &SharedKeys,
        front: SocketAddr,
        nodes: impl IntoIterator<Item = Node>,
        known: &HashMap<ServerId, Arc<Tunnel>>,
    ) -> Result<Self, KeyError> {
        let places = Places::new(keys, nodes);
        let (mut tunnels, mut origins) = (HashMap::new(), HashMap::new());
        for node in places.nodes() {
            let tunnel = match known.get(&node.id) {
                Some(tunnel) => Arc::clone(tunnel),
                None => Arc::new(Tunnel::new(keys, Direction::ToNode, front, node.id, now())?),
            };
            tunnels.insert(node.id, tunnel);
            origins.insert(canonical(node.address), node.id);
        }
        Ok(Self {
            places,
            tunnels,
            origins,
        })
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
