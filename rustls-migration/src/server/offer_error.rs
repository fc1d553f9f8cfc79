//! Why a client was told nothing, or offered nothing. Nothing was sent then, and the connection goes on.

use std::io;

/// Why a client may not be sent `migrate_notify`. To most peers an unknown alert is fatal, so it is never tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// The client holds no token of this connection: it does not support migration, there was no target for it, or
    /// it speaks TLS 1.2.
    #[error("the client holds no token of this connection")]
    NoToken,
    /// The handshake is not complete. The caller is early.
    #[error("the handshake is not complete")]
    Handshaking,
    /// This side has been closed already.
    #[error("the connection is closed")]
    Closed,
}

/// Why an offer was not made. Nothing was sent, and the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// The client does not support migration, or speaks TLS 1.2.
    #[error("the client does not support migration")]
    NotSupported,
    /// The handshake is not complete. The caller is early.
    #[error("the handshake is not complete")]
    Handshaking,
    /// There is no ticket to make offers from: the client takes none, since it does not resume with psk_dhe_ke.
    #[error("the client takes no tickets")]
    NoTicket,
    /// The client has been told to move already, and would take an offer by itself for the hand-over; or it was told to go on with the
    /// stream, and is not to go with its connection instead.
    #[error("the client has been told to move already")]
    UnderWay,
    /// A checkpoint says that its state accounts for more than has been read or written, or for less of what was read than a
    /// checkpoint before it. The caller is at fault.
    #[error("a checkpoint cannot account for these bytes")]
    BadPosition,
    /// The application's state is too long. The caller is at fault.
    #[error("the application's state has {len} bytes, at most 8192 are allowed")]
    StateTooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// The session, with the client's certificates in it, and the application's state are too long together for a ticket
    /// that clients take. With less state there may be room.
    #[error("the ticket would have {len} bytes or more, at most 24576 are taken by clients")]
    TicketTooLong {
        /// Its length, in bytes. There may be a state to add.
        len: usize,
    },
    /// rustls' session is not encoded as this crate expects, so no ticket can be made from it. This crate is at fault: it
    /// does not know the version of rustls.
    #[error("the TLS library's session is not encoded as expected")]
    UnknownSession,
    /// The current ticket key has sealed as many tickets as it may. The operator is to rotate the keys. See
    /// [`TicketKeys::seal_limit`](crate::TicketKeys::seal_limit).
    #[error("the ticket key has sealed as many tickets as it may; rotate the keys")]
    SealLimit,
    /// This side has been closed already.
    #[error("the connection is closed")]
    Closed,
    /// The random source or a clock failed.
    #[error("no ticket could be made")]
    Failed,
}

#[cfg(feature = "tokio")]
impl NotifyError {
    /// What logs and metrics call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Handshaking => "handshaking",
            Self::Closed => "closed",
        }
    }
}

#[cfg(feature = "tokio")]
impl OfferError {
    /// What logs and metrics call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NotSupported => "not_supported",
            Self::Handshaking => "handshaking",
            Self::NoTicket => "no_ticket",
            Self::UnderWay => "under_way",
            Self::BadPosition => "bad_position",
            Self::StateTooLong { .. } => "state_too_long",
            Self::TicketTooLong { .. } => "ticket_too_long",
            Self::UnknownSession => "unknown_session",
            Self::SealLimit => "seal_limit",
            Self::Closed => "closed",
            Self::Failed => "failed",
        }
    }
}

/// The caller asked for what cannot be done; the connection goes on.
impl From<OfferError> for io::Error {
    fn from(error: OfferError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// The caller asked for what cannot be done; the connection goes on.
impl From<NotifyError> for io::Error {
    fn from(error: NotifyError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}
