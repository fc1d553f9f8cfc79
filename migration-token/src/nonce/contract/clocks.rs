//! Whatever the clocks do and whatever is lost, no token is won twice (`docs/protocol.md` section 8).
//!
//! The world has a true time, which no store can read, and wall clocks that are wrong by as much as the steps say: the issuer's,
//! each node's, and that of the store's server. Nodes judge tokens as admission does.

use std::sync::Arc;

use proptest::prelude::*;
use time::{Duration, OffsetDateTime};

use super::{HandClock, Kind};
use crate::nonce::{
    Claim, ClaimId, ClaimOutcome, CommitOutcome, NonceKey, NonceStore as _, StoreError,
};

/// A kind of store whose memory, processes and clock a test can take away or turn.
pub(crate) trait ClockKind: Kind {
    /// How many nodes share one store.
    const NODES: usize;
    /// How many sequences are tried.
    const WORLDS: u32;

    /// Begins a world: a store's server without memory whose clock says `now`.
    fn begin(&self, now: OffsetDateTime);

    /// A node's way to the store. It is opened while the node's clock says `now`; none when the store says that it cannot be
    /// used with this clock.
    fn open(&self, node: usize, now: OffsetDateTime, clock: &Arc<HandClock>)
    -> Option<Self::Store>;

    /// Ends a node's process: what is only there is lost, and true when that is all nonces.
    fn close(&self, store: Self::Store) -> bool;

    /// Takes the store's memory away, while nodes are up if there is more than one.
    fn lose(&self);

    /// The clock of the store's server says `now`, if it has one.
    fn set_server(&self, now: OffsetDateTime);

    /// How far the server's clock may be from the clock of whoever asks; none when the server has no clock.
    const MARGIN: Option<i64>;
}

/// The skew that nodes allow, in seconds.
const SKEW: i64 = 5;
/// As admission has it.
const GRACE: i64 = 60;
/// The true time at which each world begins, in seconds since the epoch.
const BEGIN: i64 = 1_800_000_000;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// True time goes on for so many seconds.
    Pass(i64),
    /// The issuer signs a token that is good for so many seconds.
    Issue(i64),
    /// A client, or a thief, presents the token with this number, counted back from the last.
    Present { token: usize, node: usize },
    /// A thief presents all that there ever were.
    PresentAll { node: usize },
    /// The issuer's clock is wrong by so many seconds from now on.
    SetIssuer(i64),
    /// So is a node's.
    SetNode { node: usize, to: i64 },
    /// So is the server's.
    SetServer(i64),
    /// All clocks are; a fleet with one wrong source of time.
    SetAll(i64),
    /// A node's process ends and is started again, with its machine or without.
    Restart { node: usize, machine: bool },
    /// The memory is lost.
    Lose,
}

