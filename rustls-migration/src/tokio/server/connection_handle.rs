//! What whoever runs a stream that a framework owns can say to it, and ask of it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::handle::{Command, Control, DepartureStatus, WantedCheckpoint};
use crate::server::{Arrival, OfferError, Positions};
use crate::{Lineage, MoveKind};

/// Speaks to one connection of a server while something else owns its stream: a framework, or another task.
///
/// It can be cloned and shared, and lives as long as anyone holds it. When the stream is gone it does nothing.
#[derive(Clone)]
pub struct ConnectionHandle(Arc<Control>);

impl ConnectionHandle {
    pub(super) fn new(control: &Arc<Control>) -> Self {
        Self(Arc::clone(control))
    }

    /// How the client came here.
    pub fn arrival(&self) -> &Arrival {
        self.0.arrival().unwrap_or(&Arrival::Fresh)
    }

    /// Which stream this is, and how many connections had it before: see [`TlsStream::lineage`](super::TlsStream::lineage).
    pub fn lineage(&self) -> Option<Lineage> {
        self.0.lineage()
    }

    /// The client's address, when the acceptor was told.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.peer()
    }

    /// How the departure stands.
    pub fn status(&self) -> DepartureStatus {
        self.0.status().0
    }

    /// What the client was told to move; `None` while it has not been told. An application that consents now and then learns
    /// here what the client's end means: after [`MoveKind::Stream`] the client may go on elsewhere, and waits for the
    /// hand-over; after [`MoveKind::Connection`] it has said all, and waits for the rest of its answer.
    pub fn told_to_move(&self) -> Option<MoveKind> {
        self.0.told()
    }

    /// Resolves when the client has been told to move, or should move and cannot be told: the application finishes what it
    /// does. It resolves too when the stream is gone. Safe to cancel.
    pub async fn told(&self) -> DepartureStatus {
        self.0
            .wait_for(|status, ended| ended || status != DepartureStatus::Staying)
            .await
    }

    /// Resolves when the stream is gone, with how its departure stood then. Safe to cancel.
    pub async fn ended(&self) -> DepartureStatus {
        self.0.wait_for(|_, ended| ended).await
    }

    /// The application's consent that the byte stream goes on at another server, from `state`, of at most 8192 bytes: what an
    /// application at a target needs to go on where this one stands (`docs/protocol.md` section 4). Say it again when the
    /// state changes; what was said last is handed over.
    ///
    /// A stream without consent is moved as a connection: this server finishes what it does, and the client's next
    /// connection goes elsewhere. Consent must be given before the client is told; what comes later is for the next time. From
    /// outside, a client is not told before its application has asked the new stream for something, or has left it alone
    /// for a second: so it can consent first.
    ///
    /// # Errors
    ///
    /// [`OfferError::StateTooLong`]; what was said before stays.
    pub fn set_state(&self, state: &[u8]) -> Result<(), OfferError> {
        self.0.set_consent(Some(state))
    }

    /// Takes the consent back: the conversation is finished, and the stream ends here.
    pub fn withdraw_state(&self) {
        self.0.withdraw_consent();
    }

    /// As [`TlsStream::checkpoint`](super::TlsStream::checkpoint), for a stream that a framework owns: from `target` the stream can go on from `state`,
    /// which accounts for so much of what was read from the stream and written to it, and for nothing more. Who says it counts the bytes of the messages
    /// that it has handled and answered, and need not know how far the framework has read ahead, or what it has not written yet: by
    /// `positions` the checkpoint may come later than the state is from, but not earlier.
    ///
    /// On a stream that was recovered, what is written and discarded counts; a number that was
    /// [taken](super::TlsStream::take_received) does not. A stream whose handshake is not complete makes it then.
    ///
    /// Safe to cancel: it is made as a whole or not at all.
    ///
    /// # Errors
    ///
    /// [`OfferError`] inside an `InvalidInput` error when there can be none, [`BadPosition`](OfferError::BadPosition) among them: when the
    /// framework has not written so much yet, ask again when it has. `NotConnected` when the stream is gone. Otherwise those of
    /// the transport.
    pub async fn checkpoint_at(
        &self,
        target: SocketAddr,
        positions: Positions,
        state: &[u8],
    ) -> io::Result<()> {
        let (made, answer) = oneshot::channel();
        self.0.want_checkpoint(WantedCheckpoint {
            target,
            positions,
            state: Zeroizing::new(state.to_vec()),
            made,
        });
        answer
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into()))
    }

    /// Tells the client to move to `target`, as a stream if the application has [consented](Self::set_state). What comes of
    /// it [`status`](Self::status) says. A client that has been told is not told again.
    pub fn migrate_to(&self, target: SocketAddr) {
        self.0.command(Command::MoveTo {
            target,
            governed: false,
        });
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionHandle").field(&self.0).finish()
    }
}
