//! The server's side: issuing tokens, admitting clients that present one, and the connection around it.
//!
//! Nothing here does I/O of its own; [`crate::tokio`] does.

mod admission;
mod configs;
mod connection;
mod default_store;
mod hello_acceptor;
mod hook;
mod issue;
mod limits;
mod offer_error;
#[cfg(feature = "tokio")]
mod readiness;
mod recovery;
mod refused;
mod resumption;
#[cfg(test)]
#[cfg(feature = "ring")]
mod rustls_habits;
mod stats;
mod storage;
mod supersede;
mod template;
mod verdict;

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use migration_token::{MemoryNonceStore, NonceStore, TokenHash};
use rustls::crypto::SecureRandom;
use rustls::pki_types::UnixTime;
use rustls::{ServerConfig, SupportedCipherSuite, Tls13CipherSuite};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

pub use self::admission::Admitted;
use self::configs::ConfigSet;
pub use self::connection::ServerConnection;
pub use self::hello_acceptor::{AcceptError, ExaminedHello, HelloAcceptor};
#[cfg(feature = "tokio")]
pub(crate) use self::issue::MAX_STATE_LEN;
use self::limits::Limits;
pub use self::offer_error::{NotifyError, OfferError};
pub use self::recovery::Positions;
use self::stats::Counters;
pub use self::stats::Stats;
pub use self::verdict::{Arrival, Verdict};
use crate::address::{as_in_token, canonical};
use crate::clock::{Clock, SystemClock};
use crate::codepoints::Codepoints;
use crate::dialect::{Dialect, Dialects};
use crate::error::ConfigError;
use crate::provider::is_wrapped;
use crate::ticket::TicketKeys;

/// What is known of a client when its hello has arrived.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Incoming<'a> {
    /// The client's address, when the acceptor was told. That of an IPv4 client is an IPv4 address on a dual-stack listener
    /// too, here and below.
    pub peer: Option<SocketAddr>,
    /// The address at which the client reached this server, when the acceptor was told.
    pub local: Option<SocketAddr>,
    /// The name that the client asked for.
    pub server_name: Option<&'a str>,
}

