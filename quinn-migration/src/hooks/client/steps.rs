//! The client hook as its driving task sees it: what to do next, and when to look again.
//!
//! Never does any of it: the task owns sockets, timers and the connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::attempts::Step;
use super::super::path_monitor::{Listening, PathState};
use super::super::placeholder::Placeholders;
use super::super::retry_interval;
use super::challenges::Answers;
use super::path_switch::Purpose;
use super::probe::Known;
use super::trial::Trial;
use super::{ClientHook, Path, Phase, Probe};
use crate::event::{Event, Failure};
use crate::policy::{FollowPolicy, Policy, Refusal};
use crate::socket::PathId;
use crate::wire::AlternateAddress;

/// The next thing for the driving task.
#[derive(Debug)]
pub(crate) enum Action {
    Report(Event),
    /// Open a socket for this address, then call [`ClientHook::opened`] or [`ClientHook::not_opened`].
    Open(SocketAddr),
    Close(PathId),
    /// Queue these placeholders, one after the other.
    Send(Vec<Bytes>),
    /// Nothing until then, or until the hook wakes the task.
    Wait(Option<Instant>),
}

/// Challenges to earlier paths that are remembered, in one silence.
const UNANSWERED: usize = 32;

/// What quinn sends at most now, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// UDP payload.
    pub(crate) mtu: usize,
    /// DATAGRAM payload; 0 when it takes none.
    pub(crate) datagram: usize,
    /// The application may push what is queued out of the datagram buffer, which is nearly full.
    pub(crate) crowded: bool,
}

impl Sizes {
    /// How often to queue something: more than once only where it may be pushed out. On a silent path what is queued leaves very
    /// slowly, and copies would stand in the way.
    fn copies(self, wanted: usize) -> usize {
        if self.crowded { wanted } else { 1 }
    }
}

impl ClientHook {
    /// An application task drives this connection from now on. Answers `false` when another one does.
    pub(crate) fn attach(&mut self, policy: Policy, server: SocketAddr) -> bool {
        self.attachment.attach(policy, server)
    }

    /// The server address that the connection is on.
    pub(crate) fn server(&self) -> Option<SocketAddr> {
        self.attachment.paths().map(|paths| paths.active.server)
    }

    /// The path that packets go to: in a trial another one than that on which the connection is.
    pub(crate) fn active_path(&self) -> Option<PathId> {
        let trial = self.phase.trial().map(Trial::path);
        trial.or_else(|| self.settled_path())
    }

    /// The path that the connection is on, and stays on when a trial fails.
    pub(super) fn settled_path(&self) -> Option<PathId> {
        self.attachment.paths().map(|paths| paths.active.id)
    }

    /// So many datagrams have arrived on the path in use.
    pub(crate) fn on_datagrams(&mut self, datagrams: u64) {
        self.monitor.on_datagrams(datagrams);
    }

    pub(crate) fn poll(&mut self, now: Instant, rtt: Duration, sizes: Sizes) -> Action {
        let parting = self.parting.poll(now, rtt);
        match self.poll_answers(now, rtt, sizes) {
            Action::Wait(until) => Action::Wait(until.into_iter().chain(parting).min()),
            other @ (Action::Report(_) | Action::Open(_) | Action::Close(_) | Action::Send(_)) => {
                other
            }
        }
    }

    fn poll_answers(&mut self, now: Instant, rtt: Duration, sizes: Sizes) -> Action {
        let queued = self.phase.probe().is_some_and(Probe::is_queued);
        let answer = if self.answers.is_empty() || queued || sizes.datagram == 0 {
            None
        } else {
            self.answers.poll(now, rtt, self.monitor.signs())
        };
        match answer {
            Some(Step::Send) => self.send_answer(sizes),
            Some(Step::Wait(until)) => match self.poll_phase(now, rtt, sizes) {
                Action::Wait(other) => Action::Wait(other.into_iter().chain([until]).min()),
                other @ (Action::Report(_)
                | Action::Open(_)
                | Action::Close(_)
                | Action::Send(_)) => other,
            },
            Some(Step::GiveUp) | None => self.poll_phase(now, rtt, sizes),
        }
    }

