//! The task of a drain: whose turn it is, when, and where to.
//!
//! It does constant work for each event: what there is to know, the connections count themselves.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_policy::{Shares, Spread};
use rustls::crypto::SecureRandom;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::drain::DrainPlan;
use super::handle::Command;
use super::ledger::{DrainProgress, Ledger};
use super::registry::Registry;
use crate::measure::gauge;

/// How often progress is said.
const TICK: Duration = Duration::from_millis(100);

/// How long connections may take to carry out the order to close.
const CLOSING: Duration = Duration::from_secs(1);

/// How many connections are told before others get a turn on this thread.
const BATCH: usize = 64;

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// More are due.
    More,
    /// One is due then.
    At(Instant),
    /// Somebody has to come, go, or resume first.
    Event,
}

pub(super) struct Drainer {
    registry: Arc<Registry>,
    ledger: Arc<Ledger>,
    deadline: Option<Instant>,
    targets: Shares<SocketAddr>,
    spread: Spread,
    max_moving: usize,
    /// How long a client that was told counts as moving.
    patience: Duration,
    random: &'static dyn SecureRandom,
    pause: watch::Receiver<bool>,
    progress: watch::Sender<DrainProgress>,
    /// Who was there at the start, and is to be told.
    first: VecDeque<u64>,
    /// When the next of them is due.
    turn: Option<Instant>,
    /// Who has been told, and when that is too long ago.
    told: VecDeque<(Instant, u64)>,
    _in_progress: InProgress,
}

/// A drain is under way for as long as this lives.
struct InProgress;

impl InProgress {
    fn begin() -> Self {
        gauge!(DRAINS_IN_PROGRESS, increment 1.0);
        Self
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        gauge!(DRAINS_IN_PROGRESS, decrement 1.0);
    }
}

impl Drainer {
    pub(super) fn new(
        registry: Arc<Registry>,
        ledger: Arc<Ledger>,
        plan: DrainPlan,
        patience: Duration,
        random: &'static dyn SecureRandom,
    ) -> (Self, watch::Receiver<DrainProgress>, watch::Sender<bool>) {
        let started = Instant::now();
        let first: VecDeque<_> = registry.begin_drain(&ledger).into();
        let (progress, watched) = watch::channel(ledger.progress());
        let (paused, pause) = watch::channel(false);
        let drainer = Self {
            registry,
            ledger,
            deadline: started.checked_add(plan.deadline),
            targets: Shares::new(plan.targets),
            spread: Spread::new(started.into_std(), plan.spread_over, first.len()),
            max_moving: plan.max_moving,
            patience,
            random,
            pause,
            progress,
            first,
            turn: None,
            told: VecDeque::new(),
            _in_progress: InProgress::begin(),
        };
        drainer.publish();
        (drainer, watched, paused)
    }

    pub(super) async fn run(mut self) {
        if self.tell_all().await {
            self.close_rest();
            self.await_closed().await;
        }
        self.publish();
    }

    /// Tells every connection, those that come meanwhile too. `true` when the deadline has come, `false` when none is
    /// left or another drain goes on.
    async fn tell_all(&mut self) -> bool {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut held = true;
        while !self.is_over() {
            let next = self.tell_due();
            self.publish_when_all_told();
            let turn = match next {
                Next::More => {
                    yield_now().await;
                    continue;
                }
                Next::At(turn) => Some(turn),
                Next::Event => None,
            };
            tokio::select! {
                () = self.ledger.changed() => {}
                resumed = self.pause.changed(), if held => held = resumed.is_ok(),
                () = sleep_until_some(turn) => {}
                _ = tick.tick() => self.publish(),
                () = sleep_until_some(self.deadline) => return true,
            }
        }
        false
    }

    fn is_over(&self) -> bool {
        self.ledger.progress().remaining == 0 || self.ledger.is_replaced()
    }

    /// Tells those whose turn has come.
    fn tell_due(&mut self) -> Next {
        let now = Instant::now();
        self.expire(now);
        // When the drain's handle is gone nobody can resume it any more.
        if *self.pause.borrow() && self.pause.has_changed().is_ok() {
            return Next::Event;
        }
        for _ in 0..BATCH {
            match self.next_due(now) {
                Ok(id) => self.tell(id, now),
                Err(next) => return next,
            }
        }
        Next::More
    }

    /// Who is due now, or what comes next when nobody is.
    fn next_due(&mut self, now: Instant) -> Result<u64, Next> {
        if self.ledger.moving() >= self.max_moving {
            let oldest = self.told.front();
            return Err(oldest.map_or(Next::Event, |(until, _)| Next::At(*until)));
        }
        if let Some(id) = self.ledger.next_new() {
            return Ok(id);
        }
        match self.turn() {
            Some(turn) if turn > now => Err(Next::At(turn)),
            Some(_) => {
                self.turn = None;
                self.first.pop_front().ok_or(Next::Event)
            }
            None => Err(Next::Event),
        }
    }

    /// When the next of the first connections is due.
    fn turn(&mut self) -> Option<Instant> {
        if self.turn.is_none() && !self.first.is_empty() {
            let turn = self.spread.turn(self.first.len(), self.fraction());
            self.turn = turn.map(Instant::from_std);
        }
        self.turn
    }

    fn tell(&mut self, id: u64, now: Instant) {
        let Some(control) = self.registry.get(id) else {
            return;
        };
        control.want();
        control.command(match self.targets.next_target() {
            Some(target) => Command::MoveTo {
                target,
                governed: true,
            },
            None => Command::Finish,
        });
        if self.max_moving < usize::MAX
            && let Some(until) = now.checked_add(self.patience)
        {
            self.told.push_back((until, id));
        }
    }

    /// Waits no longer for those who were told too long ago.
    fn expire(&mut self, now: Instant) {
        while let Some((_, id)) = self
            .told
            .front()
            .filter(|(until, _)| *until <= now)
            .copied()
        {
            self.told.pop_front();
            if let Some(control) = self.registry.get(id) {
                control.set_stalled();
            }
        }
    }

    fn close_rest(&self) {
        for control in self.registry.all() {
            control.command(Command::CloseOverdue);
        }
    }

    /// Waits until those that were closed are gone, and closes those that come meanwhile.
    async fn await_closed(&mut self) {
        let grace = Instant::now() + CLOSING;
        while !self.is_over() {
            while let Some(id) = self.ledger.next_new() {
                if let Some(control) = self.registry.get(id) {
                    control.command(Command::CloseOverdue);
                }
            }
            tokio::select! {
                () = self.ledger.changed() => {}
                () = sleep_until(grace) => return,
            }
        }
    }

    /// A random number from 0 to 1.
    fn fraction(&self) -> f64 {
        let mut bytes = [0; 4];
        // Without randomness there is no jitter, which is no reason to stop.
        let _ = self.random.fill(&mut bytes);
        f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
    }

    fn publish(&self) {
        let now = self.ledger.progress();
        now.measure();
        self.progress.send_if_modified(|said| {
            let changed = *said != now;
            *said = now;
            changed
        });
    }

    fn publish_when_all_told(&self) {
        let untold_before = self.progress.borrow().untold;
        if untold_before > 0 && self.ledger.progress().untold == 0 {
            self.publish();
        }
    }
}

async fn sleep_until_some(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
