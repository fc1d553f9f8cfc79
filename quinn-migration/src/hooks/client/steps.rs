//! The client hook as its driving task sees it: what to do next, and when to look again.
//!
//! Never does any of it: the task owns sockets, timers and the connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::attempts::Step;
use super::super::carrier::SMALL_CARRIER;
use super::super::patience;
use super::super::watch::Look;
use super::{ClientHook, Driven, Path, Phase, Probe};
use crate::event::{Event, Failure};
use crate::policy::{Gate, Policy, Refusal};
use crate::socket::PathId;

/// The next thing for the driving task.
#[derive(Debug)]
pub(crate) enum Action {
    Report(Event),
    /// Open a socket for this address, then call [`ClientHook::opened`] or [`ClientHook::not_opened`].
    Open(SocketAddr),
    Close(PathId),
    /// Queue this carrier.
    Send(Bytes),
    /// Nothing until then, or until the hook wakes the task.
    Wait(Option<Instant>),
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

    /// `largest` is the largest DATAGRAM payload that quinn accepts now: a carrier of that size is alone in its
    /// packet.
    pub(crate) fn poll(&mut self, now: Instant, rtt: Duration, largest: usize) -> Action {
        self.on_overtaken();
        while let Some(path) = self.closing.pop_front() {
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
        if matches!(self.phase, Phase::Settled) && self.inbox.has_mail() {
            return self.consider(now, rtt, largest);
        }
        match self.poll_probe(now, rtt, largest) {
            Some(Step::Send) => return self.send(largest),
            Some(Step::Wait(until)) => return Action::Wait(Some(until)),
            Some(Step::GiveUp) => return self.poll(now, rtt, largest),
            None => {}
        }
        self.poll_settled(now, rtt, largest)
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

    fn consider(&mut self, now: Instant, rtt: Duration, largest: usize) -> Action {
        let (Some(offer), Some(driven)) = (self.inbox.take(), &mut self.driven) else {
            return Action::Wait(None);
        };
        match driven.gate.judge(driven.active.server, &offer, now) {
            Ok(target) => {
                self.phase = Phase::Opening(offer, target);
                Action::Open(target)
            }
            Err(reason) => {
                self.refuse(offer.sequence, reason);
                self.poll(now, rtt, largest)
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
        self.phase = Phase::Probing(Probe::new(offer, Path { id, server }, challenges, now));
    }

    /// The connection ID of the advertisement that waits for a socket.
    pub(crate) fn opening_id(&self) -> Option<quinn_proto::ConnectionId> {
        match &self.phase {
            Phase::Opening(offer, _) => Some(offer.id),
            Phase::Settled | Phase::Probing(_) | Phase::Adopting(_) => None,
        }
    }

    /// There is no socket for [`Action::Open`].
    pub(crate) fn not_opened(&mut self, error: std::io::ErrorKind) {
        if let Phase::Opening(offer, target) = std::mem::replace(&mut self.phase, Phase::Settled) {
            self.retirement.add(offer.sequence);
            self.report(Event::Failed {
                sequence: offer.sequence,
                target,
                reason: Failure::Socket(error),
            });
        }
    }

    fn poll_probe(&mut self, now: Instant, rtt: Duration, largest: usize) -> Option<Step> {
        let Phase::Probing(probe) = &mut self.phase else {
            return None;
        };
        let step = if largest == 0 {
            Step::GiveUp
        } else {
            probe.poll(now, rtt)
        };
        if step == Step::GiveUp {
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
            Phase::Probing(probe) => (probe.offer.sequence, probe.path),
            Phase::Adopting(adoption) => (adoption.new.sequence, adoption.path),
            other @ (Phase::Settled | Phase::Opening(..)) => {
                self.phase = other;
                return;
            }
        };
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
            Phase::Probing(probe) => self.server_ids.is_past(probe.offer.sequence),
            Phase::Adopting(adoption) => self.server_ids.is_past(adoption.new.sequence),
            Phase::Settled | Phase::Opening(..) => false,
        }
    }

    fn on_overtaken(&mut self) {
        if !self.is_overtaken() {
            return;
        }
        if matches!(&self.phase, Phase::Adopting(adoption) if adoption.forced) {
            // quinn has just switched to a connection ID that the dead path has not seen: use that one.
            self.last_id = None;
            self.finish_adoption();
        } else {
            self.fail(Failure::Withdrawn);
        }
    }

    fn poll_settled(&mut self, now: Instant, rtt: Duration, largest: usize) -> Action {
        let retire = match self.retirement.poll(now, rtt) {
            Some(Step::Send) if largest > 0 => return self.send(SMALL_CARRIER),
            Some(Step::Wait(until)) => Some(until),
            Some(Step::Send | Step::GiveUp) | None => None,
        };
        let look = match self.look(now, rtt) {
            Look::Quiet => None,
            Look::Again(at) => Some(at),
            Look::Dead(silence) => return self.leave_dead_path(silence, now, rtt, largest),
        };
        Action::Wait([retire, look].into_iter().flatten().min())
    }

    fn look(&mut self, now: Instant, rtt: Duration) -> Look {
        if self.is_watching() {
            self.watch.look(now, patience(rtt))
        } else {
            Look::Quiet
        }
    }

    fn leave_dead_path(
        &mut self,
        silence: Duration,
        now: Instant,
        rtt: Duration,
        largest: usize,
    ) -> Action {
        self.watch = super::Watch::default();
        if self.fall_back(silence) {
            return Action::Wait(Some(now + patience(rtt)));
        }
        match self.server() {
            Some(on) => {
                self.watch.stop();
                self.report(Event::Stranded { on });
                self.poll(now, rtt, largest)
            }
            None => Action::Wait(None),
        }
    }

    fn send(&mut self, length: usize) -> Action {
        match self.carriers.payload(length) {
            Some(carrier) => {
                self.queued_carriers = self.queued_carriers.saturating_add(1);
                Action::Send(carrier)
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
            driven.active = driven.first;
            driven.previous = None;
        }
        self.phase = Phase::Settled;
    }

    /// The driving task is gone: no new validation begins. The path in use stays.
    pub(crate) fn detach(&mut self) -> Vec<PathId> {
        if let Some(driven) = &mut self.driven {
            driven.attached = false;
        }
        let mut closing: Vec<PathId> = self.closing.drain(..).collect();
        match &self.phase {
            Phase::Probing(probe) => closing.push(probe.path.id),
            Phase::Settled | Phase::Opening(..) | Phase::Adopting(_) => {}
        }
        if !matches!(self.phase, Phase::Adopting(_)) {
            self.phase = Phase::Settled;
        }
        if let Some(offer) = self.inbox.take() {
            self.refuse(offer.sequence, Refusal::Superseded);
        }
        closing.retain(|path| *path != PathId::FIRST);
        closing
    }
}
