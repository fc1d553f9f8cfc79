//! The hand-off that a stream makes by itself (`docs/protocol.md` section 4, modes Drain and Overlap): from phase to phase.
//!
//! What was written before the hand-off goes to the old server, what is written after it to the new one, and no byte to
//! both.

mod asked;
mod end_of_source;

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustls::HandshakeKind;

use super::connector::HandOff;
use super::dialer::{ClientConn, Continuity, HandshakeGoal};
use super::error::{ConnectError, HandOffError, MigrateError};
use super::event::Event;
use super::handle::Control;
use super::outcome::{EarlyDataOutcome, MigrationOutcome};
use super::phase::{Next, Phase, Ready, Resumed, Stranded};
use super::stream::MigrationStream;
use crate::MoveKind;
use crate::client::{Offer, Update};
use crate::connection::Connection as _;

impl MigrationStream {
    /// Goes over to the target that is ready ([`HandOff::Overlap`]): what is written from now on goes there. What the old
    /// server still sends is read before what the target sends.
    ///
    /// # Errors
    ///
    /// [`MigrateError::NotReady`] when no target is ready, or when it has failed meanwhile; the stream goes on.
    pub fn switch(&mut self) -> Result<(), MigrateError> {
        // Those who wait are woken below, and register themselves again.
        let cx = &mut Context::from_waker(Waker::noop());
        self.poll_phase(cx);
        let requested = self.control.request_switch();
        self.poll_phase(cx);
        self.control.wakers.wake();
        requested
    }

    /// Takes the hand-off as far as it goes now.
    pub(in crate::tokio::client) fn poll_phase(&mut self, cx: &mut Context<'_>) {
        self.poll_resolving(cx);
        while self.poll_step(cx).is_ready() {}
        self.poll_ahead(cx);
    }

