//! Going back to an earlier path that could not be asked.
//!
//! On a silent path quinn sends no packet of more than 1200 bytes, so that a larger DATAGRAM at the head of its queue keeps
//! back the challenge to an earlier path. That path has carried the connection before, so packets go there without one. Never
//! more than a trial: the server may have left that address, and the path in use may come back.

use std::time::{Duration, Instant};

use super::super::path_monitor::PathState;
use super::super::retry_interval;
use super::kept::Kept;
use super::steps::Action;
use super::{ClientHook, PathMonitor, Phase};
use crate::socket::PathId;

/// All packets go to an earlier path, until something comes from there or that path is silent too.
#[derive(Debug)]
pub(super) struct Trial {
    /// The connection ID that they carry.
    pub(super) kept: Kept,
    /// The watch of the path that is in use otherwise.
    monitor: PathMonitor,
    /// How long that one was silent when the trial began.
    silence: Duration,
    since: Instant,
}

impl Trial {
    pub(super) fn path(&self) -> PathId {
        self.kept.path().id
    }
}

impl ClientHook {
    /// The challenge to an earlier path does not leave: packets go there without it.
    pub(super) fn begin_trial(&mut self, now: Instant) {
        let Phase::Returning(probe, silence) = &self.phase else {
            return;
        };
        let silence = *silence + now.saturating_duration_since(probe.started);
        let doubtful = PathMonitor::of_doubtful_path();
        self.phase = Phase::Trial(Trial {
            kept: Kept::of_probe(probe, self.is_kept(&probe.new.id)),
            monitor: std::mem::replace(&mut self.monitor, doubtful),
            silence,
            since: now,
        });
    }

    /// Ends the trial when there is a sign of life, or none for long: answers `None` then.
    pub(super) fn poll_trial(&mut self, now: Instant, rtt: Duration) -> Option<Action> {
        if self.monitor.signs() > 0 {
            self.adopt_trial();
            return None;
        }
        match self.monitor.poll(now, retry_interval(rtt)) {
            PathState::Quiet => Some(Action::Wait(None)),
            PathState::Again(at) => Some(Action::Wait(Some(at))),
            PathState::Dead(_) => {
                let (silence, since) = self.undo_trial()?;
                self.on_silence(silence + now.saturating_duration_since(since), now);
                None
            }
        }
    }

    fn end_trial(&mut self) -> Option<Trial> {
        self.phase.trial()?;
        let Phase::Trial(trial) = std::mem::replace(&mut self.phase, Phase::Settled) else {
            return None;
        };
        Some(trial)
    }

    /// The earlier path works.
    fn adopt_trial(&mut self) {
        let Some(trial) = self.end_trial() else {
            return;
        };
        if !self.is_kept(trial.kept.id()) {
            self.release_kept();
        }
        let to = trial.kept.path();
        self.kept = Some(trial.kept);
        self.unanswered.clear();
        self.fall_back(to, trial.silence);
    }

    /// Packets go to the path in use again. Answers how long that one was silent when the trial began, and when that was.
    fn undo_trial(&mut self) -> Option<(Duration, Instant)> {
        let trial = self.end_trial()?;
        self.monitor = trial.monitor;
        Some((trial.silence, trial.since))
    }

    /// A packet has come that is no copy. Ends the trial when it came by the path in use, which is alive then.
    pub(super) fn end_trial_by(&mut self, came_by: Option<PathId>) {
        if came_by.is_some() && came_by == self.settled_path() {
            self.undo_trial();
        }
    }
}
