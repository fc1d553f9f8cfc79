//! Nonce stores that fail on purpose.

use std::future::{pending, ready};

use migration_token::{BoxFuture, Claim, ClaimOutcome, CommitOutcome, NonceStore, StoreError};
use time::OffsetDateTime;

/// How a store fails.
#[derive(Clone, Copy, Debug)]
pub enum FailingStore {
    /// Every operation is an error.
    Broken,
    /// Nothing is ever answered.
    Hung,
    /// Claims succeed, but another connection has committed first.
    LostToAnother,
}

impl NonceStore for FailingStore {
    fn claim(&self, _: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>> {
        match self {
            Self::Broken => Box::pin(ready(Err(StoreError::Unavailable("broken".into())))),
            Self::Hung => Box::pin(pending()),
            Self::LostToAnother => Box::pin(ready(Ok(ClaimOutcome::Pending))),
        }
    }

    fn commit(&self, _: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>> {
        match self {
            Self::Broken => Box::pin(ready(Err(StoreError::Unavailable("broken".into())))),
            Self::Hung => Box::pin(pending()),
            Self::LostToAnother => Box::pin(ready(Ok(CommitOutcome::Lost))),
        }
    }

    fn remembers_since(&self) -> Option<OffsetDateTime> {
        None
    }
}
