//! Questions to the nonce store (`docs/protocol.md` section 7, steps 12 and 13): how many may be under way, and how long
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

/// The questions of one acceptor.
#[derive(Debug)]
pub(super) struct Questions {
    server: Arc<MigrationServer>,
    places: Semaphore,
}

impl Questions {
    pub(super) fn new(server: Arc<MigrationServer>) -> Self {
        let places = server.max_store_questions().min(Semaphore::MAX_PERMITS);
        Self {
            server,
            places: Semaphore::new(places),
        }
    }

    /// Claims a nonce; `None` when there was no place for the question, or no answer in time.
    pub(super) async fn claim(&self, claim: Claim) -> Option<Result<ClaimOutcome, StoreError>> {
        let Ok(_place) = self.places.try_acquire() else {
            tracing::debug!("too many questions to the nonce store are under way");
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
    pub(super) async fn commit(&self, claim: Claim) -> Option<Result<CommitOutcome, StoreError>> {
        let store = self.server.nonce_store();
        let mut failure = None;
        let asked = async {
            let _place = self.places.acquire().await;
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
