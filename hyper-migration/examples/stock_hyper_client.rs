//! A client with hyper-util's pool and hyper-rustls: what `hyper_client.rs` starts from. `stock_hyper_client URI COUNT`

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy, rt::TokioExecutor};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};

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

    let provider = rustls::crypto::ring::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let https = HttpsConnectorBuilder::new().with_tls_config(config);
    let https = https.https_only().enable_http1().enable_http2().build();
    let client = legacy::Client::builder(TokioExecutor::new()).build(https);
    let client: legacy::Client<_, Empty<Bytes>> = client;

    for _ in 0..count.parse()? {
        std::io::stdin().read_line(&mut String::new())?;
        let response = client.get(uri.parse()?).await?;
        let body = response.into_body().collect().await?.to_bytes();
        println!("{}", String::from_utf8_lossy(&body));
    }
    Ok(())
}
