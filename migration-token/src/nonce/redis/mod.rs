//! A [`NonceStore`] on a redis server, for addresses that several nodes answer for (`docs/protocol.md` section 8).
//!
//! It never trusts that the server still has what it was once told: every step asks which life of the data answers. Nor does
//! it trust a clock: the server forgets nothing by itself.

mod builder;
mod connection;
mod error;
mod life;
mod place;
mod script;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use deadpool::managed::{Object, Pool, PoolError};
use redis::{RedisResult, cmd};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};

#[cfg(doc)]
use super::Monotonic;
use super::{BoxFuture, Claim, ClaimOutcome, CommitOutcome, MemoryId, NonceStore, StoreError};
pub use builder::RedisNonceStoreBuilder;
use connection::{Connection, Connector};
pub use error::RedisStoreError;
use error::of_command;
use life::KnownLife;
use script::{Answer, Invocation, Scripts};

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
/// [`clock_margin`](RedisNonceStoreBuilder::clock_margin), which each claim checks before anything is written. No key has a
/// time to live: nonces are removed by the scripts, which keep the time of what they removed and refuse what may have been
/// forgotten, wherever the clocks go.
///
/// # What a restart or a failover does
///
/// With the nonces the server keeps the moment at which this life of its data began, under the replication
/// identifier that redis changes with every restart and every promotion. Each claim and each commit compares them in
/// the same atomic step. When they differ, or the note is gone (a flush, an empty restart), a new life begins at that
/// moment, and tokens issued before it are refused by claim and commit alike: a restart without the last second of its
/// file, or a replica that lacked the last writes, cannot let a spent nonce in. The price is that clients with
/// older tokens land by full handshakes until they have new ones; tokens that are issued from then on are accepted, give or
/// take the skew of the nodes. [`survives_restarts`] spares that price for a server that persists each write.
///
/// If the server's clock and a node's were slow together when a life began, and are set later, the node that saw it begin
/// moves the beginning, since it has measured the life's age by a [`Monotonic`] clock.
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
    life: KnownLife,
}

/// What a store asks its server.
#[derive(Clone, Copy)]
enum Step<'a> {
    Look(OffsetDateTime),
    Claim(&'a Claim),
    Commit(&'a Claim),
}

/// How often a step is asked again because a new life has begun.
const LIVES: usize = 3;

impl RedisNonceStore {
    /// A builder for a store at `address`: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, `unix:///PATH[?db=DB][&pass=PASSWORD]`, or with
    /// the feature `nonce-store-redis-tls` `rediss://` with the same parts as `redis://`.
    pub fn builder(address: &str) -> RedisNonceStoreBuilder {
        RedisNonceStoreBuilder::new(address)
    }

    /// Connects and asks whether the server is fit, so that a service can tell its operator at its start. `now` is the present
    /// moment, just read: the server's memory begins by that, if it has not yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] from a [`RedisStoreError`] that says what to do.
    pub async fn check(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        self.ask(Step::Look(now)).await.map(drop)
    }

    async fn claim_now(&self, claim: Claim) -> Result<ClaimOutcome, StoreError> {
        if claim.is_over() {
            return Err(StoreError::Forgotten);
        }
        match self.ask(Step::Claim(&claim)).await?.as_str() {
            "first" => Ok(ClaimOutcome::First),
            "pending" => Ok(ClaimOutcome::Pending),
            "committed" => Ok(ClaimOutcome::Committed),
            _ => Err(RedisStoreError::Answer.into()),
        }
    }

    async fn commit_now(&self, claim: Claim) -> Result<CommitOutcome, StoreError> {
        match self.ask(Step::Commit(&claim)).await?.as_str() {
            "won" => Ok(CommitOutcome::Won),
            "lost" => Ok(CommitOutcome::Lost),
            _ => Err(RedisStoreError::Answer.into()),
        }
    }

    /// Takes a step, within the time that there is.
    async fn ask(&self, step: Step<'_>) -> Result<String, StoreError> {
        let deadline = Instant::now() + self.timeout;
        timeout_at(deadline, self.ask_until(step, deadline))
            .await
            .unwrap_or_else(|_| Err(RedisStoreError::Timeout(self.timeout).into()))
    }

    async fn ask_until(&self, step: Step<'_>, deadline: Instant) -> Result<String, StoreError> {
        let asked = self.life.elapsed();
        let passed = || self.life.elapsed().saturating_sub(asked);
        let mut connection = self.connection().await?;
        for _ in 0..LIVES {
            // Waiting for a connection is no difference of clocks.
            let script = || self.script(step, passed());
            let answer = self.run(&mut connection, script).await;
            let (word, since, life) = answer.map_err(of_command)?;
            let now = step.now(passed());
            if word == "began" {
                let learned = self.life.present();
                let settle = || self.scripts.settle(&life, since, learned);
                let settled = self.run(&mut connection, settle).await;
                settled.map_err(of_command)?;
                continue;
            }
            if let (Some(now), false) = (now, life.is_empty()) {
                self.life.heard(&life, since, now);
            }
            let word = self.heed(&mut connection, word)?;
            if self.replicas > 0 && matches!(word.as_str(), "first" | "won") {
                self.wait_for_replicas(&mut connection, deadline).await?;
            }
            return Ok(word);
        }
        Err(StoreError::Forgotten)
    }

    /// The step's script, when so much time has passed since it was asked for.
    fn script(&self, step: Step<'_>, passed: time::Duration) -> Invocation<'_> {
        let asking = |now: OffsetDateTime| self.life.asking(now.saturating_add(passed));
        match step {
            Step::Look(now) => self.scripts.look(&asking(now)),
            Step::Claim(claim) => self.scripts.claim(claim, &asking(claim.now)),
            Step::Commit(claim) => self.scripts.commit(claim),
        }
    }

    /// Runs a script. Asking twice is safe.
    async fn run<'a>(
        &self,
        connection: &mut Object<Connector>,
        script: impl Fn() -> Invocation<'a>,
    ) -> RedisResult<Answer> {
        let answer = connection.run(&script()).await;
        let was_idle = Object::metrics(connection).recycle_count > 0;
        if was_idle && answer.as_ref().is_err_and(redis::RedisError::is_io_error) {
            // The server closed it while it was idle, and the others as well.
            self.pool.retain(|_, _| false);
            if let Ok(another) = self.connection().await {
                *connection = another;
                return connection.run(&script()).await;
            }
        }
        answer
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

    /// Turns the words that every script may say into errors.
    fn heed(&self, connection: &mut Connection, word: String) -> Result<String, StoreError> {
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
            "forgotten" => Err(StoreError::Forgotten),
            _ => Ok(word),
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
            .ask(
                cmd("WAIT").arg(self.replicas).arg(left).clone(),
                self.scripts.key(),
            )
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

impl Step<'_> {
    /// The present moment, when so much time has passed since the step was asked for. A commit does not know it: its claim has
    /// that of the hello.
    fn now(self, passed: time::Duration) -> Option<OffsetDateTime> {
        let asked = match self {
            Self::Look(now) => now,
            Self::Claim(claim) => claim.now,
            Self::Commit(_) => return None,
        };
        Some(asked.saturating_add(passed))
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
        self.life.since()
    }

    /// `None` before the first answer, so a service should [`check`](Self::check) at its start. An answer from another life is
    /// noted before it is given.
    fn memory_id(&self) -> Option<MemoryId> {
        self.life.id()
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
