//! Checkpoints: from where a stream can go on elsewhere if its server dies (`docs/protocol.md` section 11).
//!
//! A checkpoint is never followed while its server is there, and is used once.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use super::offer::{InvalidOfferError, MarkedTicket, Offer};
use super::policy::TargetPolicy;

/// A server's leave to go on elsewhere, should it die: the ticket, where it leads, and what its state accounts for.
pub struct Checkpoint {
    way: Way,
    written: u64,
    received: u64,
}

enum Way {
    /// Draft -01, or draft -03 with a target that has been resolved.
    Known(Offer),
    /// Draft -03: the target is still to be resolved.
    Named(MarkedTicket, Vec<u8>),
}

impl Checkpoint {
    pub(super) fn to(offer: Offer, written: u64, received: u64) -> Self {
        let way = Way::Known(offer);
        Self {
            way,
            written,
            received,
        }
    }

    pub(super) fn named(ticket: MarkedTicket, name: Vec<u8>, written: u64, received: u64) -> Self {
        let way = Way::Named(ticket, name);
        Self {
            way,
            written,
            received,
        }
    }

    /// How many of the bytes that the client has written on this connection the state accounts for. What was written from there
    /// on is to be written again.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// How many bytes of application data had come on this connection when it came.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Where it leads; `None` in draft -03 before it has been [led](Self::lead_to) anywhere.
    pub fn target(&self) -> Option<SocketAddr> {
        match &self.way {
            Way::Known(offer) => Some(offer.target()),
            Way::Named(..) => None,
        }
    }

    /// In draft -03, the target that is to be resolved: opaque bytes, as in
    /// [`requested_target`](super::ClientConnection::requested_target).
    pub fn unresolved(&self) -> Option<&[u8]> {
        match &self.way {
            Way::Known(_) => None,
            Way::Named(_, name) => Some(name),
        }
    }

    /// Whether its time is over, as for [`Offer::is_expired`].
    pub fn is_expired(&self, now: Instant) -> bool {
        match &self.way {
            Way::Known(offer) => offer.is_expired(now),
            Way::Named(ticket, _) => ticket.is_expired(now),
        }
    }

    /// Lets it lead to `target`, which its name was resolved to, for a client that is at `current`. One that leads somewhere
    /// already stays as it is.
    ///
    /// # Errors
    ///
    /// [`InvalidOfferError::Target`] when the policy does not let the client go there. The checkpoint is used up.
    pub fn lead_to(
        self,
        target: SocketAddr,
        current: SocketAddr,
        policy: &dyn TargetPolicy,
    ) -> Result<Self, InvalidOfferError> {
        let way = match self.way {
            Way::Named(ticket, _) => Way::Known(ticket.lead_to(target, current, policy)?),
            known @ Way::Known(_) => known,
        };
        Ok(Self { way, ..self })
    }

    /// The offer by which the stream goes on ([`ClientConnection::resume`](super::ClientConnection::resume)), for a client that
    /// has had `since` bytes since the checkpoint came.
    ///
    /// # Errors
    ///
    /// [`InvalidOfferError::Unresolved`] when it does not lead anywhere.
    pub fn into_offer(self, since: u64) -> Result<Offer, InvalidOfferError> {
        match self.way {
            Way::Known(offer) => Ok(offer.after_checkpoint(since)),
            Way::Named(..) => Err(InvalidOfferError::Unresolved),
        }
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("target", &self.target())
            .field("written", &self.written)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}
