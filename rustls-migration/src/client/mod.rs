//! The client's side: collecting offers, deciding which to follow, and the connection around it.
//!
//! Nothing here does I/O of its own; [`crate::tokio`] does.

mod checkpoint;
mod connection;
mod first_data;
mod hook;
mod offer;
mod policy;
mod tls12_client_auth;
mod update;

use std::fmt;
use std::sync::Arc;

use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, EchStatus, Resumption, Tls12Resumption,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection as RustlsConnection};

pub use self::checkpoint::Checkpoint;
pub use self::connection::ClientConnection;
pub use self::offer::{InvalidOfferError, MarkedTicket, Offer};
pub use self::policy::{LoopGuard, MigrationLimit, NoWider, TargetPolicy, TargetRefused};
pub use self::update::{ConnectError, Update};
use crate::clock::{Clock, SystemClock};
use crate::codepoints::Codepoints;
use crate::dialect::{Dialect, Dialects};
use crate::error::ConfigError;
use crate::provider::is_wrapped;
use crate::provider::user_code::UserCode;

/// How many sessions are kept for ordinary resumption unless a store is given; rustls' own default.
const DEFAULT_SESSIONS: usize = 256;

/// A client's migration settings, over a [`ClientConfig`].
///
/// One serves any number of connections. A session resumes only at a server that is dialled with the same one,
/// because rustls binds sessions to their configuration's certificate verifier.
pub struct MigrationClient {
    config: Arc<ClientConfig>,
    policy: Arc<dyn TargetPolicy>,
    limit: MigrationLimit,
    clock: Arc<dyn Clock>,
    codepoints: Codepoints,
    dialects: Dialects,
    full_handshakes: bool,
}

impl MigrationClient {
    /// Starts from a configuration that was built with a [wrapped provider](crate::provider::wrap).
    ///
    /// Set `enable_early_data` in it to migrate with 0-RTT.
    pub fn builder(config: ClientConfig) -> MigrationClientBuilder {
        MigrationClientBuilder {
            config,
            session_store: None,
            tls12_resumption: Tls12Resumption::SessionIdOrTickets,
            policy: Arc::new(NoWider::same_port()),
            limit: MigrationLimit::default(),
            clock: Arc::new(SystemClock),
            codepoints: Codepoints::default(),
            dialects: Dialects::default(),
            full_handshakes: false,
        }
    }

    /// How often a stream may migrate.
    pub fn limit(&self) -> MigrationLimit {
        self.limit
    }

    /// Which targets are followed.
    #[cfg(feature = "tokio")]
    pub(crate) fn policy(&self) -> &dyn TargetPolicy {
        &*self.policy
    }

    /// The client's clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
}

impl fmt::Debug for MigrationClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigrationClient")
            .field("policy", &self.policy)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// Builds a [`MigrationClient`].
pub struct MigrationClientBuilder {
    config: ClientConfig,
    session_store: Option<Arc<dyn ClientSessionStore>>,
    tls12_resumption: Tls12Resumption,
    policy: Arc<dyn TargetPolicy>,
    limit: MigrationLimit,
    clock: Arc<dyn Clock>,
    codepoints: Codepoints,
    dialects: Dialects,
    full_handshakes: bool,
}

impl MigrationClientBuilder {
    /// Where ordinary sessions are kept; by default 256 of them in memory.
    ///
    /// The configuration's own `resumption` is replaced by this store and by
    /// [`tls12_resumption`](Self::tls12_resumption): rustls does not give out what was set in it.
    #[must_use]
    pub fn session_store(mut self, store: Arc<dyn ClientSessionStore>) -> Self {
        self.session_store = Some(store);
        self
    }

    /// How TLS 1.2 sessions are resumed; by default as rustls does by default.
    #[must_use]
    pub fn tls12_resumption(mut self, tls12: Tls12Resumption) -> Self {
        self.tls12_resumption = tls12;
        self
    }

    /// Which targets are followed; by default [`NoWider::same_port`]. A service whose nodes listen at different ports
    /// wants [`NoWider::any_port`].
    #[must_use]
    pub fn target_policy(mut self, policy: impl TargetPolicy + 'static) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// How often a stream may migrate.
    #[must_use]
    pub fn limit(mut self, limit: MigrationLimit) -> Self {
        self.limit = limit;
        self
    }

    /// Another clock than the system's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Other code points than the defaults.
    #[must_use]
    pub fn codepoints(mut self, codepoints: Codepoints) -> Self {
        self.codepoints = codepoints;
        self
    }

    /// The dialects that the client offers; by default [`Dialect::Draft01`] alone. The server chooses. None at all changes
    /// nothing.
    #[must_use]
    pub fn dialects(mut self, dialects: impl IntoIterator<Item = Dialect>) -> Self {
        self.dialects = Dialects::new(dialects).unwrap_or(self.dialects);
        self
    }

    /// Lets a client that follows an offer of [`Dialect::Draft03`] go on at a target that does not resume the session and makes a
    /// full handshake (draft -03 section 6.3.4), as it does in the other dialect. Unless this is called, it sends such a target
    /// nothing and leaves it (section 10.3).
    #[must_use]
    pub fn allow_full_handshakes(mut self) -> Self {
        self.full_handshakes = true;
        self
    }

    /// Checks that the method can carry the configuration.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names what it cannot carry.
    pub fn build(self) -> Result<MigrationClient, ConfigError> {
        let mut config = self.config;
        if !is_wrapped(config.crypto_provider()) {
            return Err(ConfigError::ProviderNotWrapped);
        }
        if config.enable_secret_extraction {
            return Err(ConfigError::SecretExtraction);
        }
        let store = self
            .session_store
            .unwrap_or_else(|| Arc::new(ClientSessionMemoryCache::new(DEFAULT_SESSIONS)));
        let store = Arc::new(UserCode(store));
        config.resumption = Resumption::store(Arc::new(hook::HookedStore(store)))
            .tls12_resumption(self.tls12_resumption);
        let resolver = Arc::new(UserCode(config.client_auth_cert_resolver));
        config.client_auth_cert_resolver = Arc::new(tls12_client_auth::HookedResolver(resolver));
        config.key_log = Arc::new(UserCode(config.key_log));
        let time = Arc::new(UserCode(config.time_provider));
        config.time_provider = Arc::new(hook::HookedTime(time));
        refuse_ech(&config)?;
        Ok(MigrationClient {
            config: Arc::new(config),
            policy: self.policy,
            limit: self.limit,
            clock: self.clock,
            codepoints: self.codepoints,
            dialects: self.dialects,
            full_handshakes: self.full_handshakes,
        })
    }
}

/// rustls does not tell whether a configuration has Encrypted ClientHello, but a connection does. The session store is
/// not asked for it.
fn refuse_ech(config: &ClientConfig) -> Result<(), ConfigError> {
    let mut config = config.clone();
    config.resumption = Resumption::disabled();
    let name = ServerName::try_from("probe.invalid")
        .map_err(|error| ConfigError::Tls(rustls::Error::General(error.to_string())))?;
    let probe = RustlsConnection::new(Arc::new(config), name).map_err(ConfigError::Tls)?;
    match probe.ech_status() {
        EchStatus::NotOffered => Ok(()),
        EchStatus::Grease | EchStatus::Offered | EchStatus::Accepted | EchStatus::Rejected => {
            Err(ConfigError::EncryptedClientHello)
        }
    }
}

impl fmt::Debug for MigrationClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigrationClientBuilder")
            .field("policy", &self.policy)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
