//! What can go wrong, and whose fault it is.
//!
//! Never wraps a fault of the peer as a local one, or the other way round.

use std::io;

use quinn::ConnectionError;
use quinn_proto::crypto::rustls::NoInitialCipherSuite;
use thiserror::Error;

/// A TLS configuration that QUIC cannot use; the caller's configuration is at fault.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The crypto provider lacks TLS13_AES_128_GCM_SHA256, which protects Initial packets (RFC 9001 section 5.2).
    #[error("the crypto provider has no TLS13_AES_128_GCM_SHA256 for QUIC: add that cipher suite")]
    NoInitialSuite,
    /// rustls refused it, for example because TLS 1.3 is off or `max_early_data_size` is neither 0 nor `u32::MAX`.
    #[error("rustls refuses this configuration for QUIC: {0}")]
    Tls(#[from] rustls::Error),
}

impl From<NoInitialCipherSuite> for ConfigError {
    fn from(_: NoInitialCipherSuite) -> Self {
        Self::NoInitialSuite
    }
}

/// Why an endpoint was not bound.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// The TLS configuration cannot be used for QUIC.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The operating system refused the socket.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

/// Why an address was not advertised. The connection goes on as before.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdvertiseError {
    /// The connection belongs to another endpoint.
    #[error("the connection does not belong to this migration server")]
    UnknownConnection,
    /// The client did not send enable_server_migration; it is never sent the frame.
    #[error("the client did not offer server migration")]
    NotNegotiated,
    /// The alternate has neither an IPv4 nor an IPv6 address, or an unspecified one, or port 0.
    #[error("nothing to advertise: give an address with an IP and a port")]
    NoAddress,
    /// The server does not answer from this address: none of its sockets is bound to it. For an address that something
    /// else forwards to the server there is [`Alternate::forwarded`](crate::Alternate::forwarded).
    #[error("the server does not answer from this address; is it Alternate::forwarded?")]
    NotServed,
    /// Another advertisement on this connection waits for its acknowledgement. Try again after it.
    #[error("another advertisement waits for its acknowledgement")]
    Busy,
    /// No connection ID is free for the new path: the server uses zero-length connection IDs, or the client has room for two
    /// only (active_connection_id_limit), or it has held on to the ones it was given for 12 s. In the last case try again later.
    #[error("no connection ID is free for the new path")]
    NoConnectionId,
    /// quinn's DATAGRAM support is off, which carries the frame: leave `datagram_receive_buffer_size` set in the
    /// server's `TransportConfig`.
    #[error("quinn's datagram support is off; the frame cannot be sent")]
    DatagramsOff,
    /// The client did not acknowledge the frame within 30 s, or quinn retired its connection ID first. Try again; the
    /// client may still have received it.
    #[error("the client did not acknowledge the advertisement")]
    NotAcknowledged,
    /// The connection ended first.
    #[error("the connection ended: {0}")]
    Closed(#[from] ConnectionError),
}

/// Why an address was not added to a server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Bound to 0.0.0.0 or `[::]`: answers could leave from another address.
    #[error("an added address must be a specific one, not 0.0.0.0 or [::]")]
    Unspecified,
    /// A pool's socket is bound to one address: it must be bound to 0.0.0.0 or `[::]`.
    #[error("a pool's socket must be bound to 0.0.0.0 or [::]")]
    Specific,
    /// All addresses of the pool are in use, or the pool was removed.
    #[error("no address of the pool is free")]
    NoneFree,
    /// 2,147,483,647 addresses are in use.
    #[error("no address number is free")]
    TooMany,
    /// The operating system refused.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

/// Why no migrator was attached to a connection, at the client, or the connection to its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The connection belongs to another endpoint.
    #[error("the connection does not belong to this endpoint")]
    UnknownConnection,
    /// The connection is attached already.
    #[error("the connection is attached already")]
    Attached,
}
