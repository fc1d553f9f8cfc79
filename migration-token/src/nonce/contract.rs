//! What every [`NonceStore`] owes (`docs/protocol.md` section 8), as tests that each store's own tests call.
//!
//! Nothing here knows how a store keeps its nonces.

use std::collections::HashMap;
use std::future::Future;
use std::thread;

use proptest::prelude::*;
use time::{Duration, OffsetDateTime};

use super::{Claim, ClaimId, ClaimOutcome, CommitOutcome, NonceKey, NonceStore, StoreError};

/// A kind of store, and what differs between kinds.
pub(crate) trait Kind: Sync {
    type Store: NonceStore;

    /// How many sequences the property test tries.
    const CASES: u32 = 256;
    /// Whether a store limits how many nonces it holds.
    const BOUNDED: bool = true;
    /// Whether nonces expire by the time in the claims, which the tests turn by hand.
    const TIME_OF_CLAIMS: bool = true;
    /// When the claims begin.
    fn start(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH
    }

    /// A store without a nonce, for at most `capacity` of them if it is bounded.
    fn empty(&self, capacity: usize) -> Self::Store;

    /// How many nonces the store holds, if it can tell.
    fn live(&self, store: &Self::Store) -> Option<usize>;

    /// Runs a store's future to its end. Several threads may be in here at a time.
    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        pollster::block_on(future)
    }
}

/// A store under test.
struct Subject<'a, K: Kind> {
    kind: &'a K,
    store: K::Store,
}

impl<'a, K: Kind> Subject<'a, K> {
    fn new(kind: &'a K, capacity: usize) -> Self {
        let store = kind.empty(capacity);
        Self { kind, store }
    }

    /// Connection `id` asks for `nonce` at second `now`, to be kept until second `keep_until`.
    fn asked(&self, nonce: u8, id: u8, keep_until: i64, now: i64) -> Claim {
        Claim {
            nonce: NonceKey::new(&[0; 32], &[0; 32], &[nonce; 16]),
            id: ClaimId::new([id; 16]),
            issued_after: self.kind.start(),
            keep_until: self.kind.start() + Duration::seconds(keep_until),
            now: self.kind.start() + Duration::seconds(now),
        }
    }

    fn claim(&self, asked: Claim) -> Result<ClaimOutcome, StoreError> {
        self.kind.wait(self.store.claim(asked))
    }

    fn commit(&self, asked: Claim) -> CommitOutcome {
        self.kind.wait(self.store.commit(asked)).unwrap()
    }
}

/// Seconds for which a nonce is kept where time does not matter.
const LONG: i64 = 600;

pub(crate) fn the_first_claim_is_first_again_and_others_wait_for_its_commit(kind: &impl Kind) {
    let subject = Subject::new(kind, 8);
    let by = |id| subject.asked(1, id, LONG, 0);
    assert_eq!(subject.claim(by(1)).unwrap(), ClaimOutcome::First);
    assert_eq!(subject.claim(by(1)).unwrap(), ClaimOutcome::First);
    assert_eq!(subject.claim(by(2)).unwrap(), ClaimOutcome::Pending);
    assert_eq!(subject.commit(by(2)), CommitOutcome::Won);
    assert_eq!(subject.commit(by(2)), CommitOutcome::Won);
    assert_eq!(subject.commit(by(1)), CommitOutcome::Lost);
    assert_eq!(subject.claim(by(3)).unwrap(), ClaimOutcome::Committed);
    assert_eq!(subject.claim(by(2)).unwrap(), ClaimOutcome::Committed);
}

pub(crate) fn a_commit_without_a_claim_is_lost(kind: &impl Kind) {
    let subject = Subject::new(kind, 8);
    assert_eq!(
        subject.commit(subject.asked(1, 1, LONG, 0)),
        CommitOutcome::Lost
    );
}

/// For bounded stores.
pub(crate) fn a_full_store_refuses_until_a_nonce_expires(kind: &impl Kind) {
    let subject = Subject::new(kind, 2);
    subject.claim(subject.asked(1, 1, 10, 0)).unwrap();
    subject.claim(subject.asked(2, 1, 20, 0)).unwrap();
    assert!(matches!(
        subject.claim(subject.asked(3, 1, 20, 10)),
        Err(StoreError::Full)
    ));
    assert_eq!(
        subject.claim(subject.asked(3, 1, 20, 12)).unwrap(),
        ClaimOutcome::First
    );
    assert_eq!(kind.live(&subject.store).unwrap_or(2), 2);
}

