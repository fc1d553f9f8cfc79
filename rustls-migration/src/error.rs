//! Errors, sorted by whose fault they are.
//!
//! No error carries a token, a nonce or key bytes.

use std::time::Duration;

/// A configuration that the method cannot carry. Whoever wrote it is at fault; nothing has been sent.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The configuration's provider is not a wrapped one.
    #[error(
        "the configuration's provider is not wrapped: build it with rustls_migration::provider"
    )]
    ProviderNotWrapped,
    /// A ticketer is set. All tickets are sealed by the ticket keys, which does what a ticketer would, and rustls allows no
    /// early data with a ticketer.
    #[error(
        "a ticketer cannot be combined with migration, whose ticket keys do the same: leave ServerConfig::ticketer unset"
    )]
    Ticketer,
    /// Secrets may be extracted. Records that bypass rustls, as with kernel TLS, bypass migration too.
    #[error("enable_secret_extraction cannot be combined with migration")]
    SecretExtraction,
    /// Encrypted ClientHello is configured: its hello is not the one that rustls hashes.
    #[error("Encrypted ClientHello cannot be combined with migration")]
    EncryptedClientHello,
    /// The life of tokens is not between one second and seven days (RFC 8446 section 4.6.1).
    #[error("tokens may live from one second to seven days, not {0:?}")]
    TokenLifetime(Duration),
    /// The life of ordinary sessions is not between one second and seven days (RFC 8446 section 4.6.1).
    #[error("sessions may live from one second to seven days, not {0:?}")]
    SessionLifetime(Duration),
    /// The clock skew is longer than a day.
    #[error("the clocks of a service's nodes may differ by a day at the most, not by {0:?}")]
    ClockSkew(Duration),
    /// The server answers for addresses of two live servers of this process that have a default nonce store each, so a token
    /// could be spent twice.
    #[error("two servers of these addresses have separate nonce stores: give them one")]
    NonceStores,
    /// rustls refused the configuration, for instance its `max_fragment_size`.
    #[error("the TLS library refuses the configuration")]
    Tls(#[source] rustls::Error),
}
