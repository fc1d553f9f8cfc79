//! Requests to the nonce store (`docs/protocol.md` section 7, steps 12 and 13): how many may be under way, and how long
//! each may take.
//!
//! What an answer means is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use migration_token::{Claim, ClaimOutcome, CommitOutcome, StoreError};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::server::MigrationServer;

/// How long a store that failed to spend a nonce is left alone before it is asked again.
const BETWEEN_COMMITS: Duration = Duration::from_millis(50);

/// A commit's answer; `None` when there was none in time.
pub(super) type CommitAnswer = Option<Result<CommitOutcome, StoreError>>;

/// Lets the requests of one acceptor through to the store.
#[derive(Debug)]
pub(super) struct NonceStoreGate {
    server: Arc<MigrationServer>,
    permits: Semaphore,
}

impl NonceStoreGate {
    pub(super) fn new(server: Arc<MigrationServer>) -> Self {
        let permits = server.max_store_questions().min(Semaphore::MAX_PERMITS);
        Self {
            server,
            permits: Semaphore::new(permits),
        }
    }

    /// Claims a nonce; `None` when there was no permit for the request, or no answer in time.
    pub(super) async fn claim(&self, claim: Claim) -> Option<Result<ClaimOutcome, StoreError>> {
        let Ok(_permit) = self.permits.try_acquire() else {
            tracing::debug!("too many requests to the nonce store are under way");
            return None;
        };
        let store = self.server.nonce_store();
        let answer = timeout(self.server.nonce_store_timeout(), store.claim(claim)).await;
        if let Ok(Err(error)) = &answer {
            tracing::debug!(?error, "the nonce could not be claimed");
        }
        answer.ok()
    }

    /// Spends a nonce; `None` when there was no answer in time.
    ///
    /// A connection whose nonce is not spent must be closed, so a store that fails is asked again while there is time. One
    /// that was asked before gives the same answer.
    pub(super) async fn commit(&self, claim: Claim) -> CommitAnswer {
        let store = self.server.nonce_store();
        let mut failure = None;
        let asked = async {
            let _permit = self.permits.acquire().await;
            loop {
                match store.commit(claim).await {
                    Ok(outcome) => return outcome,
                    Err(error) => failure = Some(error),
                }
                sleep(BETWEEN_COMMITS).await;
            }
        };
        match timeout(self.server.nonce_store_timeout(), asked).await {
            Ok(outcome) => Some(Ok(outcome)),
            Err(_) => failure.map(Err),
        }
    }
}
