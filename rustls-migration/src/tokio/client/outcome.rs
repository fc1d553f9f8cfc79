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

/// How a stream went on after its server was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryOutcome {
    /// The address of the server that was lost.
    pub from: SocketAddr,
    /// The address at which the stream is now.
    pub at: SocketAddr,
    /// How many bytes were written again, since the checkpoint does not account for them.
    pub resent: usize,
    /// How many bytes had been read since the checkpoint: the new server leaves them out.
    pub received: u64,
    /// Whether what was written again went with the hello, and what was written meanwhile.
    pub early_data: EarlyDataOutcome,
}

impl MigrationOutcome {
    /// What logs and metrics call it.
    pub(super) fn name(&self) -> &'static str {
        match &self.fell_back {
            Some(_) => "fell_back",
            None => handshake_name(Some(self.handshake)),
        }
    }
}

/// What logs and metrics call a handshake at a target.
pub(super) fn handshake_name(handshake: Option<HandshakeKind>) -> &'static str {
    match handshake {
        Some(HandshakeKind::Resumed) => "resumed",
        Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) | None => {
            "full_handshake"
        }
    }
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
    /// At a server that completed the handshake, when there was `some`, and accepted early data, or did not.
    pub(super) fn of(some: bool, accepted: bool) -> Self {
        match (some, accepted) {
            (false, _) => Self::None,
            (true, true) => Self::Accepted,
            (true, false) => Self::AfterHandshake,
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
