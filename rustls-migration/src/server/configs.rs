//! The configurations that a connection may get, by its hello: the user's, with early data or without.
//!
//! They differ from the user's in nothing that a peer could see.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::hash::{Hash, HashAlgorithm};
use rustls::server::StoresServerSessions;
use rustls::{ServerConfig, SupportedCipherSuite};

use super::hook::Wanted;
use super::issue::MAX_EARLY_DATA_SIZE;
use super::storage::HookedStorage;
use crate::provider::user_code::UserCode;
use crate::wire::hello::TicketRequest;

/// The configurations that a connection may get, by its hello.
pub(super) struct ConfigSet {
    /// For hellos without a token.
    pub(super) ordinary: Arc<ServerConfig>,
    /// For an admitted session with early data.
    pub(super) early_data: Arc<ServerConfig>,
    /// For every other hello with a token. Refused early data is skipped.
    pub(super) no_early_data: Arc<ServerConfig>,
    /// Where the application wants sessions of TLS 1.2 to be kept; wrapped.
    pub(super) storage: Arc<dyn StoresServerSessions>,
    /// Whether it wants any to be kept.
    pub(super) keeps_sessions: bool,
    /// The provider's SHA-256.
    pub(super) sha256: Option<&'static dyn Hash>,
}

impl ConfigSet {
    pub(super) fn new(mut config: ServerConfig) -> Self {
        let storage: Arc<dyn StoresServerSessions> = Arc::new(UserCode(config.session_storage));
        config.cert_resolver = Arc::new(UserCode(config.cert_resolver));
        config.key_log = Arc::new(UserCode(config.key_log));
        config.time_provider = Arc::new(UserCode(config.time_provider));
        let keeps_sessions = storage.can_cache();
        config.session_storage = Arc::new(HookedStorage(Arc::clone(&storage)));
        let mut no_early_data = config.clone();
        no_early_data.max_early_data_size = 0;
        let mut early_data = config.clone();
        early_data.send_half_rtt_data = true;
        // What a ticket offers is what the TLS library enforces.
        early_data.max_early_data_size = config.max_early_data_size.min(MAX_EARLY_DATA_SIZE);
        let suites = config.crypto_provider().cipher_suites.iter();
        let sha256 = suites
            .filter_map(SupportedCipherSuite::tls13)
            .map(|suite| suite.common.hash_provider)
            .find(|hash| hash.algorithm() == HashAlgorithm::SHA256);
        Self {
            ordinary: Arc::new(config),
            early_data: Arc::new(early_data),
            no_early_data: Arc::new(no_early_data),
            storage,
            keeps_sessions,
            sha256,
        }
    }

    /// `config` for a client that supports migration, and how many of the tickets it gets. Offers are made from one of
    /// rustls' tickets, so there must be one, also when none is wanted by the application or by the client (RFC 9149).
    pub(super) fn with_template(
        &self,
        config: &Arc<ServerConfig>,
        wish: Option<TicketRequest>,
    ) -> (Arc<ServerConfig>, Wanted) {
        let most = config.max_tls13_tickets;
        let [full, resumed] = match wish {
            Some(wish) => {
                [wish.new_session, wish.resumption].map(|wish| usize::from(wish).min(most))
            }
            None => [config.send_tls13_tickets; 2],
        };
        if full > 0 && resumed > 0 {
            return (Arc::clone(config), Wanted::All);
        }
        let mut config = ServerConfig::clone(config);
        config.max_tls13_tickets = 0;
        config.send_tls13_tickets = full.max(resumed).max(1);
        (Arc::new(config), Wanted::AtMost { full, resumed })
    }

    pub(super) fn provider(&self) -> &CryptoProvider {
        self.ordinary.crypto_provider()
    }
}

#[cfg(test)]
#[cfg(feature = "ring")]
mod tests {
    use super::*;
    use crate::server::MigrationServer;
    use crate::ticket::TicketKeys;

    #[test]
    fn the_early_data_that_the_tls_library_takes_is_what_tickets_offer() {
        for (configured, offered) in [(0, 0), (1000, 1000), (u32::MAX, 16_384)] {
            let provider = crate::provider::wrap(rustls::crypto::ring::default_provider());
            let keys = TicketKeys::generate(provider.secure_random).unwrap();
            let resolver = rustls::server::ResolvesServerCertUsingSni::new();
            let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(resolver));
            config.max_early_data_size = configured;
            let server = MigrationServer::builder(config, "files", keys).build();
            let server = server.unwrap();
            assert_eq!(server.max_early_data_size(), offered);
            let admitted = &server.configs.early_data;
            assert_eq!(admitted.max_early_data_size, offered);
        }
    }
}
