//! The server side of the crate: an endpoint on several addresses, and advertising them.
//!
//! Never sends a client anything that it did not offer to understand.

mod advertise;
mod alternate;
mod attachment;
mod builder;
mod core;
mod drain;
mod event;
mod pool;
mod registry;
mod rotation;

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{AsyncUdpSocket, EndpointConfig};

pub use self::advertise::Advertised;
pub use self::alternate::Alternate;
pub use self::attachment::{Attachment, AttachmentId};
pub use self::builder::ServerBuilder;
pub use self::drain::{
    Drain, DrainOutcome, DrainPlan, DrainProgress, DrainSummary, DrainedConnection,
};
pub use self::event::{ServerEvent, ServerEvents};
pub use self::pool::AddressPool;
pub use self::rotation::{Rotating, Rotation, RotationProgress};

use self::core::Core;
use crate::error::{AddressError, AdvertiseError, BindError};
use crate::policy::canonical;
use crate::session::ServerCrypto;
use crate::socket::{PathId, Traffic};
use crate::stats::ServerStats;
use crate::wire::Codepoints;

/// A quinn endpoint for a server that can move its connections between its addresses.
///
/// Works with `quinn::Connection` as it is. Must be used inside of a tokio runtime.
///
/// ```no_run
/// # async fn example(tls: std::sync::Arc<rustls::ServerConfig>) -> Result<(), Box<dyn std::error::Error>> {
/// use quinn_migration::{Codepoints, MigrationServer};
/// use std::net::UdpSocket;
///
/// let first = UdpSocket::bind("192.0.2.1:443")?;
/// let server = MigrationServer::bind(tls, Codepoints::default(), Default::default(), first)?;
/// let second = server.add_address(UdpSocket::bind("192.0.2.2:443")?)?;
/// while let Some(incoming) = server.endpoint().accept().await {
///     let connection = incoming.await?;
///     let advertised = server.advertise(&connection, second).await?;
///     println!("the client {:?}", advertised.outcome().await?);
/// }
/// # Ok(())
/// # }
/// ```
pub struct MigrationServer {
    crypto: Arc<ServerCrypto>,
    core: Arc<Core>,
    endpoint: quinn::Endpoint,
}

/// One of a server's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressId(PathId);

impl AddressId {
    /// The address that the server was bound to first.
    pub const FIRST: Self = Self(PathId::FIRST);
}

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress {
    /// The client's own address, never an IPv4-mapped one. `quinn::Connection::remote_address` shows another form of
    /// it once the connection has moved.
    pub client: SocketAddr,
    /// The server address that the client is on.
    pub server: AddressId,
}

impl MigrationServer {
    /// Binds an endpoint on the tokio runtime; [`MigrationServer::builder`] has more settings.
    ///
    /// # Errors
    ///
    /// The TLS configuration cannot be used, or the socket cannot.
    pub fn bind(
        tls: Arc<rustls::ServerConfig>,
        codepoints: Codepoints,
        endpoint: EndpointConfig,
        socket: UdpSocket,
    ) -> Result<Self, BindError> {
        Self::builder(tls, socket)
            .codepoints(codepoints)
            .endpoint_config(endpoint)
            .bind()
    }

    /// An endpoint on `socket`, with settings to choose.
    pub fn builder(tls: Arc<rustls::ServerConfig>, socket: UdpSocket) -> ServerBuilder {
        ServerBuilder::new(tls, socket)
    }

    /// The endpoint, for accepting connections. `Endpoint::rebind` would take all added addresses away.
    pub fn endpoint(&self) -> &quinn::Endpoint {
        &self.endpoint
    }

    /// A quinn configuration with this server's crypto and quinn's defaults.
    pub fn server_config(&self) -> quinn::ServerConfig {
        quinn::ServerConfig::with_crypto(self.crypto.clone())
    }

    /// Serves one more address from now on. It must be a specific one and reach this process.
    ///
    /// # Errors
    ///
    /// [`AddressError`] when the socket cannot be used.
    pub fn add_address(&self, socket: UdpSocket) -> Result<AddressId, AddressError> {
        if socket.local_addr()?.ip().is_unspecified() {
            return Err(AddressError::Unspecified);
        }
        let added = self.core.socket.add(socket)?;
        self.core.counters.added.add_one();
        added.map(AddressId).ok_or(AddressError::TooMany)
    }

    /// Serves one more address through a socket of the application's own making: a tunnel, a simulated network. What the
    /// socket says of itself in `local_addr` is the address.
    ///
    /// # Errors
    ///
    /// [`AddressError`] when the socket names no specific address.
    pub fn add_socket(&self, socket: Arc<dyn AsyncUdpSocket>) -> Result<AddressId, AddressError> {
        if socket.local_addr()?.ip().is_unspecified() {
            return Err(AddressError::Unspecified);
        }
        let added = self.core.socket.add_socket(socket)?;
        self.core.counters.added.add_one();
        added.map(AddressId).ok_or(AddressError::TooMany)
    }

    /// Stops serving an address at once, and closes its socket unless that is a pool's. Clients that are still on it notice
    /// the silence and, with a migrator of this crate, go back to an address that they were on before. Answers `false`
    /// when the address was removed before.
    pub fn remove_address(&self, address: AddressId) -> bool {
        self.core.remove(address)
    }

    /// Datagrams through one address so far; `None` when it was removed.
    pub fn traffic(&self, address: AddressId) -> Option<Traffic> {
        self.core.socket.traffic(address.0)
    }

    /// Where the connection's client is.
    pub fn client_of(&self, connection: &quinn::Connection) -> ClientAddress {
        self.core.client_of(connection)
    }

    /// Where an attempt to connect comes from, and the address that it came to.
    pub fn client_of_incoming(&self, incoming: &quinn::Incoming) -> ClientAddress {
        ClientAddress {
            client: canonical(incoming.remote_address()),
            server: AddressId(self.core.socket.came_to(incoming.local_ip())),
        }
    }

    /// Whether the client offered to follow advertisements.
    pub fn supports(&self, connection: &quinn::Connection) -> bool {
        self.core
            .handles
            .find(connection)
            .is_some_and(|handle| handle.with_hook(|hook| hook.negotiated()))
    }

    /// Connections whose state this server holds.
    pub fn tracked_connections(&self) -> usize {
        self.core.handles.len()
    }

    /// What has happened since the start, in numbers.
    pub fn stats(&self) -> ServerStats {
        self.core.stats()
    }

    /// Sends the client a SERVER_ALTERNATE_ADDRESS frame, again when it is lost, until it is acknowledged.
    ///
    /// Takes one round trip without loss. The client decides whether it moves:
    /// see [`Advertised::outcome`]. Dropping the future stops the repetition.
    ///
    /// # Errors
    ///
    /// [`AdvertiseError`]; the connection goes on where it is.
    pub async fn advertise(
        &self,
        connection: &quinn::Connection,
        alternate: impl Into<Alternate>,
    ) -> Result<Advertised, AdvertiseError> {
        self.core.advertise(connection, alternate.into()).await
    }
}

impl fmt::Debug for MigrationServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigrationServer")
            .field("socket", &self.core.socket)
            .finish_non_exhaustive()
    }
}
