//! HTTP over TLS connections that can be moved to another server, for hyper, axum and tonic.
//!
//! HTTP moves as *connections*: a server that is drained asks each client to move, finishes the requests that are under way and ends the
//! connection; the client's next connection resumes its TLS session at the node that it was sent to. No request is lost or
//! executed twice. What is not a request any more, such as a WebSocket, can move as a stream in its middle.
//!
//! - [`client::HttpsConnector`] for hyper-util's client and for tonic's channel, and [`client::Client`], whose pool leaves a
//!   connection as soon as it is asked to.
//! - [`server::serve`] for axum's routers and other tower services. `tonic::service::Routes` is one.
//! - `server::MigrationListener` for `axum::serve` (feature `axum`) and for tonic's own server (feature `tonic`).
//!
//! # Early data
//!
//! The client sends none: hyper's connectors and pools do not say which request a connection is for, so the first one could
//! be any. Who has a request that is safe to send early (RFC 8470) resumes with it by
//! [`MigrationStream::migrate`](rustls_migration::tokio::MigrationStream::migrate). A server serves what comes as
//! early data when the handshake is complete, unless [`Serve::early_data`](server::Serve::early_data) says otherwise.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod server;

pub use rustls_migration;
