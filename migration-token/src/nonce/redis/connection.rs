//! Connections to the redis servers, each checked when it is made, and their bounded pool (`docs/protocol.md` section 8).
//!
//! A connection on which anything went wrong is never used again.

use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, Pool, RecycleError, RecycleResult};
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, cmd};

use super::RedisStoreError;
use super::place::{Line, Place};
use super::script::{Answer, Invocation};

/// After this time a connection is made anew, so that a changed name or configuration of the server is noticed.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Makes and checks connections.
pub(super) struct Connector {
    place: Place,
    durable: bool,
}

/// A connection that one request has to itself.
pub(super) struct Connection {
    line: Line,
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
    pub(super) fn new(place: Place, durable: bool) -> Self {
        Self { place, durable }
    }
}

impl Manager for Connector {
    type Type = Connection;
    type Error = RedisStoreError;

    async fn create(&self) -> Result<Connection, RedisStoreError> {
        let mut connection = Connection {
            line: self.place.connect().await?,
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
    /// Sends a command to the server that has `key`, and waits for its answer. A connection whose answer nobody waits for is
    /// spoiled.
    pub(super) async fn ask<T: FromRedisValue>(
        &mut self,
        command: Cmd,
        key: &str,
    ) -> RedisResult<T> {
        self.spoiled = true;
        let answer = self.line.ask_owner(command, key).await;
        self.judge(&answer);
        Ok(T::from_redis_value(answer?)?)
    }

    /// The same with a script, which the server is sent only when it does not have it.
    pub(super) async fn run(&mut self, script: &Invocation<'_>) -> RedisResult<Answer> {
        self.spoiled = true;
        let mut answer = script.by_name().query_async(&mut self.line).await;
        let unknown = ErrorKind::Server(ServerErrorKind::NoScript);
        if answer.as_ref().is_err_and(|error| error.kind() == unknown) {
            answer = script.by_text().query_async(&mut self.line).await;
        }
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
        let of_each: Vec<String> = self.ask_all(cmd("INFO").arg("memory")).await?;
        for memory in of_each {
            let policy = memory
                .lines()
                .find_map(|line| line.strip_prefix("maxmemory_policy:"))
                .map_or("unknown", str::trim);
            if policy != "noeviction" {
                return Err(RedisStoreError::Evicts {
                    policy: policy.to_owned(),
                });
            }
        }
        Ok(())
    }

    async fn require(
        &mut self,
        setting: &'static str,
        wanted: &'static str,
    ) -> Result<(), RedisStoreError> {
        let of_each: Vec<(String, String)> =
            self.ask_all(cmd("CONFIG").arg("GET").arg(setting)).await?;
        for (_, is) in of_each {
            if is != wanted {
                return Err(RedisStoreError::NotDurable {
                    setting,
                    wanted,
                    is,
                });
            }
        }
        Ok(())
    }

    /// What each server that may have the data answers.
    async fn ask_all<T: FromRedisValue>(
        &mut self,
        command: &Cmd,
    ) -> Result<Vec<T>, RedisStoreError> {
        let answers = self.line.ask_all(command.clone()).await;
        let answers = answers.map_err(|error| RedisStoreError::Command(error.into()))?;
        let answers = answers.into_iter().map(T::from_redis_value);
        answers
            .collect::<Result<_, _>>()
            .map_err(|error| RedisStoreError::Command(error.into()))
    }
}
