//! What a connection tells its client: offers, hand-overs, and the notice to move (`docs/protocol.md` sections 3, 4 and 9).

use std::net::SocketAddr;

use migration_token::Claim;
use rustls::ContentType;

use super::{MAX_NOTICES, ServerConnection};
use crate::server::issue::GoesOn;
use crate::server::{NotifyError, OfferError};

impl ServerConnection {
    /// Tells the client to move now by its newest offer: by the `migrate_notify` alert, or the `migrate_request` message of draft
    /// -03. It leaves with what is written next.
    ///
    /// A client that has been told eight times, with neither data nor an offer since, is not told again: that would end its
    /// connection. It is `Ok` all the same.
    ///
    /// # Errors
    ///
    /// [`NotifyError`] when the client may not be told.
    pub fn notify(&mut self) -> Result<(), NotifyError> {
        if self.tls.is_handshaking() {
            return Err(NotifyError::Handshaking);
        }
        if self.closed {
            return Err(NotifyError::Closed);
        }
        let (kind, notice) = self.hook.notice().ok_or(NotifyError::NoToken)?;
        if self.notices >= MAX_NOTICES {
            return Ok(());
        }
        self.write_as(kind, &notice)
            .map_err(|_| NotifyError::Closed)?;
        self.notices += 1;
        Ok(())
    }

    /// Offers the client another target than before, or the same with another state: a NewSessionTicket with a new token or
    /// mark. It leaves with what is written next. The client uses the newest offer. There may be any number of them.
    ///
    /// With `Some(state)`, of 0 to 8192 bytes, the application consents to a move of the stream: it can go on at the target
    /// from this state, which is for the application there, and for nobody between (see [`Arrival::Migrated`](crate::server::Arrival::Migrated)). With
    /// `None` only the session goes on there, with the client's next connection, and this stream ends here.
    ///
    /// # Errors
    ///
    /// [`OfferError`]; nothing was sent then, and the connection goes on.
    pub fn offer(&mut self, target: SocketAddr, state: Option<&[u8]>) -> Result<(), OfferError> {
        self.send_ticket(target, GoesOn::from(state)).map(|_| ())
    }

    pub(in crate::server) fn send_ticket(
        &mut self,
        target: SocketAddr,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Claim>, OfferError> {
        if self.tls.is_handshaking() {
            return Err(OfferError::Handshaking);
        }
        if self.closed {
            return Err(OfferError::Closed);
        }
        let issued = self.hook.offer(target, goes_on)?;
        self.notices = 0;
        self.write_as(ContentType::Handshake, &issued.message)
            .map_err(|_| OfferError::Closed)?;
        Ok(issued.spends)
    }

    /// Hands the stream over to `target`, for a client that was asked to move and has closed its side: the last
    /// [`offer`](Self::offer), with the application's last state. In draft -03 it is told where to go before, if it was last
    /// asked to go elsewhere.
    ///
    /// # Errors
    ///
    /// As for [`offer`](Self::offer).
    pub fn hand_over(&mut self, target: SocketAddr, state: &[u8]) -> Result<(), OfferError> {
        if self.tls.is_handshaking() {
            return Err(OfferError::Handshaking);
        }
        if self.closed {
            return Err(OfferError::Closed);
        }
        if let Some((kind, notice)) = self.hook.notice_before_hand_over(target) {
            self.write_as(kind, &notice)
                .map_err(|_| OfferError::Closed)?;
        }
        self.offer(target, Some(state))
    }

    /// Where the offer leads that the client got at the handshake, if it got one.
    pub fn target_at_handshake(&self) -> Option<SocketAddr> {
        self.hook.target_at_handshake()
    }
}
