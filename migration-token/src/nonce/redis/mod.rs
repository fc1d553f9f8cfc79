//! A [`NonceStore`] on a redis server, for addresses that several nodes answer for (`docs/protocol.md` section 8).
//!
//! It never trusts that the server still has what it was once told: every step asks which life of the data answers.

mod builder;
mod connection;
mod error;
mod script;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use deadpool::managed::{Object, Pool, PoolError};
use redis::{ScriptInvocation, cmd};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};

use super::{BoxFuture, Claim, ClaimOutcome, CommitOutcome, NonceStore, StoreError};
pub use builder::RedisNonceStoreBuilder;
use connection::{Connection, Connector};
pub use error::RedisStoreError;
use error::of_command;
use script::{Answer, Scripts};

/// Nonces on a redis server, shared by all nodes that name the server and the same prefix. Needs tokio.
///
/// Every step is one script, so it is atomic, and asking again after a lost answer is safe. All connections, each
/// step's time and the queue are bounded; past a bound, and in any doubt, the answer is an error and the client lands
/// by a full handshake. A connection that broke or did not answer is replaced by the next request.
///
/// # What the server must be
///
/// A primary of redis 6.2 or later with `maxmemory-policy noeviction`: another policy is refused, since it could
/// forget a nonce. A full server refuses ([`StoreError::Full`]). Its clock must not differ from the nodes' by more than
/// [`clock_margin`](RedisNonceStoreBuilder::clock_margin), which each claim checks, and must not jump: one that runs
/// ahead and comes back has forgotten nonces early. In a cluster, name the node that has the slot of
/// `{prefix}`; redirections are not followed. TLS is not supported: use a unix socket or a tunnel.
///
/// # What a restart or a failover does
///
/// With the nonces the server keeps the moment at which this life of its data began, under the replication
/// identifier that redis changes with every restart and every promotion. Each claim and each commit compares them in
/// the same atomic step. When they differ, or the note is gone (a flush, an empty restart), a new life begins at that
/// moment, and tokens issued before it are refused by claim and commit alike: a restart without the last second of its
/// file, or a replica that lacked the last writes, cannot let a spent nonce in. The price is that clients with
/// older tokens land by full handshakes until they have new ones. [`survives_restarts`] spares that price for a
/// server that persists each write.
///
/// One case is beyond this: two servers that both believe to be the primary, each with its own clients. Set
/// [`replicas`](RedisNonceStoreBuilder::replicas) so that only one of them can answer.
///
/// [`survives_restarts`]: RedisNonceStoreBuilder::survives_restarts
///
/// ```
/// use std::time::Duration;
/// use migration_token::RedisNonceStore;
///
/// let store = RedisNonceStore::builder("redis://192.0.2.9/0")
///     .timeout(Duration::from_millis(200))
///     .replicas(1)
///     .build()?;
/// # Ok::<(), migration_token::RedisStoreError>(())
/// ```
pub struct RedisNonceStore {
    pool: Pool<Connector>,
    scripts: Scripts,
    waiting: usize,
    timeout: Duration,
    clock_margin: Duration,
    replicas: usize,
    /// When the youngest life of the data that was seen began, by the server's clock; zero before any answer.
    born_ms: AtomicI64,
}

impl RedisNonceStore {
    /// A builder for a store at `address`: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]` or
    /// `unix:///PATH[?db=DB][&pass=PASSWORD]`.
    pub fn builder(address: &str) -> RedisNonceStoreBuilder {
        RedisNonceStoreBuilder::new(address)
    }

