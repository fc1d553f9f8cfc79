//! What ends a server's stream, beside what the transport and rustls report. Each stands inside an `io::Error`, so
//! `error.get_ref()` and a downcast find it.

use std::io;

use crate::server::{NotifyError, OfferError};

/// Inside an `io::Error` of the kind `TimedOut`: the client was to move, and did not leave by the deadline.
///
/// The layer has sent no `close_notify`: the client sees that the stream was cut unless the application shuts it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client was to move and did not leave by the deadline")]
pub struct DepartureOverdue;

impl From<DepartureOverdue> for io::Error {
    fn from(error: DepartureOverdue) -> Self {
        Self::new(io::ErrorKind::TimedOut, error)
    }
}

/// Inside an `io::Error` of the kind `InvalidData`, from a shutdown: the application at this server ends the stream before it has
/// written what the client has of it already ([`Arrival::Recovered`](crate::server::Arrival::Recovered)). It has not
/// written the same as at the server that was lost.
///
/// The client sees no end: the layer has sent neither `close_notify` nor a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream ends {missing} bytes before what the client has of it")]
pub struct EndsTooEarly {
    /// How many bytes are missing.
    pub missing: u64,
}

impl From<EndsTooEarly> for io::Error {
    fn from(error: EndsTooEarly) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Inside an `io::Error` of the kind `ConnectionAborted`: another connection has spent the client's token, or the nonce
/// store could not say. Nothing was read of this connection but its early data, and nothing more was sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client's migration token could not be spent by this connection")]
pub struct TokenNotSpent;

impl From<TokenNotSpent> for io::Error {
    fn from(error: TokenNotSpent) -> Self {
        Self::new(io::ErrorKind::ConnectionAborted, error)
    }
}

/// Inside an `io::Error` of the kind `ConnectionAborted`: one of this stream's checkpoints has been used, so its client goes on at
/// another server, and this one is cut off from it or deceived. Nothing that is still done here counts. Only a server that
/// [supersedes](crate::server::MigrationServerBuilder::supersede_checkpoints_in) checkpoints learns so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client's stream goes on at another server")]
pub struct GoesOnElsewhere;

impl From<GoesOnElsewhere> for io::Error {
    fn from(error: GoesOnElsewhere) -> Self {
        Self::new(io::ErrorKind::ConnectionAborted, error)
    }
}

/// Why a client was not told to move, as logs and metrics call it.
pub(super) fn reason(error: &io::Error) -> &'static str {
    let inner = error.get_ref();
    let offer = inner.and_then(|inner| inner.downcast_ref::<OfferError>());
    let notify = inner.and_then(|inner| inner.downcast_ref::<NotifyError>());
    match (offer, notify) {
        (Some(offer), _) => offer.name(),
        (None, Some(notify)) => notify.name(),
        (None, None) => "transport",
    }
}

/// Why a stream has failed. It is told by every call from then on.
#[derive(Debug)]
pub(super) enum Failure {
    /// The transport broke. The first call gets the error itself.
    Transport(io::ErrorKind, Option<io::Error>),
    /// The client or its bytes are at fault.
    Tls(rustls::Error),
    /// The handshake took too long.
    HandshakeTimeout,
    /// The token was not spent.
    TokenNotSpent,
    /// A checkpoint has been used.
    GoesOnElsewhere,
}

impl Failure {
    /// The error for the next call.
    pub(super) fn report(&mut self) -> io::Error {
        match self {
            Self::Transport(kind, error) => error.take().unwrap_or_else(|| (*kind).into()),
            Self::Tls(error) => io::Error::new(io::ErrorKind::InvalidData, error.clone()),
            Self::HandshakeTimeout => super::HandshakeTimeout.into(),
            Self::TokenNotSpent => TokenNotSpent.into(),
            Self::GoesOnElsewhere => GoesOnElsewhere.into(),
        }
    }

    /// Of which kind its errors are.
    pub(super) fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Transport(kind, _) => *kind,
            Self::Tls(_) => io::ErrorKind::InvalidData,
            Self::HandshakeTimeout => io::ErrorKind::TimedOut,
            Self::TokenNotSpent | Self::GoesOnElsewhere => io::ErrorKind::ConnectionAborted,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        match tls.cloned() {
            Some(error) => Self::Tls(error),
            None => Self::Transport(error.kind(), Some(error)),
        }
    }
}
