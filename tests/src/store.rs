//! Nonce stores that fail on purpose, and one that counts.

use std::future::{pending, ready};

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use migration_token::{
    BoxFuture, Claim, ClaimOutcome, CommitOutcome, MemoryId, MemoryNonceStore, NonceStore,
    StoreError,
};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

/// How a store fails.
#[derive(Clone, Copy, Debug)]
pub enum FailingStore {
    /// Every operation is an error.
    Broken,
    /// Nothing is ever answered.
    Hung,
    /// Claims succeed, but another connection has committed first.
    LostToAnother,
    /// Claims succeed, though not as the first; commits are errors.
    FailingCommits,
}

impl NonceStore for FailingStore {
    fn claim(&self, _: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>> {
        match self {
            Self::Broken => Box::pin(ready(Err(StoreError::Unavailable("broken".into())))),
            Self::Hung => Box::pin(pending()),
            Self::LostToAnother | Self::FailingCommits => {
                Box::pin(ready(Ok(ClaimOutcome::Pending)))
            }
        }
    }

    fn commit(&self, _: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>> {
        match self {
            Self::Broken | Self::FailingCommits => {
                Box::pin(ready(Err(StoreError::Unavailable("broken".into()))))
            }
            Self::Hung => Box::pin(pending()),
            Self::LostToAnother => Box::pin(ready(Ok(CommitOutcome::Lost))),
        }
    }

    fn remembers_since(&self) -> Option<OffsetDateTime> {
        None
    }

    /// The same for all, which is what a store that is away says too.
    fn memory_id(&self) -> Option<MemoryId> {
        Some(MemoryId::new([1; MemoryId::LEN]))
    }
}

/// A memory store that counts its claims.
#[derive(Debug)]
pub struct CountingStore {
    store: MemoryNonceStore,
    claims: AtomicUsize,
}

impl CountingStore {
    pub fn new(store: MemoryNonceStore) -> Self {
        Self {
            store,
            claims: AtomicUsize::new(0),
        }
    }

    pub fn claims(&self) -> usize {
        self.claims.load(Ordering::SeqCst)
    }
}

impl NonceStore for CountingStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        self.store.claim(claim)
    }

    fn commit(&self, claim: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>> {
        self.store.commit(claim)
    }

    fn remembers_since(&self) -> Option<OffsetDateTime> {
        self.store.remembers_since()
    }

    fn memory_id(&self) -> Option<MemoryId> {
        self.store.memory_id()
    }
}

/// A memory store that answers claims only when it is told to, and commits at once; or the other way round.
#[derive(Debug)]
pub struct HeldStore {
    store: MemoryNonceStore,
    commits: bool,
    answers: Semaphore,
}

impl HeldStore {
    pub fn new(store: MemoryNonceStore) -> Self {
        Self {
            store,
            commits: false,
            answers: Semaphore::new(0),
        }
    }

    /// One that commits only when it is told to, and answers claims at once.
    pub fn of_commits(store: MemoryNonceStore) -> Self {
        Self {
            commits: true,
            ..Self::new(store)
        }
    }

    /// Whether a claim, or a commit, may be answered now.
    async fn may_answer(&self, commit: bool) {
        if self.commits == commit {
            self.answers.acquire().await.unwrap().forget();
        }
    }

    /// Answers one of what it holds, or the next one to come.
    pub fn answer(&self) {
        self.answers.add_permits(1);
    }
}

impl NonceStore for HeldStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>> {
        Box::pin(async move {
            self.may_answer(false).await;
            self.store.claim(claim).await
        })
    }

    fn commit(&self, claim: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>> {
        Box::pin(async move {
            self.may_answer(true).await;
            self.store.commit(claim).await
        })
    }

    fn remembers_since(&self) -> Option<OffsetDateTime> {
        self.store.remembers_since()
    }

    fn memory_id(&self) -> Option<MemoryId> {
        self.store.memory_id()
    }
}

/// A memory store that fails to commit a number of times, and then does.
#[derive(Debug)]
pub struct StumblingStore {
    store: MemoryNonceStore,
    failures: AtomicUsize,
}

impl StumblingStore {
    pub fn new(store: MemoryNonceStore, failures: usize) -> Self {
        Self {
            store,
            failures: AtomicUsize::new(failures),
        }
    }
}

impl NonceStore for StumblingStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>> {
        self.store.claim(claim)
    }

    fn commit(&self, claim: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>> {
        let one_less = |left: usize| left.checked_sub(1);
        let left = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        match left {
            Ok(_) => Box::pin(ready(Err(StoreError::Unavailable("stumbled".into())))),
            Err(_) => self.store.commit(claim),
        }
    }

    fn remembers_since(&self) -> Option<OffsetDateTime> {
        self.store.remembers_since()
    }

    fn memory_id(&self) -> Option<MemoryId> {
        self.store.memory_id()
    }
}

/// A memory store that records what it is asked, but whose first answer to one of the two questions never arrives.
#[derive(Debug)]
pub struct AnswerLosingStore {
    store: MemoryNonceStore,
    loses_claim: AtomicBool,
    loses_commit: AtomicBool,
}

impl AnswerLosingStore {
    /// Loses the answer to the first claim.
    pub fn of_a_claim(store: MemoryNonceStore) -> Self {
        Self {
            store,
            loses_claim: AtomicBool::new(true),
            loses_commit: AtomicBool::new(false),
        }
    }

    /// Loses the answer to the first commit.
    pub fn of_a_commit(store: MemoryNonceStore) -> Self {
        Self {
            store,
            loses_claim: AtomicBool::new(false),
            loses_commit: AtomicBool::new(true),
        }
    }
}

impl NonceStore for AnswerLosingStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>> {
        let answer = self.store.claim(claim);
        match self.loses_claim.swap(false, Ordering::SeqCst) {
            true => Box::pin(pending()),
            false => answer,
        }
    }

    fn commit(&self, claim: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>> {
        let answer = self.store.commit(claim);
        match self.loses_commit.swap(false, Ordering::SeqCst) {
            true => Box::pin(pending()),
            false => answer,
        }
    }

    fn remembers_since(&self) -> Option<OffsetDateTime> {
        self.store.remembers_since()
    }

    fn memory_id(&self) -> Option<MemoryId> {
        self.store.memory_id()
    }
}
