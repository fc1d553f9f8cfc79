//! What the nodes of a service share that are processes of their own: keys and a certificate, in a folder.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_migration::server::{MigrationServer, MigrationServerBuilder};
use rustls_migration::{TicketKeys, provider};
use tempfile::TempDir;

use crate::{NAME, Service};

const SERVICE: &str = "files";
const KEYS: &str = "keys";
const CERTIFICATE: &str = "certificate.pem";
const PRIVATE_KEY: &str = "key.pem";

/// The folder of one service, which is gone with this value.
pub struct ServiceFolder(TempDir);

impl ServiceFolder {
    /// Makes keys and a certificate, and gives `service` the keys.
    pub fn new(service: &mut Service) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join(KEYS);
        TicketKeys::create(&keys, service.provider.secure_random).unwrap();
        service.keys = TicketKeys::load(&keys).unwrap();
        let (certificate, key) = service.pki.issue_pem(NAME);
        std::fs::write(folder.path().join(CERTIFICATE), certificate).unwrap();
        std::fs::write(folder.path().join(PRIVATE_KEY), key).unwrap();
        Self(folder)
    }

    pub fn path(&self) -> String {
        self.0.path().display().to_string()
    }
}

/// Only a broken test waits for it.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// The settings of a node of the service in `folder`, with early data.
pub fn node(folder: &Path) -> MigrationServerBuilder {
    let chain = CertificateDer::from_pem_file(folder.join(CERTIFICATE)).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join(PRIVATE_KEY)).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider::ring()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    config.max_early_data_size = 16_384;
    let keys = TicketKeys::load(folder.join(KEYS)).unwrap();
    // Nothing is about time here, and a disk may be slow.
    MigrationServer::builder(config, SERVICE, keys)
        .clock_skew(std::time::Duration::ZERO)
        .nonce_store_timeout(PATIENCE)
        .handshake_timeout(PATIENCE)
        .hello_timeout(PATIENCE)
}
