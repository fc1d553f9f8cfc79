//! hyper-util's client, with connections that its pool gives to nobody any more once their servers have asked the client to move.
//!
//! A connector cannot say so: only who sends a request sees the pool's mark of the connection that the request is sent on.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Extensions, Request, Response, Uri};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{CaptureConnection, Connect, capture_connection};
use tower_service::Service;

use super::info::ConnectionInfo;

/// [`hyper_util::client::legacy::Client`] over an [`HttpsConnector`](super::HttpsConnector).
///
/// With the bare client requests do not fail either, but one that comes after a server has asked the client to move may still go to
/// that server, which answers it and then ends the connection.
pub struct Client<C, B>(legacy::Client<C, B>);

impl<C, B> From<legacy::Client<C, B>> for Client<C, B> {
    fn from(client: legacy::Client<C, B>) -> Self {
        Self(client)
    }
}

impl<C, B> Client<C, B>
where
    C: Connect + Clone + Send + Sync + 'static,
    B: Body + Send + 'static + Unpin,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Sends a GET request to `uri`.
    pub fn get(&self, uri: Uri) -> ResponseFuture
    where
        B: Default,
    {
        let mut request = Request::new(B::default());
        *request.uri_mut() = uri;
        self.request(request)
    }

    /// Sends `request`, whose URI names the authority.
    pub fn request(&self, mut request: Request<B>) -> ResponseFuture {
        let captured = capture_connection(&mut request);
        let response = self.0.request(request);
        ResponseFuture { response, captured }
    }
}

impl<C: Clone, B> Clone for Client<C, B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C, B> fmt::Debug for Client<C, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl<C, B> Service<Request<B>> for Client<C, B>
where
    C: Connect + Clone + Send + Sync + 'static,
    B: Body + Send + 'static + Unpin,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<Incoming>;
    type Error = legacy::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), legacy::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        self.request(request)
    }
}

/// A response that is awaited.
#[derive(Debug)]
#[must_use = "the request is not sent before this is polled"]
pub struct ResponseFuture {
    response: legacy::ResponseFuture,
    captured: CaptureConnection,
}

impl Future for ResponseFuture {
    type Output = Result<Response<Incoming>, legacy::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = Pin::new(&mut self.response).poll(cx);
        // Which connection it is may have been decided just now.
        let info = self
            .captured
            .connection_metadata()
            .as_ref()
            .and_then(|connected| {
                let mut extensions = Extensions::new();
                connected.get_extras(&mut extensions);
                extensions.remove::<ConnectionInfo>()
            });
        if let Some(info) = info {
            info.watch(&self.captured);
        }
        response
    }
}
