//! The server side of the crate: an endpoint on several addresses, and advertising them.
//!
//! Never sends a client anything that it did not offer to understand.

mod alternate;
mod builder;

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{AsyncUdpSocket, ConnectionError, EndpointConfig, Runtime, SendDatagramError};
use quinn_proto::VarInt;
use tokio::time::timeout_at;

pub use self::alternate::Alternate;
pub use self::builder::ServerBuilder;

use crate::error::{AddressError, AdvertiseError, BindError};
use crate::hooks::server::{AdvertStep, CannotBegin, Outcome, ServerHook};
use crate::policy::canonical;
use crate::session::{Handle, Handles, ServerCrypto};
use crate::socket::{PathId, ServerSocket, Traffic};
use crate::wire::Codepoints;

/// How long [`MigrationServer::advertise`] waits for quinn to issue a connection ID.
const RESERVE_PATIENCE: Duration = Duration::from_secs(2);

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
    handles: Handles<ServerHook>,
    socket: Arc<ServerSocket>,
    runtime: Arc<dyn Runtime>,
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
        self.socket
            .add(socket, &*self.runtime)?
            .map(AddressId)
            .ok_or(AddressError::TooMany)
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
        let added = self.socket.add_socket(socket)?;
        added.map(AddressId).ok_or(AddressError::TooMany)
    }

    /// Stops serving an address and closes its socket at once. Clients that are still on it notice the silence and,
    /// with a migrator of this crate, go back to an address that they were on before. Answers `false` when the
    /// address was removed before.
    pub fn remove_address(&self, address: AddressId) -> bool {
        self.socket.remove(address.0)
    }

    /// Datagrams through one address so far; `None` when it was removed.
    pub fn traffic(&self, address: AddressId) -> Option<Traffic> {
        self.socket.traffic(address.0)
    }

    /// Where the connection's client is.
    pub fn client_of(&self, connection: &quinn::Connection) -> ClientAddress {
        let (client, at) = self
            .socket
            .client(connection.remote_address(), connection.local_ip());
        ClientAddress {
            client,
            server: AddressId(at),
        }
    }

    /// Where an attempt to connect comes from, and the address that it came to.
    pub fn client_of_incoming(&self, incoming: &quinn::Incoming) -> ClientAddress {
        ClientAddress {
            client: canonical(incoming.remote_address()),
            server: AddressId(self.socket.came_to(incoming.local_ip())),
        }
    }

    /// Whether the client offered to follow advertisements.
    pub fn supports(&self, connection: &quinn::Connection) -> bool {
        self.handles
            .find(connection)
            .is_some_and(|handle| handle.with_hook(|hook| hook.negotiated()))
    }

    /// Connections whose state this server holds.
    pub fn tracked_connections(&self) -> usize {
        self.handles.len()
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
        let alternate = alternate
            .into()
            .resolve(&self.socket, connection.local_ip())?;
        let handle = self
            .handles
            .find(connection)
            .ok_or(AdvertiseError::UnknownConnection)?;
        let started = Instant::now();
        let sequence = begin(&handle, connection, alternate).await?;
        let end = EndOnDrop {
            handle: &handle,
            sequence,
        };
        let packets = deliver(&handle, connection, sequence).await?;
        drop(end);
        let acknowledged_after = started.elapsed();
        Ok(Advertised {
            sequence,
            packets,
            acknowledged_after,
            handle,
            connection: connection.clone(),
        })
    }
}

impl fmt::Debug for MigrationServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigrationServer")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// Waits for a connection ID in reserve: quinn issues them right after the handshake, and again when the client has
/// retired one.
async fn begin(
    handle: &Handle<ServerHook>,
    connection: &quinn::Connection,
    alternate: Alternate,
) -> Result<VarInt, AdvertiseError> {
    let deadline = tokio::time::Instant::now() + RESERVE_PATIENCE;
    let mut wakes = handle.wakes();
    loop {
        wakes.mark_unchanged();
        match handle.with_hook(|hook| hook.begin(alternate.v4, alternate.v6)) {
            Ok(sequence) => return Ok(sequence),
            Err(CannotBegin::NotNegotiated) => return Err(AdvertiseError::NotNegotiated),
            Err(CannotBegin::Busy) => return Err(AdvertiseError::Busy),
            Err(CannotBegin::NoReserve) => {}
        }
        tokio::select! {
            error = connection.closed() => return Err(error.into()),
            woken = timeout_at(deadline, wakes.changed()) => {
                woken.map_err(|_| AdvertiseError::NoConnectionId)?.map_err(|_| AdvertiseError::NoConnectionId)?;
            }
        }
    }
}

/// Queues carriers as the hook asks for them. Answers with the number of packets that it took.
async fn deliver(
    handle: &Handle<ServerHook>,
    connection: &quinn::Connection,
    sequence: VarInt,
) -> Result<u32, AdvertiseError> {
    let mut wakes = handle.wakes();
    loop {
        wakes.mark_unchanged();
        let rtt = connection.rtt();
        match handle.with_hook(|hook| hook.poll(sequence, Instant::now(), rtt)) {
            AdvertStep::Send(carrier) => queue(connection, carrier)?,
            AdvertStep::Acknowledged(packets) => return Ok(packets),
            AdvertStep::Lost => return Err(AdvertiseError::NotAcknowledged),
            AdvertStep::Wait(until) => tokio::select! {
                error = connection.closed() => return Err(error.into()),
                _ = timeout_at(until.into(), wakes.changed()) => {}
            },
        }
    }
}

fn queue(connection: &quinn::Connection, carrier: bytes::Bytes) -> Result<(), AdvertiseError> {
    // In a full buffer it takes the place of the application's oldest datagram, which may be lost at any time.
    match connection.send_datagram(carrier) {
        Ok(()) => Ok(()),
        Err(SendDatagramError::ConnectionLost(error)) => Err(error.into()),
        Err(
            SendDatagramError::Disabled
            | SendDatagramError::UnsupportedByPeer
            | SendDatagramError::TooLarge,
        ) => Err(AdvertiseError::DatagramsOff),
    }
}

struct EndOnDrop<'a> {
    handle: &'a Handle<ServerHook>,
    sequence: VarInt,
}

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.handle.with_hook(|hook| hook.end(self.sequence));
    }
}

/// An advertisement that the client has acknowledged.
#[derive(Debug)]
pub struct Advertised {
    sequence: VarInt,
    packets: u32,
    acknowledged_after: Duration,
    handle: Handle<ServerHook>,
    connection: quinn::Connection,
}

impl Advertised {
    /// Sequence number of the frame: that of the connection ID in it.
    pub fn sequence(&self) -> u64 {
        self.sequence.into_inner()
    }

    /// Packets that carried the frame; more than one when some were lost.
    pub fn packets(&self) -> u32 {
        self.packets
    }

    /// Time from the call to the acknowledgement.
    pub fn acknowledged_after(&self) -> Duration {
        self.acknowledged_after
    }

    /// Resolves when the client has moved, or has given the connection ID back without moving.
    ///
    /// A client that does neither leaves this open until the connection ends or another address is advertised.
    ///
    /// # Errors
    ///
    /// The connection ended first.
    pub async fn outcome(&self) -> Result<Outcome, ConnectionError> {
        let mut wakes = self.handle.wakes();
        loop {
            wakes.mark_unchanged();
            if let Some(outcome) = self.handle.with_hook(|hook| hook.outcome(self.sequence)) {
                return Ok(outcome);
            }
            tokio::select! {
                error = self.connection.closed() => return Err(error),
                _ = wakes.changed() => {}
            }
        }
    }
}