pub(crate) fn many_threads_that_present_the_same_nonces_commit_each_of_them_once(kind: &impl Kind) {
    let subject = Subject::new(kind, 1_000);
    let present = |id| {
        let outcomes: Vec<_> = (0..100)
            .map(|nonce| {
                let asked = subject.asked(nonce, id, LONG, 0);
                let claimed = subject.claim(asked).unwrap();
                (claimed, subject.commit(asked))
            })
            .collect();
        let first = |(claimed, _): &&_| *claimed == ClaimOutcome::First;
        let won = |(_, committed): &&_| *committed == CommitOutcome::Won;
        (
            outcomes.iter().filter(first).count(),
            outcomes.iter().filter(won).count(),
        )
    };
    let (firsts, wins) = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|id| scope.spawn(move || present(id))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    });
    assert_eq!((firsts, wins), (100, 100));
    assert_eq!(kind.live(&subject.store).unwrap_or(100), 100);
}

pub(crate) fn any_sequence_is_answered_as_by_a_plain_map<K: Kind>(kind: &K) {
    const CAPACITY: usize = 4;
    let (latest, keep): (i64, i64) = if K::TIME_OF_CLAIMS { (4, 5) } else { (1, LONG) };
    let step = (0u8..6, 0u8..3, any::<bool>(), 0..latest);
    let steps = prop::collection::vec(step, 1..120);
    proptest!(ProptestConfig::with_cases(K::CASES), |(steps in steps)| {
        let subject = Subject::new(kind, CAPACITY);
        let mut model = Model {
            nonces: HashMap::new(),
            capacity: if K::BOUNDED { CAPACITY } else { usize::MAX },
        };
        let mut now = 0;
        for (nonce, id, commit, advance) in steps {
            now += advance;
            let asked = subject.asked(nonce, id, now + keep, now);
            if commit {
                let answer = subject.commit(asked);
                prop_assert_eq!(answer, model.commit(nonce, id, now, answer));
            } else {
                let answer = subject.claim(asked);
                prop_assert_eq!(answer.ok(), model.claim(nonce, id, now + keep, now));
                let live = kind.live(&subject.store);
                prop_assert_eq!(live.unwrap_or(model.nonces.len()), model.nonces.len());
            }
        }
    });
}

/// The plain map.
struct Model {
    /// First claim, winner of the commit, and when the nonce may be forgotten.
    nonces: HashMap<u8, (u8, Option<u8>, i64)>,
    capacity: usize,
}

impl Model {
    /// `None` when the store is full.
    fn claim(&mut self, nonce: u8, id: u8, keep_until: i64, now: i64) -> Option<ClaimOutcome> {
        self.nonces.retain(|_, (_, _, keep)| !is_past(*keep, now));
        match self.nonces.get(&nonce) {
            Some((_, Some(_), _)) => Some(ClaimOutcome::Committed),
            Some((first, None, _)) if *first == id => Some(ClaimOutcome::First),
            Some(_) => Some(ClaimOutcome::Pending),
            None if self.nonces.len() == self.capacity => None,
            None => {
                self.nonces.insert(nonce, (id, None, keep_until));
                Some(ClaimOutcome::First)
            }
        }
    }

    /// A store may or may not have forgotten a nonce whose time is over.
    fn commit(&mut self, nonce: u8, id: u8, now: i64, answer: CommitOutcome) -> CommitOutcome {
        match self.nonces.get_mut(&nonce) {
            Some((_, _, keep)) if is_past(*keep, now) && answer == CommitOutcome::Lost => answer,
            Some((_, winner, _)) => match *winner.get_or_insert(id) == id {
                true => CommitOutcome::Won,
                false => CommitOutcome::Lost,
            },
            None => CommitOutcome::Lost,
        }
    }
}

/// Whether a nonce may be forgotten: a second is allowed for rounding.
fn is_past(keep_until: i64, now: i64) -> bool {
    keep_until + 1 < now
}
