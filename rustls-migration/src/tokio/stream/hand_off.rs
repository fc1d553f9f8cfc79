//! The phases of a hand-off that a stream makes by itself (`docs/protocol.md` section 4, modes Drain and Overlap).
//!
//! What was written before the hand-off goes to the old server, what is written after it to the new one, and no byte to
//! both.

use std::future::{Future, ready};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::HandshakeKind;

use super::{EarlyDataOutcome, Event, HandOff, Landing, Leg, MigrateError, MigrationStream};
use crate::address::canonical;
use crate::client::Offer;
use crate::connection::Connection as _;
use crate::tokio::ConnectFailure;
use crate::tokio::connector::{Opened, Until};
use crate::tokio::silence::Silence;

/// How much the application may write between the two servers, in bytes; past that its writes wait.
pub(super) const MAX_HELD: usize = 14_336;

/// A future of a hand-off, which belongs to its stream.
pub(super) type Step<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where a stream's hand-off stands.
#[derive(Default)]
pub(super) enum Phase {
    /// There is none.
    #[default]
    Settled,
    /// The target is dialled; the old server serves.
    Dialling {
        target: SocketAddr,
        dial: Step<io::Result<Opened>>,
    },
    /// This side has been closed at the old server, which is read to its end. Writes are held.
    Draining { opened: Opened, silence: Silence },
    /// The old server is done; the session is resumed at the target. Writes are held.
    Resuming {
        target: SocketAddr,
        early_data: bool,
        resume: Step<Result<Leg, ConnectFailure>>,
    },
    /// The session is resumed at the target; the old server serves.
    Overlapping {
        target: SocketAddr,
        resume: Step<Result<Leg, ConnectFailure>>,
    },
    /// Both servers are there; the old one serves.
    Ready { target: SocketAddr, leg: Box<Leg> },
    /// Writes go to the target; the old server is read to its end.
    Switching {
        target: SocketAddr,
        leg: Box<Leg>,
        silence: Silence,
    },
    /// The hand-off failed when there was no way back.
    Failed(Arc<HandOffError>),
}

impl Phase {
    fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    /// Whether the old server is read to its end before the target is read.
    pub(super) fn awaits_end(&self) -> bool {
        matches!(self, Self::Draining { .. } | Self::Switching { .. })
    }

    /// How long the old server has been silent, when its end is awaited.
    pub(super) fn silence(&mut self) -> Option<&mut Silence> {
        match self {
            Self::Draining { silence, .. } | Self::Switching { silence, .. } => Some(silence),
            Self::Settled
            | Self::Dialling { .. }
            | Self::Resuming { .. }
            | Self::Overlapping { .. }
            | Self::Ready { .. }
            | Self::Failed(_) => None,
        }
    }

    /// Whether writes are held for the target.
    pub(super) fn holds_writes(&self) -> bool {
        matches!(self, Self::Draining { .. } | Self::Resuming { .. })
    }
}

impl MigrationStream {
    /// Goes over to the target that is ready ([`HandOff::Overlap`]): what is written from now on goes there. What the old
    /// server still sends is read before what the target sends.
    ///
    /// # Errors
    ///
    /// [`MigrateError::NotReady`] when no target is ready; the stream goes on.
    pub fn switch(&mut self) -> Result<(), MigrateError> {
        let Some(old) = self.leg.as_mut().filter(|_| self.phase.is_ready()) else {
            return Err(MigrateError::NotReady);
        };
        old.connection_mut().send_close_notify();
        if let Phase::Ready { target, leg } = mem::take(&mut self.phase) {
            let silence = self.connector.silence();
            self.phase = Phase::Switching {
                target,
                leg,
                silence,
            };
        }
        self.wakers.wake();
        Ok(())
    }

    /// Takes the hand-off as far as it goes now.
    pub(super) fn poll_phase(&mut self, cx: &mut Context<'_>) {
        loop {
            let polled = match mem::take(&mut self.phase) {
                Phase::Settled => self.begin(),
                Phase::Dialling { target, mut dial } => match dial.as_mut().poll(cx) {
                    Poll::Ready(opened) => self.opened(target, opened),
                    Poll::Pending => Err(Phase::Dialling { target, dial }),
                },
                Phase::Resuming {
                    target,
                    early_data,
                    mut resume,
                } => match resume.as_mut().poll(cx) {
                    Poll::Ready(resumed) => Ok(self.resumed(target, early_data, resumed)),
                    Poll::Pending => Err(Phase::Resuming {
                        target,
                        early_data,
                        resume,
                    }),
                },
                Phase::Overlapping { target, mut resume } => match resume.as_mut().poll(cx) {
                    Poll::Ready(resumed) => Ok(self.overlapped(target, resumed)),
                    Poll::Pending => Err(Phase::Overlapping { target, resume }),
                },
                waiting @ (Phase::Draining { .. }
                | Phase::Ready { .. }
                | Phase::Switching { .. }
                | Phase::Failed(_)) => Err(waiting),
            };
            match polled {
                Ok(next) => self.phase = next,
                Err(unchanged) => {
                    self.phase = unchanged;
                    return;
                }
            }
        }
    }