type ChooseTarget = dyn Fn(&Incoming<'_>) -> Option<SocketAddr> + Send + Sync;
type NameTarget = dyn Fn(SocketAddr) -> Vec<u8> + Send + Sync;

/// A service's migration settings on one node, over a [`ServerConfig`].
///
/// Clients that do not support migration are served as by the configuration alone.
pub struct MigrationServer {
    configs: ConfigSet,
    service: String,
    ticket_keys: TicketKeys,
    own_addresses: HashSet<SocketAddr>,
    nonce_store: Arc<dyn NonceStore>,
    /// Where checkpoints are spent that are superseded.
    superseded: Option<Arc<dyn NonceStore>>,
    limits: Limits,
    choose_target: Option<Box<ChooseTarget>>,
    token_lifetime: time::Duration,
    session_lifetime: time::Duration,
    clock_skew: time::Duration,
    departure_deadline: Duration,
    clock: Arc<dyn Clock>,
    codepoints: Codepoints,
    dialects: Dialects,
    name_target: Option<Box<NameTarget>>,
    counters: Arc<Counters>,
}

impl MigrationServer {
    /// Starts from a configuration that was built with a [wrapped provider](crate::provider::wrap).
    ///
    /// `service` names the service and its client-authentication policy: nodes with the same name and ticket keys
    /// resume each other's sessions, without asking for client certificates again. Configurations that ask for
    /// different certificates must have different names.
    pub fn builder(
        config: ServerConfig,
        service: impl Into<String>,
        ticket_keys: TicketKeys,
    ) -> MigrationServerBuilder {
        MigrationServerBuilder {
            config,
            service: service.into(),
            ticket_keys,
            own_addresses: HashSet::new(),
            nonce_store: None,
            superseded: None,
            limits: Limits::default(),
            choose_target: None,
            token_lifetime: Duration::from_secs(3600),
            session_lifetime: Duration::from_secs(12 * 3600),
            clock_skew: Duration::from_secs(5),
            departure_deadline: Duration::from_secs(10),
            clock: None,
            codepoints: Codepoints::default(),
            dialects: Dialects::default(),
            name_target: None,
        }
    }

    /// What became of arrivals so far.
    pub fn stats(&self) -> Stats {
        self.counters.snapshot()
    }

    /// The keys that seal this node's offers, to reload and to watch.
    pub fn ticket_keys(&self) -> &TicketKeys {
        &self.ticket_keys
    }

    /// The nonce store, which a service may want to share or to watch.
    pub fn nonce_store(&self) -> &Arc<dyn NonceStore> {
        &self.nonce_store
    }

    /// From when on this node admits tokens: those that were issued at this moment or later, by their issuer's clock. `None`
    /// when the nonce store forgets nothing, and admits them all.
    ///
    /// It is the beginning of the nonce store's memory and the [clock skew](MigrationServerBuilder::clock_skew): the
    /// start of the process, with the memory store. A node that was just started refuses
    /// all tokens as [`Expired`](Verdict::Expired) until then. Most clients land by full handshakes, but a stream
    /// that is handed over to this node then ends with an error, since its state is lost. So a service should
    /// send nobody here, and its health check say that the node is not ready, until its clock has passed this moment, and
    /// the skew once more where the issuers' clocks may be behind.
    pub fn admits_tokens_since(&self) -> Option<OffsetDateTime> {
        let since = self.nonce_store.remembers_since()?;
        Some(since.saturating_add(self.clock_skew))
    }

    /// How long a client that was notified may stay.
    pub fn departure_deadline(&self) -> Duration {
        self.departure_deadline
    }

    pub(crate) fn random(&self) -> &'static dyn SecureRandom {
        self.configs.provider().secure_random
    }

    /// A TLS 1.3 suite with this hash.
    fn suite_of(&self, hash: TokenHash) -> Option<&'static Tls13CipherSuite> {
        self.configs
            .provider()
            .cipher_suites
            .iter()
            .filter_map(SupportedCipherSuite::tls13)
            .find(|suite| suite.common.hash_provider.output_len() == hash.output_len())
    }

    /// SHA-256, by the provider if it has it.
    fn sha256(&self, data: &[u8]) -> [u8; 32] {
        let digest = self.configs.sha256.map(|hash| hash.hash(data));
        let digest = digest.and_then(|digest| digest.as_ref().try_into().ok());
        digest.unwrap_or_else(|| Sha256::digest(data).into())
    }

    /// What a client is told of a target in draft -03.
    fn name_of(&self, target: SocketAddr) -> Vec<u8> {
        let target = canonical(target);
        match &self.name_target {
            Some(name) => name(target),
            None => target.to_string().into_bytes(),
        }
    }

    /// The early data that a marked ticket offers, in bytes.
    fn max_early_data_size(&self) -> u32 {
        self.configs.early_data.max_early_data_size
    }

    /// What time it is to rustls.
    fn tls_time(&self) -> Option<UnixTime> {
        self.configs.ordinary.time_provider.current_time()
    }

    /// A client said nothing for too long.
    #[cfg(feature = "tokio")]
    pub(crate) fn was_silent(&self) {
        self.counters.silent();
    }

    /// A client did not complete its handshake in time.
    #[cfg(feature = "tokio")]
    pub(crate) fn handshake_timed_out(&self, peer: Option<SocketAddr>) {
        self.counters.timed_out(peer.map(as_in_token));
    }
}

impl fmt::Debug for MigrationServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigrationServer")
            .field("service", &self.service)
            .field("own_addresses", &self.own_addresses)
            .field("nonce_store", &self.nonce_store)
            .finish_non_exhaustive()
    }
}

