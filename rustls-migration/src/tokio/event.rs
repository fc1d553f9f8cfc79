//! What a client's stream tells its application about migration.
//!
//! Events inform. Nothing waits for them to be read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::{fmt, io};

use rustls::HandshakeKind;
use tokio::sync::broadcast;

use super::connector::ConnectFailure;
use super::stream::MigrateError;
use crate::client::OfferError;
use crate::move_kind::MoveKind;

/// Something that happened to a [`MigrationStream`](super::MigrationStream).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The server made an offer, which replaces an older one.
    Offered {
        /// Where the offer leads.
        target: SocketAddr,
        /// What goes on there.
        kind: MoveKind,
    },
    /// The server sent a token that is no offer. The connection goes on.
    OfferRefused(OfferError),
    /// The server asks the client to move now.
    Notified,
    /// The target is resumed beside the old server: [`MigrationStream::switch`](super::MigrationStream::switch) goes over
    /// to it ([`HandOff::Overlap`](super::HandOff::Overlap)).
    Ready {
        /// The target's address.
        target: SocketAddr,
    },
    /// The stream does not follow an offer, although it was asked to.
    Refused {
        /// Where the offer leads.
        target: SocketAddr,
        /// Why it is not followed.
        why: Arc<MigrateError>,
    },
    /// The target failed while the old server was still there, so the stream stays with it.
    Stayed {
        /// The target's address.
        target: SocketAddr,
        /// Why it failed.
        why: Arc<ConnectFailure>,
    },
    /// The stream has moved, or has fallen back.
    Landed(Landing),
}

/// Where a migration ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Landing {
    /// The address that the stream left.
    pub from: SocketAddr,
    /// The address at which it is now.
    pub at: SocketAddr,
    /// The handshake there. [`HandshakeKind::Full`] at the target means that the server refused the token.
    pub handshake: HandshakeKind,
    /// What became of the data that the application gave to send first.
    pub early_data: EarlyDataOutcome,
    /// How many bytes the old server sent that the application had not read when it asked to migrate. They are lost.
    pub unread: usize,
    /// Why the stream is at the address that it was first connected to and not at the target.
    pub fell_back: Option<FallBackReason>,
}

/// What became of the data that the application gave to send first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EarlyDataOutcome {
    /// It went with the hello and was accepted, at least in part; the rest followed.
    Accepted,
    /// It was sent once, after the handshake.
    AfterHandshake,
    /// There was none.
    None,
    /// It went with the hello to a target that then failed. Nobody knows whether it was acted upon, so it was not sent
    /// again: the application decides.
    Unknown,
}

/// Why a stream fell back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FallBackReason {
    /// The target could not be reached.
    Unreachable(Arc<io::Error>),
    /// The handshake with the target failed.
    HandshakeFailed(Arc<io::Error>),
}

impl fmt::Display for FallBackReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "the target could not be reached: {error}"),
            Self::HandshakeFailed(error) => {
                write!(f, "the handshake with the target failed: {error}")
            }
        }
    }
}

/// The events of one stream, from the moment of [`MigrationStream::events`](super::MigrationStream::events) on.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

/// How many events wait to be read; past that the oldest are forgotten.
const CAPACITY: usize = 64;

impl Events {
    /// The next event; `None` when the stream is gone. Safe to cancel.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// The next event that has already happened.
    pub fn try_next(&mut self) -> Option<Event> {
        loop {
            match self.0.try_recv() {
                Ok(event) => return Some(event),
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Where a stream's events come from.
#[derive(Debug)]
pub(super) struct EventSource(broadcast::Sender<Event>);

impl EventSource {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }

    pub(super) fn subscribe(&self) -> Events {
        Events(self.0.subscribe())
    }

    pub(super) fn send(&self, event: Event) {
        tracing::debug!(?event, "migration");
        // Nobody need be listening.
        let _ = self.0.send(event);
    }
}
