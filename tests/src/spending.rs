//! Load on nonce stores that fail: tokens are presented again and again, before, during and after a fault.
//!
//! It keeps book of every answer, and never forgives a nonce that was first or won twice.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use migration_token::{
    Claim, ClaimId, ClaimOutcome, CommitOutcome, NonceKey, NonceStore, StoreError,
};
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// How many tokens are presented at a time: the youngest.
const CURRENT: usize = 400;

/// How long a store may take to work again once its fault is over. Only a broken test waits for it.
const PATIENCE: Duration = Duration::from_secs(180);

/// Several tasks that present the same tokens to several stores, until they are told to stop.
pub struct Spending {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    stores: Vec<Arc<dyn NonceStore>>,
    tokens: Mutex<Vec<Token>>,
    random: (RandomState, AtomicU64),
    outcomes: Mutex<BTreeMap<String, usize>>,
    longest: Mutex<Duration>,
    stopped: AtomicBool,
}

/// A token, and how often it was accepted.
#[derive(Clone, Copy)]
struct Token {
    issued: OffsetDateTime,
    firsts: usize,
    wins: usize,
}

/// What came of it all.
pub struct Account {
    /// How many tokens were issued.
    pub tokens: usize,
    /// How many of them were spent.
    pub spent: usize,
    /// How often each answer was given, errors by their text.
    pub outcomes: BTreeMap<String, usize>,
    /// The longest time for one answer.
    pub longest: Duration,
}

impl Spending {
    /// Starts `tasks` tasks over `stores`, which share one memory.
    pub fn start(stores: Vec<Arc<dyn NonceStore>>, tasks: usize) -> Self {
        let shared = Arc::new(Shared {
            stores,
            tokens: Mutex::default(),
            random: (RandomState::new(), AtomicU64::new(0)),
            outcomes: Mutex::default(),
            longest: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let tasks = (0..tasks)
            .map(|_| tokio::spawn(spend(shared.clone())))
            .collect();
        Self { shared, tasks }
    }

    /// Waits until `more` further tokens have been spent: the stores work.
    pub async fn until_spent(&self, more: usize) {
        let spent = || {
            let tokens = self.shared.tokens.lock();
            tokens.iter().filter(|token| token.wins > 0).count()
        };
        let enough = spent() + more;
        let waiting = async {
            while spent() < enough {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let worked = timeout(PATIENCE, waiting).await;
        worked.unwrap_or_else(|_| panic!("no store works: {:#?}", self.shared.outcomes.lock()));
    }

    /// Waits until `answer` has been given `more` further times.
    pub async fn until(&self, answer: &str, more: usize) {
        let given = || {
            let outcomes = self.shared.outcomes.lock();
            let alike = outcomes.iter().filter(|(text, _)| text.contains(answer));
            alike.map(|(_, count)| count).sum::<usize>()
        };
        let enough = given() + more;
        let waiting = async {
            while given() < enough {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let came = timeout(PATIENCE, waiting).await;
        came.unwrap_or_else(|_| panic!("no {answer:?} in {:#?}", self.shared.outcomes.lock()));
    }

    /// Ends the load. Panics when any nonce was first or won twice.
    pub async fn finish(self) -> Account {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let tokens = self.shared.tokens.lock();
        let twice = |token: &&Token| token.firsts > 1 || token.wins > 1;
        assert_eq!(tokens.iter().filter(twice).count(), 0, "accepted twice");
        Account {
            tokens: tokens.len(),
            spent: tokens.iter().filter(|token| token.wins == 1).count(),
            outcomes: self.shared.outcomes.lock().clone(),
            longest: *self.shared.longest.lock(),
        }
    }
}

async fn spend(shared: Arc<Shared>) {
    while !shared.stopped.load(Ordering::Relaxed) {
        let (number, token) = shared.pick();
        let store = shared.stores[shared.random(shared.stores.len())].clone();
        let now = OffsetDateTime::now_utc();
        // As admission does it.
        if store
            .remembers_since()
            .is_some_and(|since| token.issued < since)
        {
            shared.note("too old");
            sleep(Duration::from_millis(1)).await;
            continue;
        }
        let claim = Claim {
            nonce: NonceKey::new(&[0; 32], &[0; 32], &number.to_be_bytes()),
            id: ClaimId::new(shared.fresh()),
            issued_after: token.issued,
            keep_until: now + Duration::from_secs(600),
            now,
        };
        match shared.answer(|| store.claim(claim)).await {
            Some(ClaimOutcome::First) => shared.tokens.lock()[number].firsts += 1,
            Some(ClaimOutcome::Pending) => {}
            Some(ClaimOutcome::Committed) | None => continue,
        }
        if shared.answer(|| store.commit(claim)).await == Some(CommitOutcome::Won) {
            shared.tokens.lock()[number].wins += 1;
        }
    }
}

impl Shared {
    /// A token to present, often one that was presented before.
    fn pick(&self) -> (usize, Token) {
        let dice = self.random(usize::MAX);
        let mut tokens = self.tokens.lock();
        if tokens.is_empty() || dice.is_multiple_of(5) {
            tokens.push(Token {
                issued: OffsetDateTime::now_utc(),
                firsts: 0,
                wins: 0,
            });
        }
        let current = tokens.len().min(CURRENT);
        let number = tokens.len() - 1 - (dice / 5) % current;
        (number, tokens[number])
    }

    /// The answer; asks a second time when the first was an error, as if the reply had been lost.
    async fn answer<T: fmt::Debug, F>(&self, ask: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        for _ in 0..2 {
            let asked = Instant::now();
            let answer = ask().await;
            let took = asked.elapsed();
            {
                let mut longest = self.longest.lock();
                *longest = took.max(*longest);
            }
            match answer {
                Ok(answer) => {
                    self.note(&format!("{answer:?}"));
                    return Some(answer);
                }
                Err(StoreError::Unavailable(source)) => self.note(&source.to_string()),
                Err(error) => self.note(&error.to_string()),
            }
            // A client that comes again takes longer than this.
            sleep(Duration::from_millis(2)).await;
        }
        None
    }

    fn note(&self, outcome: &str) {
        let mut outcomes = self.outcomes.lock();
        *outcomes.entry(outcome.to_owned()).or_default() += 1;
    }

    fn random(&self, below: usize) -> usize {
        let (state, count) = &self.random;
        let hash = state.hash_one(count.fetch_add(1, Ordering::Relaxed));
        usize::try_from(hash).unwrap() % below
    }

    fn fresh(&self) -> [u8; 16] {
        let mut id = [0; 16];
        let (state, count) = &self.random;
        let number = count.fetch_add(1, Ordering::Relaxed);
        id[..8].copy_from_slice(&number.to_be_bytes());
        id[8..].copy_from_slice(&state.hash_one(number).to_be_bytes());
        id
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tokens, spent, longest) = (self.tokens, self.spent, self.longest);
        writeln!(
            f,
            "{spent} of {tokens} tokens spent, longest answer {longest:?}"
        )?;
        for (outcome, count) in &self.outcomes {
            writeln!(f, "{count:>9}  {outcome}")?;
        }
        Ok(())
    }
}
