//! What a client is told: offers, and the notice to move (`docs/protocol.md` sections 3 and 4).
//!
//! What it was told last, and what would move, is kept in the departure.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};

use super::StreamCore;
use crate::MoveKind;
use crate::server::{NotifyError, OfferError};
use crate::tokio::server::departure::{Countdown, Departure, DepartureClock};

impl<IO> StreamCore<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Makes an offer to a client that has not been told to move. One of the stream itself is consent.
    pub(in crate::tokio::server) fn offer(
        &mut self,
        target: SocketAddr,
        state: Option<&[u8]>,
    ) -> io::Result<()> {
        match self.departure {
            Departure::Staying | Departure::NotMovable => {
                self.make_offer(target, state)?;
                if state.is_some() {
                    self.registration.control().set_consent(state)?;
                }
                Ok(())
            }
            // It would be taken for the hand-over.
            Departure::Told { .. }
            | Departure::Left { .. }
            | Departure::HandedOver
            | Departure::HandOverFailed(_) => Err(OfferError::UnderWay.into()),
        }
    }

    /// Makes the client a checkpoint, which leaves with what is written next. It is neither an offer to follow nor consent.
    pub(in crate::tokio::server) fn queue_checkpoint(
        &mut self,
        target: SocketAddr,
        state: &[u8],
    ) -> Result<(), OfferError> {
        self.driver.connection_mut().checkpoint(target, state)
    }

    /// Tells the client to move by its newest offer.
    pub(in crate::tokio::server) fn notify(&mut self) -> io::Result<()> {
        match self.departure {
            Departure::Staying | Departure::NotMovable => self.tell_by_newest_offer(),
            Departure::Told { .. } => Ok(()),
            Departure::Left { .. } | Departure::HandedOver | Departure::HandOverFailed(_) => {
                Err(NotifyError::Closed.into())
            }
        }
    }

    /// Tells the client to move to `target`, chosen now.
    pub(in crate::tokio::server) fn migrate_to(
        &mut self,
        target: SocketAddr,
        state: Option<&[u8]>,
    ) -> io::Result<()> {
        match &mut self.departure {
            // It may have left with the stream, and waits for the hand-over.
            Departure::Told {
                hand_over_to: Some(_),
                ..
            } if state.is_none() => Err(OfferError::UnderWay.into()),
            Departure::Staying | Departure::NotMovable | Departure::Told { .. } => {
                self.tell(target, state, false)?;
                Ok(self.registration.control().set_consent(state)?)
            }
            // The client is on its way, and learns from the last offer where to.
            Departure::Left {
                hand_over_to: Some(hand_over_to),
            } if state.is_some() => {
                self.registration.control().set_consent(state)?;
                *hand_over_to = target;
                Ok(())
            }
            Departure::Left { .. } | Departure::HandedOver | Departure::HandOverFailed(_) => {
                Err(OfferError::Closed.into())
            }
        }
    }

    /// Puts an offer and the alert among what is written next: the client is told as a whole or not at all, also when the
    /// future that flushes it is dropped.
    pub(super) fn tell(
        &mut self,
        target: SocketAddr,
        state: Option<&[u8]>,
        governed: bool,
    ) -> io::Result<()> {
        self.make_offer(target, state)?;
        Ok(self.make_notice(governed)?)
    }

    /// What is moved is what the application consents to by now. If the newest offer says something else, the client gets
    /// one that says so.
    fn tell_by_newest_offer(&mut self) -> io::Result<()> {
        let state = self.registration.control().consent();
        match (self.newest_offer(), &state) {
            (Some((target, MoveKind::Connection)), Some(state)) => {
                self.tell(target, Some(state.as_slice()), false)
            }
            (Some((target, MoveKind::Stream)), None) => self.tell(target, None, false),
            (Some((_, MoveKind::Connection)), None)
            | (Some((_, MoveKind::Stream)), Some(_))
            | (None, _) => Ok(self.make_notice(false)?),
        }
    }

    /// Where the newest offer leads, and what would go on there.
    fn newest_offer(&self) -> Option<(SocketAddr, MoveKind)> {
        let at_handshake = self.driver.connection().target_at_handshake();
        self.offered
            .or_else(|| Some((at_handshake?, MoveKind::Connection)))
    }

    fn make_offer(&mut self, target: SocketAddr, state: Option<&[u8]>) -> Result<(), OfferError> {
        self.driver.connection_mut().offer(target, state)?;
        let kind = match state {
            Some(_) => MoveKind::Stream,
            None => MoveKind::Connection,
        };
        self.offered = Some((target, kind));
        Ok(())
    }

    /// Puts the alert among what is written next.
    fn make_notice(&mut self, governed: bool) -> Result<(), NotifyError> {
        let connection = self.driver.connection_mut();
        connection.notify()?;
        let waits = u64::try_from(connection.tls_bytes_to_write()).unwrap_or(u64::MAX);
        let limit = connection.departure_deadline();
        let notice = self.driver.written().saturating_add(waits);
        // Once a drain has begun to count, another notice does not change that.
        // Nor does it begin the time anew: an application may tell its client as often as it likes.
        let counting = self.departure.take_countdown();
        let clock = match governed || self.departure.is_governed() {
            true => DepartureClock::Governed,
            false => DepartureClock::Own(counting.unwrap_or_else(|| Countdown::new(notice, limit))),
        };
        let newest = self.newest_offer();
        let hand_over_to = match newest {
            Some((target, MoveKind::Stream)) => Some(target),
            Some((_, MoveKind::Connection)) | None => None,
        };
        let kind = hand_over_to.map_or(MoveKind::Connection, |_| MoveKind::Stream);
        let target = newest.map(|(target, _)| target);
        self.registration.control().set_told(kind, target);
        self.set_departure(Departure::Told {
            hand_over_to,
            clock,
        });
        Ok(())
    }
}
