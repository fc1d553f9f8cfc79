//! An HTTP/3 server on two addresses that moves each client three times, a second apart:
//! `cargo run -p quinn-migration --example http3_server`, and the client beside it.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::{net::UdpSocket, sync::Arc, time::Duration};

use bytes::Bytes;
use quinn_migration::{AddressId, MigrationServer};
use rustls::pki_types::PrivatePkcs8KeyDer;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write("http3-certificate.der", made.cert.der())?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let first = UdpSocket::bind("127.0.0.2:4433")?;
    let server = Arc::new(MigrationServer::builder(Arc::new(tls), first).bind()?);
    let second = server.add_address(UdpSocket::bind("127.0.0.3:4433")?)?;
    while let Some(incoming) = server.endpoint().accept().await {
        let (server, connection) = (Arc::clone(&server), incoming.await?);
        tokio::spawn(answer(connection.clone()));
        tokio::spawn(async move {
            for to in [second, AddressId::FIRST, second] {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let advertised = server.advertise(&connection, to).await?;
                println!("the client {:?}", advertised.outcome().await?);
            }
            anyhow::Ok(())
        });
    }
    Ok(())
}

/// Answers each request with 4 MB in four seconds.
async fn answer(connection: quinn::Connection) -> anyhow::Result<()> {
    let mut http = h3::server::Connection::new(h3_quinn::Connection::new(connection)).await?;
    while let Some(request) = http.accept().await? {
        let (_, mut stream) = request.resolve_request().await?;
        stream.send_response(http::Response::new(())).await?;
        for _ in 0..400 {
            stream
                .send_data(Bytes::from_static(&[b'.'; 10_000]))
                .await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stream.finish().await?;
    }
    Ok(())
}