    fn send_answer(&mut self, sizes: Sizes) -> Action {
        let budget = self.answers.next_budget(sizes, self.overhead);
        let copies = sizes.copies(self.answers.copies());
        let placeholders = self
            .placeholders
            .filling(budget, sizes.datagram, sizes.crowded);
        let placeholders =
            placeholders.map(|placeholders| Placeholders::repeated(placeholders, copies));
        self.answers
            .on_queued(placeholders.as_ref().map_or(0, Vec::len));
        let Some(placeholders) = placeholders else {
            self.answers = Answers::default();
            return Action::Wait(None);
        };
        self.send(Some(placeholders))
    }

    fn poll_phase(&mut self, now: Instant, rtt: Duration, sizes: Sizes) -> Action {
        self.on_overtaken();
        self.drop_past_alternates();
        while let Some(path) = self.closing.pop_front() {
            self.answers.forget(path);
            if path != PathId::FIRST {
                return Action::Close(path);
            }
        }
        if let Some(event) = self.next_event(now) {
            return Action::Report(event);
        }
        if !self.confirmed {
            return Action::Wait(None);
        }
        if let Phase::Opening(_, target) = &self.phase {
            return Action::Open(*target);
        }
        if matches!(self.phase, Phase::Settled) && self.pending.is_some() {
            return self.consider(now, rtt, sizes);
        }
        match self.poll_probe(now, rtt, sizes) {
            Some(Step::Send) => return self.send_challenge(sizes),
            Some(Step::Wait(until)) => return Action::Wait(Some(until)),
            Some(Step::GiveUp) => return self.poll(now, rtt, sizes),
            None => {}
        }
        if self.phase.trial().is_some() {
            let waiting = self.poll_trial(now, rtt);
            return waiting.unwrap_or_else(|| self.poll(now, rtt, sizes));
        }
        self.poll_settled(now, rtt, sizes)
    }

    fn next_event(&mut self, now: Instant) -> Option<Event> {
        if let Some(mut event) = self.events.pop_front() {
            if let (Event::Migrated { validation, .. }, Some(since)) =
                (&mut event, self.validating_since)
            {
                *validation = now.saturating_duration_since(since);
            }
            return Some(event);
        }
        let missed = std::mem::take(&mut self.missed_events);
        (missed > 0).then_some(Event::Missed(missed))
    }

    fn consider(&mut self, now: Instant, rtt: Duration, sizes: Sizes) -> Action {
        let (Some(offer), Some((gate, paths))) = (self.pending.take(), self.attachment.policy())
        else {
            return Action::Wait(None);
        };
        if gate.follow() == FollowPolicy::OnSilence {
            self.keep_alternate(offer);
            return self.poll(now, rtt, sizes);
        }
        match gate.judge(paths.active.server, &offer, now) {
            Ok(target) => {
                self.phase = Phase::Opening(offer, target);
                Action::Open(target)
            }
            Err(reason) => {
                self.refuse(offer.sequence, reason);
                self.poll(now, rtt, sizes)
            }
        }
    }

    /// The socket for [`Action::Open`] is there.
    pub(crate) fn opened(&mut self, id: PathId, now: Instant) {
        let Phase::Opening(offer, server) = std::mem::replace(&mut self.phase, Phase::Settled)
        else {
            self.closing.push_back(id);
            return;
        };
        let policy = self.attachment.policy();
        let challenges = policy.map_or(0, |(gate, _)| gate.challenges());
        self.report(Event::Validating {
            sequence: offer.sequence,
            target: server,
        });
        let path = Path { id, server };
        let probe = Probe::new(
            offer.connection_id(),
            path,
            Known::Advertised,
            challenges,
            now,
        );
        let probe = if self.monitor.is_alive() {
            probe
        } else {
            probe.on_silence()
        };
        self.phase = Phase::Probing(probe);
    }

    /// There is no socket for [`Action::Open`].
    pub(crate) fn not_opened(&mut self, error: std::io::ErrorKind) {
        let Phase::Opening(offer, target) = std::mem::replace(&mut self.phase, Phase::Settled)
        else {
            return;
        };
        let policy = self.attachment.policy();
        let other =
            policy.and_then(|(gate, paths)| gate.instead(paths.active.server, &offer, target));
        if let Some(other) = other {
            let offer = AlternateAddress {
                v4: offer.v4.filter(|_| other.is_ipv4()),
                v6: offer.v6.filter(|_| other.is_ipv6()),
                ..offer
            };
            self.phase = Phase::Opening(offer, other);
            return;
        }
        self.retirement.add(offer.sequence);
        self.report(Event::Failed {
            sequence: offer.sequence,
            target,
            reason: Failure::Socket(error),
        });
    }