    /// Begins a hand-off if the server has asked for one. `Err` when there is nothing to do.
    fn begin(&mut self) -> Result<Phase, Phase> {
        let asked = self.notified && !self.ended && self.connector.mode() != HandOff::Manual;
        let Some(token) = self.offer().filter(|_| asked) else {
            return Err(Phase::Settled);
        };
        let target = canonical(token.target_address());
        match self.check_offer() {
            Ok(target) => {
                let connector = self.connector.clone();
                let dial = Box::pin(async move { connector.open(target).await });
                Ok(Phase::Dialling { target, dial })
            }
            Err(why) => {
                self.notified = false;
                self.events.send(Event::Refused {
                    target,
                    why: Arc::new(why),
                });
                Err(Phase::Settled)
            }
        }
    }

    /// The target was dialled.
    fn opened(&mut self, target: SocketAddr, opened: io::Result<Opened>) -> Result<Phase, Phase> {
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let address = target;
                return Ok(self.stay(target, ConnectFailure::Dial { address, error }));
            }
        };
        if self.connector.mode() == HandOff::Overlap {
            let Some(offer) = self.take_offer() else {
                return Err(Phase::Settled);
            };
            // The newest offer may lead elsewhere than the one before.
            let target = offer.target();
            let (connector, name) = (self.connector.clone(), self.name.clone());
            let resume = Box::pin(async move {
                let opened = connector.open_unless(Some(opened), target).await?;
                connector
                    .resume(&name, opened, offer, &[], Until::Written)
                    .await
            });
            return Ok(Phase::Overlapping { target, resume });
        }
        let Some(leg) = &mut self.leg else {
            return Err(Phase::Settled);
        };
        leg.connection_mut().send_close_notify();
        let silence = self.connector.silence();
        Err(Phase::Draining { opened, silence })
    }

    /// The target failed, and the old server is still there.
    fn stay(&mut self, target: SocketAddr, why: ConnectFailure) -> Phase {
        self.notified = false;
        self.events.send(Event::Stayed {
            target,
            why: Arc::new(why),
        });
        Phase::Settled
    }

    fn overlapped(&mut self, target: SocketAddr, resumed: Result<Leg, ConnectFailure>) -> Phase {
        match resumed {
            Ok(leg) => {
                self.events.send(Event::Ready { target });
                Phase::Ready {
                    target,
                    leg: Box::new(leg),
                }
            }
            Err(why) => self.stay(target, why),
        }
    }

    fn resumed(
        &mut self,
        target: SocketAddr,
        early_data: bool,
        resumed: Result<Leg, ConnectFailure>,
    ) -> Phase {
        self.wakers.wake();
        match resumed {
            Ok(leg) => {
                let accepted = leg.connection().tls().is_early_data_accepted();
                let early_data = match (early_data, accepted) {
                    (false, _) => EarlyDataOutcome::None,
                    (true, true) => EarlyDataOutcome::Accepted,
                    (true, false) => EarlyDataOutcome::AfterHandshake,
                };
                self.land(target, leg, early_data);
                Phase::Settled
            }
            Err(failure) => {
                let unsure = matches!(
                    failure,
                    ConnectFailure::Handshake {
                        early_data_sent: true,
                        ..
                    }
                );
                let written_since = match unsure {
                    true => EarlyDataOutcome::Unknown,
                    false => EarlyDataOutcome::None,
                };
                Phase::Failed(Arc::new(HandOffError::TargetLost {
                    failure,
                    written_since,
                }))
            }
        }
    }

    /// Goes on at the target.
    fn land(&mut self, target: SocketAddr, mut leg: Leg, early_data: EarlyDataOutcome) {
        let held = mem::take(&mut self.held);
        if !held.is_empty() {
            // The connection's buffer takes more than can be held twice: now, and with the hello.
            let written = leg.connection_mut().write(&held);
            debug_assert!(written.is_ok_and(|written| written == held.len()));
        }
        if self.shutdown {
            leg.connection_mut().send_close_notify();
        }
        let from = mem::replace(&mut self.address, target);
        self.leg = Some(leg);
        self.notified = false;
        self.events.send(Event::Landed(Landing {
            from,
            at: target,
            handshake: HandshakeKind::Resumed,
            early_data,
            unread: 0,
            fell_back: None,
        }));
        self.take_updates();
    }

    /// The present server has closed its side. `true` when that is not the end: the stream goes on elsewhere, or has failed.
    pub(super) fn end_of_leg(&mut self) -> bool {
        // A writer may wait for what only the reader has seen.
        self.wakers.wake();
        if let Phase::Failed(_) = self.phase {
            return true;
        }
        if let Phase::Switching { .. } = self.phase
            && let Phase::Switching { target, leg, .. } = mem::take(&mut self.phase)
        {
            self.land(target, *leg, EarlyDataOutcome::None);
            return true;
        }
        let handed_over = self
            .leg
            .as_ref()
            .and_then(|leg| leg.connection().handed_over());
        match handed_over {
            Some(accepted) if self.connector.mode() != HandOff::Manual => {
                self.phase = self.follow(accepted.map_err(MigrateError::OfferRefused));
                true
            }
            // The server has ended the stream itself.
            Some(_) | None => {
                self.phase = Phase::Settled;
                self.ended = true;
                self.undelivered = !self.held.is_empty();
                false
            }
        }
    }

    /// The old server is done and has handed the session over. That may come before the target has been dialled, when the
    /// application closed its side first.
    fn follow(&mut self, accepted: Result<(), MigrateError>) -> Phase {
        let dial: Option<Step<io::Result<Opened>>> = match mem::take(&mut self.phase) {
            Phase::Dialling { dial, .. } => Some(dial),
            Phase::Draining { opened, .. } => Some(Box::pin(ready(Ok(opened)))),
            Phase::Settled
            | Phase::Resuming { .. }
            | Phase::Overlapping { .. }
            | Phase::Ready { .. }
            | Phase::Switching { .. }
            | Phase::Failed(_) => None,
        };
        let allowed = accepted.and_then(|()| match &dial {
            Some(_) => Ok(()),
            None => self.check_offer().map(|_| ()),
        });
        let offer = allowed.and_then(|()| self.take_offer().ok_or(MigrateError::NoOffer));
        match offer {
            Ok(offer) => self.resume_at(dial, offer),
            Err(why) => Phase::Failed(Arc::new(HandOffError::NotFollowed(why))),
        }
    }

    /// Resumes the session with the old server's last offer, which may lead elsewhere than the one before.
    fn resume_at(&mut self, dial: Option<Step<io::Result<Opened>>>, offer: Offer) -> Phase {
        let target = offer.target();
        let (connector, name) = (self.connector.clone(), self.name.clone());
        let held = mem::take(&mut self.held);
        let early_data = !held.is_empty();
        let resume = Box::pin(async move {
            let ahead = match dial {
                // What cannot be dialled ahead is dialled again.
                Some(dial) => dial.await.ok(),
                None => None,
            };
            let opened = connector.open_unless(ahead, target).await?;
            connector
                .resume(&name, opened, offer, &held, Until::Complete)
                .await
        });
        Phase::Resuming {
            target,
            early_data,
            resume,
        }
    }
}

