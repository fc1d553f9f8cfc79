//! What an acceptor asks of its server's settings besides connections: whether clients may be sent here, and to go on in the
//! place of other settings.
//!
//! It answers from what the settings say; the nonce store is asked elsewhere.

use std::sync::Arc;

use migration_token::{Claim, ClaimId, NonceKey};
use time::Duration;

use super::MigrationServer;
use crate::clock::Clock;

/// How long a store keeps what a health check asks.
const PROBE_LIFETIME: Duration = Duration::seconds(10);

impl MigrationServer {
    /// The clock that tokens and the nonce store go by.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Whether tokens that are issued now are admitted, as far as the beginning of the store's memory goes.
    pub(crate) fn admits_tokens_now(&self) -> bool {
        self.admits_tokens_since()
            .is_none_or(|since| self.clock.now() >= since)
    }

    /// A claim as for a token that is issued now, of a nonce that nobody uses. `None` without randomness.
    pub(crate) fn probe(&self) -> Option<Claim> {
        let mut random = [0; 48];
        self.random().fill(&mut random).ok()?;
        let (session_id, id) = random.split_first_chunk::<32>()?;
        let now = self.clock.now();
        Some(Claim {
            nonce: NonceKey::new(&[0; 32], session_id, b"probe"),
            id: ClaimId::new(*id.first_chunk()?),
            issued_after: now.saturating_sub(self.clock_skew),
            keep_until: now.saturating_add(PROBE_LIFETIME),
            now,
        })
    }

    /// These settings for an acceptor that has had other ones: it keeps its nonce store and its counts.
    pub(crate) fn in_place_of(mut self, other: &Self) -> Self {
        self.nonce_store = Arc::clone(&other.nonce_store);
        self.counters = Arc::clone(&other.counters);
        self
    }
}
