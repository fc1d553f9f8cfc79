//! The client's side: a connector for hyper-util's client, and that client with connections that are left when they are to be.
//!
//! ```no_run
//! # async fn example(mut config: rustls::ClientConfig) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use bytes::Bytes;
//! use http_body_util::Empty;
//! use hyper_migration::client::{Client, ConnectionInfo, HttpsConnector};
//! use hyper_util::{client::legacy, rt::TokioExecutor};
//! use rustls_migration::client::MigrationClient;
//!
//! // config was built with rustls_migration::provider::ring().
//! config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
//! let https = HttpsConnector::new(MigrationClient::builder(config).build()?.into());
//! let pool = legacy::Client::builder(TokioExecutor::new()).build(https);
//! let client: Client<_, Empty<Bytes>> = pool.into();
//!
//! let response = client.get("https://service.example/".parse()?).await?;
//! if let Some(connection) = response.extensions().get::<ConnectionInfo>() {
//!     println!("from {}", connection.peer_addr());
//! }
//! # Ok(())
//! # }
//! ```

mod connector;
mod early;
mod info;
mod offers;
mod pooled;
mod stream;

pub use self::connector::{BoxError, HttpsConnector};
pub use self::early::SendEarlyError;
pub use self::info::ConnectionInfo;
pub use self::pooled::{Client, ResponseFuture};
pub use self::stream::{HttpsStream, MaybeHttpsStream};
