//! Where the data is: on one server, on the primary that Sentinels name, or in a cluster; and the line to it.
//!
//! It never decides whether a server is fit: that is asked over the line.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{
    MultipleNodeRoutingInfo, Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr,
};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue as _,
    Pipeline, RedisFuture, RedisResult, Value, cmd,
};
use tokio::time::timeout;

use super::RedisStoreError;

/// Where a store's data is.
pub(super) enum Place {
    /// One server.
    Server(Client),
    /// Whichever server the Sentinels say is the primary.
    Sentinels(Sentinels),
    /// The nodes of a cluster, some of which are known.
    Cluster(ClusterClient),
}

/// Servers that know the primary's address.
pub(super) struct Sentinels {
    /// What they call the primary.
    pub(super) name: String,
    pub(super) clients: Vec<Client>,
    /// How to connect to it, but for the address.
    pub(super) primary: ConnectionInfo,
    /// The longest time for the answer of one of them.
    pub(super) patience: Duration,
    /// The one that answered last.
    pub(super) first: AtomicUsize,
}

/// A line to wherever the data is.
pub(super) enum Line {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Place {
    pub(super) async fn connect(&self) -> Result<Line, RedisStoreError> {
        Ok(match self {
            Self::Server(client) => {
                let connection = connect(client).await;
                Line::Server(connection.map_err(RedisStoreError::connect)?)
            }
            Self::Sentinels(sentinels) => {
                let client = sentinels.primary().await?;
                let connection = connect(&client).await;
                Line::Server(connection.map_err(RedisStoreError::connect)?)
            }
            Self::Cluster(client) => {
                let connection = client.get_async_connection().await;
                Line::Cluster(connection.map_err(RedisStoreError::connect)?)
            }
        })
    }
}

impl Sentinels {
    /// A client of the primary that the first Sentinel names which answers.
    async fn primary(&self) -> Result<Client, RedisStoreError> {
        let count = self.clients.len();
        let first = self.first.load(Ordering::Relaxed);
        for number in (0..count).map(|more| first.wrapping_add(more).checked_rem(count)) {
            let Some((number, client)) = number.and_then(|at| Some((at, self.clients.get(at)?)))
            else {
                continue;
            };
            if let Ok(Ok(Some((host, port)))) = timeout(self.patience, self.ask(client)).await {
                self.first.store(number, Ordering::Relaxed);
                let address = moved_to(self.primary.addr(), host, port);
                let primary = self.primary.clone().set_addr(address);
                return Client::open(primary).map_err(|_| RedisStoreError::Address);
            }
        }
        Err(RedisStoreError::NoPrimary {
            name: self.name.clone(),
            sentinels: count,
        })
    }

    async fn ask(&self, client: &Client) -> RedisResult<Option<(String, u16)>> {
        let mut connection = connect(client).await?;
        cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(&self.name)
            .query_async(&mut connection)
            .await
    }
}

/// Whoever asks has a time limit over everything.
async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// The same kind of address at another host.
fn moved_to(address: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    let ConnectionAddr::TcpTls {
        insecure,
        tls_params,
        ..
    } = address.clone()
    else {
        return ConnectionAddr::Tcp(host, port);
    };
    ConnectionAddr::TcpTls {
        host,
        port,
        insecure,
        tls_params,
    }
}

impl Line {
    /// The answers to a command of each server that may have the data.
    pub(super) async fn ask_all(&mut self, command: Cmd) -> RedisResult<Vec<Value>> {
        match self {
            Self::Server(connection) => Ok(vec![command.query_async(connection).await?]),
            Self::Cluster(connection) => {
                let primaries = (MultipleNodeRoutingInfo::AllMasters, None);
                let answer = connection
                    .route_command(command, RoutingInfo::MultiNode(primaries))
                    .await?;
                // Each with the server's address.
                let answers: Vec<(String, Value)> = Vec::from_redis_value(answer)?;
                Ok(answers.into_iter().map(|(_, answer)| answer).collect())
            }
        }
    }

    /// The answer of the server that has `key`.
    pub(super) async fn ask_owner(&mut self, command: Cmd, key: &str) -> RedisResult<Value> {
        match self {
            Self::Server(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => {
                let owner = Route::with_key(key, SlotAddr::Master);
                let owner = SingleNodeRoutingInfo::SpecificNode(owner);
                connection
                    .route_command(command, RoutingInfo::SingleNode(owner))
                    .await
            }
        }
    }
}

impl ConnectionLike for Line {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
