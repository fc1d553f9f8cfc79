//! A service of running totals whose conversations survive it: each line from the client is a number, each answer the total so far.
//! Its answers follow from its state and what it reads, so the node that goes on writes the same again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls_migration::server::MigrationServer;
use rustls_migration::tokio::conversation::{Checkpoints, Conversation, lines};
use rustls_migration::tokio::{MigrationAcceptor, TlsStream};
use rustls_migration::{TicketKeys, provider};
use tokio::net::{TcpListener, TcpStream};

/// Serves one client, who goes on at `next` if this node dies.
pub(crate) async fn serve(mut stream: TlsStream<TcpStream>, next: SocketAddr) -> io::Result<()> {
    let mut conversation = Conversation::begin(&mut stream, Checkpoints::to(next)).await?;
    let answered = answer(&mut conversation).await;
    conversation.finish(answered).await.map(drop)
}

async fn answer(conversation: &mut Conversation<'_, TcpStream>) -> io::Result<()> {
    let total = conversation.state().try_into();
    let mut total = total.map_or(0, u64::from_be_bytes);
    while let Some(line) = conversation.request(lines(100)).await? {
        let line = std::str::from_utf8(&line).map_err(io::Error::other)?;
        total += line.trim().parse::<u64>().map_err(io::Error::other)?;
        let answer = format!("{total}\n");
        conversation.write_all(answer.as_bytes()).await?;
        conversation.set_state(&total.to_be_bytes())?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [here, next] = ["192.0.2.1:443".parse()?, "192.0.2.2:443".parse()?];
    let chain = CertificateDer::pem_file_iter("server.pem")?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file("server.key")?;
    let config = ServerConfig::builder_with_provider(Arc::new(provider::ring()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let server = MigrationServer::builder(config, "totals", TicketKeys::load("ticket-keys")?);
    let acceptor = MigrationAcceptor::from(server.own_addresses([here]).build()?);
    let listener = TcpListener::bind(here).await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move { serve(acceptor.accept(tcp).await?, next).await });
    }
}
