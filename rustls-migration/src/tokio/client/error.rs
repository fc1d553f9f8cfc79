//! What goes wrong for a client's stream, and what is certain then. Each error that a read or a write reports stands inside
//! the `io::Error`, so `error.get_ref()` and a downcast find it.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::outcome::EarlyDataOutcome;
use crate::client::InvalidOfferError;

/// Why an address could not be connected to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address could not be reached. The environment is at fault.
    #[error("{address} could not be reached")]
    Dial {
        /// The address.
        address: SocketAddr,
        /// What went wrong.
        #[source]
        error: io::Error,
    },
    /// The TLS handshake failed; `error` has a [`rustls::Error`] inside when the peer is at fault.
    #[error("the handshake with {address} failed")]
    Handshake {
        /// The address.
        address: SocketAddr,
        /// What went wrong.
        #[source]
        error: io::Error,
        /// Whether data that was given to send first may have left by then, as early data or after it.
        early_data_sent: bool,
    },
    /// The server made a full handshake in place of resuming the session, so the state that the old server handed over is
    /// not there, or draft -03 forbids to go on. Nothing was sent to it.
    #[error("{address} does not resume the session")]
    SessionRefused {
        /// The address.
        address: SocketAddr,
    },
    /// The server closed the connection, or broke it, before it was used.
    #[error("{address} closed the connection before it was used")]
    Closed {
        /// The address.
        address: SocketAddr,
        /// What went wrong.
        #[source]
        error: io::Error,
    },
    /// The server negotiated another application protocol (ALPN) than the stream speaks. Nothing was sent to it.
    #[error("{address} negotiated another application protocol than the stream speaks")]
    AlpnChanged {
        /// The address.
        address: SocketAddr,
    },
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match &error {
            ConnectError::Dial { error, .. }
            | ConnectError::Handshake { error, .. }
            | ConnectError::Closed { error, .. } => error.kind(),
            ConnectError::SessionRefused { .. } => io::ErrorKind::ConnectionRefused,
            ConnectError::AlpnChanged { .. } => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Why a stream ended in the middle of a hand-off, and what is certain. It is told by every read and write from then on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum HandOffError {
    /// The old server's connection broke, or said nothing for too long (`TimedOut`), after this side was closed there and
    /// before the old server had closed its own.
    /// What was read is right as far as it goes. What the old server sent after it is lost, and it may not have read all
    /// that was written before the hand-off. What was written since has not been sent, but for a hand-off by overlap, where
    /// it went to the target.
    SourceLost(Arc<io::Error>),
    /// The old server is done: it read all that was written before the hand-off, and all that it sent has been read. The
    /// target, with the state that it got handed over, could not be reached.
    TargetLost {
        /// What went wrong.
        error: Arc<ConnectError>,
        /// Whether the target may have acted upon what was written during the hand-off.
        written_since: EarlyDataOutcome,
    },
    /// The server was lost, and the stream could not go on from its checkpoint. What was read is right as far as it goes. Nobody
    /// knows how much of what was written since the checkpoint has been acted upon, and where.
    NotRecovered {
        /// How the server was lost.
        lost: Arc<io::Error>,
        /// Why the stream did not go on.
        error: Arc<MigrateError>,
    },
    /// The old server is done and has handed the session over, but the stream does not follow. What was read is right and
    /// is all that the old server sent; what was written during the hand-off has not been sent.
    NotFollowed(Arc<MigrateError>),
}

impl HandOffError {
    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::SourceLost(_) | Self::NotRecovered { .. } => io::ErrorKind::UnexpectedEof,
            Self::TargetLost { .. } | Self::NotFollowed(_) => io::ErrorKind::ConnectionAborted,
        }
    }
}

impl HandOffError {
    /// What logs and metrics call it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::SourceLost(_) => "source_lost",
            Self::TargetLost { .. } => "target_lost",
            Self::NotRecovered { .. } => "not_recovered",
            Self::NotFollowed(why) => why.name(),
        }
    }
}

