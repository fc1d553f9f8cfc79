//! Serves HTTP. A connection whose client is asked to move finishes what is under way, takes nothing more, and ends cleanly.

use std::error::Error;
use std::fmt;
use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls_migration::tokio::{MigrationAcceptor, TlsStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower_service::Service;

use super::handshakes;
use super::info::ConnectionInfo;
use super::io::ServerIo;
use super::service::PerConnection;

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;
type Resumed = dyn Fn(ServerIo<TcpStream>) -> BoxFuture + Send + Sync;

/// Serves `service` to the connections of `listener`: a tower service, such as axum's `Router`. It takes the place of
/// `axum::serve` and of `axum_server`.
///
/// When a client is asked to move, by [`MigrationAcceptor::drain`] or by its connection's
/// [handle](ConnectionInfo::handle), HTTP/2 sends GOAWAY and HTTP/1 answers with `Connection: close`; what is under way is
/// finished. So it is with clients that know nothing of migration.
///
/// ```no_run
/// # async fn example(acceptor: rustls_migration::tokio::MigrationAcceptor) -> std::io::Result<()> {
/// # let router = tower::service_fn(|_| async {
/// #     Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
/// # });
/// use hyper_migration::server::serve;
///
/// let listener = tokio::net::TcpListener::bind("192.0.2.1:443").await?;
/// serve(listener, acceptor, router).await;
/// # Ok(())
/// # }
/// ```
pub fn serve<S>(listener: TcpListener, acceptor: MigrationAcceptor, service: S) -> Serve<S> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new());
    http.http2().timer(TokioTimer::new());
    Serve {
        listener,
        early: acceptor.clone(),
        acceptor: acceptor.require_handshake(),
        until: Box::pin(pending()),
        serving: Serving {
            service,
            http,
            resumed: None,
            grace: Duration::from_secs(1),
        },
    }
}

/// A server that is about to run: await it. It runs for ever, unless [`accept_until`](Self::accept_until) says otherwise.
#[must_use = "it serves nobody before it is awaited"]
pub struct Serve<S> {
    listener: TcpListener,
    acceptor: MigrationAcceptor,
    /// The same, for early data.
    early: MigrationAcceptor,
    until: BoxFuture,
    serving: Serving<S>,
}

/// How connections are served.
#[derive(Clone)]
struct Serving<S> {
    service: S,
    http: Builder<TokioExecutor>,
    resumed: Option<Arc<Resumed>>,
    grace: Duration,
}

impl<S> Serve<S> {
    /// Other settings of HTTP than hyper-util's: header limits, windows, pings.
    pub fn http(mut self, http: Builder<TokioExecutor>) -> Self {
        self.serving.http = http;
        self
    }

    /// Where streams go that arrive with a state, as from [`ConnectionInfo::hand_over`] at another node: a WebSocket or another
    /// protocol in its middle. HTTP sees no byte of them. The state is [`ConnectionInfo::state`]; say it
    /// again before anything is read, so that the stream can go on from here too. Without a handler such a stream is closed, and
    /// its client sees an error.
    pub fn resumed<F, R>(mut self, handler: F) -> Self
    where
        F: Fn(ServerIo<TcpStream>) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.serving.resumed = Some(Arc::new(move |io| Box::pin(handler(io))));
        self
    }

    /// How long a connection goes on when its client has been asked to move, by default one second. An HTTP/1 connection is ended when
    /// nothing has been under way for so long, and HTTP/2 says GOAWAY after it: a request that the client was sending when it was
    /// asked is still answered. It should be longer than the round trip to the slowest client.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.serving.grace = grace;
        self
    }

    /// Serves requests that come as early data at once, when the handshake is not complete. They may be copies of somebody else's
    /// requests, each of which comes through once (RFC 8470). By default they wait for the end of the handshake.
    pub fn early_data(mut self) -> Self {
        self.acceptor = self.early.clone();
        self
    }

    /// When `signal` is ready, accepts who waits in the listener's queue and closes the listener. The server ends when its last
    /// connection has: [drain](MigrationAcceptor::drain) the acceptor meanwhile.
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
    type IntoFuture = BoxFuture;

    fn into_future(mut self) -> BoxFuture {
        Box::pin(async move {
            let mut connections = JoinSet::new();
            let accept = |(tcp, peer)| {
                let stream = handshakes::complete(&self.acceptor, tcp, peer);
                let serving = self.serving.clone();
                async move {
                    if let Some((stream, info)) = stream.await {
                        serving.connection(stream, info).await;
                    }
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
            // Who waits has completed its TCP handshake, and would be reset.
            while let Poll::Ready(Ok(connection)) = self
                .listener
                .poll_accept(&mut Context::from_waker(Waker::noop()))
            {
                connections.spawn(accept(connection));
            }
            drop(self.listener);
            while connections.join_next().await.is_some() {}
        })
    }
}

impl<S, B> Serving<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    async fn connection(self, stream: TlsStream<TcpStream>, info: ConnectionInfo) {
        let io = ServerIo::new(stream, info.clone());
        if info.state().is_some() {
            return match self.resumed {
                Some(resumed) => resumed(io).await,
                None => tracing::warn!("a stream arrived in its middle, and nobody takes it up"),
            };
        }
        let service = PerConnection {
            service: TowerToHyperService::new(self.service),
            info: info.clone(),
        };
        let io = TokioIo::new(io);
        let mut connection = pin!(self.http.serve_connection_with_upgrades(io, service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = info.may_end(self.grace) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(?info, %error, "a connection failed");
        }
    }
}
