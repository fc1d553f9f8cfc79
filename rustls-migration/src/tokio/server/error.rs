//! What ends a server's stream, beside what the transport and rustls report. Each stands inside an `io::Error`, so
//! `error.get_ref()` and a downcast find it.

use std::io;

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
}

impl Failure {
    /// The error for the next call.
    pub(super) fn report(&mut self) -> io::Error {
        match self {
            Self::Transport(kind, error) => error.take().unwrap_or_else(|| (*kind).into()),
            Self::Tls(error) => io::Error::new(io::ErrorKind::InvalidData, error.clone()),
            Self::HandshakeTimeout => super::HandshakeTimeout.into(),
            Self::TokenNotSpent => TokenNotSpent.into(),
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
