//! One service: its certificates, its ticket keys, its clock, and configurations for its nodes and clients.

use std::sync::Arc;
use std::time::Duration as StdDuration;

use migration_token::MemoryNonceStore;
use rcgen::SignatureAlgorithm;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ServerConfig};
use rustls_migration::client::{MigrationClient, MigrationClientBuilder, NoWider};
use rustls_migration::server::{MigrationServer, MigrationServerBuilder};
use rustls_migration::tokio::MigrationConnector;
use rustls_migration::{Clock as _, TicketKeys, provider};

use crate::{Pki, Spoken, TestClock};

/// The name in the service's certificates.
pub const NAME: &str = "service.example";

pub struct Service {
    pub pki: Pki,
    pub keys: TicketKeys,
    pub clock: TestClock,
    /// The provider of all configurations; wrapped.
    pub provider: Arc<CryptoProvider>,
    /// What its nodes and clients speak; decided by the program unless changed.
    pub spoken: Spoken,
    /// How its certificates sign.
    algorithm: &'static SignatureAlgorithm,
}

impl Default for Service {
    fn default() -> Self {
        Self::with_provider(rustls::crypto::ring::default_provider())
    }
}

impl Service {
    /// A service whose peers use `base`, wrapped.
    pub fn with_provider(base: CryptoProvider) -> Self {
        let provider = Arc::new(provider::wrap(base));
        Self {
            pki: Pki::new(),
            keys: TicketKeys::generate(provider.secure_random).unwrap(),
            clock: TestClock::new(),
            spoken: Spoken::here(),
            provider,
            algorithm: &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }

    /// A service that speaks this, whatever the program is named.
    pub fn speaking(spoken: Spoken) -> Self {
        Self {
            spoken,
            ..Self::default()
        }
    }

    /// With certificates whose signatures all have the same length.
    #[must_use]
    pub fn with_ed25519(mut self) -> Self {
        self.algorithm = &rcgen::PKCS_ED25519;
        self
    }

    /// A server's configuration, with early data and the service's certificate.
    pub fn server_config(&self) -> ServerConfig {
        self.server_config_with(Arc::clone(&self.provider))
    }

    pub fn server_config_with(&self, provider: Arc<CryptoProvider>) -> ServerConfig {
        let (certificate, key) = self.pki.issue(NAME, self.algorithm);
        let mut config = ServerConfig::builder_with_details(provider, Arc::new(self.clock.clone()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.max_early_data_size = 16_384;
        config
    }

    /// As [`server_config`](Self::server_config), but asks every client for a certificate of the service's authority.
    pub fn server_config_for_members(&self) -> ServerConfig {
        let roots = Arc::new(self.pki.roots());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&self.provider));
        let (certificate, key) = self.pki.issue(NAME, self.algorithm);
        let clock = Arc::new(self.clock.clone());
        let mut config = ServerConfig::builder_with_details(Arc::clone(&self.provider), clock)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.max_early_data_size = 16_384;
        config
    }

    pub fn client_config(&self) -> ClientConfig {
        self.client_config_with(Arc::clone(&self.provider))
    }

    pub fn client_config_with(&self, provider: Arc<CryptoProvider>) -> ClientConfig {
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(self.clock.clone()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.pki.roots())
            .with_no_client_auth();
        config.enable_early_data = true;
        config
    }

    /// An empty store in memory, which remembers from now on.
    pub fn store(&self, capacity: usize) -> MemoryNonceStore {
        let clock = Arc::new(self.clock.clone());
        MemoryNonceStore::with_monotonic(capacity, self.clock.now(), clock)
    }

    /// A node's settings over `config`: a store of its own, and no difference of clocks.
    pub fn node_with(&self, config: ServerConfig) -> MigrationServerBuilder {
        self.node_of(config, "files", self.keys.clone())
    }

    /// As [`node_with`](Self::node_with), for another service or with other ticket keys.
    pub fn node_of(
        &self,
        config: ServerConfig,
        name: &str,
        keys: TicketKeys,
    ) -> MigrationServerBuilder {
        MigrationServer::builder(config, name, keys)
            .nonce_store(Arc::new(self.store(10_000)))
            .clock_skew(StdDuration::ZERO)
            .dialects(self.spoken.of_node())
            .clock(self.clock.clone())
    }

    pub fn node(&self) -> MigrationServerBuilder {
        self.node_with(self.server_config())
    }

    /// A client's settings over `config`. Nodes listen at ports that are free, so any port will do.
    pub fn client_with(&self, config: ClientConfig) -> MigrationClientBuilder {
        MigrationClient::builder(config)
            .target_policy(NoWider::any_port())
            .dialects(self.spoken.of_client())
            .clock(self.clock.clone())
    }

    /// As [`connector`](Self::connector), for clients that in draft -03 too go on at a target that makes a full handshake.
    pub fn lenient_connector(&self) -> MigrationConnector {
        let client = self.client_with(self.client_config());
        client.allow_full_handshakes().build().unwrap().into()
    }

    pub fn connector(&self) -> MigrationConnector {
        self.client_with(self.client_config())
            .build()
            .unwrap()
            .into()
    }
}

/// The service's name as rustls wants it.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}
