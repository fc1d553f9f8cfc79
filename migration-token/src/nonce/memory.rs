//! A [`NonceStore`] in the memory of one process, for an address that one node answers for.
//!
//! It never evicts a nonce before its time: when it is full, it refuses.

use std::collections::BTreeMap;
use std::fmt;
use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use time::OffsetDateTime;

use super::{
    BoxFuture, Claim, ClaimId, ClaimOutcome, CommitOutcome, NonceKey, NonceStore, StoreError,
};

/// Nonces in memory, bounded, expired in the order of their time.
///
/// It forgets everything when the process ends. Therefore it refuses tokens that were issued before it
/// started.
pub struct MemoryNonceStore {
    nonces: DashMap<NonceKey, State>,
    /// The same nonces by the second at which they may be forgotten, so that expiry scans nothing else.
    expiry: Mutex<BTreeMap<i64, Vec<NonceKey>>>,
    live: AtomicUsize,
    capacity: usize,
    started: OffsetDateTime,
}

#[derive(Clone, Copy)]
enum State {
    Claimed { first: ClaimId },
    Committed { winner: ClaimId },
}

impl MemoryNonceStore {
    /// The capacity that suits most services: one million live nonces.
    pub const DEFAULT_CAPACITY: usize = 1_000_000;

    /// A store that holds at most `capacity` live nonces and starts at the moment `started`.
    pub fn new(capacity: usize, started: OffsetDateTime) -> Self {
        Self {
            nonces: DashMap::new(),
            expiry: Mutex::new(BTreeMap::new()),
            live: AtomicUsize::new(0),
            capacity,
            started,
        }
    }

    /// How many nonces the store holds.
    pub fn len(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Whether the store holds no nonce.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn claim_now(&self, claim: Claim) -> Result<ClaimOutcome, StoreError> {
        self.forget_expired(claim.now);
        match self.nonces.entry(claim.nonce) {
            Entry::Occupied(entry) => Ok(match *entry.get() {
                State::Claimed { first } if first == claim.id => ClaimOutcome::First,
                State::Claimed { .. } => ClaimOutcome::Pending,
                State::Committed { .. } => ClaimOutcome::Committed,
            }),
            Entry::Vacant(entry) => {
                self.reserve()?;
                entry.insert(State::Claimed { first: claim.id });
                self.expiry
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry(claim.last_second())
                    .or_default()
                    .push(claim.nonce);
                Ok(ClaimOutcome::First)
            }
        }
    }

    fn commit_now(&self, claim: Claim) -> CommitOutcome {
        let Some(mut state) = self.nonces.get_mut(&claim.nonce) else {
            return CommitOutcome::Lost;
        };
        match *state {
            State::Committed { winner } if winner != claim.id => CommitOutcome::Lost,
            State::Claimed { .. } | State::Committed { .. } => {
                *state = State::Committed { winner: claim.id };
                CommitOutcome::Won
            }
        }
    }

    /// Takes one place, or fails when all are taken.
    fn reserve(&self) -> Result<(), StoreError> {
        self.live
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |live| {
                (live < self.capacity).then_some(live + 1)
            })
            .map(drop)
            .map_err(|_| StoreError::Full)
    }

    fn forget_expired(&self, now: OffsetDateTime) {
        loop {
            let expired = {
                let mut expiry = self.expiry.lock().unwrap_or_else(PoisonError::into_inner);
                match expiry.first_entry() {
                    Some(bucket) if *bucket.key() < now.unix_timestamp() => bucket.remove(),
                    _ => return,
                }
            };
            for nonce in &expired {
                self.nonces.remove(nonce);
            }
            self.live.fetch_sub(expired.len(), Ordering::Relaxed);
        }
    }
}

impl NonceStore for MemoryNonceStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>> {
        Box::pin(ready(self.claim_now(claim)))
    }

    fn commit(&self, claim: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>> {
        Box::pin(ready(Ok(self.commit_now(claim))))
    }

    fn remembers_since(&self) -> Option<OffsetDateTime> {
        Some(self.started)
    }
}

impl fmt::Debug for MemoryNonceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNonceStore")
            .field("live", &self.len())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nonce::contract::{self, Kind};

    struct Memory;

    impl Kind for Memory {
        type Store = MemoryNonceStore;

        fn empty(&self, capacity: usize) -> MemoryNonceStore {
            MemoryNonceStore::new(capacity, self.start())
        }

        fn live(&self, store: &MemoryNonceStore) -> Option<usize> {
            assert_eq!(store.len(), store.nonces.len());
            Some(store.len())
        }
    }

    #[test]
    fn the_first_claim_is_first_again_and_others_wait_for_its_commit() {
        contract::the_first_claim_is_first_again_and_others_wait_for_its_commit(&Memory);
    }

    #[test]
    fn a_commit_without_a_claim_is_lost() {
        contract::a_commit_without_a_claim_is_lost(&Memory);
    }

    #[test]
    fn a_full_store_refuses_until_a_nonce_expires() {
        contract::a_full_store_refuses_until_a_nonce_expires(&Memory);
    }

    #[test]
    fn many_threads_that_present_the_same_nonces_commit_each_of_them_once() {
        contract::many_threads_that_present_the_same_nonces_commit_each_of_them_once(&Memory);
    }

    #[test]
    fn any_sequence_is_answered_as_by_a_plain_map() {
        contract::any_sequence_is_answered_as_by_a_plain_map(&Memory);
    }
}
