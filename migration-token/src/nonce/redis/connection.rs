//! Connections to one redis server, each checked when it is made, and their bounded pool (`docs/protocol.md` section 8).
//!
//! A connection on which anything went wrong is never used again.

use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, Pool, RecycleError, RecycleResult};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisResult, ScriptInvocation, cmd,
};

use super::RedisStoreError;
use super::script::Answer;

/// After this time a connection is made anew, so that a changed name or configuration of the server is noticed.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Makes and checks connections.
pub(super) struct Connector {
    client: Client,
    durable: bool,
}

/// A connection that one request has to itself.
pub(super) struct Connection {
    redis: MultiplexedConnection,
    /// Set while an answer is outstanding, and for ever when it does not come.
    spoiled: bool,
}

/// At most `size` connections, made by `connector` when they are needed. A request waits for one at most `patience`.
pub(super) fn pool(
    connector: Connector,
    size: usize,
    patience: Duration,
) -> Result<Pool<Connector>, RedisStoreError> {
    Pool::builder(connector)
        .max_size(size)
        .wait_timeout(Some(patience))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|_| RedisStoreError::Limits)
}

impl Connector {
    pub(super) fn new(client: Client, durable: bool) -> Self {
        Self { client, durable }
    }
}

impl Manager for Connector {
    type Type = Connection;
    type Error = RedisStoreError;

    async fn create(&self) -> Result<Connection, RedisStoreError> {
        // Whoever asks has a time limit over everything.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let redis = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(RedisStoreError::connect)?;
        let mut connection = Connection {
            redis,
            spoiled: false,
        };
        connection.refuse_eviction().await?;
        if self.durable {
            connection.require("appendonly", "yes").await?;
            connection.require("appendfsync", "always").await?;
        }
        Ok(connection)
    }

    async fn recycle(
        &self,
        connection: &mut Connection,
        metrics: &Metrics,
    ) -> RecycleResult<RedisStoreError> {
        if connection.spoiled || metrics.age() > MAX_AGE {
            return Err(RecycleError::message("spoiled or old"));
        }
        Ok(())
    }
}

impl Connection {
    /// Sends a command and waits for its answer. A connection whose answer nobody waits for is spoiled.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        self.spoiled = true;
        let answer = command.query_async(&mut self.redis).await;
        self.judge(&answer);
        answer
    }

    /// The same with a script, which the server is sent only when it does not have it.
    pub(super) async fn run(&mut self, script: &ScriptInvocation<'_>) -> RedisResult<Answer> {
        self.spoiled = true;
        let answer = script.invoke_async(&mut self.redis).await;
        self.judge(&answer);
        answer
    }

    fn judge<T>(&mut self, answer: &RedisResult<T>) {
        self.spoiled = match answer {
            Ok(_) => false,
            // A full server is in order otherwise.
            Err(error) => error.code() != Some("OOM"),
        };
    }

    /// Keeps the connection from being used again.
    pub(super) fn spoil(&mut self) {
        self.spoiled = true;
    }

    async fn refuse_eviction(&mut self) -> Result<(), RedisStoreError> {
        let memory: String = self.set_up(cmd("INFO").arg("memory")).await?;
        let policy = memory
            .lines()
            .find_map(|line| line.strip_prefix("maxmemory_policy:"))
            .map_or("unknown", str::trim);
        if policy == "noeviction" {
            return Ok(());
        }
        Err(RedisStoreError::Evicts {
            policy: policy.to_owned(),
        })
    }

    async fn require(
        &mut self,
        setting: &'static str,
        wanted: &'static str,
    ) -> Result<(), RedisStoreError> {
        let (_, is): (String, String) = self.set_up(cmd("CONFIG").arg("GET").arg(setting)).await?;
        if is == wanted {
            return Ok(());
        }
        Err(RedisStoreError::NotDurable {
            setting,
            wanted,
            is,
        })
    }

    async fn set_up<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisStoreError> {
        let answer = self.ask(command).await;
        answer.map_err(|error| RedisStoreError::Command(error.into()))
    }
}
