//! What the integration tests share: TLS configurations, a server on several loopback addresses, a client, and
//! transfers with checksums. Real sockets and real peers only; never a sleep to wait for something.
#![allow(dead_code, reason = "every test binary uses a part of it")]

pub mod relay;
pub mod silence;
pub mod stock;
pub mod transfer;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, Endpoint, EndpointConfig};
use quinn_migration::{
    AddressId, AdvertiseError, Advertised, Alternate, Codepoints, Event, Family, MigrationClient,
    MigrationServer, Migrator, Policy,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Long enough for any test on a loaded machine; reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const ALPN: &[u8] = b"migration-test";

/// A self-signed certificate for `localhost`.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    /// Both as PEM.
    pem: [String; 2],
}

impl Identity {
    pub fn new() -> Self {
        Self::with_names(vec!["localhost".into()])
    }

    /// With a certificate of many packets.
    pub fn large() -> Self {
        let names = (0..400).map(|number| format!("name-{number}.example"));
        Self::with_names(names.chain(["localhost".into()]).collect())
    }

    fn with_names(names: Vec<String>) -> Self {
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self {
            certificate: made.cert.der().clone(),
            key: PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()),
            pem: [made.cert.pem(), made.signing_key.serialize_pem()],
        }
    }

    /// The certificate and its key as PEM files in `directory`.
    pub fn write_to(&self, directory: &std::path::Path) -> [std::path::PathBuf; 2] {
        let files = [directory.join("certificate.pem"), directory.join("key.pem")];
        for (file, pem) in files.iter().zip(&self.pem) {
            std::fs::write(file, pem).unwrap();
        }
        files
    }

    pub fn server_tls(&self) -> rustls::ServerConfig {
        let key = PrivateKeyDer::Pkcs8(self.key.clone_key());
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![self.certificate.clone()], key)
        .unwrap();
        tls.max_early_data_size = u32::MAX;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls
    }

    pub fn client_tls(&self) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
        tls.enable_early_data = true;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls
    }
}

/// Descriptors of this process.
pub fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Resident memory of this process, in KiB.
pub fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub fn bind(address: &str) -> UdpSocket {
    UdpSocket::bind(address).unwrap()
}

/// A server with its addresses, the first one first.
pub struct Server {
    pub inner: MigrationServer,
    pub addresses: Vec<(AddressId, SocketAddr)>,
}

impl Server {
    pub fn on(identity: &Identity, addresses: &[&str]) -> Self {
        Self::with(identity.server_tls(), EndpointConfig::default(), addresses)
    }

    pub fn with(tls: rustls::ServerConfig, config: EndpointConfig, addresses: &[&str]) -> Self {
        let (first, rest) = addresses.split_first().unwrap();
        let socket = bind(first);
        let address = socket.local_addr().unwrap();
        let inner =
            MigrationServer::bind(Arc::new(tls), Codepoints::default(), config, socket).unwrap();
        let mut server = Self {
            inner,
            addresses: vec![(AddressId::FIRST, address)],
        };
        for address in rest {
            server.add(address);
        }
        server
    }

    pub fn add(&mut self, address: &str) -> AddressId {
        let socket = bind(address);
        let address = socket.local_addr().unwrap();
        let id = self.inner.add_address(socket).unwrap();
        self.addresses.push((id, address));
        id
    }

    pub fn address(&self, index: usize) -> SocketAddr {
        self.addresses[index].1
    }

    pub fn id(&self, index: usize) -> AddressId {
        self.addresses[index].0
    }

    /// Datagrams in both directions at one address.
    pub fn datagrams(&self, index: usize) -> u64 {
        let traffic = self.inner.traffic(self.id(index)).unwrap_or_default();
        traffic.sent + traffic.received
    }

    pub async fn accept(&self) -> Connection {
        accept(self.inner.endpoint()).await
    }
}

pub async fn accept(endpoint: &Endpoint) -> Connection {
    endpoint.accept().await.unwrap().await.unwrap()
}

pub fn client(identity: &Identity) -> MigrationClient {
    client_with(
        identity.client_tls(),
        EndpointConfig::default(),
        "0.0.0.0:0",
    )
}

pub fn client_with(
    tls: rustls::ClientConfig,
    config: EndpointConfig,
    address: &str,
) -> MigrationClient {
    MigrationClient::bind(Arc::new(tls), Codepoints::default(), config, bind(address)).unwrap()
}

