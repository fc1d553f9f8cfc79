//! Requests that leave with the hello (RFC 8470), for which the caller says that they are safe.
//!
//! A pool's connector is not told which request a connection is for, so such a request has a connection of its own.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::{HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls_migration::client::Offer;
use rustls_migration::tokio::{ConnectError, MigrationConnector, MigrationStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connector::{BoxError, HttpsConnector, server_name};

/// How much of a request may leave early, in bytes: as much as a ticket with a token offers.
const MAX_EARLY: usize = 16_384;

/// Why a request was not answered that was to leave with a hello.
pub enum SendEarlyError<B> {
    /// There is no offer to follow, or none of HTTP/1. The request was not sent: send it by a [`Client`](super::Client).
    NoOffer(Box<Request<B>>),
    /// It failed, and may have been executed. Since it is safe, it can be sent again by a [`Client`](super::Client).
    Failed(BoxError),
}

impl<B> fmt::Debug for SendEarlyError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOffer(_) => f.write_str("NoOffer"),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}

impl<B> fmt::Display for SendEarlyError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoOffer(_) => "there is no offer to follow",
            Self::Failed(_) => "the request failed",
        })
    }
}

impl<B> std::error::Error for SendEarlyError<B> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoOffer(_) => None,
            Self::Failed(error) => Some(&**error),
        }
    }
}

impl<H> HttpsConnector<H> {
    /// Sends a request as early data where its authority's server has asked the client to go: it arrives with the hello, a round trip
    /// sooner. By HTTP/1 alone. The client's configuration has to allow early data, and so has the server, which by default
    /// [waits](crate::server::Serve::early_data) for the end of the handshake.
    ///
    /// **The request must be safe** (RFC 9110 section 9.2.1): the server executes the client's copy once, but may execute another
    /// one that somebody else has made of it. The connection is not the pool's, and ends with the answer; the pool's next one
    /// begins where this one was.
    ///
    /// # Errors
    ///
    /// [`SendEarlyError`] says whether the request was sent.
    pub async fn send_early<B>(
        &self,
        mut request: Request<B>,
    ) -> Result<Response<Incoming>, SendEarlyError<B>>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let now = self.tls.client().clock().instant();
        let authority = request.uri().authority().cloned();
        let Some((authority, offer)) = authority.and_then(|authority| {
            let offer = self.offers.next_of_h1(&authority, now)?;
            Some((authority, offer))
        }) else {
            return Err(SendEarlyError::NoOffer(Box::new(request)));
        };
        let failed = |error: BoxError| SendEarlyError::Failed(error);
        let name = server_name(&authority).map_err(failed)?;
        let target = offer.target();
        relative_to(&authority, &mut request).map_err(failed)?;
        let io = TokioIo::new(EarlyIo::new(self.tls.clone(), name, offer));
        let (mut requests, connection) =
            http1::handshake(io).await.map_err(|e| failed(e.into()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection failed");
            }
        });
        let answer = requests.send_request(request).await;
        let answer = answer.map_err(|error| failed(error.into()))?;
        self.offers.put_address(&authority, target);
        Ok(answer)
    }
}

/// Names the authority in a header, as HTTP/1 does.
fn relative_to<B>(authority: &Authority, request: &mut Request<B>) -> Result<(), BoxError> {
    let host = HeaderValue::from_str(authority.as_str())?;
    request.headers_mut().entry(HOST).or_insert(host);
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    Ok(())
}

type Opening = Pin<Box<dyn Future<Output = Result<MigrationStream, ConnectError>> + Send>>;

/// A stream that is opened with what is written first.
enum EarlyIo {
    /// What is written is collected.
    Collecting {
        tls: MigrationConnector,
        /// Until it is opened.
        offer: Option<Box<(ServerName<'static>, Offer)>>,
        first: Vec<u8>,
    },
    /// It is being opened.
    Opening(Opening),
    /// It is open.
    Open(Box<MigrationStream>),
}

impl EarlyIo {
    fn new(tls: MigrationConnector, name: ServerName<'static>, offer: Offer) -> Self {
        Self::Collecting {
            tls,
            offer: Some(Box::new((name, offer))),
            first: Vec::new(),
        }
    }

    /// Opens it with what has been collected.
    fn open(&mut self) {
        if let Self::Collecting { tls, offer, first } = self
            && let Some((name, offer)) = offer.take().map(|offer| *offer)
        {
            let (tls, first) = (tls.clone(), std::mem::take(first));
            *self = Self::Opening(Box::pin(async move {
                tls.resume_with(name, offer, &first).await
            }));
        }
    }

    /// The stream, when it is open. Pending while nothing has been flushed.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut MigrationStream>>> {
        if let Self::Opening(opening) = self {
            let stream = ready!(opening.as_mut().poll(cx)).map_err(io::Error::from)?;
            let tls = stream.get_ref();
            if tls.and_then(|tls| tls.alpn_protocol()) == Some(b"h2") {
                let why = "the target speaks HTTP/2";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
            *self = Self::Open(Box::new(stream));
        }
        match self {
            Self::Open(stream) => Poll::Ready(Ok(Pin::new(&mut **stream))),
            // Whoever waits polls again when it has flushed something.
            Self::Collecting { .. } | Self::Opening(_) => Poll::Pending,
        }
    }
}

impl AsyncRead for EarlyIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_stream(cx))?.poll_read(cx, buf)
    }
}

impl AsyncWrite for EarlyIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Self::Collecting { first, .. } = &mut *self {
            let room = MAX_EARLY.saturating_sub(first.len());
            if let Some(taken @ [_, ..]) = buf.get(..room.min(buf.len())) {
                first.extend_from_slice(taken);
                return Poll::Ready(Ok(taken.len()));
            }
            self.open();
        }
        ready!(self.poll_stream(cx))?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &*self {
            Self::Collecting { first, .. } if first.is_empty() => return Poll::Ready(Ok(())),
            Self::Collecting { .. } => self.open(),
            Self::Opening(_) | Self::Open(_) => {}
        }
        ready!(self.poll_stream(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &*self {
            Self::Collecting { .. } => Poll::Ready(Ok(())),
            Self::Opening(_) | Self::Open(_) => ready!(self.poll_stream(cx))?.poll_shutdown(cx),
        }
    }
}
