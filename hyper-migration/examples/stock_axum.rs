//! An axum service over stock rustls: what `axum_service.rs` starts from. `stock_axum LISTEN`

use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Router, routing::get};
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

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

    let provider = rustls::crypto::ring::default_provider();
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = RustlsConfig::from_config(Arc::new(config));
    let server = axum_server::bind_rustls(listen, config);
    server.serve(router.into_make_service()).await?;
    Ok(())
}
