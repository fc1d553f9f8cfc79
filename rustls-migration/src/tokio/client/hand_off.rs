//! The hand-off that a stream makes by itself (`docs/protocol.md` section 4, modes Drain and Overlap): from phase to phase.
//!
//! What was written before the hand-off goes to the old server, what is written after it to the new one, and no byte to
//! both.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustls::HandshakeKind;
use tokio::time::timeout;

use super::connector::HandOff;
use super::dialer::{ClientConn, Continuity, HandshakeGoal, Preconnected};
use super::error::{ConnectError, HandOffError, MigrateError};
use super::event::Event;
use super::handle::Control;
use super::outcome::{EarlyDataOutcome, MigrationOutcome};
use super::phase::{Next, Phase, Ready, Resumed, Step, Stranded};
use super::stream::MigrationStream;
use crate::MoveKind;
use crate::client::{Offer, Update};
use crate::connection::Connection as _;

/// A connection to the target, which may be under way.
enum Ahead {
    None,
    Dialling(Step<Preconnected>),
    Answered(Preconnected),
}

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
    pub(super) fn poll_phase(&mut self, cx: &mut Context<'_>) {
        while self.poll_step(cx).is_ready() {}
    }

    /// Ready when the phase has changed.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.phase {
            Phase::Connected { next, .. } => match next {
                Next::Nothing => return Poll::Pending,
                Next::Dialling { dial, .. } => {
                    *next = Next::Answered(ready!(dial.as_mut().poll(cx)));
                }
                Next::Answered(_) if self.control.is_corked() => return Poll::Pending,
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
            Phase::ReadingOut { .. }
            | Phase::Switching { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_) => return Poll::Pending,
        }
        Poll::Ready(())
    }

    /// The phase, to make another of it. What stays behind is what a panic in between leaves: a stream that is lost.
    pub(super) fn take_phase(&mut self) -> Phase {
        mem::replace(&mut self.phase, Phase::Lost(None))
    }

    /// Passes on what the connection noticed, and begins a hand-off that is asked for.
    pub(super) fn take_updates(&mut self) {
        let mut asked = false;
        while let Some(conn) = self.phase.source_mut()
            && let Some(update) = conn.connection_mut().next_update()
        {
            if let Some(offer) = conn.connection_mut().take_offer() {
                self.control.set_offer(offer);
            }
            self.control.events.send(match update {
                Update::Offered { target, kind } => Event::Offered { target, kind },
                Update::OfferRefused(error) => Event::OfferRefused(error),
                Update::Notified => {
                    self.control.set_notified(true);
                    let kind = self.control.with_offer(Offer::kind);
                    let kind = kind.unwrap_or(MoveKind::Connection);
                    asked = kind == MoveKind::Stream;
                    Event::Notified { kind }
                }
            });
        }
        if asked && self.control.hand_off != HandOff::Manual {
            self.dial_target();
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
            | Phase::Switching { .. }
            | Phase::Outlived { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_) => return,
        };
        if let Err(why) = allowed {
            let why = Arc::new(why);
            return self.control.events.send(Event::Refused { target, why });
        }
        if let Phase::Connected { next, .. } = &mut self.phase {
            let control = Arc::clone(&self.control);
            let dial = Box::pin(async move {
                let failed = |error, retry_in| {
                    control.events.send(Event::TargetUnreachable {
                        target,
                        why: Arc::new(error),
                        retry_in,
                    });
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
                self.phase = Phase::Failed(HandOffError::TargetLost {
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
            | Phase::Switching { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_)) => self.phase = other,
        }
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
    pub(super) fn resumed(&mut self, resumed: Resumed) -> Result<MigrationOutcome, MigrateError> {
        self.control.wakers.wake();
        let held = self.phase.held().map(mem::take).unwrap_or_default();
        match resumed {
            Ok((conn, outcome)) => {
                self.arrive(Box::new(conn), outcome.clone(), &held);
                Ok(outcome)
            }
            Err(Stranded::HandOff(error)) => {
                self.phase = Phase::Failed(error);
                Err(MigrateError::Closed)
            }
            Err(Stranded::Lost(error)) => {
                self.phase = Phase::Lost(Some(error.clone()));
                Err(error)
            }
        }
    }

    /// Goes on at the new server.
    fn arrive(&mut self, mut conn: Box<ClientConn>, outcome: MigrationOutcome, held: &[u8]) {
        if !held.is_empty() {
            // The connection's buffer takes more than can be held twice: now, and with the hello.
            let written = conn.connection_mut().write(held);
            debug_assert!(written.is_ok_and(|written| written == held.len()));
        }
        if self.shutdown {
            conn.connection_mut().send_close_notify();
        }
        self.control.arrived(outcome.at);
        let next = Next::Nothing;
        self.phase = Phase::Connected { conn, next };
        self.control.events.send(Event::Migrated(outcome));
        self.take_updates();
    }

    /// What the stream depends on, and a new handshake negotiates anew.
    pub(super) fn continuity(&self) -> Continuity {
        let tls = self.phase.source().map(|conn| conn.connection().tls());
        let alpn = tls.and_then(|tls| tls.alpn_protocol());
        Continuity {
            name: self.control.name.clone(),
            alpn: alpn.map(<[u8]>::to_vec),
        }
    }

    /// The present server has closed its side. `true` when that is not the end: the stream goes on elsewhere, or has failed.
    pub(super) fn on_close_notify(&mut self) -> bool {
        // A writer may wait for what only the reader has seen.
        self.control.wakers.wake();
        match self.take_phase() {
            Phase::Connected { conn, next } => {
                if let Some(accepted) = self.handed_over(&conn) {
                    self.hand_over_came(&conn, next, accepted);
                    return true;
                }
                self.phase = match next {
                    Next::Ready(ready) => Phase::Outlived { old: conn, ready },
                    Next::Nothing
                    | Next::Dialling { .. }
                    | Next::Answered(_)
                    | Next::Overlapping { .. } => Phase::Ended {
                        conn,
                        undelivered: false,
                    },
                };
                false
            }
            Phase::ReadingOut {
                conn,
                preconnected,
                held,
                ..
            } => match self.handed_over(&conn) {
                Some(accepted) => {
                    let ahead = Ahead::Answered(preconnected);
                    self.follow(&conn, ahead, accepted, held);
                    true
                }
                // The server has ended the stream itself.
                None => {
                    let undelivered = !held.is_empty();
                    self.phase = Phase::Ended { conn, undelivered };
                    false
                }
            },
            Phase::Switching { ready, .. } => {
                self.arrive_at_ready(ready);
                true
            }
            other @ (Phase::Resuming { .. }
            | Phase::Outlived { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_)) => {
                self.phase = other;
                false
            }
        }
    }

    /// Whether the stream was handed over at its end, and may follow.
    fn handed_over(&self, conn: &ClientConn) -> Option<Result<(), MigrateError>> {
        let handed_over = conn.connection().handed_over()?;
        Some(match self.control.hand_off {
            // Its application has closed it without moving it, so nobody gets the rest.
            HandOff::Manual => Err(MigrateError::Manual),
            HandOff::Drain | HandOff::Overlap => handed_over.map_err(MigrateError::OfferRefused),
        })
    }

    /// A hand-over came when this side had been closed by the application, maybe before the target has been dialled.
    fn hand_over_came(
        &mut self,
        conn: &ClientConn,
        next: Next,
        accepted: Result<(), MigrateError>,
    ) {
        let (ahead, counted) = match next {
            Next::Dialling { dial, .. } => (Ahead::Dialling(dial), true),
            Next::Answered(preconnected) => (Ahead::Answered(preconnected), true),
            Next::Nothing | Next::Overlapping { .. } | Next::Ready(_) => (Ahead::None, false),
        };
        self.control.set_ready(false);
        let accepted = match counted {
            true => accepted,
            false => accepted.and_then(|()| self.admit_offer().map(|_| ())),
        };
        self.follow(conn, ahead, accepted, Vec::new());
    }

    /// Resumes the session with the old server's last offer, which may lead elsewhere than the one before.
    fn follow(
        &mut self,
        conn: &ClientConn,
        ahead: Ahead,
        accepted: Result<(), MigrateError>,
        held: Vec<u8>,
    ) {
        let offer = accepted.and_then(|()| self.control.take_offer().ok_or(MigrateError::NoOffer));
        let offer = match offer {
            Ok(offer) => offer,
            Err(why) => {
                self.phase = Phase::Failed(HandOffError::NotFollowed(Arc::new(why)));
                return;
            }
        };
        let continuity = Continuity {
            name: self.control.name.clone(),
            alpn: conn.connection().tls().alpn_protocol().map(<[u8]>::to_vec),
        };
        let control = Arc::clone(&self.control);
        self.phase = Phase::Resuming {
            resume: Box::pin(async move {
                resume_handed_over(&control, &continuity, ahead, offer, held)
                    .await
                    .map_err(Stranded::HandOff)
            }),
            held: Vec::new(),
        };
    }

    /// The present connection broke.
    pub(super) fn broken(&mut self, error: io::Error) -> io::Error {
        self.control.wakers.wake();
        match self.take_phase() {
            Phase::ReadingOut { .. } | Phase::Switching { .. } => {
                let failed = HandOffError::SourceLost(Arc::new(error));
                self.phase = Phase::Failed(failed.clone());
                failed.into()
            }
            Phase::Connected {
                conn: old,
                next: Next::Ready(ready),
            } => {
                self.phase = Phase::Outlived { old, ready };
                error
            }
            // A hand-off that had only begun ends with its source.
            Phase::Connected { conn, .. } => {
                self.phase = Phase::Ended {
                    conn,
                    undelivered: false,
                };
                error
            }
            other @ (Phase::Resuming { .. }
            | Phase::Outlived { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_)) => {
                self.phase = other;
                error
            }
        }
    }
}

/// The target failed, and the stream stays where it is.
fn stay(control: &Control, target: SocketAddr, why: Arc<ConnectError>) {
    control.set_notified(false);
    control.events.send(Event::Stayed { target, why });
}

fn overlapped(
    control: &Control,
    target: SocketAddr,
    resumed: Result<ClientConn, ConnectError>,
) -> Next {
    match resumed {
        Ok(conn) => {
            control.set_ready(true);
            control.events.send(Event::Ready { target });
            let conn = Box::new(conn);
            Next::Ready(Ready { target, conn })
        }
        Err(why) => {
            stay(control, target, Arc::new(why));
            Next::Nothing
        }
    }
}

async fn resume_handed_over(
    control: &Control,
    continuity: &Continuity,
    ahead: Ahead,
    offer: Offer,
    held: Vec<u8>,
) -> Result<(ClientConn, MigrationOutcome), HandOffError> {
    let dialer = &control.dialer;
    let target = offer.target();
    let ahead = match ahead {
        Ahead::None => None,
        Ahead::Answered(preconnected) => Some(preconnected),
        Ahead::Dialling(dial) => timeout(dialer.connect_timeout, dial).await.ok(),
    };
    let resumed = async {
        let preconnected = dialer.reuse_or_dial(ahead, target).await?;
        dialer
            .resume(
                continuity,
                preconnected,
                offer,
                &held,
                HandshakeGoal::Complete,
            )
            .await
    };
    match resumed.await {
        Ok(conn) => {
            let accepted = conn.connection().tls().is_early_data_accepted();
            let outcome = MigrationOutcome {
                from: control.address(),
                at: target,
                handshake: HandshakeKind::Resumed,
                early_data: EarlyDataOutcome::of(&held, accepted),
                unread: 0,
                fell_back: None,
            };
            Ok((conn, outcome))
        }
        Err(error) => Err(HandOffError::TargetLost {
            written_since: EarlyDataOutcome::after_failure(&error),
            error: Arc::new(error),
        }),
    }
}
