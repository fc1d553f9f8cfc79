//! Draining a node: every live connection of an acceptor is told to move, at a pace (`docs/protocol.md` section 9).
//!
//! A drain tells connections; it closes none before the deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::SecureRandom;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::drainer::Drainer;
use super::ledger::{DrainProgress, DrainedConnection, Ledger};
use super::registry::Registry;

/// How a node is drained.
#[derive(Clone, Debug)]
pub struct DrainPlan {
    pub(super) targets: Vec<(SocketAddr, u32)>,
    pub(super) spread_over: Duration,
    pub(super) deadline: Duration,
    pub(super) max_moving: usize,
}

impl DrainPlan {
    /// Moves clients to `targets`, each of which gets a share of them by its weight. A target of weight 0 gets none. Without
    /// targets no client is asked to move; the applications learn that theirs cannot, by
    /// [`told`](super::ConnectionHandle::told), and finish what they do.
    ///
    /// The notices are spread over ten seconds, with jitter, so that the targets are not stampeded; clients that are still
    /// there after twenty are closed.
    pub fn to(targets: impl IntoIterator<Item = (SocketAddr, u32)>) -> Self {
        Self {
            targets: targets.into_iter().collect(),
            spread_over: Duration::from_secs(10),
            deadline: Duration::from_secs(20),
            max_moving: usize::MAX,
        }
    }

    /// Over how long the notices to the connections that are there at the start are spread. Those that are accepted later
    /// are told at once.
    #[must_use]
    pub fn spread_over(mut self, time: Duration) -> Self {
        self.spread_over = time;
        self
    }

    /// How many moves may be under way at once, by default any number; at least one. The next client is told when one has
    /// gone, so the pace follows what clients and targets make of it.
    ///
    /// A client that has not gone within the server's
    /// [departure deadline](crate::server::MigrationServerBuilder::departure_deadline) counts no longer, so that clients
    /// that stay do not keep others from being told.
    #[must_use]
    pub fn max_moving(mut self, moves: usize) -> Self {
        self.max_moving = moves.max(1);
        self
    }

    /// When the connections that are left are closed, counted from the start.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// A drain under way. Dropping it lets it go on.
///
/// It ends as soon as the last connection has gone, and at its deadline otherwise. Another drain of the same acceptor takes
/// its place: this one ends then, and the connections that it has told are the other's to wait for.
#[derive(Debug)]
pub struct Drain {
    registry: Arc<Registry>,
    ledger: Arc<Ledger>,
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
    /// Another drain has taken its place.
    pub replaced: bool,
}

impl Drain {
    /// How far it has come, at this moment.
    pub fn progress(&self) -> DrainProgress {
        self.ledger.progress()
    }

    /// The same, to be watched: it changes ten times in a second at the most, and when all have been told, and at the end. The
    /// sender is gone when the drain has ended.
    pub fn watch(&self) -> watch::Receiver<DrainProgress> {
        self.progress.clone()
    }

    /// What has become of each connection so far.
    pub fn connections(&self) -> Vec<DrainedConnection> {
        self.registry.drained(&self.ledger)
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

    /// Ends the drain. Connections that were told to move go on to do so; the others stay.
    pub fn abort(self) -> DrainSummary {
        let summary = self.summary();
        summary.progress.measure();
        self.task.abort();
        self.registry.end_drain(&self.ledger);
        summary
    }

    /// Resolves when no connection is left, when those that were left at the deadline have been told to close, or when
    /// another drain has taken this one's place.
    pub async fn finished(mut self) -> DrainSummary {
        // The task cannot fail but by being aborted, which takes this drain.
        let _ = (&mut self.task).await;
        let summary = self.summary();
        self.registry.end_drain(&self.ledger);
        summary
    }

    fn summary(&self) -> DrainSummary {
        DrainSummary {
            progress: self.progress(),
            connections: self.connections(),
            elapsed: self.started.elapsed(),
            replaced: self.ledger.is_replaced(),
        }
    }
}

/// Starts to drain the connections of `registry`. `patience` is how long a client that was told may take.
pub(super) fn start(
    registry: Arc<Registry>,
    plan: DrainPlan,
    patience: Duration,
    random: &'static dyn SecureRandom,
) -> Drain {
    let paced = plan.max_moving < usize::MAX;
    let ledger = Arc::new(Ledger::new(paced));
    let (drainer, progress, paused) = Drainer::new(
        Arc::clone(&registry),
        Arc::clone(&ledger),
        plan,
        patience,
        random,
    );
    Drain {
        registry,
        ledger,
        progress,
        paused,
        started: Instant::now(),
        task: tokio::spawn(drainer.run()),
    }
}
