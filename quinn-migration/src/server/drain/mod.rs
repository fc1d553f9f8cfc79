//! Draining an address: every attached connection on it is told to move, at a pace, in the words of the TLS layer's drain.
//!
//! A drain tells connections; it closes none, and leaves the address as it is.

mod drainer;
mod ledger;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::ledger::{DrainOutcome, DrainProgress, DrainedConnection};

use self::drainer::Drainer;
use self::ledger::Ledger;
use super::{AddressId, Alternate, MigrationServer};

/// How an address is drained.
#[derive(Clone, Debug)]
#[must_use = "nothing is drained until it is given to a server"]
pub struct DrainPlan {
    targets: Vec<(Alternate, u32)>,
    spread_over: Duration,
    deadline: Duration,
    max_moving: usize,
    patience: Duration,
}

impl DrainPlan {
    /// Moves clients to `targets`, each of which gets a share of them by its weight. A target of weight 0 gets none. Without
    /// targets nobody is told, and clients may finish.
    ///
    /// The advertisements are spread over ten seconds, with jitter; the drain ends after twenty at the latest.
    pub fn to<T: Into<Alternate>>(targets: impl IntoIterator<Item = (T, u32)>) -> Self {
        let targets = targets.into_iter();
        Self {
            targets: targets
                .map(|(target, weight)| (target.into(), weight))
                .collect(),
            spread_over: Duration::from_secs(10),
            deadline: Duration::from_secs(20),
            max_moving: usize::MAX,
            patience: Duration::from_secs(10),
        }
    }

    /// Over how long the advertisements to the connections that are there at the start are spread. Those that come later are
    /// told at once.
    pub fn spread_over(mut self, time: Duration) -> Self {
        self.spread_over = time;
        self
    }

    /// How many moves may be under way at once, by default any number; at least one. The next client is told when one has
    /// moved or refused, so the pace follows what clients and targets make of it.
    pub fn max_moving(mut self, moves: usize) -> Self {
        self.max_moving = moves.max(1);
        self
    }

    /// How long a client may take to acknowledge that it was told, and then to move or to refuse; after that it counts as one
    /// that did not follow. Default 10 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// When the drain ends whoever is left, counted from the start.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// A drain under way. Dropping it lets it go on.
///
/// It ends as soon as the last connection is off the address, and at its deadline otherwise. Another drain of the same address
/// takes its place: this one ends then.
#[derive(Debug)]
pub struct Drain {
    ledger: Arc<Mutex<Ledger>>,
    progress: watch::Receiver<DrainProgress>,
    paused: watch::Sender<bool>,
    started: Instant,
    task: JoinHandle<()>,
}

/// What came of a drain.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DrainSummary {
    /// Its last progress.
    pub progress: DrainProgress,
    /// What became of each connection.
    pub connections: Vec<DrainedConnection>,
    /// How long it took.
    pub elapsed: Duration,
}

impl MigrationServer {
    /// Moves all [attached](Self::attach) connections that are on an address, and those that come to it meanwhile, to others.
    ///
    /// When it is done, [`Self::remove_address`] takes the address away; connections that are left notice the silence.
    pub fn drain_address(&self, address: AddressId, plan: DrainPlan) -> Drain {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let (paused, pause) = watch::channel(false);
        let core = Arc::clone(&self.core);
        let (drainer, progress) = Drainer::new(core, address, plan, Arc::clone(&ledger), pause);
        Drain {
            ledger,
            progress,
            paused,
            started: Instant::now(),
            task: tokio::spawn(drainer.run()),
        }
    }
}

impl Drain {
    /// How far it has come, at this moment.
    pub fn progress(&self) -> DrainProgress {
        self.ledger.lock().progress()
    }

    /// The same, to be watched: it changes ten times in a second at the most, and when all have been told, and at the end. The
    /// sender is gone when the drain has ended.
    pub fn watch(&self) -> watch::Receiver<DrainProgress> {
        self.progress.clone()
    }

    /// What has become of each connection so far.
    pub fn connections(&self) -> Vec<DrainedConnection> {
        self.ledger.lock().connections()
    }

    /// Resolves when every connection that is there has been told to move, cannot be told, or is gone; or when the drain has
    /// ended. Safe to cancel.
    pub async fn all_told(&self) -> DrainProgress {
        let mut progress = self.progress.clone();
        // The sender is gone when the drain has ended.
        let _ = progress
            .wait_for(|progress| progress.total > 0 && progress.untold == 0)
            .await;
        self.progress()
    }

    /// Tells no further connections until [`resume`](Self::resume). The deadline stays.
    pub fn pause(&self) {
        self.paused.send_replace(true);
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.paused.send_replace(false);
    }

    /// Ends the drain. Connections that were told to move may go on to do so; the others stay.
    pub fn abort(self) -> DrainSummary {
        self.task.abort();
        self.summary()
    }

    /// Resolves when no connection is left, at the deadline, or when another drain has taken this one's place.
    pub async fn finished(mut self) -> DrainSummary {
        // The task cannot fail but by being aborted, which takes this drain.
        let _ = (&mut self.task).await;
        self.summary()
    }

    fn summary(&self) -> DrainSummary {
        DrainSummary {
            progress: self.progress(),
            connections: self.connections(),
            elapsed: self.started.elapsed(),
        }
    }
}
