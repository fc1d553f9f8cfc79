//! Draining a node: every live connection of an acceptor is told to move, at a pace (`docs/protocol.md` section 9).
//!
//! A drain tells connections; it closes none before the deadline.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::SecureRandom;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::handle::{Command, Control, DepartureStatus};
use super::registry::Registry;

/// How a node is drained.
#[derive(Clone, Debug)]
pub struct DrainPlan {
    targets: Vec<(SocketAddr, u32)>,
    spread_over: Duration,
    deadline: Duration,
}

impl DrainPlan {
    /// Moves clients to `targets`, each of which gets a share of them by its weight. A target of weight 0 gets none.
    ///
    /// The notices are spread over ten seconds, with jitter, so that the targets are not stampeded; clients that are still
    /// there after twenty are closed.
    pub fn to(targets: impl IntoIterator<Item = (SocketAddr, u32)>) -> Self {
        Self {
            targets: targets
                .into_iter()
                .filter(|(_, weight)| *weight > 0)
                .collect(),
            spread_over: Duration::from_secs(10),
            deadline: Duration::from_secs(20),
        }
    }

    /// Over how long the notices to the connections that are there at the start are spread.
    #[must_use]
    pub fn spread_over(mut self, time: Duration) -> Self {
        self.spread_over = time;
        self
    }

    /// When the connections that are left are closed, counted from the start.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// How far a drain has come, in connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainProgress {
    /// Seen so far: there at the start, or accepted since.
    pub total: usize,
    /// Told to move.
    pub notified: usize,
    /// Closed by their clients after the notice.
    pub moved: usize,
    /// Of clients that could not be told: they do not support migration, or no offer could be made.
    pub not_movable: usize,
    /// Given up by the drain, or by their own departure deadline.
    pub forced: usize,
    /// Still there.
    pub remaining: usize,
}

/// A drain under way. Dropping it lets it go on.
#[derive(Debug)]
pub struct Drain {
    progress: watch::Receiver<DrainProgress>,
    paused: watch::Sender<bool>,
    started: Instant,
    task: JoinHandle<()>,
}

/// What came of a drain.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DrainSummary {
    /// Its last progress.
    pub progress: DrainProgress,
    /// How long it took.
    pub elapsed: Duration,
}

impl Drain {
    /// How far it has come.
    pub fn progress(&self) -> DrainProgress {
        *self.progress.borrow()
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
        self.task.abort();
        self.summary()
    }

    /// Resolves when no connection is left, or when those that were left at the deadline have been told to close.
    pub async fn finished(mut self) -> DrainSummary {
        // The task cannot fail but by being aborted, which takes this drain.
        let _ = (&mut self.task).await;
        self.summary()
    }

    fn summary(&self) -> DrainSummary {
        DrainSummary {
            progress: self.progress(),
            elapsed: self.started.elapsed(),
        }
    }
}

/// Starts to drain the connections of `registry`.
pub(super) fn start(
    registry: Arc<Registry>,
    plan: DrainPlan,
    random: &'static dyn SecureRandom,
) -> Drain {
    let (progress_sender, progress) = watch::channel(DrainProgress::default());
    let (paused, pause) = watch::channel(false);
    let started = Instant::now();
    let drainer = Drainer {
        registry,
        deadline: started + plan.deadline.min(FOREVER),
        targets: Targets::new(plan.targets),
        spread_over: plan.spread_over.min(FOREVER),
        random,
        pause,
        seen: HashMap::new(),
        progress: progress_sender,
    };
    Drain {
        progress,
        paused,
        started,
        task: tokio::spawn(drainer.run()),
    }
}

struct Drainer {
    registry: Arc<Registry>,
    deadline: Instant,
    targets: Targets,
    spread_over: Duration,
    random: &'static dyn SecureRandom,
    pause: watch::Receiver<bool>,
    seen: HashMap<u64, Arc<Control>>,
    progress: watch::Sender<DrainProgress>,
}

impl Drainer {
    async fn run(mut self) {
        self.tell_all().await;
        self.close_rest();
        let grace = Instant::now() + CLOSING;
        while self.report().remaining > 0 {
            tokio::select! {
                () = self.registry.changed() => {}
                () = sleep_until(grace) => break,
            }
        }
        self.report();
    }

