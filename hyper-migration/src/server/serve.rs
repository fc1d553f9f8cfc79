//! Serves HTTP to the connections of a listener, whose clients can be asked to move.

use std::error::Error;
use std::fmt;
use std::future::pending;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto::Builder;
use rustls_migration::tokio::MigrationAcceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower_service::Service;

use super::connection::{BoxFuture, ConnectionServer};
use super::handshakes;
use super::io::ServerIo;

/// Serves `service` to the connections of `listener`: a tower service, such as axum's `Router`. It takes the place of
/// `axum::serve` and of `axum_server`.
///
/// When a client is asked to move, by [`MigrationAcceptor::drain`] or by its connection's
/// [handle](super::ConnectionInfo::handle), HTTP/2 sends GOAWAY and HTTP/1 answers with `Connection: close`; what is under way is
/// finished. So it is with clients that know nothing of migration.
///
/// ```no_run
/// # async fn example(acceptor: rustls_migration::tokio::MigrationAcceptor) -> Result<(), Box<dyn std::error::Error>> {
/// # let router = tower::service_fn(|_| async {
/// #     Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
/// # });
/// use hyper_migration::server::serve;
///
/// let listener = rustls_migration::tokio::listen("192.0.2.1:443".parse()?)?;
/// serve(listener, acceptor, router).await;
/// # Ok(())
/// # }
/// ```
pub fn serve<S>(listener: TcpListener, acceptor: MigrationAcceptor, service: S) -> Serve<S> {
    Serve {
        listener,
        early: acceptor.clone(),
        acceptor: acceptor.require_handshake(),
        until: Box::pin(pending()),
        connections: ConnectionServer::new(service),
    }
}

/// A server that is about to run: await it. It runs for ever, unless [`accept_until`](Self::accept_until) says otherwise.
#[must_use = "it serves nobody before it is awaited"]
pub struct Serve<S> {
    listener: TcpListener,
    acceptor: MigrationAcceptor,
    /// The same, for early data.
    early: MigrationAcceptor,
    until: BoxFuture<()>,
    connections: ConnectionServer<S>,
}

impl<S> Serve<S> {
    /// Other settings of HTTP than hyper-util's: header limits, windows, pings.
    pub fn http(mut self, http: Builder<TokioExecutor>) -> Self {
        self.connections = self.connections.http(http);
        self
    }

    /// Where streams go that arrive with a state, as from [`ConnectionInfo::hand_over`](super::ConnectionInfo::hand_over) at another node: a WebSocket or another
    /// protocol in its middle. HTTP sees no byte of them. The state is [`ConnectionInfo::state`](super::ConnectionInfo::state); say it
    /// again before anything is read, so that the stream can go on from here too. Without a handler such a stream is closed, and
    /// its client sees an error.
    pub fn resumed<F, R>(mut self, handler: F) -> Self
    where
        F: Fn(ServerIo<TcpStream>) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.connections = self.connections.resumed(handler);
        self
    }

    /// How long a connection goes on when its client has been asked to move, by default one second. An HTTP/1 connection is ended when
    /// nothing has been under way for so long, and HTTP/2 says GOAWAY after it: a request that the client was sending when it was
    /// asked is still answered. It should be longer than the round trip to the slowest client.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.connections = self.connections.grace(grace);
        self
    }

    /// Serves requests that come as early data at once, when the handshake is not complete. They may be copies of somebody else's
    /// requests, each of which comes through once (RFC 8470). By default they wait for the end of the handshake.
    pub fn early_data(mut self) -> Self {
        self.acceptor = self.early.clone();
        self.connections = self.connections.early_data();
        self
    }

    /// When `signal` is ready, accepts who waits in the listener's queue and closes the listener. The server ends when its last
    /// connection has, upgraded ones too: [drain](MigrationAcceptor::drain) the acceptor meanwhile.
    pub fn accept_until(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.until = Box::pin(signal);
        self
    }
}

impl<S> fmt::Debug for Serve<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("listener", &self.listener)
            .field("acceptor", &self.acceptor)
            .finish_non_exhaustive()
    }
}

impl<S, B> IntoFuture for Serve<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Output = ();
    type IntoFuture = BoxFuture<()>;

    fn into_future(mut self) -> BoxFuture<()> {
        Box::pin(async move {
            let mut connections = JoinSet::new();
            let accept = |(tcp, peer)| {
                let stream = handshakes::complete(&self.acceptor, tcp, peer);
                let connections = self.connections.clone();
                async move {
                    let Some(stream) = stream.await else {
                        return;
                    };
                    let handle = stream.handle();
                    if let Err(error) = connections.serve(stream).await {
                        tracing::debug!(%peer, %error, "a connection failed");
                    }
                    // Its stream may live on: as a WebSocket, or until the client has read the end.
                    handle.ended().await;
                }
            };
            loop {
                tokio::select! {
                    biased;
                    () = &mut self.until => break,
                    connection = handshakes::next(&self.listener) => {
                        connections.spawn(accept(connection));
                    }
                    // Each that has ended is forgotten.
                    Some(_) = connections.join_next() => {}
                }
            }
            match handshakes::waiting(self.listener) {
                Ok(waiting) => waiting.into_iter().for_each(|connection| {
                    connections.spawn(accept(connection));
                }),
                Err(error) => tracing::error!(%error, "who waits cannot be accepted"),
            }
            while connections.join_next().await.is_some() {}
        })
    }
}
