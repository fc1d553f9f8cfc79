//! The client of `stock_hyper_client.rs`, whose connections follow their server's nodes. `hyper_client URI COUNT`

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_migration::client::{Client, HttpsConnector};
use hyper_util::{client::legacy, rt::TokioExecutor};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use rustls_migration::client::MigrationClient;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it is a program")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, uri, count] = &arguments[..] else {
        return Err("URI COUNT".into());
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file("ca.pem")?)?;

    let provider = rustls_migration::provider::ring();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let https = HttpsConnector::new(MigrationClient::builder(config).build()?.into());
    let client = legacy::Client::builder(TokioExecutor::new()).build(https);
    let client: Client<_, Empty<Bytes>> = client.into();

    for _ in 0..count.parse()? {
        std::io::stdin().read_line(&mut String::new())?;
        let response = client.get(uri.parse()?).await?;
        let body = response.into_body().collect().await?.to_bytes();
        println!("{}", String::from_utf8_lossy(&body));
    }
    Ok(())
}
