//! A node: it accepts connections at its addresses and serves each by itself.
//!
//! No connection's end is the node's end.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use axum::Router;
use hyper_migration::server::ConnectionServer;
use rustls_migration::server::Arrival;
use rustls_migration::tokio::{
    ConnectionHandle, DepartureStatus, MigrationAcceptor, StartHandshake, TlsStream,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;
use tracing::Instrument as _;

use crate::connections::{Connections, Entered};
use crate::files::Files;
use crate::program::chain;
pub use crate::serve::End;
use crate::serve::Exchange;
use crate::sync::Exchanges;
use crate::trigger::{Pulls, Trigger};
use crate::web;

/// How long the node waits before it accepts again when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a node serves, and when it moves its clients.
#[derive(Debug)]
pub struct Node {
    /// Who is admitted, and where they are moved to.
    pub acceptor: MigrationAcceptor,
    /// What is served by the line protocol.
    pub files: Arc<Files>,
    /// What is served by HTTP.
    pub http: ConnectionServer<Router>,
    /// Where HTTP's clients are moved to when the trigger is pulled.
    pub target: Option<SocketAddr>,
    /// All live connections, for who watches them.
    pub connections: Connections,
    /// Moves all live connections.
    pub trigger: Trigger,
    /// Moves a connection of the line protocol once this many bytes of its answer have been sent.
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
    /// Accepts at `listener` until `stop` resolves or the future is dropped.
    ///
    /// When it stops it accepts who has been waiting in the listener's queue, closes the listener, and only then resolves:
    /// the system has completed the TCP handshake with these clients, and would reset their connections. All of them
    /// are the acceptor's by then, so that a drain waits for them.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut stop => break,
            };
            match accepted {
                Ok((tcp, peer)) => self.begin(tcp, peer),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Err(error) = self.accept_waiting(listener) {
            tracing::warn!(%error, "cannot accept who waits");
        }
    }

    /// Accepts who has been waiting, and closes the listener.
    fn accept_waiting(self: &Arc<Self>, listener: TcpListener) -> io::Result<()> {
        // The runtime may not have heard of the last of them.
        let listener = listener.into_std()?;
        loop {
            match listener.accept() {
                Ok((tcp, peer)) => {
                    tcp.set_nonblocking(true)?;
                    self.begin(TcpStream::from_std(tcp)?, peer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes on a client, which the acceptor knows of when this returns.
    fn begin(self: &Arc<Self>, tcp: TcpStream, peer: SocketAddr) {
        let span = tracing::info_span!("client", %peer);
        let pulls = self.trigger.watch();
        let local = tcp.local_addr().ok();
        // Whoever cannot have it is served all the same.
        let _ = tcp.set_nodelay(true);
        let start = self.acceptor.start(tcp, Some(peer), local);
        let entered = self.connections.enter();
        let node = Arc::clone(self);
        let connection = async move {
            let event = match node.exchange(start, peer, pulls, &entered).await {
                Ok(end) => Event::Ended(end),
                Err(error) => Event::Failed(chain(&error)),
            };
            node.report(peer, event);
        };
        tokio::spawn(connection.instrument(span));
    }

    async fn exchange(
        &self,
        start: impl Future<Output = io::Result<StartHandshake<TcpStream>>>,
        peer: SocketAddr,
        pulls: Pulls,
        entered: &Entered,
    ) -> io::Result<End> {
        let start = start.await?;
        self.report(peer, Event::Arrived(start.arrival().clone()));
        let stream = start.into_stream().await?;
        entered.begin(stream.handle());
        let protocol = stream.get_ref().tls().alpn_protocol().map(<[u8]>::to_vec);
        if protocol.is_some_and(|protocol| web::PROTOCOLS.contains(&protocol.as_slice())) {
            return self.http(stream, pulls).await;
        }
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

    /// Serves a connection that speaks HTTP.
    async fn http(&self, stream: TlsStream<TcpStream>, mut pulls: Pulls) -> io::Result<End> {
        let handle = stream.handle();
        let mut serving = pin!(self.http.serve(stream));
        loop {
            tokio::select! {
                served = &mut serving => {
                    served.map_err(io::Error::other)?;
                    return Ok(end_of(&handle));
                }
                () = pulls.next() => if let Some(target) = self.target {
                    handle.migrate_to(target);
                }
            }
        }
    }

    fn report(&self, peer: SocketAddr, event: Event) {
        tracing::info!("{event}");
        if let Some(reports) = &self.reports {
            // Whoever wanted to know may have gone.
            let _ = reports.send(Report { peer, event });
        }
    }
}

/// How a connection ended that HTTP has finished with.
fn end_of(handle: &ConnectionHandle) -> End {
    let moved = matches!(
        handle.status(),
        DepartureStatus::Told | DepartureStatus::Left | DepartureStatus::HandedOver
    );
    if moved { End::Moved } else { End::Answered }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arrived(Arrival::Fresh) => f.write_str("arrived"),
            Self::Arrived(Arrival::Migrated { early_data, .. }) => {
                let with = if *early_data { "with" } else { "without" };
                write!(f, "arrived with a token, {with} early data")
            }
            Self::Arrived(Arrival::Recovered { received, .. }) => {
                write!(f, "arrived since its node died, with {received} bytes more")
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