fn offset() -> impl Strategy<Value = i64> {
    const YEAR: i64 = 365 * 24 * 3600;
    prop_oneof![
        6 => Just(0i64),
        2 => -4..5i64,
        4 => prop::sample::select(vec![-600i64, -120, -60, 60, 120, 600]),
        2 => prop::sample::select(vec![-3 * 3600i64, -3600, 3600, 3 * 3600]),
        1 => prop::sample::select(vec![-YEAR, YEAR]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..3usize;
    prop_oneof![
        4 => prop::sample::select(vec![1i64, 2, 7, 30, 70, 200, 700, 20_000]).prop_map(Step::Pass),
        4 => prop::sample::select(vec![60i64, 300, 3600]).prop_map(Step::Issue),
        9 => (0..4usize, node.clone()).prop_map(|(token, node)| Step::Present { token, node }),
        4 => node.clone().prop_map(|node| Step::PresentAll { node }),
        1 => offset().prop_map(Step::SetIssuer),
        2 => (node.clone(), offset()).prop_map(|(node, to)| Step::SetNode { node, to }),
        1 => offset().prop_map(Step::SetServer),
        3 => offset().prop_map(Step::SetAll),
        2 => (node, any::<bool>()).prop_map(|(node, machine)| Step::Restart { node, machine }),
        1 => Just(Step::Lose),
    ]
}

struct Token {
    number: u64,
    /// By the issuer's clock.
    issued: i64,
    expiry: i64,
    /// How wrong that clock was.
    wrong_by: i64,
    wins: u32,
    firsts: u32,
    /// The number of the memory in which it was won last.
    won_in: usize,
}

struct NodeOf<S> {
    wrong_by: i64,
    store: Option<S>,
    /// How wrong the birth of the memory was, less how wrong this node's clock was, when this node first heard of it.
    heard: Option<i64>,
}

/// What can be known of when the memory began.
#[derive(Clone, Copy)]
struct Memory {
    number: usize,
    /// How wrong the best estimate of its beginning is; none before it has begun.
    wrong_by: Option<i64>,
}

struct World<'a, K: ClockKind> {
    kind: &'a K,
    clock: Arc<HandClock>,
    now: i64,
    issuer: i64,
    server: i64,
    nodes: Vec<NodeOf<K::Store>>,
    memory: Memory,
    tokens: Vec<Token>,
    next: u8,
}

/// How many tokens were won, so that a store that refuses everything shows.
pub(crate) fn whatever_the_clocks_do_no_token_is_won_twice<K: ClockKind>(kind: &K) {
    let won = std::sync::atomic::AtomicUsize::new(0);
    let steps = prop::collection::vec(step(), 1..80);
    let config = ProptestConfig::with_cases(K::WORLDS);
    proptest!(config, |(old in any::<bool>(), steps in steps)| {
        let mut world = World::begin(kind);
        if old {
            world.pass(50_000);
        }
        for step in steps {
            world.take(step)?;
        }
        let more = world.tokens.iter().filter(|token| token.wins > 0).count();
        won.fetch_add(more, std::sync::atomic::Ordering::Relaxed);
    });
    let won = won.into_inner();
    println!("{won} tokens won in {} worlds", K::WORLDS);
    assert!(won > usize::try_from(K::WORLDS).unwrap() / 2, "{won}");
}

impl<'a, K: ClockKind> World<'a, K> {
    pub(crate) fn begin(kind: &'a K) -> Self {
        kind.begin(moment(BEGIN));
        let mut world = Self {
            kind,
            clock: Arc::default(),
            now: BEGIN,
            issuer: 0,
            server: 0,
            nodes: Vec::new(),
            memory: Memory {
                number: 0,
                wrong_by: None,
            },
            tokens: Vec::new(),
            next: 0,
        };
        world.clock.turn_to(BEGIN);
        for node in 0..K::NODES {
            world.nodes.push(NodeOf {
                wrong_by: 0,
                store: None,
                heard: None,
            });
            world.open(node);
        }
        // Tokens count from the skew on.
        world.pass(2 * SKEW);
        world
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Pass(seconds) => self.pass(seconds),
            Step::Issue(life) => self.issue(life),
            Step::Present { token, node } => {
                if let Some(token) = self.tokens.len().checked_sub(1 + token) {
                    self.present(token, node % K::NODES)?;
                }
            }
            Step::PresentAll { node } => {
                for token in 0..self.tokens.len() {
                    self.present(token, node % K::NODES)?;
                }
            }
            Step::SetIssuer(to) => self.issuer = to,
            Step::SetNode { node, to } => self.nodes[node % K::NODES].wrong_by = to,
            Step::SetServer(to) => self.set_server(to),
            Step::SetAll(to) => {
                self.issuer = to;
                self.set_server(to);
                for node in &mut self.nodes {
                    node.wrong_by = to;
                }
            }
            Step::Restart { node, machine } => self.restart(node % K::NODES, machine),
            Step::Lose => self.lose(),
        }
        // A second, so that what comes before and what comes after can be told apart.
        self.pass(1);
        Ok(())
    }

    fn pass(&mut self, seconds: i64) {
        self.now += seconds;
        self.clock.turn_to(self.now);
        self.kind.set_server(moment(self.now + self.server));
    }

    fn set_server(&mut self, to: i64) {
        self.server = to;
        self.kind.set_server(moment(self.now + to));
    }

    fn issue(&mut self, life: i64) {
        let issued = self.now + self.issuer;
        self.tokens.push(Token {
            number: u64::try_from(self.tokens.len()).unwrap(),
            issued,
            expiry: issued + life,
            wrong_by: self.issuer,
            wins: 0,
            firsts: 0,
            won_in: 0,
        });
    }

    fn open(&mut self, node: usize) {
        let of = &mut self.nodes[node];
        let now = moment(self.now + of.wrong_by);
        of.store = self.kind.open(node, now, &self.clock);
        of.heard = None;
        if of.store.is_some() && self.clocks_agree(node) {
            self.hear(node);
        }
    }

    /// Whether the server lets the node write.
    fn clocks_agree(&self, node: usize) -> bool {
        let apart = (self.server - self.nodes[node].wrong_by).abs();
        K::MARGIN.is_none_or(|margin| apart <= margin)
    }

    /// The node learns of the memory, which may begin by that.
    fn hear(&mut self, node: usize) {
        let of = &mut self.nodes[node];
        let estimate = *self.memory.wrong_by.get_or_insert(of.wrong_by);
        let heard = *of.heard.get_or_insert(estimate - of.wrong_by);
        self.memory.wrong_by = Some(estimate.max(heard + of.wrong_by));
    }

    fn restart(&mut self, node: usize, machine: bool) {
        if machine && K::NODES == 1 {
            self.clock.start_anew();
        }
        if let Some(store) = self.nodes[node].store.take()
            && self.kind.close(store)
        {
            self.forget_all();
        }
        self.open(node);
    }

    fn lose(&mut self) {
        if K::NODES == 1 {
            let store = self.nodes[0].store.take();
            store.map(|store| self.kind.close(store));
            self.kind.lose();
            self.forget_all();
            self.open(0);
        } else {
            self.kind.lose();
            self.forget_all();
        }
    }

    fn forget_all(&mut self) {
        self.memory = Memory {
            number: self.memory.number + 1,
            wrong_by: None,
        };
        for node in &mut self.nodes {
            node.heard = None;
        }
    }

    /// A node judges a token as admission does, and asks the store.
    fn present(&mut self, token: usize, node: usize) -> Result<(), TestCaseError> {
        let of = &self.nodes[node];
        let Some(store) = &of.store else {
            return Ok(());
        };
        let now = self.now + of.wrong_by;
        let known = &self.tokens[token];
        let too_old = |since: OffsetDateTime| moment(known.issued - SKEW) < since;
        if known.expiry + SKEW < now
            || known.issued > now + SKEW
            || store.remembers_since().is_some_and(too_old)
        {
            return Ok(());
        }
        self.next = self.next.wrapping_add(1);
        let claim = Claim {
            nonce: NonceKey::new(&[0; 32], &[0; 32], &known.number.to_be_bytes()),
            id: ClaimId::new([self.next; 16]),
            issued_after: moment(known.issued - SKEW),
            keep_until: moment(known.expiry + SKEW + GRACE),
            now: moment(now),
        };
        let claimed = self.kind.wait(store.claim(claim));
        let clocks_agree = self.clocks_agree(node);
        if let Err(StoreError::Unavailable(error)) = &claimed {
            prop_assert!(!clocks_agree, "{}", error);
        }
        let committed = matches!(claimed, Ok(ClaimOutcome::First | ClaimOutcome::Pending))
            .then(|| self.kind.wait(store.commit(claim)));
        if clocks_agree {
            self.hear(node);
        }
        self.account(token, claimed.ok(), committed.and_then(Result::ok))
    }

    /// A token that was won before is not won again; nor is early data accepted again. The one thing that no store can know: that
    /// the clocks of the issuer and of whoever saw a memory begin were apart by more than the skew.
    fn account(
        &mut self,
        token: usize,
        claimed: Option<ClaimOutcome>,
        committed: Option<CommitOutcome>,
    ) -> Result<(), TestCaseError> {
        let memory = self.memory;
        let token = &mut self.tokens[token];
        let beyond_knowledge = token.won_in != memory.number
            && memory
                .wrong_by
                .is_some_and(|wrong_by| token.wrong_by - wrong_by > SKEW);
        if claimed == Some(ClaimOutcome::First) {
            prop_assert!(token.firsts == 0 || beyond_knowledge, "first again");
            token.firsts += 1;
            token.won_in = memory.number;
        }
        if committed == Some(CommitOutcome::Won) {
            prop_assert!(token.wins == 0 || beyond_knowledge, "won again");
            token.wins += 1;
        }
        Ok(())
    }
}

