//! Requests to the nonce store (`docs/protocol.md` section 7, steps 12 and 13): how many may be under way, and how long
//! they are tried.
//!
//! What an answer means is decided elsewhere.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use migration_token::{Claim, ClaimOutcome, CommitOutcome, NonceStore, StoreError};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::MoveKind;
use crate::clock::Clock;
use crate::measure::time;
use crate::server::MigrationServer;

/// How long a store that failed is left alone before it is asked again.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(50);

/// How often it is said that the store is full.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// A commit's answer; `None` when there was none in time.
pub(super) type CommitAnswer = Option<Result<CommitOutcome, StoreError>>;

/// Lets the requests of one acceptor through to the store.
///
/// A store that is only slow loses no one: a request waits for its turn, and is made again after a failure, for as long as
/// the store answers others. It is given up when the store has answered nobody within its timeout, or when its own answer
/// took longer. A stream that is handed over is lost then, so its requests are made again for half of a handshake's time.
#[derive(Debug)]
pub(super) struct NonceStoreGate {
    store: Arc<dyn NonceStore>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    hand_over_timeout: Duration,
    claims: Semaphore,
    /// Apart from the claims: who has been admitted is not to wait for those that come.
    commits: Semaphore,
    /// When the store answered last.
    answered: Mutex<Option<Instant>>,
    /// When it was last said that the store is full.
    warned: Mutex<Option<Instant>>,
    /// Where checkpoints are spent that are superseded. Apart, so that no client that comes waits for it.
    superseded: Option<Box<Self>>,
}

/// What became of a checkpoint that is superseded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Superseded {
    /// It is spent.
    Spent,
    /// Another connection has spent it: the stream goes on elsewhere.
    GoesOnElsewhere,
    /// The store does not say. The checkpoint is good for its life.
    NotSpent,
}

impl Superseded {
    /// What logs and metrics call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Spent => "spent",
            Self::GoesOnElsewhere => "elsewhere",
            Self::NotSpent => "not_spent",
        }
    }
}

impl NonceStoreGate {
    pub(super) fn new(server: &MigrationServer) -> Self {
        let superseded = server.superseded_in();
        Self {
            superseded: superseded.map(|store| Box::new(Self::before(store, server))),
            ..Self::before(server.nonce_store(), server)
        }
    }

    fn before(store: &Arc<dyn NonceStore>, server: &MigrationServer) -> Self {
        let permits = server
            .max_nonce_store_requests()
            .min(Semaphore::MAX_PERMITS);
        Self {
            store: Arc::clone(store),
            clock: Arc::clone(server.clock()),
            timeout: server.nonce_store_timeout(),
            hand_over_timeout: server.handshake_timeout() / 2,
            claims: Semaphore::new(permits),
            commits: Semaphore::new(permits),
            answered: Mutex::new(None),
            warned: Mutex::new(None),
            superseded: None,
        }
    }

    /// Spends a checkpoint that the client does not need any more.
    pub(super) async fn supersede(&self, checkpoint: Claim) -> Superseded {
        let Some(gate) = &self.superseded else {
            return Superseded::NotSpent;
        };
        let kind = MoveKind::Connection;
        match gate.claim(checkpoint, kind).await {
            Some(Ok(ClaimOutcome::First | ClaimOutcome::Pending)) => {}
            Some(Ok(ClaimOutcome::Committed)) => return Superseded::GoesOnElsewhere,
            Some(Err(_)) | None => return Superseded::NotSpent,
        }
        match gate.commit(checkpoint, kind).await {
            Some(Ok(CommitOutcome::Won)) => return Superseded::Spent,
            Some(Ok(CommitOutcome::Lost)) => {}
            Some(Err(_)) | None => return Superseded::NotSpent,
        }
        // Another one has spent it meanwhile, or the store has lost its memory.
        match gate.claim(checkpoint, kind).await {
            Some(Ok(ClaimOutcome::Committed)) => Superseded::GoesOnElsewhere,
            Some(Ok(ClaimOutcome::First | ClaimOutcome::Pending) | Err(_)) | None => {
                Superseded::NotSpent
            }
        }
    }

    /// Claims a nonce; `None` when there was no answer in time.
    pub(super) async fn claim(
        &self,
        claim: Claim,
        kind: MoveKind,
    ) -> Option<Result<ClaimOutcome, StoreError>> {
        let answer = self
            .request(&self.claims, claim, kind, |claim| {
                measured("claim", self.store.claim(claim))
            })
            .await;
        if !matches!(answer, Some(Ok(_))) {
            tracing::debug!(?answer, "the nonce could not be claimed");
        }
        answer
    }