    fn poll_probe(&mut self, now: Instant, rtt: Duration, sizes: Sizes) -> Option<Step> {
        let answered = self.is_returning() && self.monitor.is_alive();
        let (probe, silence) = match &mut self.phase {
            Phase::Probing(probe) => (probe, None),
            Phase::Returning(probe, silence) => (probe, Some(*silence)),
            Phase::Settled | Phase::Opening(..) | Phase::Trial(_) | Phase::Switching(_) => {
                return None;
            }
        };
        // Something came on the path that seemed dead: no reason to leave it.
        let step = if sizes.datagram == 0 || answered {
            Step::GiveUp
        } else if self.answers.is_queued() {
            // The placeholders that come by next are for an answer.
            Step::Wait(now + retry_interval(rtt))
        } else {
            probe.poll(now, rtt)
        };
        if step == Step::Send && probe.is_stuck() {
            self.begin_trial(now);
            return Some(Step::GiveUp);
        }
        if step == Step::GiveUp
            && let Some(silence) = silence
        {
            let silence = silence + now.saturating_duration_since(probe.started);
            self.end_return(silence, now, sizes);
        } else if step == Step::GiveUp {
            let challenges = probe.sent();
            let reason = if challenges == 0 {
                Failure::NotSent
            } else {
                Failure::Unreachable { challenges }
            };
            self.fail(reason);
        }
        Some(step)
    }

    /// Ends the validation or switch in progress; the connection stays where it is.
    fn fail(&mut self, reason: Failure) {
        let (sequence, path) = match std::mem::replace(&mut self.phase, Phase::Settled) {
            // No path and no connection ID was opened for it, and the next silence begins another one.
            Phase::Returning(..) => return,
            Phase::Switching(switch) if switch.purpose != Purpose::Advertised => return,
            Phase::Probing(probe) => (probe.new.sequence, probe.path),
            Phase::Switching(switch) => (switch.new.sequence, switch.path),
            other @ (Phase::Settled | Phase::Opening(..) | Phase::Trial(_)) => {
                self.phase = other;
                return;
            }
        };
        self.answers.forget(path.id);
        self.closing.push_back(path.id);
        self.retirement.add(sequence);
        self.report(Event::Failed {
            sequence,
            target: path.server,
            reason,
        });
    }

    /// Whether the connection ID that a validation or a change of path works with can no longer be used: the server
    /// has retired it, or quinn has passed it over.
    pub(super) fn is_overtaken(&self) -> bool {
        match &self.phase {
            Phase::Probing(probe) | Phase::Returning(probe, _) => {
                self.server_ids.is_past(probe.new.sequence) && !self.is_kept(&probe.new.id)
            }
            Phase::Switching(switch) => self.server_ids.is_past(switch.new.sequence),
            Phase::Settled | Phase::Opening(..) | Phase::Trial(_) => false,
        }
    }

    fn on_overtaken(&mut self) {
        if self.is_overtaken() {
            self.fail(Failure::Withdrawn);
        }
    }

    /// Whether an earlier path is asked whether it still answers.
    pub(super) fn is_returning(&self) -> bool {
        matches!(self.phase, Phase::Returning(..))
    }

    fn poll_settled(&mut self, now: Instant, rtt: Duration, sizes: Sizes) -> Action {
        let keep = self.poll_kept(now, rtt);
        let retire = match self.retirement.poll(now, rtt) {
            Some(Step::Send) if sizes.datagram > 0 => {
                let placeholder = self.placeholders.small();
                return self.send(placeholder.map(|placeholder| vec![placeholder]));
            }
            Some(Step::Wait(until)) => Some(until),
            Some(Step::Send | Step::GiveUp) | None => None,
        };
        let state = match self.poll_monitor(now, rtt) {
            PathState::Quiet => match self.listen(now, rtt) {
                // A placeholder that nothing is due for becomes PING.
                Listening::Ask if sizes.datagram > 0 => {
                    let placeholder = self.placeholders.small();
                    return self.send(placeholder.map(|placeholder| vec![placeholder]));
                }
                Listening::Again(at) => Some(at),
                Listening::Ask | Listening::Idle => None,
            },
            PathState::Again(at) => Some(at),
            PathState::Dead(silence) => {
                self.on_silence(silence, now);
                return self.poll(now, rtt, sizes);
            }
        };
        Action::Wait([keep, retire, state].into_iter().flatten().min())
    }

