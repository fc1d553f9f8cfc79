//! TLS for `localhost`, sockets, and connections.
//!
//! Never leaves the loopback interface.

use std::net::UdpSocket;
use std::sync::Arc;

use anyhow::{Context, Result};
use quinn::{Connection, Endpoint};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// TLS for both ends, with a certificate made on the spot.
pub(crate) fn tls() -> Result<(rustls::ServerConfig, rustls::ClientConfig)> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate)?;
    let client = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((server, client))
}

pub(crate) fn bind(address: &str) -> Result<UdpSocket> {
    UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))
}

/// A connection between two endpoints of this process, from both ends.
pub(crate) async fn connect(
    client: &Endpoint,
    server: &Endpoint,
) -> Result<(Connection, Connection)> {
    let connecting = client.connect(server.local_addr()?, "localhost")?;
    let accepting = async {
        server
            .accept()
            .await
            .context("endpoint closed")?
            .await
            .map_err(Into::into)
    };
    tokio::try_join!(async { anyhow::Ok(connecting.await?) }, accepting)
}