/// Why a stream ended in the middle of a hand-off, and what is certain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandOffError {
    /// The old server's connection broke, or said nothing for too long (`TimedOut`), after this side was closed there and
    /// before the old server had closed its own.
    /// What was read is right as far as it goes. What the old server sent after it is lost, and it may not have read all
    /// that was written before the hand-off. What was written since has not been sent, but for a hand-off by overlap, where
    /// it went to the target.
    #[error("the old server was lost during the hand-off")]
    SourceLost(#[source] io::Error),
    /// The old server is done: it read all that was written before the hand-off, and all that it sent has been read. The
    /// target, with the state that it got handed over, could not be reached.
    #[error("the target was lost during the hand-off")]
    TargetLost {
        /// What went wrong.
        #[source]
        failure: ConnectFailure,
        /// Whether the target may have acted upon what was written during the hand-off.
        written_since: EarlyDataOutcome,
    },
    /// The old server is done and has handed the session over, but the stream does not follow. What was read is right and
    /// is all that the old server sent; what was written during the hand-off has not been sent.
    #[error("the server handed the session over to where the stream does not follow")]
    NotFollowed(#[source] MigrateError),
}

impl HandOffError {
    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::SourceLost(_) => io::ErrorKind::UnexpectedEof,
            Self::TargetLost { .. } | Self::NotFollowed(_) => io::ErrorKind::ConnectionAborted,
        }
    }

    /// The error as every later read and write reports it.
    pub(super) fn to_io(self: &Arc<Self>) -> io::Error {
        io::Error::new(self.kind(), Arc::clone(self))
    }
}