/// The first token is presented, by its client or by a thief, when it is the last one, and the one before.
const LAST: Step = Step::Present { token: 0, node: 0 };
const BEFORE: Step = Step::Present { token: 1, node: 0 };

/// The faults that were seen, step by step.
#[rustfmt::skip]
const FAULTS: &[&[Step]] = {
    use Step::{Issue, Lose, Pass, Restart, SetAll, SetNode};
    const RESTART: Step = Restart { node: 0, machine: false };
    const START_ANEW: Step = Restart { node: 0, machine: true };
    const SLOW: Step = SetNode { node: 0, to: -600 };
    const SET: Step = SetNode { node: 0, to: 0 };
    &[
        // Long after the beginning: ahead by three hours, where another token makes the store forget, and back.
        &[Pass(20_000), Issue(3600), LAST, SetAll(10_800), Issue(60), LAST, SetAll(0), BEFORE],
        // Ahead by ten minutes.
        &[Pass(20_000), Issue(300), LAST, SetAll(600), Issue(60), LAST, SetAll(0), BEFORE],
        // A restart while the clock is slow, which is then set.
        &[Issue(300), LAST, SLOW, RESTART, Pass(30), LAST, SET, LAST],
        &[Issue(300), LAST, SLOW, START_ANEW, LAST, SET, LAST],
        // The memory is lost while all clocks are slow, which are then set.
        &[Issue(300), LAST, SetAll(-120), Lose, Issue(60), LAST, SetAll(0), BEFORE],
        &[Issue(300), LAST, Lose, SetAll(-120), Issue(60), LAST, SetAll(0), BEFORE],
    ]
};

/// In each of them the first token is won once, and not again.
pub(crate) fn no_clock_fault_that_was_seen_lets_a_token_in_again<K: ClockKind>(kind: &K) {
    for steps in FAULTS {
        let mut world = World::begin(kind);
        for step in *steps {
            let taken = world.take(*step);
            taken.unwrap_or_else(|error| panic!("{step:?} of {steps:?}: {error}"));
        }
        assert_eq!(world.tokens[0].wins, 1, "{steps:?}");
    }
}

fn moment(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds)
}