/// Builds a [`MigrationServer`].
///
/// Early data is on when `max_early_data_size` of the configuration is not 0.
///
/// # Limits
///
/// | limit | default | past it |
/// |---|---|---|
/// | time until a handshake begins, [`hello_timeout`](Self::hello_timeout) | 30 s | the connection is dropped: `TimedOut`, and counted |
/// | time for a handshake, [`handshake_timeout`](Self::handshake_timeout) | 10 s | the connection is dropped: `TimedOut`, and counted |
/// | handshakes under way, [`max_handshakes`](Self::max_handshakes) | 16,384 | more wait, within the time until a handshake begins |
/// | memory of unfinished hellos, [`max_hello_memory`](Self::max_hello_memory) | 16 KiB for each handshake, and 64 MiB in all: 320 MiB at the most | hellos of more than 4 KiB wait, within their handshake's time |
/// | ClientHello | 64 KiB, in 128 KiB of records | it is the TLS library's to refuse; a token in it counts for nothing |
/// | life of an ordinary session, [`session_lifetime`](Self::session_lifetime) | 12 h | its client lands by a full handshake |
/// | early data of a moved client | the configuration's, and at most 16,384 bytes | the handshake is aborted with `unexpected_message` |
/// | early data of an ordinary resumption | the configuration's | the handshake is aborted with `unexpected_message` |
/// | early data that is refused, of any client | 16,384 records, or as many as `max_early_data_size` if that is more, with 23 bytes for each of them | the handshake is aborted |
/// | time for an answer of the nonce store, [`nonce_store_timeout`](Self::nonce_store_timeout) | 1 s | the token is refused as `StoreUnavailable`; a client that was admitted is closed |
/// | claims before the nonce store, and commits, [`max_nonce_store_requests`](Self::max_nonce_store_requests) | 1,024 of each | more wait, as long as the store answers others |
/// | time for a notified client to leave, [`departure_deadline`](Self::departure_deadline) | 10 s | calls fail with `TimedOut` |
/// | notices to a client without data or an offer between them | 8 | the client is not told again |
/// | former checkpoints of a connection, with [`supersede_checkpoints_in`](Self::supersede_checkpoints_in) | 128 | the oldest is good for its life |
/// | state in an offer | 8,192 bytes | `OfferError::StateTooLong` |
/// | offers under one ticket key, and ordinary tickets, [`TicketKeys::seal_limit`] | 2^32 of each | `OfferError::SealLimit`; no ticket |
/// | a ticket, with a client's certificates in it | 24,576 bytes | `OfferError::TicketTooLong`; no ticket |
///
/// A client whose token is refused lands by a full handshake, but for a stream that is handed over
/// ([`HandOff::Drain`](crate::tokio::HandOff)): its state was in the token's ticket, so it ends with an error.
pub struct MigrationServerBuilder {
    config: ServerConfig,
    service: String,
    ticket_keys: TicketKeys,
    own_addresses: HashSet<SocketAddr>,
    nonce_store: Option<Arc<dyn NonceStore>>,
    superseded: Option<Arc<dyn NonceStore>>,
    limits: Limits,
    choose_target: Option<Box<ChooseTarget>>,
    token_lifetime: Duration,
    session_lifetime: Duration,
    clock_skew: Duration,
    departure_deadline: Duration,
    /// The system's unless there is another.
    clock: Option<Arc<dyn Clock>>,
    codepoints: Codepoints,
    dialects: Dialects,
    name_target: Option<Box<NameTarget>>,
}

impl MigrationServerBuilder {
    /// The addresses at which clients may arrive with a token: those that the service's tokens name and that lead
    /// to this node. None by default, which refuses every token. IPv4 addresses that are mapped into IPv6 count as what they
    /// are.
    #[must_use]
    pub fn own_addresses(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.own_addresses
            .extend(addresses.into_iter().map(as_in_token));
        self
    }

    /// Names one target for every client that supports migration.
    #[must_use]
    pub fn target(self, target: SocketAddr) -> Self {
        self.choose_target(move |_| Some(target))
    }

    /// Chooses each client's target when its hello has arrived; `None` gives it no token. By default none does.
    ///
    /// A target that is the address at which the client already is gives no token either.
    #[must_use]
    pub fn choose_target(
        mut self,
        choose: impl Fn(&Incoming<'_>) -> Option<SocketAddr> + Send + Sync + 'static,
    ) -> Self {
        self.choose_target = Some(Box::new(choose));
        self
    }

    /// Where nonces are spent. By default a [`MemoryNonceStore`] of this process, for 1,000 accepted tokens a second: it holds
    /// as many as that makes in the [life of a token](Self::token_lifetime), 3.7 million with an hour, and at most 8 million,
    /// of some hundred bytes each. Past it, clients land by full handshakes, and a warning says so. Accepted early data of an
    /// ordinary resumption takes a place for two minutes.
    ///
    /// Nodes that answer for the same address must share a store. Servers of one process do by default, unless they have a
    /// [clock](Self::clock) of their own.
    #[must_use]
    pub fn nonce_store(mut self, store: Arc<dyn NonceStore>) -> Self {
        self.nonce_store = Some(store);
        self
    }

    /// How long a token is valid, by default one hour; from one second to seven days.
    #[must_use]
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime = lifetime;
        self
    }

    /// How long a session may be resumed by an ordinary ticket, by default twelve hours, as with rustls' own ticketers; from one
    /// second to seven days. Ticket keys must be [kept](TicketKeys#rotation) for as long.
    #[must_use]
    pub fn session_lifetime(mut self, lifetime: Duration) -> Self {
        self.session_lifetime = lifetime;
        self
    }