    fn poll_monitor(&mut self, now: Instant, rtt: Duration) -> PathState {
        if self.is_watching() && matches!(self.phase, Phase::Settled) {
            self.monitor.poll(now, retry_interval(rtt))
        } else {
            PathState::Quiet
        }
    }

    fn listen(&mut self, now: Instant, rtt: Duration) -> Listening {
        if self.is_watching() && matches!(self.phase, Phase::Settled) {
            self.monitor.listen(now, retry_interval(rtt))
        } else {
            Listening::Idle
        }
    }

    /// The path in use does not answer: asks an earlier one. Says once for each silence that none answers.
    pub(super) fn on_silence(&mut self, silence: Duration, now: Instant) {
        let round = self.monitor.on_silence();
        if round == 1 {
            // What was asked in an earlier silence does not count in this one.
            self.unanswered.clear();
        }
        self.answers.clear();
        let begun = self.leave_silent_path(silence, round, now);
        let Some(paths) = self.attachment.paths() else {
            return;
        };
        let asked_all = usize::try_from(round).is_ok_and(|round| round > paths.earlier());
        let on = paths.active.server;
        if (asked_all || !begun) && self.monitor.is_news() {
            self.report(Event::Stranded { on });
        }
    }

    /// No earlier path has answered: asks the next one, unless the path in use is alive.
    fn end_return(&mut self, silence: Duration, now: Instant, sizes: Sizes) {
        let ended = std::mem::replace(&mut self.phase, Phase::Settled);
        if sizes.datagram == 0 || self.monitor.is_alive() {
            self.unanswered.clear();
            return;
        }
        if let Phase::Returning(probe, _) = ended {
            self.unanswered.push_front(probe);
            self.unanswered.truncate(UNANSWERED);
        }
        self.on_silence(silence, now);
    }

    fn send_challenge(&mut self, sizes: Sizes) -> Action {
        let Some(probe) = self.phase.probe_mut() else {
            return Action::Wait(None);
        };
        let budget = probe.next_budget(sizes.mtu, self.overhead);
        let placeholders = self
            .placeholders
            .filling(budget, sizes.datagram, sizes.crowded);
        let placeholders = placeholders
            .map(|placeholders| Placeholders::repeated(placeholders, sizes.copies(probe.copies())));
        probe.on_queued(placeholders.as_ref().map_or(0, Vec::len));
        self.send(placeholders)
    }

    fn send(&mut self, placeholders: Option<Vec<Bytes>>) -> Action {
        match placeholders {
            Some(placeholders) => {
                self.queued_placeholders =
                    self.queued_placeholders.saturating_add(placeholders.len());
                Action::Send(placeholders)
            }
            None => {
                self.fail(Failure::NotSent);
                Action::Wait(None)
            }
        }
    }

    /// The router does not carry this connection's datagrams (any more): stop, on the first address.
    pub(crate) fn socket_replaced(&mut self) {
        if let Some(paths) = self.attachment.paths_mut() {
            let left = std::mem::replace(&mut paths.active, paths.first);
            let older = paths.previous.take();
            self.closing.push_back(left.id);
            self.closing.extend(older.map(|path| path.id));
        }
        self.phase = Phase::Settled;
    }

    /// The driving task is gone: no new validation begins. The path in use stays.
    pub(crate) fn detach(&mut self) -> Vec<PathId> {
        self.attachment.detach();
        if self.kept.as_ref().is_some_and(|kept| !kept.is_in_use()) {
            self.release_kept();
        }
        self.parting.end();
        let mut closing: Vec<PathId> = self.closing.drain(..).collect();
        if let Phase::Probing(probe) = &self.phase {
            closing.push(probe.path.id);
        }
        if !matches!(self.phase, Phase::Switching(_)) {
            self.phase = Phase::Settled;
        }
        for offer in std::mem::take(&mut self.alternates) {
            self.refuse(offer.sequence, Refusal::Superseded);
        }
        if let Some(offer) = self.pending.take() {
            self.refuse(offer.sequence, Refusal::Superseded);
        }
        closing.retain(|path| *path != PathId::FIRST);
        closing
    }
}