    /// Connects and asks whether the server is fit, so that a service can tell its operator at its start.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] from a [`RedisStoreError`] that says what to do.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.ask(|| self.scripts.look()).await.map(drop)
    }

    async fn claim_now(&self, claim: Claim) -> Result<ClaimOutcome, StoreError> {
        let asked = Instant::now();
        let answer = self.ask(|| {
            // Waiting for a connection is no difference of clocks.
            self.scripts.claim(&claim, claim.now + asked.elapsed())
        });
        match answer.await?.as_str() {
            "first" => Ok(ClaimOutcome::First),
            "pending" => Ok(ClaimOutcome::Pending),
            "committed" => Ok(ClaimOutcome::Committed),
            _ => Err(RedisStoreError::Answer.into()),
        }
    }

    async fn commit_now(&self, claim: Claim) -> Result<CommitOutcome, StoreError> {
        match self.ask(|| self.scripts.commit(&claim)).await?.as_str() {
            "won" => Ok(CommitOutcome::Won),
            "lost" => Ok(CommitOutcome::Lost),
            _ => Err(RedisStoreError::Answer.into()),
        }
    }

    /// Runs a script, within the time that there is.
    async fn ask<'a>(
        &self,
        script: impl Fn() -> ScriptInvocation<'a>,
    ) -> Result<String, StoreError> {
        let deadline = Instant::now() + self.timeout;
        timeout_at(deadline, self.ask_until(script, deadline))
            .await
            .unwrap_or_else(|_| Err(RedisStoreError::Timeout(self.timeout).into()))
    }

    async fn ask_until<'a>(
        &self,
        script: impl Fn() -> ScriptInvocation<'a>,
        deadline: Instant,
    ) -> Result<String, StoreError> {
        let mut connection = self.connection().await?;
        let mut answer = connection.run(&script()).await;
        if Object::metrics(&connection).recycle_count > 0
            && answer.as_ref().is_err_and(redis::RedisError::is_io_error)
        {
            // The server closed it while it was idle, and the others as well. Asking twice is safe.
            drop(connection);
            self.pool.retain(|_, _| false);
            connection = self.connection().await?;
            answer = connection.run(&script()).await;
        }
        let word = self.heed(&mut connection, answer.map_err(of_command)?)?;
        if self.replicas > 0 && matches!(word.as_str(), "first" | "won") {
            self.wait_for_replicas(&mut connection, deadline).await?;
        }
        Ok(word)
    }

    async fn connection(&self) -> Result<Object<Connector>, StoreError> {
        if self.pool.status().waiting >= self.waiting {
            return Err(StoreError::Busy);
        }
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error.into(),
            PoolError::Timeout(_) => StoreError::Busy,
            error @ (PoolError::Closed
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_)) => StoreError::Unavailable(error.into()),
        })
    }

    /// Notes the life that answered, and turns the words that every script may say into errors.
    fn heed(
        &self,
        connection: &mut Connection,
        (word, moment): Answer,
    ) -> Result<String, StoreError> {
        match word.as_str() {
            "not-primary" => {
                // The next connection may find the primary.
                connection.spoil();
                Err(RedisStoreError::NotPrimary.into())
            }
            "clock" => Err(RedisStoreError::Clock {
                margin: self.clock_margin,
            }
            .into()),
            word_of_a_life => {
                self.born_ms.fetch_max(moment, Ordering::Relaxed);
                match word_of_a_life {
                    "forgotten" => Err(RedisStoreError::Forgotten.into()),
                    _ => Ok(word),
                }
            }
        }
    }

    /// Waits for replicas to have all that was written on this connection, which includes what it only found.
    async fn wait_for_replicas(
        &self,
        connection: &mut Connection,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let left = deadline.saturating_duration_since(Instant::now());
        // A part is left for the answer's way. Zero would be for ever.
        let left = u64::try_from((left * 3 / 4).as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let acknowledged: usize = connection
            .ask(cmd("WAIT").arg(self.replicas).arg(left))
            .await
            .map_err(of_command)?;
        if acknowledged < self.replicas {
            return Err(RedisStoreError::Replicas {
                wanted: self.replicas,
                acknowledged,
            }
            .into());
        }
        Ok(())
    }
}

impl NonceStore for RedisNonceStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>> {
        Box::pin(self.claim_now(claim))
    }

    fn commit(&self, claim: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>> {
        Box::pin(self.commit_now(claim))
    }

    /// `None` before the first answer; claims are judged by the server in any case.
    fn remembers_since(&self) -> Option<OffsetDateTime> {
        let born_ms = self.born_ms.load(Ordering::Relaxed);
        let born = OffsetDateTime::from_unix_timestamp_nanos(i128::from(born_ms) * 1_000_000);
        born.ok()
            .filter(|_| born_ms > 0)
            .map(|born| born + self.clock_margin)
    }
}

impl fmt::Debug for RedisNonceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = self.pool.status();
        f.debug_struct("RedisNonceStore")
            .field("connections", &pool.size)
            .field("waiting", &pool.waiting)
            .finish_non_exhaustive()
    }
}
