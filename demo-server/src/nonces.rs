//! Where a node spends the nonces of tokens: what `--nonce-store` can name.
//!
//! It never falls back from one store to another.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use migration_token::{FileNonceStore, FileStoreError, MemoryNonceStore, NonceStore};
use time::OffsetDateTime;

/// Which nonce store a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// `memory`: a store that ends with the node.
    Memory,
    /// `file:PATH`: a store of this node alone that outlives it.
    File(PathBuf),
}

impl Choice {
    /// Opens the store. `now` is when one that is new begins to remember.
    ///
    /// # Errors
    ///
    /// What is wrong with the file.
    pub fn open(&self, now: OffsetDateTime) -> Result<Arc<dyn NonceStore>, FileStoreError> {
        Ok(match self {
            Self::Memory => Arc::new(MemoryNonceStore::new(
                MemoryNonceStore::DEFAULT_CAPACITY,
                now,
            )),
            Self::File(path) => {
                let capacity = FileNonceStore::DEFAULT_CAPACITY;
                Arc::new(FileNonceStore::open(path, capacity, now)?)
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
            _ => Err(UnknownStore),
        }
    }
}

/// Why a text names no nonce store.
#[derive(Debug, thiserror::Error)]
#[error("a nonce store is memory or file:PATH")]
pub struct UnknownStore;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_by_its_kind_and_place() {
        let parsed = |text: &str| text.parse::<Choice>().ok();
        assert_eq!(parsed("memory"), Some(Choice::Memory));
        assert_eq!(parsed("file:a/b:c"), Some(Choice::File("a/b:c".into())));
        for text in ["", "file", "file:", "memory:", "disk:a", "a/b"] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }
}