impl fmt::Display for HandOffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SourceLost(_) => "the old server was lost during the hand-off",
            Self::TargetLost { .. } => "the target was lost during the hand-off",
            Self::NotRecovered { .. } => {
                "the server was lost, and the stream could not go on from its checkpoint"
            }
            Self::NotFollowed(_) => {
                "the server handed the session over to where the stream does not follow"
            }
        })
    }
}

impl Error for HandOffError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(match self {
            Self::SourceLost(error) => &**error,
            Self::TargetLost { error, .. } => &**error,
            Self::NotRecovered { error, .. } | Self::NotFollowed(error) => &**error,
        })
    }
}

impl From<HandOffError> for io::Error {
    fn from(error: HandOffError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// Why a stream did not migrate. Unless it is [`Lost`](Self::Lost), the stream is where it was and goes on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum MigrateError {
    /// The server has made no offer, or it has been used.
    NoOffer,
    /// The newest offer is none that the client accepts.
    OfferRefused(InvalidOfferError),
    /// The newest offer is for this stream to go on elsewhere, not for another connection.
    StreamOffer,
    /// The stream moves only when its application says so ([`HandOff::Manual`](super::HandOff::Manual)), and that closed its
    /// side instead.
    Manual,
    /// The newest offer's time is over.
    Expired,
    /// The stream is in the middle of a hand-off.
    UnderWay,
    /// No target is ready.
    NotReady,
    /// This side has been closed, or the stream has ended.
    Closed,
    /// The stream has migrated as often as its [`MigrationLimit`](crate::client::MigrationLimit) allows.
    TooOften,
    /// The target could not be reached. The offer can be used again.
    Unreachable(Arc<ConnectError>),
    /// The target failed after the old server had been left, and so did the address that the stream was first connected to.
    /// The stream is lost.
    Lost {
        /// What went wrong at the target.
        target: Arc<ConnectError>,
        /// What went wrong at the first address.
        origin: Arc<ConnectError>,
    },
}

impl MigrateError {
    /// What logs and metrics call it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::NoOffer => "no_offer",
            Self::OfferRefused(_) => "offer_refused",
            Self::StreamOffer => "stream_offer",
            Self::Manual => "manual",
            Self::Expired => "expired",
            Self::UnderWay => "under_way",
            Self::NotReady => "not_ready",
            Self::Closed => "closed",
            Self::TooOften => "too_often",
            Self::Unreachable(_) => "unreachable",
            Self::Lost { .. } => "lost",
        }
    }
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOffer => f.write_str("there is no offer to follow"),
            Self::OfferRefused(_) => f.write_str("the offer is not accepted"),
            Self::StreamOffer => f.write_str("the offer is for the stream itself"),
            Self::Manual => f.write_str("the application closed the stream and did not move it"),
            Self::Expired => f.write_str("the offer has expired"),
            Self::UnderWay => f.write_str("a hand-off is under way"),
            Self::NotReady => f.write_str("no target is ready"),
            Self::Closed => f.write_str("the stream is closed"),
            Self::TooOften => f.write_str("the stream has migrated too often"),
            Self::Unreachable(_) => f.write_str("the target could not be reached"),
            Self::Lost { target, .. } => write!(
                f,
                "the target failed ({target}), and the first address could not be reached"
            ),
        }
    }
}

impl Error for MigrateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::OfferRefused(error) => Some(error),
            Self::Unreachable(error) | Self::Lost { origin: error, .. } => Some(&**error),
            Self::NoOffer
            | Self::StreamOffer
            | Self::Manual
            | Self::Expired
            | Self::UnderWay
            | Self::NotReady
            | Self::Closed
            | Self::TooOften => None,
        }
    }
}

impl From<MigrateError> for io::Error {
    fn from(error: MigrateError) -> Self {
        let kind = match &error {
            MigrateError::Lost { .. } => io::ErrorKind::NotConnected,
            MigrateError::Unreachable(_) => io::ErrorKind::HostUnreachable,
            MigrateError::NoOffer
            | MigrateError::OfferRefused(_)
            | MigrateError::StreamOffer
            | MigrateError::Manual
            | MigrateError::Expired
            | MigrateError::UnderWay
            | MigrateError::NotReady
            | MigrateError::Closed
            | MigrateError::TooOften => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
