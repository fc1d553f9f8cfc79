//! Two nodes of one service on a [`Network`] in memory, in virtual time: what takes a minute costs nothing, and a hang shows
//! at once.
//!
//! Nodes answer for their own addresses only.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_migration::client::MigrationClient;
use rustls_migration::server::MigrationServerBuilder;
use rustls_migration::tokio::{
    HandOff, MigrationAcceptor, MigrationConnector, MigrationStream, TlsStream,
};
use tokio::time::timeout;

use crate::network::{End, Network};
use crate::{Service, server_name};

/// Nothing takes so long, in virtual time, unless it hangs.
const LONG: Duration = Duration::from_secs(3600);

/// Runs `case` in a runtime of its own, whose time goes on when there is nothing else to do. Panics when it hangs.
pub fn run<F: Future>(case: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let limited = runtime.block_on(async { timeout(LONG, case).await });
    limited.unwrap_or_else(|_| panic!("it hangs"))
}

/// Nodes A and B, and whoever connects to them.
pub struct Pair {
    pub service: Service,
    /// All connectors' client.
    client: Arc<MigrationClient>,
    pub network: Network,
    pub a: SocketAddr,
    pub b: SocketAddr,
}

impl Pair {
    /// On a network with 5 ms in each direction, whose ends buffer `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self::on(Duration::from_millis(5), capacity)
    }

    /// On a network that takes so long in each direction.
    pub fn at_a_distance(latency: Duration) -> Self {
        Self::on(latency, 65_536)
    }

    fn on(latency: Duration, capacity: usize) -> Self {
        let service = Service::default();
        let client = service.client_with(service.client_config());
        Self {
            client: Arc::new(client.build().unwrap()),
            service,
            network: Network::new(latency, capacity, Vec::new()),
            a: "127.0.0.2:443".parse().unwrap(),
            b: "127.0.0.3:443".parse().unwrap(),
        }
    }

    /// Serves each connection to `address` by `serve`.
    pub fn serve<F, S>(
        &self,
        address: SocketAddr,
        settings: MigrationServerBuilder,
        serve: F,
    ) -> MigrationAcceptor
    where
        F: Fn(TlsStream<End>) -> S + Send + Sync + 'static,
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        let settings = settings.own_addresses([address]);
        let acceptor = MigrationAcceptor::from(settings.build().unwrap());
        let (accepting, serve) = (acceptor.clone(), Arc::new(serve));
        let mut incoming = self.network.listen(address);
        tokio::spawn(async move {
            while let Some(io) = incoming.recv().await {
                let (acceptor, serve) = (accepting.clone(), Arc::clone(&serve));
                // What a connection's end means, its client says.
                tokio::spawn(async move { serve(acceptor.accept(io).await?).await });
            }
        });
        acceptor
    }

    pub fn connector(&self, mode: HandOff) -> MigrationConnector {
        let connector = MigrationConnector::from(Arc::clone(&self.client));
        connector.hand_off(mode).dialer(self.network.clone())
    }

    /// A client's stream to A.
    pub async fn connect(&self, mode: HandOff) -> MigrationStream {
        let connector = self.connector(mode);
        connector.connect(server_name(), self.a).await.unwrap()
    }
}
