//! The client hook as its driving task sees it: what to do next, and when to look again.
//!
//! Never does any of it: the task owns sockets, timers and the connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::attempts::Step;
use super::super::patience;
use super::super::watch::{Listening, Look};
use super::challenges::Answers;
use super::probe::Purpose;
use super::{ClientHook, Driven, Path, Phase, Probe};
use crate::event::{Event, Failure};
use crate::policy::{FollowPolicy, Gate, Policy, Refusal};
use crate::socket::PathId;
use crate::wire::AlternateAddress;

/// The next thing for the driving task.
#[derive(Debug)]
pub(crate) enum Action {
    Report(Event),
    /// Open a socket for this address, then call [`ClientHook::opened`] or [`ClientHook::not_opened`].
    Open(SocketAddr),
    Close(PathId),
    /// Queue these carriers, one after the other.
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
}

impl ClientHook {
    /// An application task drives this connection from now on. Answers `false` when another one does.
    pub(crate) fn attach(&mut self, policy: Policy, server: SocketAddr) -> bool {
        let first = Path {
            id: PathId::FIRST,
            server,
        };
        let fresh = Driven {
            attached: false,
            gate: Gate::new(Policy::default()),
            active: first,
            previous: None,
            first,
        };
        let driven = self.driven.get_or_insert(fresh);
        let free = !std::mem::replace(&mut driven.attached, true);
        if free {
            driven.gate = Gate::new(policy);
        }
        free
    }

    /// The server address that the connection is on.
    pub(crate) fn server(&self) -> Option<SocketAddr> {
        self.driven.as_ref().map(|driven| driven.active.server)
    }

    pub(crate) fn active_path(&self) -> Option<PathId> {
        self.driven.as_ref().map(|driven| driven.active.id)
    }

    /// So many datagrams have arrived on the path in use.
    pub(crate) fn on_datagrams(&mut self, datagrams: u64) {
        self.watch.on_datagrams(datagrams);
    }

