//! The task of a drain: whose turn it is, when, and where to.
//!
//! It does constant work for each event.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use migration_policy::{Shares, Spread};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, MissedTickBehavior, interval, sleep_until};

use super::super::advertise::MoveEnd;
use super::super::core::Core;
use super::super::registry::Change;
use super::super::rotation::fraction;
use super::super::{AddressId, Alternate, AttachmentId};
use super::DrainPlan;
use super::ledger::{DrainProgress, Ledger};

/// How often progress is said.
const TICK: Duration = Duration::from_millis(100);
/// Those who are there at the start are known when the watch begins; no more are read at once.
const AT_ONCE: usize = 64;

pub(super) struct Drainer {
    core: Arc<Core>,
    address: AddressId,
    plan: DrainPlan,
    targets: Shares<Alternate>,
    spread: Spread,
    deadline: Option<Instant>,
    changes: mpsc::UnboundedReceiver<Change>,
    ledger: Arc<Mutex<Ledger>>,
    progress: watch::Sender<DrainProgress>,
    paused: watch::Receiver<bool>,
    /// Those whose turn has not come.
    connections: HashMap<AttachmentId, quinn::Connection>,
    first: VecDeque<AttachmentId>,
    new: VecDeque<AttachmentId>,
    /// When the next of the first ones is due.
    turn: Option<Instant>,
    moving: JoinSet<(AttachmentId, MoveEnd)>,
}

impl Drainer {
    pub(super) fn new(
        core: Arc<Core>,
        address: AddressId,
        plan: DrainPlan,
        ledger: Arc<Mutex<Ledger>>,
        paused: watch::Receiver<bool>,
    ) -> (Self, watch::Receiver<DrainProgress>) {
        let started = Instant::now();
        let mut changes = core.registry.watch(address);
        let (mut connections, mut first) = (HashMap::new(), VecDeque::new());
        while let Ok(Change::Came(id, connection)) = changes.try_recv() {
            ledger.lock().on_came(id, started);
            connections.insert(id, connection);
            first.push_back(id);
        }
        let (progress, watched) = watch::channel(ledger.lock().progress());
        let drainer = Self {
            core,
            address,
            targets: Shares::new(plan.targets.iter().copied()),
            spread: Spread::new(started, plan.spread_over, first.len()),
            deadline: started.checked_add(plan.deadline),
            plan,
            changes,
            ledger,
            progress,
            paused,
            connections,
            first,
            new: VecDeque::new(),
            turn: None,
            moving: JoinSet::new(),
        };
        (drainer, watched)
    }

    pub(super) async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut held = true;
        while self.ledger.lock().progress().remaining > 0 || !self.moving.is_empty() {
            let turn = self.tell_due();
            self.publish_when_all_told();
            tokio::select! {
                change = self.changes.recv() => match change {
                    Some(change) => self.on_change(change),
                    // Another drain of this address goes on.
                    None => break,
                },
                Some(ended) = self.moving.join_next() => self.on_end(ended),
                resumed = self.paused.changed(), if held => held = resumed.is_ok(),
                () = sleep_until_some(turn) => {}
                _ = tick.tick() => self.publish(),
                () = sleep_until_some(self.deadline) => {
                    self.ledger.lock().force_rest(Instant::now());
                    break;
                }
            }
        }
        self.changes.close();
        self.core.registry.unwatch(self.address);
        self.publish();
    }

    fn on_change(&mut self, change: Change) {
        let now = Instant::now();
        match change {
            Change::Came(id, connection) => {
                if self.ledger.lock().on_came(id, now) {
                    self.connections.insert(id, connection);
                    self.new.push_back(id);
                }
            }
            Change::Left(id) => {
                self.connections.remove(&id);
                self.ledger.lock().on_left(id, now);
            }
        }
    }

    fn on_end(&mut self, ended: Result<(AttachmentId, MoveEnd), tokio::task::JoinError>) {
        if let Ok((id, end)) = ended {
            self.ledger.lock().on_end(id, end, Instant::now());
        }
    }

    /// Tells those whose turn has come. Answers when the next turn is.
    fn tell_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        // When the drain's handle is gone nobody can resume it any more.
        let paused = *self.paused.borrow() && self.paused.has_changed().is_ok();
        if paused || self.targets.is_empty() {
            return None;
        }
        for _ in 0..AT_ONCE {
            if self.moving.len() >= self.plan.max_moving {
                return None;
            }
            if let Some(id) = self.new.pop_front() {
                self.tell(id);
                continue;
            }
            if self.turn.is_none() {
                self.turn = self.spread.turn(self.first.len(), fraction());
            }
            if self.turn.is_some_and(|turn| turn > now) || self.first.is_empty() {
                return self.turn;
            }
            self.turn = None;
            if let Some(id) = self.first.pop_front() {
                self.tell(id);
            }
        }
        Some(now)
    }

    fn tell(&mut self, id: AttachmentId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if !self.ledger.lock().is_untold(id) {
            return;
        }
        let Some(target) = self.targets.next_target() else {
            return;
        };
        let (core, ledger) = (Arc::clone(&self.core), Arc::clone(&self.ledger));
        let patience = self.plan.patience;
        self.moving.spawn(async move {
            let told = || ledger.lock().on_told(id, Instant::now());
            let end = core
                .move_connection(&connection, target, patience, told)
                .await;
            (id, end)
        });
    }

    fn publish(&self) {
        let now = self.ledger.lock().progress();
        self.progress.send_if_modified(|said| {
            let changed = *said != now;
            *said = now;
            changed
        });
    }

    fn publish_when_all_told(&self) {
        let untold_before = self.progress.borrow().untold;
        if untold_before > 0 && self.ledger.lock().progress().untold == 0 {
            self.publish();
        }
    }
}

async fn sleep_until_some(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
