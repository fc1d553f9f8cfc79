//! The client side of the crate: an endpoint whose connections can follow their server.
//!
//! Never follows anything by itself: a [`Migrator`] with a [`Policy`] does.

use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use quinn::{EndpointConfig, Runtime, TokioRuntime};

use crate::congestion::PerPathCongestion;
use crate::error::{AttachError, BindError};
use crate::hooks::client::ClientHook;
use crate::migrator::Migrator;
use crate::policy::Policy;
use crate::session::{ClientCrypto, Handles};
use crate::socket::{ClientSocket, NewPath, PathSockets, Router};
use crate::stats::{ClientCounters, ClientStats};
use crate::wire::Codepoints;

/// A quinn endpoint for a client that can follow its servers to other addresses.
///
/// Works with `quinn::Connection` as it is. Must be used inside of a tokio runtime.
///
/// ```no_run
/// # async fn example(tls: std::sync::Arc<rustls::ClientConfig>) -> Result<(), Box<dyn std::error::Error>> {
/// use quinn_migration::{Codepoints, MigrationClient, Policy};
/// use std::net::UdpSocket;
///
/// let socket = UdpSocket::bind("0.0.0.0:0")?;
/// let client = MigrationClient::bind(tls, Codepoints::default(), Default::default(), socket)?;
/// let connection = client.endpoint().connect("192.0.2.1:443".parse()?, "example.org")?.await?;
/// let mut migrator = client.attach(&connection, Policy::default())?;
/// while let Some(event) = migrator.next().await {
///     println!("{event:?}");
/// }
/// # Ok(())
/// # }
/// ```
pub struct MigrationClient {
    crypto: Arc<ClientCrypto>,
    handles: Handles<ClientHook>,
    router: Arc<Router>,
    endpoint: quinn::Endpoint,
    counters: Arc<ClientCounters>,
}

/// Settings of a [`MigrationClient`]; see [`MigrationClient::builder`].
pub struct ClientBuilder {
    tls: Arc<rustls::ClientConfig>,
    socket: UdpSocket,
    codepoints: Codepoints,
    endpoint: EndpointConfig,
    runtime: Arc<dyn Runtime>,
    path_sockets: PathSockets,
    offers: bool,
}

impl ClientBuilder {
    /// Whether to tell servers that this client understands advertisements (enable_server_migration). Default `true`. With
    /// `false` the handshake is that of stock quinn, and no server may move the client.
    pub fn offer(mut self, offer: bool) -> Self {
        self.offers = offer;
        self
    }

    /// Code points of the extension. Default [`Codepoints::default`]; the server must use the same.
    pub fn codepoints(mut self, codepoints: Codepoints) -> Self {
        self.codepoints = codepoints;
        self
    }

    /// quinn's settings for the endpoint. Default [`EndpointConfig::default`].
    pub fn endpoint_config(mut self, endpoint: EndpointConfig) -> Self {
        self.endpoint = endpoint;
        self
    }

    /// Makes the sockets for new paths. They must be bound, to a port of their own (RFC 9000 section 9.5); an error leaves
    /// the connection where it is ([`Failure::Socket`](crate::Failure::Socket)).
    ///
    /// Default: a socket like the endpoint's own, with its local address (any address when it has none), its send and
    /// receive buffers, and on Linux its device and mark. A server address of another family than a specific local address
    /// is an error.
    pub fn path_sockets(
        mut self,
        open: impl Fn(&NewPath) -> io::Result<UdpSocket> + Send + Sync + 'static,
    ) -> Self {
        self.path_sockets = PathSockets::Application(Box::new(open));
        self
    }

