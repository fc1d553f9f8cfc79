//! An HTTP/3 client that follows its server: `cargo run -p quinn-migration --example http3_client`, beside the server.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::{net::UdpSocket, sync::Arc};

use bytes::Buf as _;
use quinn_migration::{MigrationClient, Policy};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(std::fs::read("http3-certificate.der")?.into())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let client = MigrationClient::builder(Arc::new(tls), UdpSocket::bind("0.0.0.0:0")?).bind()?;
    let server = "127.0.0.2:4433".parse()?;
    let connection = client.endpoint().connect(server, "localhost")?.await?;
    let mut migrator = client.attach(&connection, Policy::default())?;
    tokio::spawn(async move {
        while let Some(event) = migrator.next().await {
            println!("{event:?}");
        }
    });
    let (mut http, mut requests) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
    tokio::spawn(async move { println!("{}", http.wait_idle().await) });
    let request = http::Request::get("https://localhost/").body(())?;
    let mut stream = requests.send_request(request).await?;
    stream.finish().await?;
    println!("{}", stream.recv_response().await?.status());
    let mut bytes = 0;
    while let Some(data) = stream.recv_data().await? {
        bytes += data.remaining();
    }
    println!("{bytes} bytes");
    Ok(())
}
