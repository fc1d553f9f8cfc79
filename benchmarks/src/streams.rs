//! Bulk data over tokio streams in memory: this project's against tokio-rustls', and with a checkpoint for each 64 KiB against none.
//!
//! Both ends run in one thread, by turns, so that a unit of work is what both of them do.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls_migration::client::{MigrationClient, NoWider};
use rustls_migration::provider;
use rustls_migration::server::MigrationServer;
use rustls_migration::tokio::{
    HandOff, MigrationAcceptor, MigrationConnector, MigrationStream, TlsStream,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::Runtime;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::case::{Case, STREAM_LEN, Side};
use crate::error::BenchError;
use crate::peers::Service;
use crate::workload::Workload;

/// What a checkpoint's state has, in bytes: positions, an identifier, an epoch.
pub(crate) const STATE: [u8; 32] = [0x73; 32];

/// What the line holds, in bytes: more than one unit of work.
const LINE: usize = 256 * 1024;

const A: ([u8; 4], u16) = ([127, 0, 0, 2], 1);
const B: ([u8; 4], u16) = ([127, 0, 0, 3], 1);

/// What can carry a stream.
pub(crate) trait Line: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Line for T {}

/// Both ends of a connection, before it is there.
pub(crate) trait Ends: Clone + Send + 'static {
    type Client<IO: Line>: AsyncRead + AsyncWrite + Unpin;
    type Server<IO: Line>: AsyncRead + AsyncWrite + Unpin;

    async fn connect<IO: Line>(&self, io: IO) -> Result<Self::Client<IO>, BenchError>;

    async fn accept<IO: Line>(&self, io: IO) -> Result<Self::Server<IO>, BenchError>;
}

/// tokio-rustls'.
#[derive(Clone)]
pub(crate) struct StockEnds {
    name: ServerName<'static>,
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl StockEnds {
    pub(crate) fn new(service: &Service) -> Result<Self, BenchError> {
        let client = service.client_config(service.stock_provider(), false)?;
        let server = service.server_config(service.stock_provider(), false)?;
        Ok(Self {
            name: service.name()?,
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
        })
    }
}

impl Ends for StockEnds {
    type Client<IO: Line> = tokio_rustls::client::TlsStream<IO>;
    type Server<IO: Line> = tokio_rustls::server::TlsStream<IO>;

    async fn connect<IO: Line>(&self, io: IO) -> Result<Self::Client<IO>, BenchError> {
        Ok(self.connector.connect(self.name.clone(), io).await?)
    }

    async fn accept<IO: Line>(&self, io: IO) -> Result<Self::Server<IO>, BenchError> {
        Ok(self.acceptor.accept(io).await?)
    }
}

/// This project's.
#[derive(Clone)]
pub(crate) struct MigratingEnds {
    name: ServerName<'static>,
    connector: MigrationConnector,
    acceptor: MigrationAcceptor,
}

impl MigratingEnds {
    pub(crate) fn new(service: &Service) -> Result<Self, BenchError> {
        let config = service.server_config(provider::wrap(service.stock_provider()), false)?;
        let server = MigrationServer::builder(config, "bench", service.ticket_keys())
            .own_addresses([SocketAddr::from(A)])
            .dialects([service.dialect()])
            .nonce_store(Service::nonce_store())
            .build()?;
        let config = service.client_config(provider::wrap(service.stock_provider()), false)?;
        let client = MigrationClient::builder(config)
            .target_policy(NoWider::any_port())
            .dialects([service.dialect()])
            .build()?;
        Ok(Self {
            name: service.name()?,
            connector: MigrationConnector::from(client).hand_off(HandOff::Drain),
            acceptor: MigrationAcceptor::from(server),
        })
    }
}

impl Ends for MigratingEnds {
    type Client<IO: Line> = MigrationStream;
    type Server<IO: Line> = TlsStream<IO>;

    async fn connect<IO: Line>(&self, io: IO) -> Result<Self::Client<IO>, BenchError> {
        let (name, here) = (self.name.clone(), SocketAddr::from(A));
        Ok(self.connector.connect_over(name, here, io).await?)
    }

    async fn accept<IO: Line>(&self, io: IO) -> Result<Self::Server<IO>, BenchError> {
        Ok(self.acceptor.accept(io).await?)
    }
}

pub(crate) async fn nothing<S>(_: &mut S) -> Result<(), BenchError> {
    Ok(())
}

pub(crate) async fn checkpoint<IO: Line>(server: &mut TlsStream<IO>) -> Result<(), BenchError> {
    Ok(server.checkpoint(SocketAddr::from(B), &STATE).await?)
}

/// For a server that goes on writing.
pub(crate) async fn queue_checkpoint<IO: Line>(
    server: &mut TlsStream<IO>,
) -> Result<(), BenchError> {
    let queued = server.queue_checkpoint(SocketAddr::from(B), &STATE);
    queued.map_err(|_| BenchError::Unexpected("no checkpoint is made"))
}

/// The work of one side of a comparison of streams.
pub(crate) fn workload(service: &Service, case: Case, side: Side) -> Result<Workload, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    if side == Side::Stock && !case.has_checkpoints() {
        let (client, server) = runtime.block_on(pair(&StockEnds::new(service)?))?;
        return Ok(transfers(runtime, client, server, case, nothing));
    }
    let (client, mut server) = runtime.block_on(pair(&MigratingEnds::new(service)?))?;
    if side == Side::Stock || !case.has_checkpoints() {
        return Ok(transfers(runtime, client, server, case, nothing));
    }
    // The client keeps what it writes from the first one on.
    runtime.block_on(server.checkpoint(SocketAddr::from(B), &STATE))?;
    Ok(match case.is_to_client() {
        true => transfers(runtime, client, server, case, queue_checkpoint),
        false => transfers(runtime, client, server, case, checkpoint),
    })
}

/// A connection in memory.
async fn pair<E: Ends>(
    ends: &E,
) -> Result<(E::Client<DuplexStream>, E::Server<DuplexStream>), BenchError> {
    let (near, far) = tokio::io::duplex(LINE);
    tokio::try_join!(ends.connect(near), ends.accept(far))
}

/// Moves so much plaintext, and has the server do what follows.
fn transfers<C, S>(
    runtime: Runtime,
    mut client: C,
    mut server: S,
    case: Case,
    then: impl AsyncFn(&mut S) -> Result<(), BenchError> + 'static,
) -> Workload
where
    C: AsyncRead + AsyncWrite + Unpin + 'static,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let plaintext = vec![0x62; STREAM_LEN];
    let mut received = vec![0; STREAM_LEN];
    let to_client = case.is_to_client();
    Box::new(move || {
        runtime.block_on(async {
            if to_client {
                server.write_all(&plaintext).await?;
                server.flush().await?;
                then(&mut server).await?;
                client.read_exact(&mut received).await?;
            } else {
                client.write_all(&plaintext).await?;
                client.flush().await?;
                server.read_exact(&mut received).await?;
                then(&mut server).await?;
            }
            Ok(())
        })
    })
}
