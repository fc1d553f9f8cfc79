//! Settings of a server.
//!
//! Never changes the TLS configuration that it was given.

use std::fmt;
use std::net::UdpSocket;
use std::sync::Arc;

use quinn::{EndpointConfig, Runtime};

use super::MigrationServer;
use super::core::Core;
use crate::error::BindError;
use crate::session::{Handles, ServerCrypto};
use crate::socket::{Homes, Opener, ServerSocket};
use crate::stats::ServerCounters;
use crate::wire::Codepoints;

/// Settings of a [`MigrationServer`]; see [`MigrationServer::builder`].
pub struct ServerBuilder {
    tls: Arc<rustls::ServerConfig>,
    socket: UdpSocket,
    codepoints: Codepoints,
    endpoint: EndpointConfig,
    opener: Opener,
}

impl ServerBuilder {
    pub(super) fn new(tls: Arc<rustls::ServerConfig>, socket: UdpSocket) -> Self {
        Self {
            tls,
            socket,
            codepoints: Codepoints::default(),
            endpoint: EndpointConfig::default(),
            opener: Opener::default(),
        }
    }

    /// Code points of the extension. Default [`Codepoints::default`]; the clients must use the same.
    pub fn codepoints(mut self, codepoints: Codepoints) -> Self {
        self.codepoints = codepoints;
        self
    }

    /// quinn's settings for the endpoint. Default [`EndpointConfig::default`].
    pub fn endpoint_config(mut self, endpoint: EndpointConfig) -> Self {
        self.endpoint = endpoint;
        self
    }

    /// What wraps sockets and runs quinn's tasks. Default [`TokioRuntime`](quinn::TokioRuntime), of whose sockets a busy one does
    /// not keep others waiting; [`MigrationServer::advertise`] needs tokio.
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.opener = Opener::Runtime(runtime);
        self
    }

    /// Binds the endpoint. Its quinn configuration is [`MigrationServer::server_config`]; to change it, pass a changed
    /// copy to `Endpoint::set_server_config`. `datagram_receive_buffer_size` and `migration` must stay on.
    ///
    /// # Errors
    ///
    /// The TLS configuration cannot be used, or the socket cannot.
    pub fn bind(self) -> Result<MigrationServer, BindError> {
        let handles = Handles::new();
        let homes = Arc::new(Homes::default());
        let counters = Arc::new(ServerCounters::default());
        let crypto = Arc::new(ServerCrypto::new(
            self.tls,
            self.codepoints,
            handles.clone(),
            Arc::clone(&homes),
            Arc::clone(&counters),
        )?);
        let runtime = self.opener.runtime();
        let socket = Arc::new(ServerSocket::new(self.socket, self.opener, homes)?);
        let config = quinn::ServerConfig::with_crypto(crypto.clone());
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            self.endpoint,
            Some(config),
            socket.clone(),
            runtime,
        )?;
        Ok(MigrationServer {
            crypto,
            core: Arc::new(Core::new(handles, socket, counters)),
            endpoint,
        })
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}
