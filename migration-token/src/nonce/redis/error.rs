//! What can be wrong with a redis server, or with how a store was told to use it. No error tells a password.

use std::time::Duration;

use redis::RedisError;

use crate::nonce::StoreError;

/// Why a [`RedisNonceStore`](super::RedisNonceStore) could not be built, or could not answer. In the second case it
/// is the source of a [`StoreError::Unavailable`]. The server or its configuration is at fault, not the client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisStoreError {
    /// The address is not of a form that is understood. `rediss` needs the feature `nonce-store-redis-tls`. A cluster has no databases and no
    /// unix sockets, and its addresses agree in user, password and TLS.
    #[error(
        "not redis[s]://[[USER]:PASSWORD@]HOST[:PORT][/DB] nor unix:///PATH[?db=DB][&pass=PASSWORD]"
    )]
    Address,
    /// The certificate authority is no PEM file with certificates, or there is one for an address without TLS.
    #[error("the certificate authority is not PEM, or the address is not rediss://")]
    Authority,
    /// TLS was asked for, and the process has no cryptography for it.
    #[error("install a process-wide rustls CryptoProvider before the store is built")]
    NoCryptoProvider,
    /// No Sentinel knows where the primary is, or none answers.
    #[error("none of {sentinels} Sentinels named the primary of {name:?} in time")]
    NoPrimary {
        /// What they were to call it.
        name: String,
        /// How many were asked.
        sentinels: usize,
    },
    /// The prefix is empty or has a brace in it, which would break the keys' hash tag.
    #[error("the prefix of the keys must not be empty nor contain braces")]
    Prefix,
    /// A limit is zero.
    #[error("connections, waiting requests and the timeout must not be zero")]
    Limits,
    /// The server cannot be reached, or refused the user.
    #[error("cannot connect to the redis server: {0}")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server broke off, or refused a command: it needs redis 6.2 or later, and EVALSHA, EVAL, INFO, TIME,
    /// HGET, HMGET, HLEN, HSET, HDEL and, where configured, WAIT and CONFIG GET allowed, on keys that begin with the prefix.
    #[error("the redis server did not carry out a command: {0}")]
    Command(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There was no answer in time.
    #[error("the redis server did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The server may throw nonces away when its memory is full.
    #[error(
        "the redis server may evict nonces: set its maxmemory-policy to noeviction, it is {policy:?}"
    )]
    Evicts {
        /// Its `maxmemory-policy`.
        policy: String,
    },
    /// The store was told that the server survives restarts, but the server does not write in time.
    #[error(
        "the redis server does not persist what it answers: set {setting} to {wanted}, it is {is:?}"
    )]
    NotDurable {
        /// The setting.
        setting: &'static str,
        /// What it should be.
        wanted: &'static str,
        /// What it is.
        is: String,
    },
    /// The server's clock is further from ours than the margin. Nothing was written.
    #[error("the clocks of the redis server and of this node differ by more than {} ms", .margin.as_millis())]
    Clock {
        /// The allowed difference.
        margin: Duration,
    },
    /// The server is a replica, or does not tell its replication id.
    #[error("the redis server is not a primary: connect to the one that takes writes")]
    NotPrimary,
    /// Too few replicas have the write.
    #[error("{acknowledged} of {wanted} replicas acknowledged in time")]
    Replicas {
        /// How many the store was told to wait for.
        wanted: usize,
        /// How many did.
        acknowledged: usize,
    },
    /// The server answered something that was not asked.
    #[error("the redis server's answer makes no sense")]
    Answer,
}

impl RedisStoreError {
    pub(super) fn connect(error: RedisError) -> Self {
        Self::Connect(error.into())
    }
}

impl From<RedisStoreError> for StoreError {
    fn from(error: RedisStoreError) -> Self {
        Self::Unavailable(error.into())
    }
}

/// An error of a command: a full server is not a broken one.
pub(super) fn of_command(error: RedisError) -> StoreError {
    if error.code() == Some("OOM") {
        StoreError::Full
    } else {
        RedisStoreError::Command(error.into()).into()
    }
}
