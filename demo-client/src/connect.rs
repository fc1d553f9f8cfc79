//! The client's TLS settings.
//!
//! They differ from a stock rustls client's by the wrapped provider alone.

use std::path::Path;
use std::sync::Arc;

use demo_server::key_log::KeyLogWriter;
use demo_server::program::Failure;
use rustls::{ClientConfig, RootCertStore};
use rustls_migration::client::MigrationClient;
use rustls_migration::provider;
use rustls_migration::tokio::MigrationConnector;

/// A connector that trusts `roots` and sends early data.
pub(crate) fn connector(
    roots: RootCertStore,
    key_log: Option<&Path>,
) -> Result<MigrationConnector, Failure> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider::ring()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::wrong("TLS settings", &error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_early_data = true;
    if let Some(path) = key_log {
        let writer = KeyLogWriter::open(path)
            .map_err(|error| Failure::usage(format!("--key-log {}", path.display()), &error))?;
        config.key_log = Arc::new(writer);
    }
    let client = MigrationClient::builder(config)
        .build()
        .map_err(|error| Failure::wrong("TLS settings", &error))?;
    Ok(client.into())
}
