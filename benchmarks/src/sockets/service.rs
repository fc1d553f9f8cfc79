//! The service whose nodes and clients are processes of their own: a folder with its certificates and keys.
//!
//! The first node makes it.

use std::path::Path;

use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_migration::TicketKeys;

use crate::error::BenchError;
use crate::peers::{Service, Suite};

const ROOT: &str = "root";
const CERTIFICATE: &str = "certificate";
const KEY: &str = "key";
const TICKET_KEYS: &str = "ticket.keys";

/// The service in `folder`, for a node.
pub(super) fn of_nodes(suite: Suite, folder: &Path) -> Result<Service, BenchError> {
    let random = ring::default_provider().secure_random;
    if !folder.join(ROOT).exists() {
        let service = Service::new(suite)?;
        TicketKeys::create(&folder.join(TICKET_KEYS), random)?;
        std::fs::write(folder.join(CERTIFICATE), &service.certificate)?;
        std::fs::write(folder.join(KEY), service.key.secret_der())?;
        std::fs::write(folder.join(ROOT), service.root())?;
    }
    let mut service = of_clients(suite, folder)?;
    service.certificate = CertificateDer::from(std::fs::read(folder.join(CERTIFICATE))?);
    service.key = PrivateKeyDer::try_from(std::fs::read(folder.join(KEY))?)
        .map_err(|_| BenchError::Unexpected("the key is not usable"))?;
    service.ticket_keys = TicketKeys::load(folder.join(TICKET_KEYS))?;
    Ok(service)
}

/// The service in `folder`, for a client.
pub(super) fn of_clients(suite: Suite, folder: &Path) -> Result<Service, BenchError> {
    let root = std::fs::read(folder.join(ROOT))?;
    Service::of_clients(suite, CertificateDer::from(root))
}
