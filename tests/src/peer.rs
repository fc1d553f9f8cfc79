//! A client whose every step a test decides, for tests whose time is tokio's: it stands still while anybody has something to
//! do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use migration_token::MemoryNonceStore;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_migration::Connection as _;
use rustls_migration::client::{ClientConnection, MigrationClient, Offer};
use rustls_migration::server::MigrationServerBuilder;
use rustls_migration::tokio::MigrationAcceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use crate::memory::take_offer;
use crate::node::echo;
use crate::{Service, server_name};

/// A client whose every step a test decides.
pub struct Peer {
    pub connection: ClientConnection,
    pub io: DuplexStream,
}

impl Peer {
    /// The client, and the server's end of its transport.
    fn new(connection: ClientConnection) -> (Self, DuplexStream) {
        let (io, server) = duplex(1 << 20);
        (Self { connection, io }, server)
    }

    /// Sends what the connection wants to send, and returns it.
    pub async fn send(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut out).unwrap();
        }
        // The server may be gone already.
        let _ = self.io.write_all(&out).await;
        out
    }

    /// Receives once.
    pub async fn receive(&mut self) {
        let len = self.receive_some(16_384).await.unwrap();
        assert_ne!(len, 0, "the server closed");
    }

    /// Receives once, so many bytes at the most, or the end of the transport. Returns how many came.
    ///
    /// # Errors
    ///
    /// What the server did wrong, or its alert.
    pub async fn receive_some(&mut self, most: usize) -> Result<usize, rustls::Error> {
        let mut buf = vec![0; most];
        let len = self.io.read(&mut buf).await.unwrap();
        let mut rest = &buf[..len];
        loop {
            self.connection.read_tls(&mut rest).unwrap();
            self.connection.process_new_packets()?;
            if rest.is_empty() {
                return Ok(len);
            }
        }
    }

    /// Completes the handshake and sends `plaintext`.
    pub async fn say(&mut self, plaintext: &[u8]) {
        self.send().await;
        while self.connection.is_handshaking() {
            self.receive().await;
            self.send().await;
        }
        self.connection.write(plaintext).unwrap();
        self.send().await;
    }

    /// Reads until there is plaintext.
    pub async fn hear(&mut self) -> Vec<u8> {
        loop {
            match self.connection.fill_buf() {
                Ok(plaintext) => {
                    let plaintext = plaintext.to_vec();
                    self.connection.consume(plaintext.len());
                    return plaintext;
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            self.receive().await;
        }
    }
}

/// A service with a client, which is moved from a node A to an address B.
pub struct Setting {
    pub service: Service,
    client: Arc<MigrationClient>,
    pub b: SocketAddr,
}

impl Default for Setting {
    fn default() -> Self {
        Self::new()
    }
}

impl Setting {
    pub fn new() -> Self {
        Self::with_client(|_| ())
    }

    /// With a client whose configuration is changed.
    pub fn with_client(change: impl FnOnce(&mut ClientConfig)) -> Self {
        let service = Service::default();
        let mut config = service.client_config();
        change(&mut config);
        // In draft -03 too it goes on where it has to make a full handshake.
        let client = service.client_with(config).allow_full_handshakes();
        Self {
            client: Arc::new(client.build().unwrap()),
            service,
            b: "127.0.0.3:443".parse().unwrap(),
        }
    }

    /// The settings of B.
    pub fn node(&self) -> MigrationServerBuilder {
        self.service.node().own_addresses([self.b])
    }

    pub fn store(&self) -> MemoryNonceStore {
        self.service.store(10)
    }

    pub fn fresh(&self) -> (Peer, DuplexStream) {
        let connection = ClientConnection::new(&self.client, server_name(), self.b);
        Peer::new(connection.unwrap())
    }

    /// What A offers.
    async fn offer(&self) -> Offer {
        let at_a = self.service.node().target(self.b).build().unwrap();
        let (mut peer, io) = self.fresh();
        let served = tokio::spawn(async move {
            let stream = MigrationAcceptor::from(at_a).accept(io).await.unwrap();
            let _ = echo(stream).await;
        });
        peer.say(b"hello").await;
        assert_eq!(peer.hear().await, b"hello");
        served.abort();
        take_offer(&mut peer.connection, self.b)
    }

    /// A client with a token and early data.
    pub async fn moved(&self, early_data: &[u8]) -> (Peer, DuplexStream) {
        self.moved_as(server_name(), early_data).await
    }

    /// A client that asks B for another name than it asked A for.
    pub async fn moved_as(
        &self,
        name: ServerName<'static>,
        early_data: &[u8],
    ) -> (Peer, DuplexStream) {
        let offer = self.offer().await;
        let connection = ClientConnection::resume(&self.client, name, offer, early_data);
        Peer::new(connection.unwrap())
    }
}

/// A node with these settings.
pub fn acceptor(settings: MigrationServerBuilder) -> MigrationAcceptor {
    MigrationAcceptor::from(settings.build().unwrap())
}