    pub(crate) fn poll(&mut self, now: Instant, rtt: Duration, sizes: Sizes) -> Action {
        let queued = matches!(&self.phase, Phase::Probing(probe) if probe.is_queued());
        let answer = if self.answers.is_empty() || queued || sizes.datagram == 0 {
            None
        } else {
            self.answers.poll(now, rtt)
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
        let room = Answers::room(sizes, self.overhead);
        let carriers = self.carriers.filling(room, sizes.datagram);
        self.answers
            .on_queued(carriers.as_ref().map_or(0, Vec::len));
        let Some(carriers) = carriers else {
            self.answers = Answers::default();
            return Action::Wait(None);
        };
        self.send(Some(carriers))
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
        if matches!(self.phase, Phase::Settled) && self.inbox.has_mail() {
            return self.consider(now, rtt, sizes);
        }
        match self.poll_probe(now, rtt, sizes) {
            Some(Step::Send) => return self.send_challenge(sizes),
            Some(Step::Wait(until)) => return Action::Wait(Some(until)),
            Some(Step::GiveUp) => return self.poll(now, rtt, sizes),
            None => {}
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
        let (Some(offer), Some(driven)) = (self.inbox.take(), &mut self.driven) else {
            return Action::Wait(None);
        };
        if driven.gate.follow() == FollowPolicy::OnSilence {
            self.keep_alternate(offer);
            return self.poll(now, rtt, sizes);
        }
        match driven.gate.judge(driven.active.server, &offer, now) {
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
        let challenges = self
            .driven
            .as_ref()
            .map_or(0, |driven| driven.gate.challenges());
        self.report(Event::Validating {
            sequence: offer.sequence,
            target: server,
        });
        let path = Path { id, server };
        let purpose = Purpose::Advertised;
        let probe = Probe::new(offer.connection_id(), path, purpose, challenges, now);
        let probe = if self.watch.is_alive() {
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
        let driven = self.driven.as_ref();
        let other =
            driven.and_then(|driven| driven.gate.instead(driven.active.server, &offer, target));
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
        let answered = self.is_returning() && self.watch.is_alive();
        let Phase::Probing(probe) = &mut self.phase else {
            return None;
        };
        // Something came on the path that seemed dead: no reason to leave it.
        let step = if sizes.datagram == 0 || answered {
            Step::GiveUp
        } else if self.answers.is_queued() {
            // The carriers that come by next are for an answer.
            Step::Wait(now + patience(rtt))
        } else {
            probe.poll(now, rtt)
        };
        if step == Step::GiveUp
            && let Purpose::Return(silence) = probe.purpose
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

    /// Ends the validation or adoption in progress; the connection stays where it is.
    fn fail(&mut self, reason: Failure) {
        let (sequence, path) = match std::mem::replace(&mut self.phase, Phase::Settled) {
            // No path and no connection ID was opened for it, and the next silence begins another one.
            Phase::Probing(probe) if probe.purpose != Purpose::Advertised => return,
            Phase::Adopting(adoption) if adoption.purpose != Purpose::Advertised => return,
            Phase::Probing(probe) => (probe.new.sequence, probe.path),
            Phase::Adopting(adoption) => (adoption.new.sequence, adoption.path),
            other @ (Phase::Settled | Phase::Opening(..)) => {
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
            Phase::Probing(probe) => {
                self.server_ids.is_past(probe.new.sequence) && !self.is_kept(&probe.new.id)
            }
            Phase::Adopting(adoption) => self.server_ids.is_past(adoption.new.sequence),
            Phase::Settled | Phase::Opening(..) => false,
        }
    }

    fn on_overtaken(&mut self) {
        if self.is_overtaken() {
            self.fail(Failure::Withdrawn);
        }
    }

    /// Whether an earlier path is asked whether it still answers.
    pub(super) fn is_returning(&self) -> bool {
        matches!(&self.phase, Phase::Probing(probe) if probe.purpose != Purpose::Advertised)
    }

    fn poll_settled(&mut self, now: Instant, rtt: Duration, sizes: Sizes) -> Action {
        let keep = self.poll_kept(now, rtt);
        let retire = match self.retirement.poll(now, rtt) {
            Some(Step::Send) if sizes.datagram > 0 => {
                let carrier = self.carriers.small();
                return self.send(carrier.map(|carrier| vec![carrier]));
            }
            Some(Step::Wait(until)) => Some(until),
            Some(Step::Send | Step::GiveUp) | None => None,
        };
        let look = match self.look(now, rtt) {
            Look::Quiet => match self.listen(now, rtt) {
                // A carrier that nothing is due for becomes PING.
                Listening::Ask if sizes.datagram > 0 => {
                    let carrier = self.carriers.small();
                    return self.send(carrier.map(|carrier| vec![carrier]));
                }
                Listening::Again(at) => Some(at),
                Listening::Ask | Listening::Idle => None,
            },
            Look::Again(at) => Some(at),
            Look::Dead(silence) => {
                self.on_silence(silence, now);
                return self.poll(now, rtt, sizes);
            }
        };
        Action::Wait([keep, retire, look].into_iter().flatten().min())
    }

    fn look(&mut self, now: Instant, rtt: Duration) -> Look {
        if self.is_watching() && matches!(self.phase, Phase::Settled) {
            self.watch.look(now, patience(rtt))
        } else {
            Look::Quiet
        }
    }

    fn listen(&mut self, now: Instant, rtt: Duration) -> Listening {
        if self.is_watching() && matches!(self.phase, Phase::Settled) {
            self.watch.listen(now, patience(rtt))
        } else {
            Listening::Idle
        }
    }

    /// The path in use does not answer: asks an earlier one. Says once for each silence that none answers.
    fn on_silence(&mut self, silence: Duration, now: Instant) {
        let round = self.watch.on_silence();
        let begun = self.leave_silent_path(silence, round, now);
        let Some(driven) = &self.driven else { return };
        let asked_all = usize::try_from(round).is_ok_and(|round| round > driven.earlier_paths());
        let on = driven.active.server;
        if (asked_all || !begun) && self.watch.is_news() {
            self.report(Event::Stranded { on });
        }
    }

    /// No earlier path has answered: asks the next one, unless the path in use is alive.
    fn end_return(&mut self, silence: Duration, now: Instant, sizes: Sizes) {
        let ended = std::mem::replace(&mut self.phase, Phase::Settled);
        if sizes.datagram == 0 || self.watch.is_alive() {
            self.unanswered.clear();
            return;
        }
        if let Phase::Probing(probe) = ended {
            self.unanswered.push_front(probe);
            self.unanswered.truncate(UNANSWERED);
        }
        self.on_silence(silence, now);
    }

    fn send_challenge(&mut self, sizes: Sizes) -> Action {
        let Phase::Probing(probe) = &mut self.phase else {
            return Action::Wait(None);
        };
        let room = probe.next_room(sizes.mtu, self.overhead);
        let carriers = self.carriers.filling(room, sizes.datagram);
        probe.on_queued(carriers.as_ref().map_or(0, Vec::len));
        self.send(carriers)
    }

    fn send(&mut self, carriers: Option<Vec<Bytes>>) -> Action {
        match carriers {
            Some(carriers) => {
                self.queued_carriers = self.queued_carriers.saturating_add(carriers.len());
                Action::Send(carriers)
            }
            None => {
                self.fail(Failure::NotSent);
                Action::Wait(None)
            }
        }
    }

    /// The router does not carry this connection's datagrams (any more): stop, on the first address.
    pub(crate) fn socket_replaced(&mut self) {
        if let Some(driven) = &mut self.driven {
            let left = std::mem::replace(&mut driven.active, driven.first);
            let older = driven.previous.take();
            self.closing.push_back(left.id);
            self.closing.extend(older.map(|path| path.id));
        }
        self.phase = Phase::Settled;
    }

    /// The driving task is gone: no new validation begins. The path in use stays.
    pub(crate) fn detach(&mut self) -> Vec<PathId> {
        if let Some(driven) = &mut self.driven {
            driven.attached = false;
        }
        if self.kept.as_ref().is_some_and(|kept| !kept.is_in_use()) {
            self.release_kept();
        }
        let mut closing: Vec<PathId> = self.closing.drain(..).collect();
        match &self.phase {
            Phase::Probing(probe) if probe.purpose == Purpose::Advertised => {
                closing.push(probe.path.id);
            }
            Phase::Settled | Phase::Opening(..) | Phase::Probing(_) | Phase::Adopting(_) => {}
        }
        if !matches!(self.phase, Phase::Adopting(_)) {
            self.phase = Phase::Settled;
        }
        for offer in std::mem::take(&mut self.alternates) {
            self.refuse(offer.sequence, Refusal::Superseded);
        }
        if let Some(offer) = self.inbox.take() {
            self.refuse(offer.sequence, Refusal::Superseded);
        }
        closing.retain(|path| *path != PathId::FIRST);
        closing
    }
}
