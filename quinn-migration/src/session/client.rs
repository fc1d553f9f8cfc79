//! The client's `quinn_proto::crypto::ClientConfig`: announces enable_server_migration in every handshake, unless it is
//! told not to (draft-saa-ali-quic, "Client Behavior").
//!
//! Never changes the TLS configuration that it was given.

use std::sync::Arc;

use quinn_proto::crypto;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side};
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Connection, Suite, Version};

use super::{Handles, RetryCheck, Session, encoded, initial_suite, version};
use crate::error::ConfigError;
use crate::hooks::client::ClientHook;
use crate::socket::Router;
use crate::wire::{Codepoints, append_parameter};

pub(crate) struct ClientCrypto {
    tls: Arc<rustls::ClientConfig>,
    stock: Arc<QuicClientConfig>,
    initial: Suite,
    codepoints: Codepoints,
    /// Whether the parameter is announced.
    offers: bool,
    handles: Handles<ClientHook>,
    router: Arc<Router>,
}

impl ClientCrypto {
    pub(crate) fn new(
        tls: Arc<rustls::ClientConfig>,
        codepoints: Codepoints,
        offers: bool,
        handles: Handles<ClientHook>,
        router: Arc<Router>,
    ) -> Result<Self, ConfigError> {
        let stock = Arc::new(QuicClientConfig::try_from(Arc::clone(&tls))?);
        let initial = initial_suite(tls.crypto_provider()).ok_or(ConfigError::NoInitialSuite)?;
        // What rustls refuses it refuses here, not in the middle of a connection attempt.
        let name = ServerName::try_from(RETRY_NAME).map_err(|_| ConfigError::NoInitialSuite)?;
        ClientConnection::new(Arc::clone(&tls), Version::V1, name, Vec::new())?;
        Ok(Self {
            tls,
            stock,
            initial,
            codepoints,
            offers,
            handles,
            router,
        })
    }

    /// The key for Retry packets is quinn's; only a stock session can use it.
    fn retry_check(&self, version: u32, parameters: &TransportParameters) -> RetryCheck {
        let (stock, parameters) = (Arc::clone(&self.stock), *parameters);
        Box::new(
            move |original: &ConnectionId, header: &[u8], payload: &[u8]| {
                crypto::ClientConfig::start_session(
                    Arc::clone(&stock),
                    version,
                    RETRY_NAME,
                    &parameters,
                )
                .is_ok_and(|session| session.is_valid_retry(original, header, payload))
            },
        )
    }
}

/// A name that no server has (RFC 6761), so that the throw-away session takes no one's resumption ticket.
const RETRY_NAME: &str = "retry.invalid";

impl crypto::ClientConfig for ClientCrypto {
    fn start_session(
        self: Arc<Self>,
        number: u32,
        server_name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        let version = version(number).ok_or(ConnectError::UnsupportedVersion)?;
        let name = ServerName::try_from(server_name)
            .map_err(|_| ConnectError::InvalidServerName(server_name.into()))?
            .to_owned();
        let mut list = encoded(parameters);
        if self.offers {
            append_parameter(&mut list, self.codepoints.parameter(), &[]);
        }
        let tls = ClientConnection::new(Arc::clone(&self.tls), version, name, list).inspect_err(
            |error| tracing::error!(%error, "rustls refused the client configuration"),
        );
        Ok(Box::new(Session {
            tls: tls.ok().map(Connection::Client),
            side: Side::Client,
            version,
            initial: self.initial,
            next: None,
            handshake_data_ready: false,
            handle: self
                .handles
                .create(ClientHook::new(self.codepoints), Some(self.router.routes())),
            retry: self.retry_check(number, parameters),
            _resident: None,
        }))
    }
}
