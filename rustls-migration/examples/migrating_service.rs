//! The echo service of `stock_service.rs`, whose clients can be moved from one address to another.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_migration::{TicketKeys, server::MigrationServer, tokio::MigrationAcceptor};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let chain = CertificateDer::pem_file_iter("server.pem")?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file("server.key")?;

    let provider = rustls_migration::provider::ring();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let keys = TicketKeys::load("ticket-keys")?;
    let server = MigrationServer::builder(config, "echo", keys)
        .own_addresses(["192.0.2.1:443".parse()?])
        .target("192.0.2.2:443".parse()?);
    let acceptor = MigrationAcceptor::from(server.build()?);

    let listener = TcpListener::bind("192.0.2.1:443").await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let stream = acceptor.accept(tcp).await?;
            let (mut reader, mut writer) = tokio::io::split(stream);
            tokio::io::copy(&mut reader, &mut writer).await?;
            writer.shutdown().await?;
            Ok::<(), Error>(())
        });
    }
}
