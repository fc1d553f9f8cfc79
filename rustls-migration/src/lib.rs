//! Moves live TLS 1.3 connections to another address, on stock rustls.
//!
//! A server that is about to be drained, or that has found a better node for a client, gives the client a signed
//! *migration token* with a session ticket. When told to, or when it wants to, the client leaves for the address in the
//! token and resumes its session there, with 0-RTT: no second full handshake, no load balancer with a table of flows.
//! The protocol is that of the TLS service affinity draft, completed by `docs/protocol.md`.
//!
//! rustls itself stays as it is in the registry. A [wrapped provider](provider::wrap) lets this crate see and add what
//! the protocol needs; `docs/design.md` tells how.
//!
//! # A server
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # let (chain, key) = (vec![], rustls::pki_types::PrivateKeyDer::try_from(vec![])?);
//! use std::sync::Arc;
//!
//! use rustls_migration::{TicketKeys, provider, server::MigrationServer, tokio::MigrationAcceptor};
//!
//! let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider::ring()))
//!     .with_safe_default_protocol_versions()?
//!     .with_no_client_auth()
//!     .with_single_cert(chain, key)?;
//! let keys = TicketKeys::load("ticket-keys")?; // the same file on every node
//! let server = MigrationServer::builder(config, "files", keys)
//!     .own_addresses(["192.0.2.1:443".parse()?]) // clients arrive here
//!     .target("192.0.2.2:443".parse()?); // and may be sent there
//! let acceptor = MigrationAcceptor::from(server.build()?);
//!
//! let listener = tokio::net::TcpListener::bind("192.0.2.1:443").await?;
//! let (tcp, _) = listener.accept().await?;
//! let mut stream = acceptor.accept(tcp).await?; // AsyncRead + AsyncWrite
//! println!("{:?}", stream.arrival()); // Fresh, Migrated or Declined
//! stream.notify().await?; // move now
//! # Ok(())
//! # }
//! ```
//!
//! [`MigrationAcceptor::drain`](tokio::MigrationAcceptor::drain) moves all clients of a node and says what became of each,
//! [`readiness`](tokio::MigrationAcceptor::readiness) whether a node can take them, and
//! [`replace`](tokio::MigrationAcceptor::replace) changes certificates and targets while it runs.
//!
//! # A client
//!
//! ```no_run
//! # async fn example(config: rustls::ClientConfig) -> Result<(), Box<dyn std::error::Error>> {
//! use rustls_migration::{client::MigrationClient, tokio::{Event, MigrationConnector}};
//!
//! // config was built with provider::ring(); config.enable_early_data allows 0-RTT.
//! let connector = MigrationConnector::from(MigrationClient::builder(config).build()?);
//! let mut stream = connector
//!     .connect("service.example".try_into()?, "192.0.2.1:443".parse()?)
//!     .await?; // AsyncRead + AsyncWrite
//! let mut events = stream.events();
//! // ... read and write; when Event::Notified comes:
//! let landing = stream.migrate(b"GET /file from byte 1000\n").await?; // 0-RTT
//! # Ok(())
//! # }
//! ```
//!
//! # Two kinds of move
//!
//! A *connection* moves without the server's application: the server finishes what it does, and the client's next connection
//! goes to the target with the session ([`StreamHandle::successor`](tokio::StreamHandle::successor)). That suits every
//! protocol. [`ConnectionHandle::told`](tokio::ConnectionHandle::told) says when to finish.
//!
//! A *stream* goes on in the middle, at another server. For that the server's application must consent, beforehand, by
//! [`set_state`](tokio::TlsStream::set_state): it says from what state the application at the target goes on. With
//! [`HandOff::Drain`](tokio::HandOff) the client reads and writes as if nothing happened; the server shuts down when
//! the client has closed its side, which hands over what `set_state` said last.
//!
//! # Surprises
//!
//! - **A configuration's provider must be the wrapped one.** `build` says so if it is not.
//! - **The first ticket with a token is not for ordinary resumption.** It resumes at the token's target, once. The
//!   other tickets of the connection are ordinary, and so are those of clients that know nothing of migration.
//! - **Ordinary sessions of TLS 1.3 are in their tickets**, sealed by the ticket keys, and not in `session_storage`, which has those of
//!   TLS 1.2. Any node of the service resumes them, until their [lifetime](server::MigrationServerBuilder::session_lifetime) is over. Their
//!   early data is accepted at most once, at nodes that share the issuer's nonce store and its [memory](migration_token::NonceStore::memory_id). With a
//!   `session_storage` that cannot cache there are no ordinary tickets.
//! - **A memory nonce store refuses tokens from before its start**, and for the [clock
//!   skew](server::MigrationServerBuilder::clock_skew) after it. Clients then land by a full handshake, but for streams that
//!   are handed over: those end with an error. Send nobody to a node before it [admits
//!   tokens](server::MigrationServer::admits_tokens_since).
//! - **[`migrate`](tokio::MigrationStream::migrate) drops what was not read.** Say in its early data where to go on.
//! - **Early data can be read before the handshake is complete.** It is accepted at most once, which plain TLS 1.3 does not
//!   promise, but perhaps in a copy of the client's hello; the client then sends it again after its handshake. Who must
//!   not act twice calls [`handshake`](tokio::TlsStream::handshake) before. It has no forward secrecy against the ticket keys.
//! - **A read of `Ok(0)` at a server is the client's half-close.** A client that follows a stream's move half-closes too, in the
//!   middle of a message perhaps: what was read of it belongs into the state. Without consent it never does.
//! - **A server that dies need not end a stream.** [`checkpoint`](tokio::TlsStream::checkpoint) says from where another can go on;
//!   `docs/recovery.md` says what that asks of an application, and [`conversation`](tokio::conversation) does most of it.
//! - **A deadline is an error at both ends.** The layer says `close_notify` for nobody; see
//!   [`DepartureOverdue`](tokio::DepartureOverdue).
//! - **A server that drops a stream with unread bytes resets the connection.** Shut down and read to the end.

mod address;
pub mod client;
mod clock;
mod codepoints;
mod connection;
mod dialect;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod key_schedule;
mod lineage;
mod measure;
#[cfg(feature = "metrics")]
pub mod metrics;
mod move_kind;
pub mod provider;
pub mod server;
mod ticket;
#[cfg(feature = "tokio")]
pub mod tokio;
mod trace;
#[cfg(test)]
mod vectors;
mod wire;

pub use clock::{Clock, SystemClock};
pub use codepoints::{Codepoints, ExperimentalCodepoints};
pub use connection::Connection;
pub use dialect::Dialect;
pub use error::ConfigError;
pub use lineage::Lineage;
pub use migration_token;
pub use move_kind::MoveKind;
pub use rustls;
#[cfg(feature = "watch-keys")]
pub use ticket::TicketKeyWatcher;
pub use ticket::{TicketKeyError, TicketKeys};
