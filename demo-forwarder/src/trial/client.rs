//! The client of a trial: one connection with one download, and where its paths begin.
//!
//! It knows nothing of fronts and nodes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use demo_server::authority::{Authority, NAMES};
use demo_server::program::Failure;
use parking_lot::Mutex;
use quinn::{Connection, RecvStream, SendStream};
use quinn_migration::{MigrationClient, Migrator, Policy};
use rustls::crypto::ring::default_provider;
use rustls::version::TLS13;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::report::Sum;
use crate::front::bind;

/// Longer than any step takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// Server addresses, and where the path to each begins.
type Paths = Arc<Mutex<Vec<(SocketAddr, SocketAddr)>>>;

pub(super) struct Client {
    paths: Paths,
    connection: Connection,
    migrator: Migrator,
    download: Option<Download>,
    _endpoint: MigrationClient,
}

struct Download {
    enough: SendStream,
    received: watch::Receiver<u64>,
    sum: JoinHandle<Result<Sum, Failure>>,
}

impl Client {
    /// Connects to a front, and follows so many advertisements.
    pub(super) async fn connect(
        state_dir: &Path,
        front: SocketAddr,
        moves: u32,
    ) -> Result<Self, Failure> {
        let wrong = |error: &dyn std::error::Error| Failure::wrong("the client", error);
        let first = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let begins = first.local_addr().map_err(|error| wrong(&error))?;
        let paths: Paths = Arc::new(Mutex::new(vec![(front, begins)]));
        let opened = Arc::clone(&paths);
        let endpoint = MigrationClient::builder(Arc::new(tls(state_dir)?), first)
            .path_sockets(move |path| {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                opened.lock().push((path.server, socket.local_addr()?));
                Ok(socket)
            })
            .bind()
            .map_err(|error| wrong(&error))?;
        let connecting = endpoint.endpoint().connect(front, NAMES[0]);
        let connection = connecting.map_err(|error| wrong(&error))?.await;
        let connection = connection.map_err(|error| wrong(&error))?;
        let mut policy = Policy::default();
        policy.moves = moves;
        let migrator = endpoint
            .attach(&connection, policy)
            .map_err(|e| wrong(&e))?;
        Ok(Self {
            paths,
            connection,
            migrator,
            download: None,
            _endpoint: endpoint,
        })
    }

    /// Where the latest path begins.
    pub(super) fn address(&self) -> SocketAddr {
        let paths = self.paths.lock();
        let last = paths.last().map(|(_, begins)| *begins);
        last.unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into())
    }

    /// Where the latest path to this server address begins.
    pub(super) fn address_to(&self, server: SocketAddr) -> SocketAddr {
        let paths = self.paths.lock();
        let mut to = paths.iter().rev().filter(|(to, _)| *to == server);
        let first = to.next().map(|(_, begins)| *begins);
        first.unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into())
    }

    /// Begins to download, `least` bytes at least.
    pub(super) async fn download(&mut self, least: u64) -> Result<(), Failure> {
        let wrong = |error: &dyn std::error::Error| Failure::wrong("the download", error);
        let streams = self.connection.open_bi().await;
        let (mut enough, stream) = streams.map_err(|error| wrong(&error))?;
        let asked = enough.write_all(&least.to_be_bytes()).await;
        asked.map_err(|error| wrong(&error))?;
        let (count, received) = watch::channel(0);
        self.download = Some(Download {
            enough,
            received,
            sum: tokio::spawn(receive(stream, count)),
        });
        Ok(())
    }

    /// Waits until so many bytes more have come.
    pub(super) async fn progress(&mut self, bytes: u64) -> Result<(), Failure> {
        let download = self.download.as_mut();
        let received = &mut download.ok_or_else(no_download)?.received;
        let goal = received.borrow().saturating_add(bytes);
        match timeout(PATIENCE, received.wait_for(|count| *count >= goal)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Failure::Wrong("the download ended early".to_owned())),
            Err(_) => Err(Failure::Wrong("the download stands still".to_owned())),
        }
    }

    /// The front that the connection is on.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        self.migrator.server()
    }

    /// Waits until the connection is on this front.
    pub(super) async fn comes_to(&mut self, front: SocketAddr) -> Result<(), Failure> {
        while self.server() != Some(front) {
            let event = timeout(PATIENCE, self.migrator.next()).await;
            let event = event.map_err(|_| Failure::Wrong("the client stays silent".to_owned()))?;
            if event.is_none() {
                return Err(Failure::Wrong("the connection has ended".to_owned()));
            }
        }
        Ok(())
    }

    /// Has had enough: waits for the end, and answers with what came.
    pub(super) async fn finish(&mut self) -> Result<Sum, Failure> {
        let mut download = self.download.take().ok_or_else(no_download)?;
        let _ = download.enough.finish();
        let sum = timeout(PATIENCE, download.sum).await;
        let sum = sum.map_err(|_| Failure::Wrong("the download does not end".to_owned()))?;
        sum.map_err(|error| Failure::wrong("the download", &error))?
    }
}

fn no_download() -> Failure {
    Failure::Wrong("there is no download".to_owned())
}

async fn receive(mut stream: RecvStream, count: watch::Sender<u64>) -> Result<Sum, Failure> {
    let (mut bytes, mut sum, mut chunk) = (0u64, Sha256::new(), vec![0; 64 * 1024]);
    let lost = |error| Failure::wrong("the download", &error);
    while let Some(length) = stream.read(&mut chunk).await.map_err(lost)? {
        sum.update(chunk.get(..length).unwrap_or_default());
        bytes = bytes.saturating_add(u64::try_from(length).unwrap_or_default());
        count.send_replace(bytes);
    }
    Ok(Sum {
        bytes,
        sha256: base16ct::lower::encode_string(&sum.finalize()),
    })
}

fn tls(state_dir: &Path) -> Result<rustls::ClientConfig, Failure> {
    let authority = Authority::open(state_dir).map_err(|e| Failure::wrong("the authority", &e))?;
    let settings = |error| Failure::wrong("TLS settings", &error);
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(authority.certificate().clone())
        .map_err(settings)?;
    let provider = Arc::new(default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(settings)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
