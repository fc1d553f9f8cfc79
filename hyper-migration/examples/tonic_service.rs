//! A gRPC service by tonic, over connections that move: here one unary method, written by hand in place of generated code.

mod common;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper_migration::server::serve;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Status, service::Routes};

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(uint64, tag = "1")]
    value: u64,
}

#[derive(Clone)]
struct Adder;

impl NamedService for Adder {
    const NAME: &'static str = "migration.Adder";
}

impl UnaryService<Number> for Adder {
    type Response = Number;
    type Future = Answer<Result<tonic::Response<Number>, Status>>;

    fn call(&mut self, request: tonic::Request<Number>) -> Self::Future {
        let value = request.into_inner().value + 1;
        Box::pin(async move { Ok(tonic::Response::new(Number { value })) })
    }
}

impl tower::Service<Request<Body>> for Adder {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut grpc = Grpc::new(tonic_prost::ProstCodec::default());
        Box::pin(async move { Ok(grpc.unary(Adder, request).await) })
    }
}

#[tokio::main]
async fn main() -> Result<(), common::Error> {
    let (listener, acceptor) = common::node().await?;
    serve(listener, acceptor, Routes::new(Adder).into_axum_router()).await;
    Ok(())
}
