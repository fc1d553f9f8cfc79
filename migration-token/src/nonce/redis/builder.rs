//! How a store is told where its server is and what limits hold. Nothing is asked of the server yet.

use std::sync::Arc;
use std::time::Duration;

use redis::{Client, IntoConnectionInfo as _};

use super::connection::{Connector, pool};
use super::life::KnownLife;
use super::script::{SERVER_TIME, Scripts};
use super::{RedisNonceStore, RedisStoreError};
use crate::nonce::{Monotonic, SystemMonotonic};

/// Builds a [`RedisNonceStore`]. Nodes that share a server must use the same prefix and margin.
#[derive(Clone)]
#[must_use]
pub struct RedisNonceStoreBuilder {
    address: String,
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

impl RedisNonceStoreBuilder {
    pub(super) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
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

    /// What the keys begin with, in braces, by default `migration`. In a cluster it decides on the slot, the same
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
    /// [`RedisStoreError::Address`], [`RedisStoreError::Prefix`] or [`RedisStoreError::Limits`].
    pub fn build(self) -> Result<RedisNonceStore, RedisStoreError> {
        if self.prefix.is_empty() || self.prefix.contains(['{', '}']) {
            return Err(RedisStoreError::Prefix);
        }
        if self.connections == 0 || self.waiting == 0 || self.timeout.is_zero() {
            return Err(RedisStoreError::Limits);
        }
        // The library's own error may show the address, and a password in it.
        let address = self
            .address
            .as_str()
            .into_connection_info()
            .map_err(|_| RedisStoreError::Address)?;
        let client = Client::open(address).map_err(|_| RedisStoreError::Address)?;
        let connector = Connector::new(client, self.survives_restarts);
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
}

impl std::fmt::Debug for RedisNonceStoreBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the address: it may have a password in it.
        f.debug_struct("RedisNonceStoreBuilder")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
