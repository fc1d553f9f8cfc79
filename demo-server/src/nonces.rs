//! Where a node spends the nonces of tokens: what `--nonce-store` can name.
//!
//! It never falls back from one store to another.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use migration_token::{
    FileNonceStore, FileStoreError, MemoryNonceStore, NonceStore, RedisStoreError, StoreError,
};
use time::OffsetDateTime;

use crate::redis_address::{RedisAddress, RedisOptions};

/// Which nonce store a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// `memory`: a store that ends with the node.
    Memory,
    /// `file:PATH`: a store of this node alone that outlives it.
    File(PathBuf),
    /// `redis://...` and others: a store on a redis server, which nodes share.
    Redis(RedisAddress),
}

impl Choice {
    /// Opens the store. `now` is when one that is new begins to remember.
    ///
    /// # Errors
    ///
    /// What is wrong with the file or the server.
    pub async fn open(
        &self,
        redis: &RedisOptions,
        now: OffsetDateTime,
    ) -> Result<Arc<dyn NonceStore>, Unusable> {
        Ok(match self {
            Self::Memory => Arc::new(MemoryNonceStore::new(
                MemoryNonceStore::DEFAULT_CAPACITY,
                now,
            )),
            Self::File(path) => {
                let capacity = FileNonceStore::DEFAULT_CAPACITY;
                Arc::new(FileNonceStore::open(path, capacity, now)?)
            }
            Self::Redis(address) => {
                let store = address.store(redis).map_err(Unusable::Options)?.build()?;
                store.check(OffsetDateTime::now_utc()).await?;
                Arc::new(store)
            }
        })
    }
}

impl FromStr for Choice {
    type Err = UnknownStore;

    fn from_str(text: &str) -> Result<Self, UnknownStore> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => text.parse().map(Self::Redis).map_err(|_| UnknownStore),
        }
    }
}

/// Why a text names no nonce store.
#[derive(Debug, thiserror::Error)]
#[error(
    "a nonce store is memory, file:PATH, unix:///PATH, redis://[USER:PASSWORD@]HOST[:PORT], \
     redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,...]/PRIMARY or redis+cluster://[USER:PASSWORD@]HOST[:PORT][,...]; \
     with rediss in the place of redis it is over TLS"
)]
pub struct UnknownStore;

/// Why a nonce store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The file cannot.
    #[error(transparent)]
    File(#[from] FileStoreError),
    /// A file with what is needed for redis cannot be read.
    #[error("cannot read the password or the authorities of redis")]
    Options(#[source] io::Error),
    /// The address of the server makes no sense.
    #[error(transparent)]
    Address(#[from] RedisStoreError),
    /// The server cannot.
    #[error(transparent)]
    Server(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_by_its_kind_and_place() {
        let parsed = |text: &str| text.parse::<Choice>().ok();
        assert_eq!(parsed("memory"), Some(Choice::Memory));
        assert_eq!(parsed("file:a/b:c"), Some(Choice::File("a/b:c".into())));
        let redis = parsed("redis://:secret@127.0.0.2/1");
        assert!(matches!(redis, Some(Choice::Redis(_))));
        assert!(!format!("{redis:?}").contains("secret"));
        for text in ["", "file", "file:", "memory:", "disk:a", "a/b", "redis:a"] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }
}
