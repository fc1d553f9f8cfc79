//! Both ends of the QUIC connection that moves.
//!
//! Nothing here leaves the loopback interface.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use demo_server::authority::{self, Authority};
use demo_server::key_log::KeyLogWriter;
use demo_server::program::Failure;
use quinn::Connection;
use quinn_migration::{
    AddressId, Codepoints, MigrationClient, MigrationServer, Migrator, Policy, Traffic,
};
use rustls::crypto::ring::default_provider;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// One of the server's addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub(super) id: AddressId,
    pub(super) socket: SocketAddr,
}

pub(super) struct Ends {
    pub(super) server: MigrationServer,
    /// The first one is where the connection begins.
    pub(super) addresses: [Address; 2],
    pub(super) server_side: Connection,
    pub(super) client_side: Connection,
    pub(super) migrator: Migrator,
    client: MigrationClient,
}

impl Ends {
    /// Connects a client that follows this many advertisements.
    pub(super) async fn connect(moves: u32, key_log: Option<&Path>) -> Result<Self, Failure> {
        let (server_tls, client_tls) = tls(key_log)?;
        let (first, second) = (bind("127.0.0.2:0")?, bind("127.0.0.3:0")?);
        let sockets = [local(&first)?, local(&second)?];
        let points = Codepoints::default();
        let server = MigrationServer::bind(Arc::new(server_tls), points, Default::default(), first)
            .map_err(|error| Failure::wrong("the server", &error))?;
        let added = server
            .add_address(second)
            .map_err(|error| Failure::wrong("the server's second address", &error))?;
        let socket = bind("0.0.0.0:0")?;
        let client =
            MigrationClient::bind(Arc::new(client_tls), points, Default::default(), socket)
                .map_err(|error| Failure::wrong("the client", &error))?;
        let (client_side, server_side) = handshake(&client, &server, sockets[0]).await?;
        let mut policy = Policy::default();
        policy.moves = moves;
        let migrator = client
            .attach(&client_side, policy)
            .map_err(|error| Failure::wrong("the client", &error))?;
        let [first, second] = sockets;
        Ok(Self {
            server,
            addresses: [
                Address {
                    id: AddressId::FIRST,
                    socket: first,
                },
                Address {
                    id: added,
                    socket: second,
                },
            ],
            server_side,
            client_side,
            migrator,
            client,
        })
    }

    /// Datagrams through one of the server's addresses so far, in both directions.
    pub(super) fn datagrams(&self, address: Address) -> u64 {
        let Traffic { sent, received } = self.server.traffic(address.id).unwrap_or_default();
        sent.saturating_add(received)
    }

    /// The address at which the server sees the client.
    pub(super) fn server_address_in_use(&self) -> AddressId {
        self.server.client_of(&self.server_side).server
    }

    pub(super) async fn close(self) {
        self.client_side.close(0u32.into(), b"done");
        drop(self.migrator);
        self.client.endpoint().wait_idle().await;
    }
}

async fn handshake(
    client: &MigrationClient,
    server: &MigrationServer,
    at: SocketAddr,
) -> Result<(Connection, Connection), Failure> {
    let connecting = client
        .endpoint()
        .connect(at, authority::NAMES[0])
        .map_err(|error| Failure::wrong(format!("connecting to {at}"), &error))?;
    let accepting = async {
        match server.endpoint().accept().await {
            Some(incoming) => Some(incoming.await),
            None => None,
        }
    };
    let (client_side, server_side) = tokio::join!(connecting, accepting);
    let failed = |error| Failure::wrong("the handshake", &error);
    let server_side =
        server_side.ok_or_else(|| Failure::Wrong("the server has ended".to_owned()))?;
    Ok((client_side.map_err(failed)?, server_side.map_err(failed)?))
}

/// TLS for both ends, with an authority of this process alone.
fn tls(key_log: Option<&Path>) -> Result<(ServerConfig, ClientConfig), Failure> {
    let no_authority = |error| Failure::wrong("the development authority", &error);
    let authority = Authority::generate().map_err(no_authority)?;
    let (certificate, key) = authority.issue().map_err(no_authority)?;
    let settings = |error| Failure::wrong("TLS settings", &error);
    let provider = Arc::new(default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(settings)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(settings)?;
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.certificate().clone())
        .map_err(settings)?;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(settings)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    if let Some(path) = key_log {
        let writer = KeyLogWriter::open(path)
            .map_err(|error| Failure::usage(format!("--key-log {}", path.display()), &error))?;
        client.key_log = Arc::new(writer);
    }
    Ok((server, client))
}

fn bind(address: &str) -> Result<UdpSocket, Failure> {
    UdpSocket::bind(address).map_err(|error| Failure::wrong(format!("binding {address}"), &error))
}

fn local(socket: &UdpSocket) -> Result<SocketAddr, Failure> {
    socket
        .local_addr()
        .map_err(|error| Failure::wrong("a socket", &error))
}
