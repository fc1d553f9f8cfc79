//! A [`NonceStore`] in the memory of one process, for an address that one node answers for.
//!
//! It never evicts a nonce before its time: when it is full, it refuses. What it has forgotten in its time it refuses, should
//! that time come again.

use std::collections::BTreeMap;
use std::fmt;
use std::future::ready;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use time::OffsetDateTime;

use super::birth::{Birth, span};
use super::{
    BoxFuture, Claim, ClaimId, ClaimOutcome, CommitOutcome, MemoryId, Monotonic, NonceKey,
    NonceStore, StoreError, SystemMonotonic,
};

/// Nonces in memory, bounded, expired in the order of their time.
///
/// It forgets everything when the process ends. Therefore it refuses tokens that were issued before it
/// started. A start under a wrong clock is set right when the clock is, since the store knows its own age by a clock that is
/// never set. A start that was ahead of the present moment refuses every token until that moment comes: see
/// [`remembers_since`](NonceStore::remembers_since).
pub struct MemoryNonceStore {
    nonces: DashMap<NonceKey, State>,
    /// The same nonces by the second at which they may be forgotten, so that expiry scans nothing else.
    expiry: Mutex<BTreeMap<i64, Vec<NonceKey>>>,
    live: AtomicUsize,
    capacity: usize,
    /// The last second of the youngest nonce that was forgotten. All nonces up to it may have been.
    forgotten: AtomicI64,
    birth: Birth,
    monotonic: Arc<dyn Monotonic>,
    id: Option<MemoryId>,
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
        Self::with_monotonic(capacity, started, Arc::new(SystemMonotonic::new()))
    }

    /// As [`new`](Self::new), with another clock than the system's beside that of the claims.
    pub fn with_monotonic(
        capacity: usize,
        started: OffsetDateTime,
        monotonic: Arc<dyn Monotonic>,
    ) -> Self {
        Self {
            nonces: DashMap::new(),
            expiry: Mutex::new(BTreeMap::new()),
            live: AtomicUsize::new(0),
            capacity,
            forgotten: AtomicI64::new(i64::MIN),
            birth: Birth::new(started, span(monotonic.elapsed())),
            monotonic,
            id: MemoryId::random(),
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
        self.birth.judge(&claim, span(self.monotonic.elapsed()))?;
        self.forget_expired(claim.now);
        match self.nonces.entry(claim.nonce) {
            Entry::Occupied(entry) => Ok(match *entry.get() {
                State::Claimed { first } if first == claim.id => ClaimOutcome::First,
                State::Claimed { .. } => ClaimOutcome::Pending,
                State::Committed { .. } => ClaimOutcome::Committed,
            }),
            Entry::Vacant(entry) => {
                // Whoever forgets says so first, and this entry is held: so it is either found or known to be forgotten.
                if claim.last_second() <= self.forgotten.load(Ordering::Acquire) {
                    return Err(StoreError::Forgotten);
                }
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
            let (last_second, expired) = {
                let mut expiry = self.expiry.lock().unwrap_or_else(PoisonError::into_inner);
                match expiry.first_entry() {
                    Some(bucket) if *bucket.key() < now.unix_timestamp() => bucket.remove_entry(),
                    _ => return,
                }
            };
            self.forgotten.fetch_max(last_second, Ordering::AcqRel);
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
        Some(self.birth.since())
    }

    fn memory_id(&self) -> Option<MemoryId> {
        self.id
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
    use crate::nonce::contract::clocks::{self, ClockKind};
    use crate::nonce::contract::{self, HandClock, Kind};

    struct Memory;

    impl Kind for Memory {
        type Store = MemoryNonceStore;

        fn empty(
            &self,
            capacity: usize,
            now: OffsetDateTime,
            clock: &Arc<HandClock>,
        ) -> MemoryNonceStore {
            MemoryNonceStore::with_monotonic(capacity, now, clock.clone())
        }

        fn live(&self, store: &MemoryNonceStore) -> Option<usize> {
            assert_eq!(store.len(), store.nonces.len());
            Some(store.len())
        }
    }

    impl ClockKind for Memory {
        const NODES: usize = 1;
        const WORLDS: u32 = 20_000;
        const MARGIN: Option<i64> = None;

        fn begin(&self, _: OffsetDateTime) {}

        fn open(
            &self,
            _: usize,
            now: OffsetDateTime,
            clock: &Arc<HandClock>,
        ) -> Option<MemoryNonceStore> {
            let clock: Arc<dyn Monotonic> = Arc::<HandClock>::clone(clock);
            Some(MemoryNonceStore::with_monotonic(1_000, now, clock))
        }

        fn close(&self, _: MemoryNonceStore) -> bool {
            true
        }

        fn lose(&self) {}

        fn set_server(&self, _: OffsetDateTime) {}
    }

    #[test]
    fn what_was_forgotten_under_a_clock_that_was_ahead_is_refused_when_it_is_back() {
        contract::what_was_forgotten_under_a_clock_that_was_ahead_is_refused_when_it_is_back(
            &Memory,
        );
    }

    #[test]
    fn a_token_from_before_the_memory_or_after_its_time_is_refused() {
        contract::a_token_from_before_the_memory_or_after_its_time_is_refused(&Memory);
    }

    #[test]
    fn a_memory_that_began_under_a_slow_clock_begins_later_when_the_clock_is_set() {
        contract::a_memory_that_began_under_a_slow_clock_begins_later_when_the_clock_is_set(
            &Memory,
        );
    }

    #[test]
    fn whatever_the_clocks_do_no_token_is_won_twice() {
        clocks::whatever_the_clocks_do_no_token_is_won_twice(&Memory);
    }

    #[test]
    fn no_clock_fault_that_was_seen_lets_a_token_in_again() {
        clocks::no_clock_fault_that_was_seen_lets_a_token_in_again(&Memory);
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
