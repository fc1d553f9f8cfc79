//! The server's `quinn_proto::crypto::ServerConfig`.
//!
//! Never announces anything: enable_server_migration is the client's parameter (draft-saa-ali-quic).

use std::sync::Arc;

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::crypto::{self, Keys, UnsupportedVersion};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side};
use rustls::quic::{Connection, ServerConnection, Suite, Version};

use super::{Handles, Session, encoded, initial_suite, version};
use crate::error::ConfigError;
use crate::hooks::server::ServerHook;
use crate::socket::Homes;
use crate::stats::ServerCounters;
use crate::wire::{
    Codepoints, INITIAL_SOURCE_CONNECTION_ID, LONGEST_CONNECTION_ID, find_parameter,
};

pub(crate) struct ServerCrypto {
    tls: Arc<rustls::ServerConfig>,
    stock: Arc<QuicServerConfig>,
    initial: Suite,
    codepoints: Codepoints,
    handles: Handles<ServerHook>,
    homes: Arc<Homes>,
    counters: Arc<ServerCounters>,
}

impl ServerCrypto {
    pub(crate) fn new(
        tls: Arc<rustls::ServerConfig>,
        codepoints: Codepoints,
        handles: Handles<ServerHook>,
        homes: Arc<Homes>,
        counters: Arc<ServerCounters>,
    ) -> Result<Self, ConfigError> {
        let stock = Arc::new(QuicServerConfig::try_from(Arc::clone(&tls))?);
        let initial = initial_suite(tls.crypto_provider()).ok_or(ConfigError::NoInitialSuite)?;
        // What rustls refuses it refuses here, not when the first client comes.
        ServerConnection::new(Arc::clone(&tls), Version::V1, Vec::new())?;
        Ok(Self {
            tls,
            stock,
            initial,
            codepoints,
            handles,
            homes,
            counters,
        })
    }
}

impl crypto::ServerConfig for ServerCrypto {
    fn initial_keys(
        &self,
        version: u32,
        destination: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        crypto::ServerConfig::initial_keys(&*self.stock, version, destination)
    }

    fn retry_tag(&self, version: u32, original: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        crypto::ServerConfig::retry_tag(&*self.stock, version, original, packet)
    }

    fn start_session(
        self: Arc<Self>,
        number: u32,
        parameters: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        // quinn has asked `initial_keys` about the version already.
        let version = version(number).unwrap_or(Version::V1);
        let list = encoded(parameters);
        let id = find_parameter(&list, INITIAL_SOURCE_CONNECTION_ID)
            .ok()
            .flatten();
        let id = id.filter(|id| id.len() <= LONGEST_CONNECTION_ID);
        let id = ConnectionId::new(id.unwrap_or_default());
        let hook = ServerHook::new(self.codepoints, Arc::clone(&self.counters));
        let hook = hook.with_ids(!id.is_empty());
        let resident = self.homes.session(id);
        let tls = ServerConnection::new(Arc::clone(&self.tls), version, list).inspect_err(
            |error| tracing::error!(%error, "rustls refused the server configuration"),
        );
        Box::new(Session {
            tls: tls.ok().map(Connection::Server),
            side: Side::Server,
            version,
            initial: self.initial,
            next: None,
            handshake_data_ready: false,
            handle: self.handles.create(hook, None),
            // Servers receive no Retry packets.
            retry: Box::new(|_, _, _| false),
            _resident: Some(resident),
        })
    }
}
