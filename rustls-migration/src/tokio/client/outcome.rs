//! What came of a migration.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::HandshakeKind;

use super::error::ConnectError;

/// Where a migration ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MigrationOutcome {
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

impl EarlyDataOutcome {
    /// At a server that completed the handshake and accepted early data, or did not.
    pub(super) fn of(early_data: &[u8], accepted: bool) -> Self {
        match (early_data.is_empty(), accepted) {
            (true, _) => Self::None,
            (false, true) => Self::Accepted,
            (false, false) => Self::AfterHandshake,
        }
    }

    /// At a server that failed.
    pub(super) fn after_failure(error: &ConnectError) -> Self {
        match error {
            ConnectError::Handshake {
                early_data_sent: true,
                ..
            } => Self::Unknown,
            ConnectError::Handshake { .. }
            | ConnectError::Dial { .. }
            | ConnectError::Closed { .. }
            | ConnectError::SessionRefused { .. }
            | ConnectError::AlpnChanged { .. } => Self::None,
        }
    }
}

/// Why a stream fell back to the address that it was first connected to: the handshake with the target failed.
#[derive(Clone, Debug)]
pub struct FallBackReason(pub(super) Arc<ConnectError>);

impl FallBackReason {
    /// What went wrong at the target.
    pub fn error(&self) -> &ConnectError {
        &self.0
    }
}

impl fmt::Display for FallBackReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
