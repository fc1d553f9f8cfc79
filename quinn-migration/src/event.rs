//! What a client's migrator reports.
//!
//! Never carries a secret: no connection ID, no reset token.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use quinn_proto::VarInt;
use thiserror::Error;

use crate::policy::Refusal;

/// Something that happened to a connection's server address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A SERVER_ALTERNATE_ADDRESS frame arrived.
    Advertised {
        /// Sequence number of the frame.
        sequence: VarInt,
        /// IPv4 address in it.
        v4: Option<SocketAddrV4>,
        /// IPv6 address in it.
        v6: Option<SocketAddrV6>,
    },
    /// An advertisement is kept for when the path in use falls silent
    /// ([`FollowPolicy::OnSilence`](crate::FollowPolicy::OnSilence)).
    Kept {
        /// Sequence number of the advertisement.
        sequence: VarInt,
        /// The address that it will lead to.
        target: SocketAddr,
    },
    /// An advertisement is not followed.
    Refused {
        /// Sequence number, when the frame was readable.
        sequence: Option<VarInt>,
        /// Why.
        reason: Refusal,
    },
    /// A new address is being validated; all other traffic stays where it is.
    Validating {
        /// Sequence number of the advertisement.
        sequence: VarInt,
        /// The address.
        target: SocketAddr,
    },
    /// The connection uses the new address.
    Migrated {
        /// Sequence number of the advertisement.
        sequence: VarInt,
        /// The address left.
        from: SocketAddr,
        /// The address in use now.
        to: SocketAddr,
        /// Challenges it took.
        challenges: u32,
        /// Time from the start of the validation to the answer.
        validation: Duration,
    },
    /// A new address was not validated. The connection stays where it is.
    Failed {
        /// Sequence number of the advertisement.
        sequence: VarInt,
        /// The address.
        target: SocketAddr,
        /// Why.
        reason: Failure,
    },
    /// The address in use stopped answering; the connection is back on an earlier one.
    FellBack {
        /// The address that stopped answering.
        from: SocketAddr,
        /// The address in use now.
        to: SocketAddr,
        /// How long nothing came from the old one.
        silence: Duration,
    },
    /// The address in use stopped answering, and no earlier one has answered in a second, or there is no unused connection
    /// ID to try it with. The connection stays, and goes on when any of them answers before quinn's idle timeout.
    Stranded {
        /// The address that stopped answering.
        on: SocketAddr,
    },
    /// The application did not read events fast enough; this many were dropped.
    Missed(u64),
}

/// Why a new address was not validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Failure {
    /// No answer to any challenge.
    #[error("no answer to {challenges} challenges")]
    Unreachable {
        /// Challenges that were sent.
        challenges: u32,
    },
    /// No challenge could be sent: quinn's datagram queue did not move, or DATAGRAM is switched off
    /// (`TransportConfig::datagram_receive_buffer_size(None)`).
    #[error("no challenge could be sent; is the datagram buffer off or full?")]
    NotSent,
    /// No socket could be opened for the address.
    #[error("no socket: {0}")]
    Socket(std::io::ErrorKind),
    /// The advertised connection ID cannot be used any more: the server retired it, or quinn has gone on to a later
    /// one. The server may advertise again.
    #[error("the advertised connection ID was retired in the meantime")]
    Withdrawn,
    /// The endpoint's socket is no longer the one of the [`MigrationClient`](crate::MigrationClient):
    /// `Endpoint::rebind` was called instead of `MigrationClient::rebind`. The connection is on its first address.
    #[error("the endpoint was rebound without the migration client")]
    SocketReplaced,
}
