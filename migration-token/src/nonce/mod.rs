//! Single use of a token: the [`NonceStore`] interface (`docs/protocol.md` section 8).
//!
//! A nonce is spent in two steps. *Claim* comes before the handshake answers: the first claim alone may run
//! early data. *Commit* comes when the client's Finished has been verified: one connection alone wins it. So a
//! copied ClientHello can take the client's early data away, but never its session, and nothing runs twice.
//! A store never forgets a nonce while a token that carries it could still be accepted, and what it has forgotten it never
//! accepts, whatever the clocks do.

mod birth;
#[cfg(test)]
mod contract;
#[cfg(feature = "nonce-store-file")]
mod file;
mod memory;
mod memory_id;
mod monotonic;
#[cfg(feature = "nonce-store-redis")]
mod redis;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;

#[cfg(feature = "nonce-store-file")]
pub use file::{FileNonceStore, FileStoreError};
pub use memory::MemoryNonceStore;
pub use memory_id::MemoryId;
pub use monotonic::{Monotonic, SystemMonotonic};
#[cfg(feature = "nonce-store-redis")]
pub use redis::{RedisNonceStore, RedisNonceStoreBuilder, RedisStoreError};

/// A boxed future, so that stores can be used as trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Remembers which nonces have been claimed and spent.
///
/// Servers that answer at the same address must share one store; servers at different addresses need not,
/// since a token names its address. Implementations fail closed: when in doubt they return an error, and the
/// client lands by a full handshake.
pub trait NonceStore: fmt::Debug + Send + Sync {
    /// Claims a nonce, atomically. The same [`ClaimId`] gets the same answer when it asks again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Forgotten`] when the nonce may have been spent before; another [`StoreError`] when the claim could
    /// not be recorded. Nothing may then be accepted on its account.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>>;

    /// Spends a claimed nonce, atomically. One [`ClaimId`] wins, whether or not it was the first to claim, and
    /// wins again when it asks again.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the commit could not be recorded. The connection must then be closed.
    fn commit(&self, claim: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>>;

    /// The moment since which this store remembers, as far as it knows by now; `None` when that is
    /// for ever. Tokens issued before it are refused, since they may have been spent in a life that the store does
    /// not remember. The store itself judges each claim's [`issued_after`](Claim::issued_after) as well: the moment may
    /// prove to be a later one when a claim tells the time, and it never becomes an earlier one. One that lies ahead of the
    /// present moment says that the clock was ahead when the memory began, and that no token is accepted until then.
    fn remembers_since(&self) -> Option<OffsetDateTime>;

    /// Which memory this store has, as far as it knows by now: the same for all stores that share it, and another one
    /// as soon as anything may have been lost from it.
    ///
    /// A session that says under which memory it was issued can be presented anywhere, and used where that memory is: so
    /// early data of ordinary resumptions is accepted at most once, at any node that shares the store
    /// (`docs/protocol.md` section 8). `None`, the default, accepts none.
    fn memory_id(&self) -> Option<MemoryId> {
        None
    }
}

/// What a connection asks of a [`NonceStore`].
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The nonce.
    pub nonce: NonceKey,
    /// The connection that asks.
    pub id: ClaimId,
    /// The nonce was not in use before this moment: when its token was issued, less the allowed difference of
    /// clocks. A store whose memory may begin later answers with an error, also when it lost its memory between
    /// the claim and the commit.
    pub issued_after: OffsetDateTime,
    /// The moment until which the nonce must be remembered.
    pub keep_until: OffsetDateTime,
    /// The present moment, by the wall clock of whoever asks. Stores do not trust it.
    pub now: OffsetDateTime,
}

impl Claim {
    /// The last whole second in which the nonce must still be known, since the Unix epoch.
    fn last_second(&self) -> i64 {
        self.keep_until.unix_timestamp().saturating_add(1)
    }

    /// Whether that second has passed.
    fn is_over(&self) -> bool {
        self.last_second() < self.now.unix_timestamp()
    }
}

/// The key under which a store keeps a nonce: SHA-256(scope || session_id || nonce).
///
/// Its debug form is opaque, because it would link a client's connections in a log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NonceKey([u8; 32]);

impl NonceKey {
    /// The key of `nonce`, issued to the session `session_id` of the service `scope`.
    pub fn new(scope: &[u8; 32], session_id: &[u8; 32], nonce: &[u8]) -> Self {
        let digest = Sha256::new()
            .chain_update(scope)
            .chain_update(session_id)
            .chain_update(nonce)
            .finalize();
        Self(digest.into())
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceKey(..)")
    }
}

/// Identifies the connection that claims a nonce: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimId([u8; 16]);

impl ClaimId {
    /// An identifier made of `random` bytes, fresh for every connection.
    pub fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    /// The identifier's bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimId(..)")
    }
}

/// The answer to [`NonceStore::claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// Nobody else claimed this nonce: the session may resume, early data may run.
    First,
    /// Another connection claimed it but has not spent it: the session may resume without early data.
    Pending,
    /// The nonce is spent: the token is refused.
    Committed,
}

/// The answer to [`NonceStore::commit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// This connection has spent the nonce.
    Won,
    /// Another connection has, or the store no longer knows the claim: this connection must be closed.
    Lost,
}

/// Why a store gave no outcome. The environment is at fault, not the client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store holds as many live nonces as it may.
    #[error("the nonce store is full")]
    Full,
    /// More requests wait for the store than it lets wait. Nothing was recorded.
    #[error("the nonce store has too many requests waiting")]
    Busy,
    /// The token is too old for the store's memory: the nonce may have been spent before the memory began, or its time is
    /// over, or was over once by a clock that has been set back. The token is refused; younger ones are not affected.
    #[error("the nonce may have been spent and forgotten")]
    Forgotten,
    /// The store could not be reached or failed.
    #[error("the nonce store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}
