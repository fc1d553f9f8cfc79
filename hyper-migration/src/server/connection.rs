//! Serves HTTP over one connection. When its client is asked to move, it finishes what is under way, takes nothing more, and ends cleanly.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls_migration::tokio::TlsStream;
use tokio::net::TcpStream;
use tower_service::Service;

use super::info::ConnectionInfo;
use super::io::ServerIo;
use super::service::PerConnection;

pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type BoxError = Box<dyn Error + Send + Sync>;
type Resumed = dyn Fn(ServerIo<TcpStream>) -> BoxFuture<()> + Send + Sync;

/// Serves a tower service, such as axum's `Router`, to connections that somebody else accepts: a server that speaks other protocols at the
/// same port, chosen by ALPN. [`serve`](super::serve) is for one that speaks HTTP alone.
///
/// ```
/// # async fn example(
/// #     stream: rustls_migration::tokio::TlsStream<tokio::net::TcpStream>,
/// # ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # let router = tower::service_fn(|_| async {
/// #     Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
/// # });
/// use hyper_migration::server::ConnectionServer;
///
/// let http = ConnectionServer::new(router);
/// let protocol = stream.get_ref().tls().alpn_protocol().map(<[u8]>::to_vec);
/// if let Some(b"h2" | b"http/1.1") = protocol.as_deref() {
///     http.serve(stream).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ConnectionServer<S> {
    service: S,
    http: Builder<TokioExecutor>,
    resumed: Option<Arc<Resumed>>,
    grace: Duration,
    early_data: bool,
}

impl<S> ConnectionServer<S> {
    /// With hyper-util's settings of HTTP, and nobody for streams that arrive with a state.
    pub fn new(service: S) -> Self {
        let mut http = Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new());
        http.http2().timer(TokioTimer::new());
        Self {
            service,
            http,
            resumed: None,
            grace: Duration::from_secs(1),
            early_data: false,
        }
    }

    /// As [`Serve::http`](super::Serve::http).
    pub fn http(mut self, http: Builder<TokioExecutor>) -> Self {
        self.http = http;
        self
    }

    /// As [`Serve::resumed`](super::Serve::resumed). The handler may be given early data, unless the acceptor
    /// [requires a handshake](rustls_migration::tokio::MigrationAcceptor::require_handshake).
    pub fn resumed<F, R>(mut self, handler: F) -> Self
    where
        F: Fn(ServerIo<TcpStream>) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.resumed = Some(Arc::new(move |io| Box::pin(handler(io))));
        self
    }

    /// As [`Serve::grace`](super::Serve::grace).
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// As [`Serve::early_data`](super::Serve::early_data).
    pub fn early_data(mut self) -> Self {
        self.early_data = true;
        self
    }
}

impl<S> fmt::Debug for ConnectionServer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionServer")
            .field("grace", &self.grace)
            .field("early_data", &self.early_data)
            .finish_non_exhaustive()
    }
}

impl<S, B> ConnectionServer<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Serves one connection to its end. Dropping the future drops the connection.
    ///
    /// # Errors
    ///
    /// Those of the handshake, of the transport, and of HTTP.
    pub async fn serve(&self, mut stream: TlsStream<TcpStream>) -> Result<(), BoxError> {
        let info = ConnectionInfo::of(&stream);
        if info.state().is_some() {
            match &self.resumed {
                Some(resumed) => resumed(ServerIo::new(stream, info)).await,
                None => tracing::warn!("a stream arrived in its middle, and nobody takes it up"),
            }
            return Ok(());
        }
        if !self.early_data {
            stream.handshake().await?;
        }
        let service = PerConnection {
            service: TowerToHyperService::new(self.service.clone()),
            info: info.clone(),
        };
        let io = TokioIo::new(ServerIo::new(stream, info.clone()));
        let mut connection = Box::pin(self.http.serve_connection_with_upgrades(io, service));
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = info.may_end(self.grace) => connection.as_mut().graceful_shutdown(),
        }
        match connection.as_mut().await {
            // hyper-util would only drop the stream.
            Err(error) if is_unused(&error) => Ok(info.hand_over(connection).await?),
            ended => ended,
        }
    }
}

/// Whether it is what hyper-util says when a connection is to end on which nothing has been asked.
fn is_unused(error: &BoxError) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::Interrupted)
}