    /// How far the clocks of the service's nodes may differ, by default five seconds; at most a day.
    ///
    /// A store that remembers only since its start refuses tokens until it has run for this long: see
    /// [`MigrationServer::admits_tokens_since`].
    #[must_use]
    pub fn clock_skew(mut self, skew: Duration) -> Self {
        self.clock_skew = skew;
        self
    }

    /// How long a client that was notified may stay before the application's calls fail, by default ten seconds from the
    /// moment when the notice has left. While the notice waits behind other bytes, it is how long the client may take none of
    /// them. During a drain the drain's deadline counts, and no other.
    #[must_use]
    pub fn departure_deadline(mut self, deadline: Duration) -> Self {
        self.departure_deadline = deadline;
        self
    }

    /// Another clock than the system's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Other code points than the defaults.
    #[must_use]
    pub fn codepoints(mut self, codepoints: Codepoints) -> Self {
        self.codepoints = codepoints;
        self
    }

    /// The dialects in which this node makes offers and takes clients, the preferred one first; by default
    /// [`Dialect::Draft01`] alone. A connection's dialect is the first of these that its client speaks. Nodes of one service may
    /// prefer different ones. None at all changes nothing.
    #[must_use]
    pub fn dialects(mut self, preferred_first: impl IntoIterator<Item = Dialect>) -> Self {
        self.dialects = Dialects::new(preferred_first).unwrap_or(self.dialects);
        self
    }

    /// What a client that speaks [`Dialect::Draft03`] is told of a target: bytes that its application resolves, at most
    /// 65,535. By default the address as text, `192.0.2.2:443`. The ticket's scope is the address whatever it is called.
    #[must_use]
    pub fn name_targets(
        mut self,
        name: impl Fn(SocketAddr) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        self.name_target = Some(Box::new(name));
        self
    }

    /// Checks that the method can carry the configuration.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names what it cannot carry.
    pub fn build(self) -> Result<MigrationServer, ConfigError> {
        self.check()?;
        let token_lifetime = signed(self.token_lifetime, TICKET_LIFETIMES)
            .ok_or(ConfigError::TokenLifetime(self.token_lifetime))?;
        let session_lifetime = signed(self.session_lifetime, TICKET_LIFETIMES)
            .ok_or(ConfigError::SessionLifetime(self.session_lifetime))?;
        let clock_skew =
            signed(self.clock_skew, CLOCK_SKEWS).ok_or(ConfigError::ClockSkew(self.clock_skew))?;
        let own_clock = self.clock.is_some();
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock));
        let nonce_store: Arc<dyn NonceStore> = match self.nonce_store {
            Some(store) => store,
            None => {
                let capacity = default_store::capacity(self.token_lifetime, self.clock_skew);
                match own_clock {
                    // A store goes by one clock, so this one is not to be shared.
                    true => Arc::new(MemoryNonceStore::new(capacity, clock.now())),
                    false => default_store::shared(&self.own_addresses, capacity, clock.now())?,
                }
            }
        };
        self.ticket_keys.measure_seals();
        Ok(MigrationServer {
            configs: ConfigSet::new(self.config),
            service: self.service,
            ticket_keys: self.ticket_keys,
            own_addresses: self.own_addresses,
            nonce_store,
            superseded: self.superseded,
            limits: self.limits,
            choose_target: self.choose_target,
            token_lifetime,
            session_lifetime,
            clock_skew,
            departure_deadline: self.departure_deadline,
            clock,
            codepoints: self.codepoints,
            dialects: self.dialects,
            name_target: self.name_target,
            counters: Arc::default(),
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        if !is_wrapped(config.crypto_provider()) {
            return Err(ConfigError::ProviderNotWrapped);
        }
        if config.ticketer.enabled() {
            return Err(ConfigError::Ticketer);
        }
        if config.enable_secret_extraction {
            return Err(ConfigError::SecretExtraction);
        }
        Ok(())
    }
}

/// From one second to seven days (RFC 8446 section 4.6.1).
const TICKET_LIFETIMES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);

/// Clocks that differ by more than a day are not clocks.
const CLOCK_SKEWS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);

/// A duration that may be added to a point in time, if it is an allowed one.
fn signed(duration: Duration, allowed: RangeInclusive<Duration>) -> Option<time::Duration> {
    let duration = allowed.contains(&duration).then_some(duration)?;
    duration.try_into().ok()
}

impl fmt::Debug for MigrationServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigrationServerBuilder")
            .field("service", &self.service)
            .field("own_addresses", &self.own_addresses)
            .finish_non_exhaustive()
    }
}
