//! The axum service of `stock_axum.rs`, whose clients can be sent to another node. `axum_service LISTEN TARGET`

use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Router, routing::get};
use hyper_migration::server::serve;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_migration::{TicketKeys, server::MigrationServer, tokio::MigrationAcceptor};

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let mut address =
        || -> Result<SocketAddr, Error> { Ok(arguments.next().ok_or("ADDRESS")?.parse()?) };
    let chain = CertificateDer::pem_file_iter("server.pem")?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file("server.key")?;
    let listen = address()?;
    let hello = async move || format!("hello from {listen}");
    let router = Router::new().route("/", get(hello));

    let provider = rustls_migration::provider::ring();
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = MigrationServer::builder(config, "hello", TicketKeys::load("ticket-keys")?)
        .own_addresses([listen])
        .target(address()?);
    let acceptor = MigrationAcceptor::from(server.build()?);
    let listener = rustls_migration::tokio::listen(listen)?;
    serve(listener, acceptor, router).await;
    Ok(())
}
