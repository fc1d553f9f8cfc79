//! How a store is told where its server is and what limits hold. Nothing is asked of the server yet.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use redis::cluster::ClusterClient;
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};

use super::connection::{Connector, pool};
use super::life::KnownLife;
use super::place::{Place, Sentinels};
use super::script::{SERVER_TIME, Scripts};
use super::{RedisNonceStore, RedisStoreError};
use crate::nonce::{Monotonic, SystemMonotonic};

/// Builds a [`RedisNonceStore`]. Nodes that share a server must use the same prefix and margin.
#[derive(Clone)]
#[must_use]
pub struct RedisNonceStoreBuilder {
    address: String,
    others: Others,
    #[cfg(feature = "nonce-store-redis-tls")]
    authority: Option<Vec<u8>>,
    prefix: String,
    connections: usize,
    waiting: usize,
    timeout: Duration,
    clock_margin: Duration,
    replicas: usize,
    survives_restarts: bool,
    monotonic: Arc<dyn Monotonic>,
    server_time: &'static str,
}

/// What else is to be asked besides the address.
#[derive(Clone)]
enum Others {
    None,
    Sentinels(Vec<String>),
    Cluster(Vec<String>),
}

impl RedisNonceStoreBuilder {
    pub(super) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            others: Others::None,
            #[cfg(feature = "nonce-store-redis-tls")]
            authority: None,
            prefix: "migration".to_owned(),
            connections: 8,
            waiting: 1024,
            timeout: Duration::from_millis(500),
            clock_margin: Duration::from_secs(2),
            replicas: 0,
            survives_restarts: false,
            monotonic: Arc::new(SystemMonotonic::new()),
            server_time: SERVER_TIME,
        }
    }

    /// The server is the primary that Redis Sentinels know, whose addresses are these, with users and passwords of their own. The
    /// store's own address has in the place of a host what they call the primary (`redis://user:password@mymaster`): user, password,
    /// database and TLS in it are the primary's. They are asked for each new connection, one after the other.
    pub fn sentinels<A: AsRef<str>>(mut self, addresses: impl IntoIterator<Item = A>) -> Self {
        let addresses = addresses.into_iter();
        self.others = Others::Sentinels(addresses.map(|one| one.as_ref().to_owned()).collect());
        self
    }

    /// The server is one of the nodes of a Redis Cluster, and these are others, of which one that answers suffices. Whichever node has the
    /// slot of the key is asked; the client library follows redirections (MOVED, ASK).
    ///
    /// A slot that moves to another node begins a new life of the data there, unless the store
    /// [`survives_restarts`](Self::survives_restarts).
    pub fn cluster<A: AsRef<str>>(mut self, addresses: impl IntoIterator<Item = A>) -> Self {
        let addresses = addresses.into_iter();
        self.others = Others::Cluster(addresses.map(|one| one.as_ref().to_owned()).collect());
        self
    }

    /// For `rediss` addresses: the certificates (PEM) of the authorities that are trusted, by default those of the system.
    ///
    /// The server is verified by the name in its address; in a cluster or behind Sentinels by what those call it.
    #[cfg(feature = "nonce-store-redis-tls")]
    pub fn authority(mut self, pem: &[u8]) -> Self {
        self.authority = Some(pem.to_vec());
        self
    }

    /// What the key begins with, in braces, by default `migration`. In a cluster it decides on the slot, the same
    /// for all nonces: services that should not share a slot have different prefixes.
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// At most this many connections, by default 8. One carries one request at a time.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// At most this many requests wait for a connection, by default 1024. One more is refused at once with
    /// [`StoreError::Busy`](crate::StoreError::Busy), as are those that have waited for half of the timeout.
    pub fn waiting(mut self, waiting: usize) -> Self {
        self.waiting = waiting;
        self
    }

    /// The longest time for one answer, by default 500 ms: waiting, connecting and replicas included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The largest difference between the server's clock and this node's, by default 2 s. Claims are refused when
    /// it is larger. Nonces are kept for that much longer.
    pub fn clock_margin(mut self, margin: Duration) -> Self {
        self.clock_margin = margin;
        self
    }

    /// How many replicas must have a nonce before it counts as claimed or spent (`WAIT`), by default none. With half
    /// of all servers, rounded down (1 of 2 or 3), two sides of a divided network cannot both accept a nonce.
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Promises that the server has persisted every write before it answers, so that a restart with its own data
    /// forgets nothing, and that no other server ever takes over its data from a copy or a backup.
    ///
    /// `appendonly yes` and `appendfsync always` are checked at each connection. A server that was a replica once is
    /// not believed. That the file is the one it wrote last cannot be checked.
    pub fn survives_restarts(mut self) -> Self {
        self.survives_restarts = true;
        self
    }

    /// Another clock than the system's beside that of the claims.
    pub fn monotonic(mut self, monotonic: Arc<dyn Monotonic>) -> Self {
        self.monotonic = monotonic;
        self
    }

    /// Another piece of Lua that tells the server's time.
    #[cfg(test)]
    pub(super) fn server_time(mut self, lua: &'static str) -> Self {
        self.server_time = lua;
        self
    }

    /// Makes the store. It connects when it is first asked, or by [`RedisNonceStore::check`].
    ///
    /// # Errors
    ///
    /// [`RedisStoreError::Address`], [`RedisStoreError::Authority`], [`RedisStoreError::NoCryptoProvider`],
    /// [`RedisStoreError::Prefix`] or [`RedisStoreError::Limits`].
    pub fn build(self) -> Result<RedisNonceStore, RedisStoreError> {
        if self.prefix.is_empty() || self.prefix.contains(['{', '}']) {
            return Err(RedisStoreError::Prefix);
        }
        if self.connections == 0 || self.waiting == 0 || self.timeout.is_zero() {
            return Err(RedisStoreError::Limits);
        }
        let connector = Connector::new(self.place()?, self.survives_restarts);
        Ok(RedisNonceStore {
            pool: pool(connector, self.connections, self.timeout / 2)?,
            scripts: Scripts::new(
                &self.prefix,
                self.clock_margin,
                self.survives_restarts,
                self.server_time,
            ),
            waiting: self.waiting,
            timeout: self.timeout,
            clock_margin: self.clock_margin,
            replicas: self.replicas,
            life: KnownLife::new(self.monotonic),
        })
    }

    fn place(&self) -> Result<Place, RedisStoreError> {
        let client = self.client(&self.address)?;
        #[cfg(feature = "nonce-store-redis-tls")]
        if self.authority.is_some() {
            let certificates = self.certificates(client.get_connection_info())?;
            certificates.ok_or(RedisStoreError::Authority)?;
        }
        match &self.others {
            Others::None => Ok(Place::Server(client)),
            Others::Sentinels(addresses) => {
                let clients = addresses.iter().map(|address| self.client(address));
                let clients: Vec<_> = clients.collect::<Result<_, _>>()?;
                let primary = client.get_connection_info().clone();
                let (name, patience) = (host(&primary)?, self.timeout / 4);
                Ok(Place::Sentinels(Sentinels {
                    name,
                    clients,
                    primary,
                    patience,
                    first: AtomicUsize::new(0),
                }))
            }
            Others::Cluster(addresses) => self.cluster_client(&client, addresses),
        }
    }

    /// A client of one server.
    fn client(&self, address: &str) -> Result<Client, RedisStoreError> {
        // The library's own error may show the address, and a password in it.
        let address = address
            .into_connection_info()
            .map_err(|_| RedisStoreError::Address)?;
        #[cfg(feature = "nonce-store-redis-tls")]
        if let Some(certificates) = self.certificates(&address)? {
            return Client::build_with_tls(address, certificates)
                .map_err(|_| RedisStoreError::Authority);
        }
        Client::open(address).map_err(|_| RedisStoreError::Address)
    }

    fn cluster_client(&self, first: &Client, others: &[String]) -> Result<Place, RedisStoreError> {
        let mut nodes = vec![first.get_connection_info().clone()];
        for other in others {
            nodes.push(self.client(other)?.get_connection_info().clone());
        }
        #[cfg(feature = "nonce-store-redis-tls")]
        let certificates = self.certificates(first.get_connection_info())?;
        // Whoever asks has a time limit over everything; a node that is away must not take all of it.
        let builder = ClusterClient::builder(nodes)
            .connection_timeout(self.timeout / 4)
            .response_timeout(self.timeout)
            .min_retry_wait(10)
            .max_retry_wait(50);
        #[cfg(feature = "nonce-store-redis-tls")]
        let builder = match certificates {
            Some(certificates) => builder.certs(certificates),
            None => builder,
        };
        let client = builder.build().map_err(|_| RedisStoreError::Address)?;
        Ok(Place::Cluster(client))
    }

    /// The authorities for an address with TLS.
    #[cfg(feature = "nonce-store-redis-tls")]
    fn certificates(
        &self,
        address: &ConnectionInfo,
    ) -> Result<Option<redis::TlsCertificates>, RedisStoreError> {
        let with_tls = matches!(address.addr(), ConnectionAddr::TcpTls { .. });
        if with_tls && rustls::crypto::CryptoProvider::get_default().is_none() {
            // Without one the library would panic at the first connection.
            return Err(RedisStoreError::NoCryptoProvider);
        }
        Ok(with_tls.then(|| redis::TlsCertificates {
            client_tls: None,
            root_cert: self.authority.clone(),
        }))
    }
}

/// The host in an address.
fn host(address: &ConnectionInfo) -> Result<String, RedisStoreError> {
    if let ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } = address.addr() {
        Ok(host.clone())
    } else {
        Err(RedisStoreError::Address)
    }
}

impl std::fmt::Debug for RedisNonceStoreBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the address: it may have a password in it.
        f.debug_struct("RedisNonceStoreBuilder")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
