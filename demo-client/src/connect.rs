//! The client's TLS settings.
//!
//! They differ from a stock rustls client's by the wrapped provider alone.

use std::path::Path;
use std::sync::Arc;

use demo_server::dialect::DialectChoice;
use demo_server::key_log::KeyLogWriter;
use demo_server::program::Failure;
use rustls::{ClientConfig, RootCertStore};
use rustls_migration::client::{MigrationClient, MigrationLimit, NoWider};
use rustls_migration::provider;
use rustls_migration::tokio::MigrationConnector;

/// A connector that speaks `protocol`, trusts `roots`, sends early data, and whose streams can move `hops` times in a row.
pub(crate) fn connector(
    protocol: &[u8],
    roots: RootCertStore,
    key_log: Option<&Path>,
    dialect: DialectChoice,
    hops: usize,
) -> Result<MigrationConnector, Failure> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider::ring()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::wrong("TLS settings", &error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config.enable_early_data = true;
    if let Some(path) = key_log {
        let writer = KeyLogWriter::open(path)
            .map_err(|error| Failure::usage(format!("--key-log {}", path.display()), &error))?;
        config.key_log = Arc::new(writer);
    }
    // As often as it is asked to, whatever the library's own limit is.
    let limit = MigrationLimit {
        count: hops.max(MigrationLimit::default().count),
        window: MigrationLimit::default().window,
    };
    // The nodes listen where they were told to.
    let client = MigrationClient::builder(config)
        .target_policy(NoWider::any_port())
        .limit(limit)
        .dialects(dialect.dialects())
        .build()
        .map_err(|error| Failure::wrong("TLS settings", &error))?;
    Ok(client.into())
}