    /// What wraps sockets and runs quinn's tasks. Default [`TokioRuntime`]; the migrator's own task needs tokio.
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtime = runtime;
        self
    }

    /// Binds the endpoint. [`MigrationClient::client_config`] is its default client configuration; to change it, pass a
    /// changed copy to `Endpoint::set_default_client_config` on a clone of the endpoint, or to
    /// `Endpoint::connect_with`. `datagram_receive_buffer_size` must stay on.
    ///
    /// # Errors
    ///
    /// The TLS configuration cannot be used, or the socket cannot.
    pub fn bind(self) -> Result<MigrationClient, BindError> {
        let handles = Handles::new();
        let router = Router::new(&self.socket, self.path_sockets, Arc::clone(&self.runtime))?;
        let router = Arc::new(router);
        let crypto = Arc::new(ClientCrypto::new(
            self.tls,
            self.codepoints,
            self.offers,
            handles.clone(),
            Arc::clone(&router),
        )?);
        let socket = Arc::new(ClientSocket::new(Arc::clone(&router))?);
        let mut endpoint = quinn::Endpoint::new_with_abstract_socket(
            self.endpoint,
            None,
            socket,
            Arc::clone(&self.runtime),
        )?;
        let client = MigrationClient {
            crypto,
            handles,
            router,
            endpoint: endpoint.clone(),
            counters: Arc::default(),
        };
        endpoint.set_default_client_config(client.client_config());
        Ok(MigrationClient { endpoint, ..client })
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl MigrationClient {
    /// Binds an endpoint on the tokio runtime; [`MigrationClient::builder`] has more settings.
    ///
    /// # Errors
    ///
    /// The TLS configuration cannot be used, or the socket cannot.
    pub fn bind(
        tls: Arc<rustls::ClientConfig>,
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
    pub fn builder(tls: Arc<rustls::ClientConfig>, socket: UdpSocket) -> ClientBuilder {
        ClientBuilder {
            tls,
            socket,
            codepoints: Codepoints::default(),
            endpoint: EndpointConfig::default(),
            runtime: Arc::new(TokioRuntime),
            path_sockets: PathSockets::default(),
            offers: true,
        }
    }

    /// The endpoint, for making connections.
    pub fn endpoint(&self) -> &quinn::Endpoint {
        &self.endpoint
    }

    /// A quinn configuration with this client's crypto, [`PerPathCongestion`] and quinn's defaults.
    pub fn client_config(&self) -> quinn::ClientConfig {
        let mut transport = quinn::TransportConfig::default();
        transport.congestion_controller_factory(Arc::new(PerPathCongestion::default()));
        let mut config = quinn::ClientConfig::new(self.crypto.clone());
        config.transport_config(Arc::new(transport));
        config
    }

    /// Moves the endpoint to another local socket, for example after the network changed. Connections that have
    /// moved stay with the server address that they are on, and get new sockets too. What is under way to the old
    /// sockets still arrives for 3 s.
    ///
    /// Use this instead of `Endpoint::rebind`, which sends every connection back to its first server address.
    ///
    /// # Errors
    ///
    /// The socket cannot be used; the old one stays in use.
    pub fn rebind(&self, socket: UdpSocket) -> io::Result<()> {
        self.router.rebind(&socket)?;
        self.endpoint
            .rebind_abstract(Arc::new(ClientSocket::new(Arc::clone(&self.router))?))
    }

    /// Lets a connection follow its server from now on, as far as `policy` allows.
    ///
    /// The migrator holds a clone of the connection, so the connection stays open while the migrator exists.
    ///
    /// # Errors
    ///
    /// The connection is not of this client, or has a migrator.
    pub fn attach(
        &self,
        connection: &quinn::Connection,
        policy: Policy,
    ) -> Result<Migrator, AttachError> {
        let handle = self
            .handles
            .find(connection)
            .ok_or(AttachError::UnknownConnection)?;
        let server = connection.remote_address();
        if !handle.with_hook(|hook| hook.attach(policy, server)) {
            return Err(AttachError::Attached);
        }
        let counters = Arc::clone(&self.counters);
        Ok(Migrator::start(handle, connection.clone(), counters))
    }

    /// What has happened since the start, in numbers.
    pub fn stats(&self) -> ClientStats {
        ClientStats {
            connections_now: self.tracked_connections(),
            sockets_now: self.open_sockets(),
            ..self.counters.stats()
        }
    }

    /// Sockets open: the endpoint's own, at most two for every connection that has moved, and one for each address
    /// under validation.
    pub fn open_sockets(&self) -> usize {
        self.router.open_sockets()
    }

    /// Connection IDs that have a route of their own.
    pub fn routes(&self) -> usize {
        self.router.route_count()
    }

    /// Connections whose state this client holds.
    pub fn tracked_connections(&self) -> usize {
        self.handles.len()
    }
}

impl fmt::Debug for MigrationClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigrationClient")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
