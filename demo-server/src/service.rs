//! The TLS side of the demo service: who a node is, and its migration settings.
//!
//! Nodes of one service share their ticket keys and this module's name for it, and nothing else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{KeyLog, ServerConfig};
use rustls_migration::server::{MigrationServer, MigrationServerBuilder};
use rustls_migration::{TicketKeys, provider};

use crate::authority::{Authority, AuthorityError};
use crate::{protocol, web};

/// The service's name in its tickets.
const SERVICE: &str = "demo";
/// Early data that a client may send, in bytes; a ticket with a token may announce less.
const MAX_EARLY_DATA: u32 = 16_384;

/// A node's certificate chain and key.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads a chain and its key, RSA or EC, from PEM files.
    ///
    /// # Errors
    ///
    /// What is wrong with which file.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, IdentityError> {
        let unreadable = |path: &Path| {
            let path = path.display().to_string();
            move |error| IdentityError { path, error }
        };
        let certificates = CertificateDer::pem_file_iter(chain)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .and_then(|found| match found.is_empty() {
                true => Err(pem::Error::NoItemsFound),
                false => Ok(found),
            });
        Ok(Self {
            chain: certificates.map_err(unreadable(chain))?,
            key: PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?,
        })
    }

    /// A new certificate of a development authority.
    ///
    /// # Errors
    ///
    /// As [`Authority::issue`].
    pub fn issued_by(authority: &Authority) -> Result<Self, AuthorityError> {
        let (certificate, key) = authority.issue()?;
        Ok(Self {
            chain: vec![certificate],
            key,
        })
    }
}

/// Why a certificate or a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}")]
pub struct IdentityError {
    path: String,
    #[source]
    error: pem::Error,
}

/// A node's migration settings: for the line protocol and HTTP, with early data and no allowance for clocks that differ: a node accepts tokens from
/// its first moment on.
///
/// # Errors
///
/// That the certificate and the key do not fit together, or are of a kind that rustls does not know.
pub fn node(
    identity: Identity,
    ticket_keys: TicketKeys,
    key_log: Option<Arc<dyn KeyLog>>,
) -> Result<MigrationServerBuilder, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider::ring()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)?;
    let mut protocols = vec![protocol::ALPN.to_vec()];
    protocols.extend(web::PROTOCOLS.map(<[u8]>::to_vec));
    config.alpn_protocols = protocols;
    config.max_early_data_size = MAX_EARLY_DATA;
    if let Some(key_log) = key_log {
        config.key_log = key_log;
    }
    Ok(MigrationServer::builder(config, SERVICE, ticket_keys).clock_skew(Duration::ZERO))
}
