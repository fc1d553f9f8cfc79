//! How connections become streams: each has its handshake to itself, so that a slow one keeps nobody waiting.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls_migration::tokio::{MigrationAcceptor, TlsStream};
use tokio::net::{TcpListener, TcpStream};

/// How long to wait after the system had no connection to give, as when it has no file descriptors left.
const PAUSE: Duration = Duration::from_secs(1);

/// The next connection.
pub(super) async fn next(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(connection) => return connection,
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Those who wait in the listener's queue when it is closed: they have completed their TCP handshakes, and would be reset.
pub(super) fn waiting(listener: TcpListener) -> io::Result<Vec<(TcpStream, SocketAddr)>> {
    // The runtime may not have heard of the last of them.
    let listener = listener.into_std()?;
    let mut waiting = Vec::new();
    loop {
        match listener.accept() {
            Ok((tcp, peer)) => {
                let tcp = tcp
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(tcp));
                waiting.extend(tcp.ok().map(|tcp| (tcp, peer)));
            }
            Err(error) if is_of_one_client(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(waiting),
            Err(error) => {
                tracing::error!(%error, "who waits cannot be accepted");
                return Ok(waiting);
            }
        }
    }
}

/// That client has gone already; others may come.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// Makes a stream of a connection, which is the acceptor's from this call on. `None` when that fails.
pub(super) fn complete(
    acceptor: &MigrationAcceptor,
    tcp: TcpStream,
    peer: SocketAddr,
) -> impl Future<Output = Option<TlsStream<TcpStream>>> + Send + use<> {
    // It would not be refused to a socket that works.
    let _ = tcp.set_nodelay(true);
    let local = tcp.local_addr().ok();
    let accepting = acceptor.accept_from(tcp, Some(peer), local);
    async move {
        match accepting.await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%peer, %error, "a handshake failed");
                None
            }
        }
    }
}
