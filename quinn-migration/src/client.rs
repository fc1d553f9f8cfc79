//! The client side of the crate: an endpoint whose connections can follow their server.
//!
//! Never follows anything by itself: a [`Migrator`] with a [`Policy`] does.

use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use quinn::{EndpointConfig, Runtime, TokioRuntime};

use crate::error::{AttachError, BindError};
use crate::hooks::client::ClientHook;
use crate::migrator::Migrator;
use crate::policy::Policy;
use crate::session::{ClientCrypto, Handles};
use crate::socket::{ClientSocket, Router};
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
}

impl MigrationClient {
    /// Binds an endpoint. [`MigrationClient::client_config`] is its default client configuration; to change it, pass a
    /// changed copy to `Endpoint::set_default_client_config` on a clone of the endpoint, or to
    /// `Endpoint::connect_with`. `datagram_receive_buffer_size` must stay on.
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
        let handles = Handles::new();
        let router = Arc::new(Router::default());
        let crypto = Arc::new(ClientCrypto::new(
            tls,
            codepoints,
            handles.clone(),
            Arc::clone(&router),
        )?);
        let runtime = Arc::new(TokioRuntime);
        let first = runtime.wrap_udp_socket(socket)?;
        let socket = Arc::new(ClientSocket::new(first, Arc::clone(&router)));
        let mut endpoint =
            quinn::Endpoint::new_with_abstract_socket(endpoint, None, socket, runtime)?;
        endpoint.set_default_client_config(quinn::ClientConfig::new(crypto.clone()));
        Ok(Self {
            crypto,
            handles,
            router,
            endpoint,
        })
    }

    /// The endpoint, for making connections.
    pub fn endpoint(&self) -> &quinn::Endpoint {
        &self.endpoint
    }

    /// A quinn configuration with this client's crypto and quinn's defaults.
    pub fn client_config(&self) -> quinn::ClientConfig {
        quinn::ClientConfig::new(self.crypto.clone())
    }

    /// Moves the endpoint to another local socket, for example after the network changed. Connections that have
    /// moved stay with the server address that they are on.
    ///
    /// Use this instead of `Endpoint::rebind`, which sends every connection back to its first server address.
    ///
    /// # Errors
    ///
    /// The socket cannot be used; the old one stays in use.
    pub fn rebind(&self, socket: UdpSocket) -> io::Result<()> {
        let first = TokioRuntime.wrap_udp_socket(socket)?;
        self.endpoint
            .rebind_abstract(Arc::new(ClientSocket::new(first, Arc::clone(&self.router))))
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
        Ok(Migrator::start(handle, connection.clone()))
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
