//! What every [`NonceStore`] owes (`docs/protocol.md` section 8), as tests that each store's own tests call.
//!
//! Nothing here knows how a store keeps its nonces.

mod clock;
pub(crate) mod clocks;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::thread;

use proptest::prelude::*;
use time::{Duration, OffsetDateTime};

use super::{Claim, ClaimId, ClaimOutcome, CommitOutcome, NonceKey, NonceStore, StoreError};

pub(crate) use self::clock::HandClock;

/// A kind of store, and what differs between kinds.
pub(crate) trait Kind: Sync {
    type Store: NonceStore;

    /// How many sequences the property test tries.
    const CASES: u32 = 256;
    /// Whether a store limits how many nonces it holds.
    const BOUNDED: bool = true;
    /// For how many seconds longer than it must a store keeps a nonce.
    const KEPT_LONGER: i64 = 0;
    /// How many claims it takes until a store has forgotten what is long over: some forget a part with each.
    const CLAIMS_TO_FORGET: u8 = 1;
    /// When the claims begin.
    fn start(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH
    }

    /// A store without a nonce, for at most `capacity` of them if it is bounded, which begins to remember `now`. `clock` is its
    /// monotonic clock.
    fn empty(&self, capacity: usize, now: OffsetDateTime, clock: &Arc<HandClock>) -> Self::Store;

    /// The store's own wall clock, if it has one, is turned to `now`.
    fn turn_to(&self, _now: OffsetDateTime) {}

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
    clock: Arc<HandClock>,
}

impl<'a, K: Kind> Subject<'a, K> {
    fn new(kind: &'a K, capacity: usize) -> Self {
        let clock = Arc::<HandClock>::default();
        let begin = kind.start() - Duration::seconds(OLDER);
        kind.turn_to(begin);
        let store = kind.empty(capacity, begin, &clock);
        let subject = Self { kind, store, clock };
        subject.turn_to(0);
        subject
    }

    /// All clocks go to second `now`.
    fn turn_to(&self, now: i64) {
        self.clock.turn_to(now + OLDER);
        self.kind
            .turn_to(self.kind.start() + Duration::seconds(now));
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

/// For how many seconds a store has remembered when the claims begin.
const OLDER: i64 = 10;

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
    subject.turn_to(10);
    assert!(matches!(
        subject.claim(subject.asked(3, 1, 20, 10)),
        Err(StoreError::Full)
    ));
    subject.turn_to(12);
    assert_eq!(
        subject.claim(subject.asked(3, 1, 20, 12)).unwrap(),
        ClaimOutcome::First
    );
    assert_eq!(kind.live(&subject.store).unwrap_or(2), 2);
}

pub(crate) fn what_was_forgotten_under_a_clock_that_was_ahead_is_refused_when_it_is_back<
    K: Kind,
>(
    kind: &K,
) {
    // The memory is older than the clock is ahead, so that its beginning says nothing.
    const OLD: i64 = 50_000;
    const AHEAD: i64 = OLD + 10_000;
    let subject = Subject::new(kind, 1_000);
    subject.claim(subject.asked(0, 1, LONG, 0)).unwrap();
    subject.turn_to(OLD);
    let spent = subject.asked(1, 1, OLD + 60, OLD);
    subject.claim(spent).unwrap();
    assert_eq!(subject.commit(spent), CommitOutcome::Won);
    // The wall clocks jump; the other goes on as ever. A store may forget a part with each claim.
    kind.turn_to(kind.start() + Duration::seconds(AHEAD));
    for nonce in 10..10 + K::CLAIMS_TO_FORGET {
        let meanwhile = subject.asked(nonce, 1, AHEAD + 60, AHEAD);
        let meanwhile = subject.claim(Claim {
            issued_after: meanwhile.now,
            ..meanwhile
        });
        assert_eq!(meanwhile.unwrap(), ClaimOutcome::First);
    }
    subject.turn_to(OLD);
    for nonce in [1, 3] {
        // What may have been forgotten is refused, and only that.
        let replayed = subject.claim(Claim {
            issued_after: spent.now,
            ..subject.asked(nonce, 2, OLD + 60, OLD)
        });
        assert!(
            matches!(replayed, Err(StoreError::Forgotten)),
            "{replayed:?}"
        );
    }
    let later = subject.asked(4, 1, OLD + 70, OLD);
    let later = subject.claim(Claim {
        issued_after: spent.now,
        ..later
    });
    assert_eq!(later.unwrap(), ClaimOutcome::First);
}

pub(crate) fn a_token_from_before_the_memory_or_after_its_time_is_refused(kind: &impl Kind) {
    let subject = Subject::new(kind, 8);
    let mut older = subject.asked(2, 1, LONG, 0);
    older.issued_after -= Duration::seconds(OLDER + 1);
    assert!(matches!(subject.claim(older), Err(StoreError::Forgotten)));
    subject.turn_to(20);
    let late = subject.asked(3, 1, 10, 20);
    assert!(matches!(subject.claim(late), Err(StoreError::Forgotten)));
}

pub(crate) fn a_memory_that_began_under_a_slow_clock_begins_later_when_the_clock_is_set(
    kind: &impl Kind,
) {
    let subject = Subject::new(kind, 8);
    subject.claim(subject.asked(1, 1, LONG, 0)).unwrap();
    let began = kind.start() + Duration::seconds(600 - OLDER);
    // Ten seconds later the clocks, which were slow by 600 seconds, are set.
    subject.clock.turn_to(10 + OLDER);
    kind.turn_to(kind.start() + Duration::seconds(610));
    let mut spent_before = subject.asked(2, 1, 1_200, 610);
    spent_before.issued_after = began - Duration::SECOND;
    assert!(matches!(
        subject.claim(spent_before),
        Err(StoreError::Forgotten)
    ));
    let mut since = subject.asked(3, 1, 1_200, 610);
    since.issued_after = began + Duration::SECOND;
    assert_eq!(subject.claim(since).unwrap(), ClaimOutcome::First);
    let since = subject.store.remembers_since().unwrap();
    assert!((since - began).abs() < Duration::SECOND, "{since}");
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
    const KEEP: i64 = 5;
    let step = (0u8..6, 0u8..3, any::<bool>(), 0..4i64);
    let steps = prop::collection::vec(step, 1..120);
    proptest!(ProptestConfig::with_cases(K::CASES), |(steps in steps)| {
        let subject = Subject::new(kind, CAPACITY);
        let mut model = Model {
            nonces: HashMap::new(),
            capacity: if K::BOUNDED { CAPACITY } else { usize::MAX },
            kept_longer: K::KEPT_LONGER,
        };
        let mut now = 0;
        for (nonce, id, commit, advance) in steps {
            now += advance;
            subject.turn_to(now);
            let asked = subject.asked(nonce, id, now + KEEP, now);
            if commit {
                let answer = subject.commit(asked);
                prop_assert_eq!(answer, model.commit(nonce, id, now, answer));
            } else {
                let answer = subject.claim(asked);
                prop_assert_eq!(answer.ok(), model.claim(nonce, id, now + KEEP, now));
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
    kept_longer: i64,
}

impl Model {
    /// `None` when the store is full.
    fn claim(&mut self, nonce: u8, id: u8, keep_until: i64, now: i64) -> Option<ClaimOutcome> {
        let longer = self.kept_longer;
        self.nonces
            .retain(|_, (_, _, keep)| !is_past(*keep + longer, now));
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