    /// Claims the nonce of an ordinary resumption's early data; `None` when there was no answer in time. It is asked once, and
    /// waits for nobody: without an answer the client says the same after its handshake, and clients that move come first.
    pub(super) async fn claim_early_data(
        &self,
        claim: Claim,
    ) -> Option<Result<ClaimOutcome, StoreError>> {
        let _permit = self.claims.try_acquire().ok()?;
        let asked = measured("claim_early_data", self.store.claim(claim));
        let answer = timeout(self.timeout, asked).await.ok()?;
        match &answer {
            Ok(_) => self.set_answered(),
            Err(error) => self.warn_if_full(error),
        }
        Some(answer)
    }

    /// Spends a nonce; `None` when there was no answer in time. A connection whose nonce is not spent must be closed.
    pub(super) async fn commit(&self, claim: Claim, kind: MoveKind) -> CommitAnswer {
        self.request(&self.commits, claim, kind, |claim| {
            measured("commit", self.store.commit(claim))
        })
        .await
    }

    /// One that was asked before gives the same answer, so it can be asked again.
    async fn request<T, F>(
        &self,
        permits: &Semaphore,
        claim: Claim,
        kind: MoveKind,
        ask: impl Fn(Claim) -> F,
    ) -> Option<Result<T, StoreError>>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let begun = Instant::now();
        let patience = match kind {
            MoveKind::Connection => self.timeout,
            MoveKind::Stream => self.hand_over_timeout.max(self.timeout),
        };
        let mut failure = None;
        let asked = async {
            // Never closed.
            let _permit = permits.acquire().await;
            let first_asked = Instant::now();
            loop {
                // The store compares clocks, and it has become later.
                let now = self.clock.now();
                let answer = timeout(self.timeout, ask(Claim { now, ..claim })).await;
                let busy = matches!(answer, Ok(Err(StoreError::Busy)));
                let may_pass = match &answer {
                    Ok(Err(StoreError::Busy | StoreError::Unavailable(_))) => true,
                    // For a stream there is nothing better to do.
                    Ok(Err(StoreError::Full)) | Err(_) => kind == MoveKind::Stream,
                    Ok(_) => false,
                };
                match answer {
                    Ok(Ok(outcome)) => {
                        self.set_answered();
                        return Some(outcome);
                    }
                    Ok(Err(error)) => {
                        self.warn_if_full(&error);
                        failure = Some(error);
                    }
                    Err(_) => {}
                }
                if !may_pass || (first_asked.elapsed() >= patience && !busy) {
                    return None;
                }
                sleep(BETWEEN_REQUESTS).await;
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = asked => outcome,
            () = self.silent_since(begun, patience) => None,
        };
        match outcome {
            Some(outcome) => Some(Ok(outcome)),
            None => failure.map(Err),
        }
    }

    /// A store that is full refuses every client until nonces have had their time. Who runs it must know, once in a while.
    fn warn_if_full(&self, error: &StoreError) {
        if !matches!(error, StoreError::Full) {
            return;
        }
        let now = Instant::now();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|warned| now.duration_since(warned) >= BETWEEN_WARNINGS) {
            *warned = Some(now);
            tracing::warn!(
                "the nonce store is full: more clients move here than it holds nonces for, \
                 and a nonce is held for the life of its token"
            );
        }
    }

    /// Resolves when the store has answered nobody for the whole of `patience`, counted from `begun` on.
    async fn silent_since(&self, begun: Instant, patience: Duration) {
        let mut since = begun;
        loop {
            sleep_until(since + patience).await;
            match self.last_answered() {
                Some(answered) if answered > since => since = answered,
                Some(_) | None => return,
            }
        }
    }

    fn set_answered(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn last_answered(&self) -> Option<Instant> {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request, and how long it takes. One that is given up before it is answered counts, too.
async fn measured<T>(
    operation: &'static str,
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let mut pending = Request {
        operation,
        begun: Instant::now(),
        outcome: "given_up",
    };
    let answer = request.await;
    pending.outcome = match &answer {
        Ok(_) => "answered",
        Err(StoreError::Full) => "full",
        Err(StoreError::Busy) => "busy",
        Err(StoreError::Forgotten) => "forgotten",
        Err(_) => "unavailable",
    };
    answer
}

/// A request that is taken down when it is over.
struct Request {
    operation: &'static str,
    begun: Instant,
    outcome: &'static str,
}

impl Drop for Request {
    fn drop(&mut self) {
        let Self {
            operation,
            outcome,
            begun,
        } = *self;
        time!(NONCE_STORE_SECONDS, "operation" => operation, "outcome" => outcome, since begun);
    }
}
