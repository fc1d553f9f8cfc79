//! A service as hyper calls it, for one connection: each request gets the connection's information, and answers of one that is to
//! move say that it ends.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use pin_project_lite::pin_project;

use super::info::{ConnectionInfo, UnderWay};

/// A service for one connection.
pub(super) struct PerConnection<S> {
    pub(super) service: TowerToHyperService<S>,
    pub(super) info: ConnectionInfo,
}

impl<S, B> Service<Request<Incoming>> for PerConnection<S>
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
{
    type Response = Response<Answer<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer<B>>, S::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let h2 = request.version() == Version::HTTP_2;
        let under_way = self.info.begin_request(h2);
        let info = self.info.clone();
        request.extensions_mut().insert(info.clone());
        let answering = self.service.call(request);
        Box::pin(async move {
            let mut answer = answering.await?;
            let upgrades = answer.status() == http::StatusCode::SWITCHING_PROTOCOLS;
            if !h2 && !upgrades && info.is_told() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            Ok(answer.map(|body| Answer { body, under_way }))
        })
    }
}

pin_project! {
    /// An answer's body. Its request is under way until it is gone.
    #[derive(Debug)]
    pub struct Answer<B> {
        #[pin]
        body: B,
        under_way: UnderWay,
    }
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
