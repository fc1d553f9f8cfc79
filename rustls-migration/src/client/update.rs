//! What a client's connection tells: what its server did, and why there is none.

use std::net::SocketAddr;

use super::InvalidOfferError;
use crate::move_kind::MoveKind;

/// What the server did that has to do with migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// It made an offer, which replaces an older one.
    Offered {
        /// Where the offer leads.
        target: SocketAddr,
        /// What goes on there.
        kind: MoveKind,
    },
    /// It marked a ticket, in draft -03: the session may be resumed elsewhere. Where, a request says, or the client's own
    /// choice. It replaces an older one.
    Marked {
        /// What goes on there.
        kind: MoveKind,
    },
    /// It sent a checkpoint, which replaces an older one.
    Checkpoint,
    /// It sent what is no offer.
    OfferRefused(InvalidOfferError),
    /// It asks the client to move now.
    Notified,
}

/// Why there is no connection. Nothing has been sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The offer's time is over: see [`Offer::is_expired`](super::Offer::is_expired). The caller is late.
    #[error("the offer's time is over")]
    OfferExpired,
    /// The token does not fit an extension. The server is at fault.
    #[error("the token does not fit an extension")]
    TokenTooLong,
    /// rustls makes no connection. The caller is at fault: the name, or the configuration.
    #[error("the TLS library makes no connection")]
    Tls(#[source] rustls::Error),
}
