//! What a framework gets to serve: the stream, which at its end goes to whom it concerns.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls_migration::tokio::{TlsStream, Transport};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::info::ConnectionInfo;

/// For how long a stream that this side has shut down is read, at most: the client has to see the end before the transport goes.
const LINGER: Duration = Duration::from_secs(5);

/// A server's stream with its information. hyper, axum and tonic serve it.
///
/// When it is dropped after it was shut down, it is read to the client's end in the background: a socket that is closed with something
/// unread resets the connection, and may destroy the last answer on its way.
pub struct ServerIo<IO>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    /// `None` when it has been dropped.
    stream: Option<TlsStream<IO>>,
    info: ConnectionInfo,
    shut_down: bool,
}

impl<IO> ServerIo<IO>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    pub(super) fn new(stream: TlsStream<IO>, info: ConnectionInfo) -> Self {
        Self {
            stream: Some(stream),
            info,
            shut_down: false,
        }
    }

    /// What is known of the connection.
    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TlsStream<IO>>> {
        match &mut self.stream {
            Some(stream) => Ok(Pin::new(stream)),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl<IO> Drop for ServerIo<IO>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        if let Some(heir) = self.info.take_heir() {
            // Who does not wait any more does not want it.
            let _ = heir.send(Box::new(stream));
        } else if self.shut_down {
            linger(Box::new(stream));
        }
    }
}

/// Reads a stream that this side has shut down to the client's end, in the background.
pub(super) fn linger(stream: Box<dyn Transport>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            // Whatever goes wrong here concerns nobody any more.
            let _ = timeout(LINGER, read_to_end(stream)).await;
        });
    }
}

async fn read_to_end(mut stream: Box<dyn Transport>) -> io::Result<()> {
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

impl<IO> AsyncRead for ServerIo<IO>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl<IO> AsyncWrite for ServerIo<IO>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut_down = ready!(self.stream()?.poll_shutdown(cx));
        self.shut_down |= shut_down.is_ok();
        Poll::Ready(shut_down)
    }
}

impl<IO> fmt::Debug for ServerIo<IO>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIo")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}
