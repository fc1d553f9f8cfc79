//! How a node stops: it accepts nobody any more, moves its clients elsewhere or lets them finish, and closes what is left at
//! a deadline.
//!
//! It never closes a connection before the deadline.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use rustls_migration::tokio::{
    DrainOutcome, DrainPlan, DrainProgress, DrainSummary, MigrationAcceptor,
};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often a node says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// A node that clients are moved to: `ADDR` or `ADDR=WEIGHT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The node's address.
    pub address: SocketAddr,
    /// Its share of the clients, as compared with the others'.
    pub weight: u32,
}

/// Why a text names no target.
#[derive(Debug, thiserror::Error)]
#[error("a target is ADDR or ADDR=WEIGHT, the address with its port and the weight from 1 on")]
pub struct TargetError;

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, weight) = text.split_once('=').unwrap_or((text, "1"));
        let weight = weight.parse().ok().filter(|weight| *weight > 0);
        Ok(Self {
            address: address.parse().map_err(|_| TargetError)?,
            weight: weight.ok_or(TargetError)?,
        })
    }
}

/// How far a drain is, for who watches it. What the numbers mean, [`DrainProgress`] says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Draining {
    /// Where to.
    pub targets: Vec<SocketAddr>,
    total: usize,
    untold: usize,
    pending: usize,
    moved: usize,
    left_by_itself: usize,
    not_movable: usize,
    forced: usize,
    remaining: usize,
    elapsed_ms: u128,
    deadline_s: u64,
    /// There is nothing more to come.
    pub ended: bool,
}

impl Draining {
    fn new(
        (targets, deadline): (&[Target], Duration),
        progress: DrainProgress,
        elapsed: Duration,
        ended: bool,
    ) -> Self {
        Self {
            targets: targets.iter().map(|target| target.address).collect(),
            total: progress.total,
            untold: progress.untold,
            pending: progress.pending,
            moved: progress.moved,
            left_by_itself: progress.left_by_itself,
            not_movable: progress.not_movable,
            forced: progress.forced,
            remaining: progress.remaining,
            elapsed_ms: elapsed.as_millis(),
            deadline_s: deadline.as_secs(),
            ended,
        }
    }
}

/// Moves all clients to `targets`, or lets them finish when there are none. Resolves when nobody is left, or after the
/// deadline. How far it is it says to `watched`.
pub async fn drain(
    acceptor: &MigrationAcceptor,
    targets: &[Target],
    over: Duration,
    deadline: Duration,
    watched: &watch::Sender<Option<Draining>>,
) -> DrainSummary {
    let began = Instant::now();
    let say = |progress, ended| {
        let plan = (targets, deadline);
        watched.send_replace(Some(Draining::new(plan, progress, began.elapsed(), ended)));
    };
    let shares = targets.iter().map(|target| (target.address, target.weight));
    let plan = DrainPlan::to(shares).spread_over(over).deadline(deadline);
    let live = acceptor.connections();
    tracing::info!(live, targets = targets.len(), "draining");
    let drain = acceptor.drain(plan);
    let mut progress = drain.watch();
    let finished = drain.finished();
    tokio::pin!(finished);
    let mut reports = interval(REPORT_EVERY);
    reports.set_missed_tick_behavior(MissedTickBehavior::Skip);
    reports.tick().await;
    loop {
        tokio::select! {
            summary = &mut finished => {
                tell_who_stayed(&summary);
                let progress = summary.progress;
                say(progress, true);
                tracing::info!(
                    total = progress.total,
                    moved = progress.moved,
                    not_movable = progress.not_movable,
                    forced = progress.forced,
                    remaining = progress.remaining,
                    handed_over = progress.handed_over,
                    left_by_itself = progress.left_by_itself,
                    elapsed = ?summary.elapsed,
                    "drained"
                );
                return summary;
            }
            Ok(()) = progress.changed() => say(*progress.borrow_and_update(), false),
            _ = reports.tick() => {
                let progress = *progress.borrow();
                tracing::info!(
                    remaining = progress.remaining,
                    untold = progress.untold,
                    moved = progress.moved,
                    not_movable = progress.not_movable,
                    "still draining"
                );
            }
        }
    }
}

/// Says which clients did not follow, and why.
fn tell_who_stayed(summary: &DrainSummary) {
    for connection in &summary.connections {
        let moved = matches!(
            connection.outcome,
            DrainOutcome::HandedOver | DrainOutcome::Moved | DrainOutcome::LeftByItself
        );
        if !moved {
            let peer = connection.peer.map(tracing::field::display);
            let outcome = connection.outcome;
            let for_the_last = connection.since.elapsed();
            tracing::info!(peer, ?outcome, ?for_the_last, "did not follow");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_an_address_and_perhaps_a_weight() {
        let target = |text: &str| text.parse::<Target>().map(|t| (t.address.port(), t.weight));
        assert_eq!(target("127.0.0.3:7").unwrap(), (7, 1));
        assert_eq!(target("[::1]:7=3").unwrap(), (7, 3));
        for bad in [
            "",
            "127.0.0.3",
            "127.0.0.3:7=",
            "127.0.0.3:7=0",
            "127.0.0.3:7=-1",
            "=1",
        ] {
            assert!(target(bad).is_err(), "{bad:?}");
        }
    }
}