/// A connection, seen from both ends.
pub async fn connect(
    client: &Endpoint,
    server: &Server,
    to: SocketAddr,
) -> (Connection, Connection) {
    let connecting = client.connect(to, "localhost").unwrap();
    let (ours, theirs) = tokio::join!(connecting, server.accept());
    (ours.unwrap(), theirs)
}

/// The same, with the client's settings.
pub async fn connect_with(
    config: quinn::ClientConfig,
    client: &Endpoint,
    server: &Server,
    to: SocketAddr,
) -> (Connection, Connection) {
    let connecting = client.connect_with(config, to, "localhost").unwrap();
    let (ours, theirs) = tokio::join!(connecting, server.accept());
    (ours.unwrap(), theirs)
}

/// A policy that lets a test move as often as it likes, and to either family.
pub fn tireless() -> Policy {
    let mut policy = Policy::default();
    policy.moves = u32::MAX;
    policy.family = Family::CurrentFirst;
    policy
}

/// A server on 127.0.0.2 and 127.0.0.3, a client, and a connection between them that follows.
pub struct World {
    pub server: Server,
    pub client: MigrationClient,
    pub ours: Connection,
    pub theirs: Connection,
    pub migrator: Migrator,
}

impl World {
    pub async fn new() -> Self {
        Self::on(&["127.0.0.2:0", "127.0.0.3:0"]).await
    }

    pub async fn on(addresses: &[&str]) -> Self {
        let identity = Identity::new();
        let server = Server::on(&identity, addresses);
        let first = server.address(0);
        let unspecified = if first.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let client = client_with(
            identity.client_tls(),
            EndpointConfig::default(),
            unspecified,
        );
        Self::between(server, client, first).await
    }

    /// Advertises to the client.
    pub async fn advertise(&self, alternate: Alternate) -> Result<Advertised, AdvertiseError> {
        self.server.inner.advertise(&self.theirs, alternate).await
    }

    pub async fn between(server: Server, client: MigrationClient, to: SocketAddr) -> Self {
        let ends = connect(client.endpoint(), &server, to).await;
        Self::of(server, client, ends, tireless())
    }

    /// Of a connection whose two ends there are already.
    pub fn of(
        server: Server,
        client: MigrationClient,
        (ours, theirs): (Connection, Connection),
        policy: Policy,
    ) -> Self {
        let migrator = client.attach(&ours, policy).unwrap();
        Self {
            server,
            client,
            ours,
            theirs,
            migrator,
        }
    }

    /// Advertises `to` and waits until both ends say that the connection has moved.
    pub async fn move_to(&mut self, to: SocketAddr) -> Event {
        let (server, migrator) = (&self.server.inner, &mut self.migrator);
        silence::follow(server, &self.theirs, migrator, Alternate::forwarded(to), to).await
    }

    /// Waits until the server has heard more answers to its challenges than quinn's client knows of. Those to challenges on a
    /// path that was left are this crate's.
    pub async fn answered_on_the_path_left(&self) {
        until("the path that was left has answered", || {
            let heard = self.theirs.stats().frame_rx.path_response;
            heard > self.ours.stats().frame_tx.path_response
        })
        .await;
    }

    /// One byte there and back: after it the server has seen a packet on the current path.
    pub async fn echo(&self) {
        echo(&self.ours, &self.theirs).await;
    }
}

pub async fn echo(ours: &Connection, theirs: &Connection) {
    let asking = async {
        let (mut send, mut receive) = ours.open_bi().await.unwrap();
        send.write_all(b"ping").await.unwrap();
        send.finish().unwrap();
        assert_eq!(receive.read_to_end(64).await.unwrap(), b"ping");
    };
    let answering = async {
        let (mut send, mut receive) = theirs.accept_bi().await.unwrap();
        let bytes = receive.read_to_end(64).await.unwrap();
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
        send.stopped().await.unwrap();
    };
    within(async { tokio::join!(asking, answering) }).await;
}

/// Fails the test when `work` does not end.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("still waiting")
}

pub async fn next(migrator: &mut Migrator) -> Event {
    within(migrator.next()).await.expect("the connection ended")
}

/// The next event that ends something: not [`Event::Advertised`] and not [`Event::Validating`].
pub async fn settled(migrator: &mut Migrator) -> Event {
    loop {
        let event = next(migrator).await;
        if !matches!(event, Event::Advertised { .. } | Event::Validating { .. }) {
            return event;
        }
    }
}

/// Waits until `condition` holds; what it looks at changes in other tasks.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, waiting).await.is_ok(),
        "never: {what}"
    );
}
