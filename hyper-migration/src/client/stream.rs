//! What the connector makes: a stream that hyper reads and writes, and that takes note when its server asks the client to move.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::Authority;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpInfo};
use hyper_util::rt::TokioIo;
use rustls_migration::tokio::{MigrateError, MigrationStream};

use super::info::ConnectionInfo;
use super::offers::Offers;

/// A stream of the scheme `http`, as the inner connector made it, or of `https`.
#[derive(Debug)]
pub enum MaybeHttpsStream<T> {
    /// Without TLS. It does not move.
    Http(T),
    /// With TLS.
    Https(Box<HttpsStream>),
}

/// A stream over TLS.
pub struct HttpsStream {
    io: TokioIo<MigrationStream>,
    info: ConnectionInfo,
    authority: Authority,
    h2: bool,
    offers: Arc<Offers>,
    /// What the inner connector says of the transport.
    http: Option<HttpInfo>,
}

impl HttpsStream {
    pub(super) fn new(
        stream: MigrationStream,
        authority: Authority,
        offers: Arc<Offers>,
        (successor, http): (bool, Option<HttpInfo>),
    ) -> Self {
        let tls = stream.get_ref();
        let h2 = tls.and_then(|tls| tls.alpn_protocol()) == Some(b"h2");
        let info = ConnectionInfo::of(&stream, successor);
        let stream = Self {
            io: TokioIo::new(stream),
            info,
            authority,
            h2,
            offers,
            http,
        };
        stream.take_notice();
        stream
    }

    /// The stream as rustls-migration knows it.
    pub fn get_ref(&self) -> &MigrationStream {
        self.io.inner()
    }

    /// What is known of the connection.
    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// If the server has asked the client to move, the pool's next connection goes by its newest offer.
    fn take_notice(&self) {
        let handle = self.info.handle();
        if !handle.is_notified() {
            return;
        }
        match handle.take_offer() {
            Ok(offer) => self.offers.put(&self.authority, offer, self.h2),
            // The stream itself moves, by its own mode.
            Err(MigrateError::StreamOffer) => return,
            // There is none, or it was taken.
            Err(_) => {}
        }
        self.info.leave();
    }
}

impl Drop for HttpsStream {
    fn drop(&mut self) {
        // The connection is over, and what was captured of it has this information inside.
        self.info.leave();
    }
}

impl Read for HttpsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.take_notice();
        read
    }
}

impl Write for HttpsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.take_notice();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl fmt::Debug for HttpsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsStream")
            .field("stream", self.get_ref())
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl Connection for HttpsStream {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.info.clone());
        let connected = match self.http.clone() {
            Some(http) => connected.extra(http),
            None => connected,
        };
        match self.h2 {
            true => connected.negotiated_h2(),
            false => connected,
        }
    }
}

impl<T: Connection> Connection for MaybeHttpsStream<T> {
    fn connected(&self) -> Connected {
        match self {
            Self::Http(stream) => stream.connected(),
            Self::Https(stream) => stream.connected(),
        }
    }
}

impl<T: Read + Unpin> Read for MaybeHttpsStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Https(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<T: Write + Unpin> Write for MaybeHttpsStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Http(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Https(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http(stream) => Pin::new(stream).poll_flush(cx),
            Self::Https(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Https(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
