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
                    .entry(last_second(claim.keep_until))
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

/// The last whole second in which the nonce must still be known.
fn last_second(keep_until: OffsetDateTime) -> i64 {
    keep_until.unix_timestamp().saturating_add(1)
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
    use std::collections::HashMap;
    use std::thread;

    use proptest::prelude::*;
    use time::Duration;

    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn claim(nonce: u8, id: u8, keep_for: i64, now: i64) -> Claim {
        Claim {
            nonce: NonceKey::new(&[0; 32], &[0; 32], &[nonce; 16]),
            id: ClaimId::new([id; 16]),
            keep_until: START + Duration::seconds(keep_for),
            now: START + Duration::seconds(now),
        }
    }

    #[test]
    fn the_first_claim_is_first_again_and_others_wait_for_its_commit() {
        let store = MemoryNonceStore::new(8, START);
        assert_eq!(
            store.claim_now(claim(1, 1, 9, 0)).unwrap(),
            ClaimOutcome::First
        );
        assert_eq!(
            store.claim_now(claim(1, 1, 9, 0)).unwrap(),
            ClaimOutcome::First
        );
        assert_eq!(
            store.claim_now(claim(1, 2, 9, 0)).unwrap(),
            ClaimOutcome::Pending
        );
        assert_eq!(store.commit_now(claim(1, 2, 9, 0)), CommitOutcome::Won);
        assert_eq!(store.commit_now(claim(1, 2, 9, 0)), CommitOutcome::Won);
        assert_eq!(store.commit_now(claim(1, 1, 9, 0)), CommitOutcome::Lost);
        assert_eq!(
            store.claim_now(claim(1, 3, 9, 0)).unwrap(),
            ClaimOutcome::Committed
        );
    }

    #[test]
    fn a_commit_without_a_claim_is_lost() {
        let store = MemoryNonceStore::new(8, START);
        assert_eq!(store.commit_now(claim(1, 1, 9, 0)), CommitOutcome::Lost);
    }

    #[test]
    fn a_full_store_refuses_until_a_nonce_expires() {
        let store = MemoryNonceStore::new(2, START);
        store.claim_now(claim(1, 1, 10, 0)).unwrap();
        store.claim_now(claim(2, 1, 20, 0)).unwrap();
        assert!(matches!(
            store.claim_now(claim(3, 1, 20, 10)),
            Err(StoreError::Full)
        ));
        assert_eq!(
            store.claim_now(claim(3, 1, 20, 12)).unwrap(),
            ClaimOutcome::First
        );
        assert_eq!(store.len(), 2);
    }

    #[test]
    fn many_threads_that_present_the_same_nonces_commit_each_of_them_once() {
        let store = MemoryNonceStore::new(1_000, START);
        let wins: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|id| {
                    let store = &store;
                    scope.spawn(move || {
                        (0..100)
                            .filter(|nonce| {
                                store.claim_now(claim(*nonce, id, 9, 0)).unwrap();
                                store.commit_now(claim(*nonce, id, 9, 0)) == CommitOutcome::Won
                            })
                            .count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(wins, 100);
        assert_eq!(store.len(), 100);
    }

    #[derive(Default)]
    struct Model {
        /// First claim, winner of the commit, and when the nonce may be forgotten.
        nonces: HashMap<u8, (u8, Option<u8>, i64)>,
    }

    impl Model {
        fn claim(&mut self, nonce: u8, id: u8, keep_until: i64, now: i64) -> Option<ClaimOutcome> {
            self.nonces.retain(|_, (_, _, keep)| *keep + 1 >= now);
            match self.nonces.get(&nonce) {
                Some((_, Some(_), _)) => Some(ClaimOutcome::Committed),
                Some((first, None, _)) if *first == id => Some(ClaimOutcome::First),
                Some(_) => Some(ClaimOutcome::Pending),
                None if self.nonces.len() == CAPACITY => None,
                None => {
                    self.nonces.insert(nonce, (id, None, keep_until));
                    Some(ClaimOutcome::First)
                }
            }
        }

        fn commit(&mut self, nonce: u8, id: u8) -> CommitOutcome {
            match self.nonces.get_mut(&nonce) {
                Some((_, winner, _)) => match *winner.get_or_insert(id) == id {
                    true => CommitOutcome::Won,
                    false => CommitOutcome::Lost,
                },
                None => CommitOutcome::Lost,
            }
        }
    }

    const CAPACITY: usize = 4;

    proptest! {
        #[test]
        fn any_sequence_is_answered_as_by_a_plain_map(
            steps in prop::collection::vec((0u8..6, 0u8..3, any::<bool>(), 0i64..4), 1..120)
        ) {
            const KEEP: i64 = 5;
            let store = MemoryNonceStore::new(CAPACITY, START);
            let mut model = Model::default();
            let mut now = 0;
            for (nonce, id, commit, advance) in steps {
                now += advance;
                let asked = claim(nonce, id, now + KEEP, now);
                if commit {
                    prop_assert_eq!(store.commit_now(asked), model.commit(nonce, id));
                } else {
                    prop_assert_eq!(
                        store.claim_now(asked).ok(),
                        model.claim(nonce, id, now + KEEP, now)
                    );
                }
                prop_assert_eq!(store.len(), model.nonces.len());
                prop_assert_eq!(store.len(), store.nonces.len());
            }
        }
    }
}
