//! The `migration_token` credential of the TLS service affinity draft: what it looks like, how it is
//! signed and checked, and how its nonce is spent exactly once.
//!
//! A server at address A issues a [`MigrationToken`] that names another address B. It is signed with a
//! [`TokenKey`] derived from the connection's `resumption_master_secret`, so it is worth nothing without
//! that TLS session. The server at B checks it and spends its nonce in a [`NonceStore`].
//!
//! This crate knows no TLS library, no socket and no wall clock: secrets, randomness and the time come in as
//! arguments. Stores measure their own age with a [`Monotonic`] clock. Only the store of the feature `nonce-store-redis` opens sockets, with
//! tokio. The wire format and the labels are those of `docs/protocol.md`, sections 2 and 8.
//!
//! ```
//! use migration_token::{MigrationToken, TokenHash, TokenKey};
//! use time::{Duration, OffsetDateTime};
//!
//! // Both ends of a TLS 1.3 connection know this secret.
//! let resumption_master_secret = [7; 32];
//! let key = TokenKey::derive(TokenHash::Sha256, &resumption_master_secret)?;
//!
//! let now = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
//! let target = "192.0.2.7:443".parse()?;
//! let token = key.sign(target, now + Duration::minutes(5), &[1; 16])?;
//!
//! let received = MigrationToken::decode(&token.encode())?;
//! key.verify(&received)?;
//! assert!(!received.is_expired(now, Duration::ZERO));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod crypto;
mod key;
mod nonce;
mod token;

pub use crypto::TokenCrypto;
pub use key::{KeyError, SESSION_ID_LEN, TokenHash, TokenKey, VerifyError};
pub use nonce::{
    BoxFuture, Claim, ClaimId, ClaimOutcome, CommitOutcome, MemoryId, MemoryNonceStore, Monotonic,
    NonceKey, NonceStore, StoreError, SystemMonotonic,
};
#[cfg(feature = "nonce-store-file")]
pub use nonce::{FileNonceStore, FileStoreError};
#[cfg(feature = "nonce-store-redis")]
pub use nonce::{RedisNonceStore, RedisNonceStoreBuilder, RedisStoreError};
pub use token::{
    DecodeError, InvalidToken, MAX_OPAQUE_LEN, MIN_NONCE_LEN, MIN_SESSION_ID_LEN,
    MIN_SIGNATURE_LEN, MigrationToken,
};
