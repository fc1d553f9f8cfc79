//! A service of lines that can be moved in the middle of one: its state has what was read of the line that is not complete.
//!
//! The half-close of a client that moves falls anywhere in its bytes. What this node has read of a message and not answered is
//! therefore part of what it hands over, and the next node reads on from there.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_migration::server::{Arrival, MigrationServer};
use rustls_migration::tokio::{MigrationAcceptor, TlsStream};
use rustls_migration::{TicketKeys, provider};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The longest line, in bytes, so that every state fits: a state has at most 8192 bytes.
const MAX_LINE: usize = 4096;

/// Where a conversation stands.
#[derive(Default)]
struct Conversation {
    /// How many lines have been answered.
    lines: u64,
    /// What has been read of the next one.
    partial: Vec<u8>,
}

impl Conversation {
    fn encode(&self) -> Vec<u8> {
        [&self.lines.to_be_bytes()[..], &self.partial].concat()
    }

    fn decode(state: &[u8]) -> Option<Self> {
        let (lines, partial) = state.split_first_chunk()?;
        Some(Self {
            lines: u64::from_be_bytes(*lines),
            partial: partial.to_vec(),
        })
    }

    /// Takes what was read. Returns the answers to the lines that are complete now.
    fn read(&mut self, read: &[u8]) -> Result<Vec<u8>, Error> {
        self.partial.extend_from_slice(read);
        let mut answers = Vec::new();
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.lines += 1;
            answers.extend_from_slice(format!("{}: ", self.lines).as_bytes());
            answers.extend_from_slice(&line);
        }
        match self.partial.len() > MAX_LINE {
            true => Err("a line is too long".into()),
            false => Ok(answers),
        }
    }
}

/// Answers each line with its number and itself.
pub(crate) async fn serve<IO>(mut stream: TlsStream<IO>) -> Result<(), Error>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut conversation = Conversation::default();
    if let Arrival::Migrated {
        state: Some(state), ..
    } = stream.arrival()
    {
        // The ticket is this service's own, so a state that cannot be read is a fault of its nodes.
        conversation = Conversation::decode(state).ok_or("a state that cannot be read")?;
    }
    // This stream may go on elsewhere from here. What is said last counts.
    stream.set_state(&conversation.encode())?;
    let mut buf = vec![0; 1024];
    loop {
        let len = stream.read(&mut buf).await?;
        if len == 0 {
            // The client is done, or it moves: then this hands the conversation over.
            return Ok(stream.shutdown().await?);
        }
        let answers = conversation.read(buf.get(..len).unwrap_or_default())?;
        stream.set_state(&conversation.encode())?;
        stream.write_all(&answers).await?;
        stream.flush().await?;
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let chain = CertificateDer::pem_file_iter("server.pem")?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file("server.key")?;
    let config = ServerConfig::builder_with_provider(Arc::new(provider::ring()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let server = MigrationServer::builder(config, "lines", TicketKeys::load("ticket-keys")?)
        .own_addresses(["192.0.2.1:443".parse()?])
        .target("192.0.2.2:443".parse()?);
    let acceptor = MigrationAcceptor::from(server.build()?);
    let listener = TcpListener::bind("192.0.2.1:443").await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move { serve(acceptor.accept(tcp).await?).await });
    }
}
