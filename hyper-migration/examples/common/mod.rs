//! What nodes of the examples need: certificates and keys from files in the present folder, and the address from the command line.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_migration::tokio::{MigrationAcceptor, listen};
use rustls_migration::{TicketKeys, server::MigrationServer};
use tokio::net::TcpListener;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Listens at the first argument, and sends clients to the second.
pub(crate) async fn node() -> Result<(TcpListener, MigrationAcceptor), Error> {
    let mut arguments = std::env::args().skip(1);
    let mut address = || -> Result<SocketAddr, Error> {
        let argument = arguments.next().ok_or("LISTEN TARGET")?;
        Ok(argument.parse()?)
    };
    let chain = CertificateDer::pem_file_iter("server.pem")?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file("server.key")?;
    let provider = rustls_migration::provider::ring();
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let own = address()?;
    let server = MigrationServer::builder(config, "example", TicketKeys::load("ticket-keys")?)
        .own_addresses([own])
        .target(address()?);
    let acceptor = MigrationAcceptor::from(server.build()?);
    Ok((listen(own)?, acceptor))
}