    /// Tells every connection, those that come meanwhile too, until none is left or the deadline has come.
    async fn tell_all(&mut self) {
        let mut over = self.spread_over;
        loop {
            let new = self.new_connections();
            let count = u32::try_from(new.len()).unwrap_or(u32::MAX);
            let from = Instant::now();
            for (index, control) in (0u32..).zip(new) {
                // One slot for each, and a random place in it.
                let slots = f64::from(index) + self.fraction();
                let at = from + over.mul_f64(slots / f64::from(count));
                if !self.wait_until(at).await {
                    return;
                }
                if let Some(target) = self.targets.next() {
                    control.command(Command::MoveTo {
                        target,
                        governed: true,
                    });
                }
            }
            over = Duration::ZERO;
            if self.report().remaining == 0 {
                return;
            }
            tokio::select! {
                () = self.registry.changed() => {}
                () = sleep_until(self.deadline) => return,
            }
        }
    }

    /// Connections that have not been seen before.
    fn new_connections(&mut self) -> Vec<Arc<Control>> {
        let mut new = Vec::new();
        for (id, control) in self.registry.all() {
            if self.seen.insert(id, Arc::clone(&control)).is_none() {
                new.push(control);
            }
        }
        new
    }

    /// Waits for a moment and for the end of a pause; `false` when the deadline comes first.
    async fn wait_until(&mut self, at: Instant) -> bool {
        let resumed = async {
            sleep_until(at).await;
            // When the drain's handle is gone nobody can pause it any more.
            let _ = self.pause.wait_for(|paused| !paused).await;
        };
        tokio::select! {
            () = resumed => true,
            () = sleep_until(self.deadline) => false,
        }
    }

    /// A random number from 0 to 1.
    fn fraction(&self) -> f64 {
        let mut bytes = [0; 4];
        // Without randomness there is no jitter, which is no reason to stop.
        let _ = self.random.fill(&mut bytes);
        f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
    }

    fn close_rest(&self) {
        for (_, control) in self.registry.all() {
            control.command(Command::CloseOverdue);
        }
    }

    fn report(&self) -> DrainProgress {
        let mut progress = DrainProgress {
            total: self.seen.len(),
            ..DrainProgress::default()
        };
        for control in self.seen.values() {
            let (status, ended) = control.status();
            match status {
                DepartureStatus::Staying => {}
                DepartureStatus::Told => progress.notified += 1,
                DepartureStatus::NotMovable => progress.not_movable += 1,
                DepartureStatus::Left | DepartureStatus::HandedOver => {
                    progress.notified += 1;
                    progress.moved += 1;
                }
                DepartureStatus::Overdue => progress.forced += 1,
            }
            progress.remaining += usize::from(!ended);
        }
        self.progress.send_replace(progress);
        progress
    }
}

/// Longer than a drain takes: thirty years. What is longer could not be added to a point in time.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// How long connections may take to carry out the order to close.
const CLOSING: Duration = Duration::from_secs(1);

/// Targets in turn, each as often as its weight says, and evenly mixed.
struct Targets(Vec<Share>);

struct Share {
    target: SocketAddr,
    weight: i64,
    credit: i64,
}

impl Targets {
    fn new(targets: Vec<(SocketAddr, u32)>) -> Self {
        let share = |(target, weight)| Share {
            target,
            weight: i64::from(weight),
            credit: 0,
        };
        Self(targets.into_iter().map(share).collect())
    }

    /// Smooth weighted round-robin: each gains its weight, the richest is chosen and pays for all.
    fn next(&mut self) -> Option<SocketAddr> {
        let total: i64 = self.0.iter().map(|share| share.weight).sum();
        for share in &mut self.0 {
            share.credit += share.weight;
        }
        let chosen = self.0.iter_mut().max_by_key(|share| share.credit)?;
        chosen.credit -= total;
        Some(chosen.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_get_their_shares_evenly_mixed() {
        let address = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let mut targets = Targets::new(vec![(address(1), 3), (address(2), 1)]);
        let ports: Vec<_> = (0..8).map(|_| targets.next().unwrap().port()).collect();
        assert_eq!(ports.iter().filter(|port| **port == 1).count(), 6);
        assert_eq!(ports[..4].iter().filter(|port| **port == 2).count(), 1);
        assert_eq!(Targets::new(Vec::new()).next(), None);
    }
}
