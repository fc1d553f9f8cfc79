//! Two nodes and a client in one process: a stream of echoes goes on at B where it stood at A.

use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
use rustls_migration::client::{MigrationClient, NoWider};
use rustls_migration::tokio::{DrainPlan, HandOff, MigrationAcceptor, MigrationConnector};
use rustls_migration::{TicketKeys, provider, server::MigrationServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn echo(acceptor: MigrationAcceptor, listener: TcpListener) -> Result<(), Error> {
    let mut stream = acceptor.accept(listener.accept().await?.0).await?;
    stream.set_state(b"")?; // it may go on elsewhere, and there is nothing to remember
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::io::copy(&mut reader, &mut writer).await?;
    Ok(writer.shutdown().await?) // the client is done, or goes on elsewhere
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), Error> {
    let identity = generate_simple_self_signed(["localhost".to_owned()])?;
    let certificate = identity.cert.der();
    let provider = Arc::new(provider::ring());
    let keys = TicketKeys::generate(provider.secure_random)?;
    let node = async |ip| -> Result<_, Error> {
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der())?;
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        let listener = TcpListener::bind(ip).await?;
        let address = listener.local_addr()?;
        let server = MigrationServer::builder(config, "echo", keys.clone()).answers_for([address]);
        let acceptor =
            MigrationAcceptor::from(server.clock_skew(std::time::Duration::ZERO).build()?);
        tokio::spawn(echo(acceptor.clone(), listener));
        Ok((address, acceptor))
    };
    let ((at_a, a), (at_b, _b)) = (node("127.0.0.2:0").await?, node("127.0.0.3:0").await?);

    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = MigrationClient::builder(config).target_policy(NoWider::any_port());
    let connector = MigrationConnector::from(client.build()?).hand_off(HandOff::Drain);
    let mut stream = connector.connect("localhost".try_into()?, at_a).await?;
    let _drain = a.drain(DrainPlan::to([(at_b, 1)]));
    while stream.peer_addr() == at_a {
        stream.write_all(b"word").await?;
        stream.read_exact(&mut [0; 4]).await?;
    }
    Ok(())
}
