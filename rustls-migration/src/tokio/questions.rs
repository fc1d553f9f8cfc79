//! Questions to the nonce store (`docs/protocol.md` section 7, steps 12 and 13): how many may be under way, and how long
//! each may take.
//!
//! What an answer means is decided elsewhere.

use std::sync::Arc;

use migration_token::{Claim, ClaimOutcome, CommitOutcome, StoreError};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::server::MigrationServer;

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
    pub(super) async fn commit(&self, claim: Claim) -> Option<Result<CommitOutcome, StoreError>> {
        let store = self.server.nonce_store();
        let asked = async {
            let _place = self.places.acquire().await;
            store.commit(claim).await
        };
        timeout(self.server.nonce_store_timeout(), asked).await.ok()
    }
}
