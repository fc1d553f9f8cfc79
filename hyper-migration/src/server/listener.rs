//! A listener for frameworks that accept connections themselves: axum's `serve`, tonic's `Server`.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use rustls_migration::tokio::MigrationAcceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::handshakes;
use super::info::ConnectionInfo;
use super::io::ServerIo;

/// How many streams wait for axum; past that no more handshakes are begun.
const WAITING: usize = 64;

/// Gives a framework connections whose handshakes are complete. They are made beside one another, so that a slow one keeps nobody
/// waiting. [`serve`](super::serve) does more: these frameworks cannot be told that one connection is to end, so one whose client is
/// asked to move takes requests until its client leaves ([`client::Client`](crate::client::Client) does at once), or until the
/// framework shuts down.
///
/// - `axum::serve(listener, service)` (feature `axum`): `router.into_make_service_with_connect_info::<ConnectionInfo>()` gives handlers
///   the connection's information.
/// - `Server::serve_with_incoming(listener)` of tonic (feature `tonic`): each request has [`ConnectionInfo`] among its extensions.
///
/// A stream that arrives in its middle is closed, and its client sees an error.
#[derive(Debug)]
pub struct MigrationListener {
    streams: mpsc::Receiver<(ServerIo<TcpStream>, SocketAddr)>,
    local: SocketAddr,
    /// Ends with the listener.
    _accepting: JoinSet<()>,
}

impl MigrationListener {
    /// Accepts the connections of `listener` from now on.
    ///
    /// # Errors
    ///
    /// Those of the listener's address.
    pub fn new(listener: TcpListener, acceptor: MigrationAcceptor) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let (sender, streams) = mpsc::channel(WAITING);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, acceptor.require_handshake(), sender));
        Ok(Self {
            streams,
            local,
            _accepting: accepting,
        })
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: MigrationAcceptor,
    sender: mpsc::Sender<(ServerIo<TcpStream>, SocketAddr)>,
) {
    loop {
        let (tcp, peer) = handshakes::next(&listener).await;
        let stream = handshakes::complete(&acceptor, tcp, peer);
        let sender = sender.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                // The listener is gone.
                () = sender.closed() => {}
                stream = stream => if let Some(stream) = stream {
                    let info = ConnectionInfo::of(&stream);
                    if info.state().is_some() {
                        tracing::warn!("a stream arrived in its middle, and nobody takes it up");
                        return;
                    }
                    // As above.
                    let _ = sender.send((ServerIo::new(stream, info), peer)).await;
                }
            }
        });
    }
}

impl MigrationListener {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn poll_next_stream(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<(ServerIo<TcpStream>, SocketAddr)> {
        match self.streams.poll_recv(cx) {
            Poll::Ready(Some(stream)) => Poll::Ready(stream),
            // The task that accepts has ended with its runtime.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(feature = "axum")]
mod axum {
    use std::future::poll_fn;

    use axum::extract::connect_info::Connected;
    use axum::serve::{IncomingStream, Listener};

    use super::{ConnectionInfo, MigrationListener, ServerIo, SocketAddr, TcpStream, io};

    impl Listener for MigrationListener {
        type Io = ServerIo<TcpStream>;
        type Addr = SocketAddr;

        async fn accept(&mut self) -> (ServerIo<TcpStream>, SocketAddr) {
            poll_fn(|cx| self.poll_next_stream(cx)).await
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(self.local)
        }
    }

    impl Connected<IncomingStream<'_, MigrationListener>> for ConnectionInfo {
        fn connect_info(stream: IncomingStream<'_, MigrationListener>) -> Self {
            stream.io().info().clone()
        }
    }
}

#[cfg(feature = "tonic")]
mod tonic {
    use std::pin::Pin;

    use tokio_stream::Stream;
    use tonic::transport::server::Connected;

    use super::{ConnectionInfo, Context, MigrationListener, Poll, ServerIo, TcpStream, io};

    impl Stream for MigrationListener {
        type Item = io::Result<ServerIo<TcpStream>>;

        fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            let next = self.get_mut().poll_next_stream(cx);
            next.map(|(stream, _)| Some(Ok(stream)))
        }
    }

    impl Connected for ServerIo<TcpStream> {
        type ConnectInfo = ConnectionInfo;

        fn connect_info(&self) -> ConnectionInfo {
            self.info().clone()
        }
    }
}