    /// Ready when the phase has changed.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.phase {
            Phase::Connected { conn, next } => match next {
                Next::Nothing => return Poll::Pending,
                Next::Dialling { dial, .. } => {
                    *next = Next::Answered(ready!(dial.as_mut().poll(cx)));
                }
                Next::Answered(_) if self.control.is_corked() => return Poll::Pending,
                // The notice to stay with the stream comes behind this offer.
                Next::Answered(_) if self.control.newest_kind() == Some(MoveKind::Connection) => {
                    return Poll::Pending;
                }
                // The newest offer is for when the server has ended.
                Next::Answered(_) if conn.connection().handed_over().is_some() => {
                    return Poll::Pending;
                }
                Next::Answered(_) => self.begin(),
                Next::Overlapping { target, resume } => {
                    let resumed = ready!(resume.as_mut().poll(cx));
                    *next = overlapped(&self.control, *target, resumed);
                }
                Next::Ready(ready) => match ready.poll_end(cx) {
                    Poll::Ready(error) => self.ready_target_ended(error),
                    Poll::Pending if self.control.switch_is_requested() => self.go_over(),
                    Poll::Pending => return Poll::Pending,
                },
            },
            Phase::Outlived { ready, .. } => match ready.poll_end(cx) {
                Poll::Ready(error) => self.ready_target_ended(error),
                Poll::Pending if self.control.switch_is_requested() => self.go_over(),
                Poll::Pending => return Poll::Pending,
            },
            Phase::Resuming { resume, .. } => {
                let resumed = ready!(resume.as_mut().poll(cx));
                // Whoever asked for it has the outcome from an event, or from the phase.
                let _ = self.resumed(resumed);
            }
            Phase::Recovering { .. } => return self.poll_recovering(cx),
            Phase::ReadingOut { .. }
            | Phase::Switching { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_) => return Poll::Pending,
        }
        Poll::Ready(())
    }

    /// The phase, to make another of it. What stays behind is what a panic in between leaves: a stream that is lost.
    pub(in crate::tokio::client) fn take_phase(&mut self) -> Phase {
        mem::replace(&mut self.phase, Phase::Lost(None))
    }

    /// Passes on what the connection noticed, and begins a hand-off that is asked for.
    pub(in crate::tokio::client) fn take_updates(&mut self) {
        let mut asked = false;
        while let Some(conn) = self.phase.source_mut()
            && let Some(update) = conn.connection_mut().next_update()
        {
            if let Some(offer) = conn.connection_mut().take_offer() {
                self.control.set_offer(offer);
            }
            let event = match update {
                Update::Offered { target, kind } => Event::Offered { target, kind },
                Update::OfferRefused(error) => Event::OfferRefused(error),
                Update::Marked { kind } => {
                    if let Some(ticket) = conn.connection_mut().take_marked() {
                        self.control.note_marked(ticket);
                    }
                    Event::Marked { kind }
                }
                Update::Checkpoint => {
                    let checkpoint = conn.connection_mut().take_checkpoint();
                    let noted = checkpoint.and_then(|checkpoint| self.note_checkpoint(checkpoint));
                    let Some(event) = noted else {
                        continue;
                    };
                    event
                }
                Update::Notified => {
                    if let Some(target) = conn.connection().requested_target() {
                        self.control.note_request(target);
                    }
                    self.lead();
                    asked = !self.resolve();
                    continue;
                }
            };
            if let Event::Offered { kind, .. } | Event::Marked { kind } = &event
                && *kind == MoveKind::Connection
            {
                self.withdraw_checkpoint();
            }
            let marked = matches!(event, Event::Marked { .. });
            self.control.tell(event, self.phase.source());
            if marked {
                self.lead();
                self.resolve();
            }
        }
        if asked {
            self.notified();
        }
    }

    /// The server has asked for a hand-off: dials the newest offer's target, also when another one is dialled already.
    fn dial_target(&mut self) {
        let Some(target) = self.control.with_offer(Offer::target) else {
            return;
        };
        let allowed = match &self.phase {
            Phase::Connected {
                next: Next::Nothing,
                ..
            } => self.admit_offer(),
            Phase::Connected {
                next: Next::Dialling { target: former, .. },
                ..
            } if *former != target => Ok(target),
            Phase::Connected { .. }
            | Phase::ReadingOut { .. }
            | Phase::Resuming { .. }
            | Phase::Recovering { .. }
            | Phase::Switching { .. }
            | Phase::Outlived { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_) => return,
        };
        if let Err(why) = allowed {
            let why = Arc::new(why);
            let refused = Event::Refused { target, why };
            return self.control.tell(refused, self.phase.source());
        }
        if let Phase::Connected { next, .. } = &mut self.phase {
            let control = Arc::clone(&self.control);
            let dial = Box::pin(async move {
                let failed = |error, retry_in| {
                    let unreachable = Event::TargetUnreachable {
                        target,
                        why: Arc::new(error),
                        retry_in,
                    };
                    control.tell(unreachable, None);
                };
                control.dialer.open_patiently(target, failed).await
            });
            *next = Next::Dialling { target, dial };
        }
    }

    /// The target has answered: the hand-off begins.
    fn begin(&mut self) {
        let continuity = self.continuity();
        let Phase::Connected { mut conn, next } = self.take_phase() else {
            return;
        };
        let Next::Answered(preconnected) = next else {
            self.phase = Phase::Connected { conn, next };
            return;
        };
        if self.control.hand_off != HandOff::Overlap {
            conn.connection_mut().send_close_notify();
            self.control.begin_to_hold();
            self.phase = Phase::ReadingOut {
                conn,
                preconnected,
                silence: self.control.dialer.idle_timeout(),
                held: Vec::new(),
            };
            return;
        }
        let next = match self.control.take_offer() {
            None => Next::Nothing,
            Some(offer) => {
                // The newest offer may lead elsewhere than the one before.
                let target = offer.target();
                let dialer = self.control.dialer.clone();
                let resume = Box::pin(async move {
                    let preconnected = dialer.reuse_or_dial(Some(preconnected), target).await?;
                    dialer
                        .resume(
                            &continuity,
                            preconnected,
                            offer,
                            &[],
                            HandshakeGoal::Written,
                        )
                        .await
                });
                Next::Overlapping { target, resume }
            }
        };
        self.phase = Phase::Connected { conn, next };
    }

    /// The target that was ready has ended before the application went over to it.
    fn ready_target_ended(&mut self, error: ConnectError) {
        let requested = self.control.switch_is_requested();
        self.control.set_ready(false);
        let error = Arc::new(error);
        match self.take_phase() {
            // The application already writes for the target.
            _ if requested => {
                self.fail(HandOffError::TargetLost {
                    error,
                    written_since: EarlyDataOutcome::None,
                });
                self.control.wakers.wake();
            }
            Phase::Connected {
                conn,
                next: Next::Ready(Ready { target, .. }),
            } => {
                let next = Next::Nothing;
                self.phase = Phase::Connected { conn, next };
                stay(&self.control, target, error);
            }
            Phase::Outlived {
                old: conn,
                ready: Ready { target, .. },
            } => {
                let undelivered = false;
                self.phase = Phase::Ended { conn, undelivered };
                stay(&self.control, target, error);
            }
            other @ (Phase::Connected { .. }
            | Phase::ReadingOut { .. }
            | Phase::Resuming { .. }
            | Phase::Recovering { .. }
            | Phase::Switching { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_)) => self.phase = other,
        }
    }

    /// The hand-off has failed, and there is no way back.
    pub(in crate::tokio::client) fn fail(&mut self, error: HandOffError) {
        self.control.tell_failure(error.name(), &error);
        self.phase = Phase::Failed(error);
    }

    /// The application goes over to the target that is ready.
    fn go_over(&mut self) {
        self.control.set_ready(false);
        match self.take_phase() {
            Phase::Connected {
                conn: mut old,
                next: Next::Ready(ready),
            } => {
                old.connection_mut().send_close_notify();
                let silence = self.control.dialer.idle_timeout();
                self.phase = Phase::Switching {
                    old,
                    ready,
                    silence,
                };
            }
            Phase::Outlived { ready, .. } => self.arrive_at_ready(ready),
            other @ (Phase::Connected { .. }
            | Phase::ReadingOut { .. }
            | Phase::Resuming { .. }
            | Phase::Recovering { .. }
            | Phase::Switching { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_)) => self.phase = other,
        }
    }

    fn arrive_at_ready(&mut self, ready: Ready) {
        let outcome = MigrationOutcome {
            from: self.control.address(),
            at: ready.target,
            handshake: HandshakeKind::Resumed,
            early_data: EarlyDataOutcome::None,
            unread: 0,
            fell_back: None,
        };
        self.arrive(ready.conn, outcome, &[]);
    }

    /// A resumption that there was no way back from has come to its end.
    pub(in crate::tokio::client) fn resumed(
        &mut self,
        resumed: Resumed,
    ) -> Result<MigrationOutcome, MigrateError> {
        self.control.wakers.wake();
        let held = self.phase.held().map(mem::take).unwrap_or_default();
        match resumed {
            Ok((conn, outcome)) => {
                self.arrive(Box::new(conn), outcome.clone(), &held);
                Ok(outcome)
            }
            Err(Stranded::HandOff(error)) => {
                self.fail(error);
                Err(MigrateError::Closed)
            }
            Err(Stranded::Lost(error)) => {
                self.control.tell_failure(error.name(), &error);
                self.phase = Phase::Lost(Some(error.clone()));
                Err(error)
            }
        }
    }

    /// Goes on at the new server.
    fn arrive(&mut self, conn: Box<ClientConn>, outcome: MigrationOutcome, held: &[u8]) {
        let at = outcome.at;
        self.go_on(conn, at, held, Event::Migrated(outcome));
    }

    /// Goes on at `address` with another connection, to which what is held comes first.
    pub(in crate::tokio::client) fn go_on(
        &mut self,
        mut conn: Box<ClientConn>,
        address: SocketAddr,
        held: &[u8],
        event: Event,
    ) {
        let first = conn.connection().first_data_len();
        self.account.arrive(first.saturating_add(held.len()));
        conn.connection_mut().write_held(held);
        if self.shutdown {
            conn.connection_mut().send_close_notify();
        }
        self.control.arrived(address);
        let next = Next::Nothing;
        self.phase = Phase::Connected { conn, next };
        self.control.tell(event, None);
        self.take_updates();
    }

    /// What the stream depends on, and a new handshake negotiates anew.
    pub(in crate::tokio::client) fn continuity(&self) -> Continuity {
        Continuity::of(self.control.name.clone(), self.phase.source())
    }
}

/// The target failed, and the stream stays where it is.
fn stay(control: &Control, target: SocketAddr, why: Arc<ConnectError>) {
    control.set_notified(false);
    control.tell(Event::Stayed { target, why }, None);
}

fn overlapped(
    control: &Control,
    target: SocketAddr,
    resumed: Result<ClientConn, ConnectError>,
) -> Next {
    match resumed {
        Ok(conn) => {
            control.set_ready(true);
            control.tell(Event::Ready { target }, None);
            let conn = Box::new(conn);
            Next::Ready(Ready { target, conn })
        }
        Err(why) => {
            stay(control, target, Arc::new(why));
            Next::Nothing
        }
    }
}
