//! A node: it accepts connections at its addresses and serves each by itself.
//!
//! No connection's end is the node's end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use rustls_migration::server::Arrival;
use rustls_migration::tokio::MigrationAcceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;
use tracing::Instrument as _;

use crate::files::Files;
use crate::program::chain;
pub use crate::serve::End;
use crate::serve::Exchange;
use crate::sync::Exchanges;
use crate::trigger::{Pulls, Trigger};

/// How long the node waits before it accepts again when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a node serves, and when it moves its clients.
#[derive(Debug)]
pub struct Node {
    /// Who is admitted, and where they are moved to.
    pub acceptor: MigrationAcceptor,
    /// What is served.
    pub files: Arc<Files>,
    /// Moves all live connections.
    pub trigger: Trigger,
    /// Moves a connection once this many bytes of its answer have been sent.
    pub migrate_after: Option<u64>,
    /// What uploads are taken into, if they are taken.
    pub exchanges: Option<Exchanges>,
    /// Where connections are reported, if anywhere.
    pub reports: Option<UnboundedSender<Report>>,
}

/// What happened to a connection.
#[derive(Clone, Debug)]
pub struct Report {
    /// The client's address.
    pub peer: SocketAddr,
    /// What happened.
    pub event: Event,
}

/// What happened to a connection.
#[derive(Clone, Debug)]
pub enum Event {
    /// The client's hello has been judged. It may never complete its handshake.
    Arrived(Arrival),
    /// The connection was served to its end.
    Ended(End),
    /// The connection failed, and why.
    Failed(String),
}

impl Node {
    /// Accepts at `listener` until the future is dropped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((tcp, peer)) => {
                    let span = tracing::info_span!("client", %peer);
                    let pulls = self.trigger.watch();
                    tokio::spawn(
                        Arc::clone(&self)
                            .connection(tcp, peer, pulls)
                            .instrument(span),
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, tcp: TcpStream, peer: SocketAddr, pulls: Pulls) {
        let event = match self.exchange(tcp, peer, pulls).await {
            Ok(end) => Event::Ended(end),
            Err(error) => Event::Failed(chain(&error)),
        };
        self.report(peer, event);
    }

    async fn exchange(&self, tcp: TcpStream, peer: SocketAddr, pulls: Pulls) -> io::Result<End> {
        tcp.set_nodelay(true)?;
        let local = tcp.local_addr().ok();
        let start = self.acceptor.start(tcp, Some(peer), local).await?;
        self.report(peer, Event::Arrived(start.arrival().clone()));
        let stream = start.into_stream().await?;
        let mut exchange = Exchange::new(
            stream,
            &self.files,
            self.exchanges.as_ref(),
            pulls,
            self.migrate_after,
        );
        let end = exchange.run().await;
        tracing::info!(sent = exchange.sent(), "done");
        end
    }

    fn report(&self, peer: SocketAddr, event: Event) {
        tracing::info!("{event}");
        if let Some(reports) = &self.reports {
            // Whoever wanted to know may have gone.
            let _ = reports.send(Report { peer, event });
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arrived(Arrival::Fresh) => f.write_str("arrived"),
            Self::Arrived(Arrival::Migrated { early_data, .. }) => {
                let with = if *early_data { "with" } else { "without" };
                write!(f, "arrived with a token, {with} early data")
            }
            Self::Arrived(Arrival::Declined(verdict)) => {
                write!(f, "arrived with a token that is refused: {verdict}")
            }
            Self::Arrived(_) => f.write_str("arrived in a new way"),
            Self::Ended(end) => end.fmt(f),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}
