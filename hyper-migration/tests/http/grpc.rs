//! gRPC by tonic: unary calls and streams in both directions while their nodes are drained. A stream ends with a status that says why, and
//! its client opens it anew at the target, by resumption.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use hyper::body::Body as HttpBody;
use hyper::http;
use hyper_migration::client::Client as Pool;
use hyper_migration::server::{ConnectionInfo, MigrationListener};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use migration_tests::{NAME, Service};
use rustls_migration::server::Arrival;
use rustls_migration::tokio::DrainPlan;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::client::{Grpc as Client, GrpcService};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::cluster::{HttpNode, OneName, Protocol, connector, plan, two_nodes};

#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(uint64, tag = "1")]
    value: u64,
}

type Codec = ProstCodec<Number, Number>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Adds one to numbers, one by one or in a stream that ends when its client is to move.
#[derive(Clone)]
struct Adder;

impl NamedService for Adder {
    const NAME: &'static str = "migration.Adder";
}

impl UnaryService<Number> for Adder {
    type Response = Number;
    type Future = BoxFuture<Result<Response<Number>, Status>>;

    fn call(&mut self, request: Request<Number>) -> Self::Future {
        let value = request.into_inner().value + 1;
        Box::pin(async move { Ok(Response::new(Number { value })) })
    }
}

impl StreamingService<Number> for Adder {
    type Response = Number;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Number, Status>> + Send>>;
    type Future = BoxFuture<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Number>>) -> Self::Future {
        Box::pin(async move {
            let info = request.extensions().get::<ConnectionInfo>();
            let info = info
                .ok_or_else(|| Status::internal("no information"))?
                .clone();
            let arrived = matches!(info.arrival(), Arrival::Migrated { .. });
            let (sender, answers) = mpsc::channel(1);
            tokio::spawn(add(request.into_inner(), info, sender));
            let answers: Self::ResponseStream = Box::pin(ReceiverStream::new(answers));
            let mut response = Response::new(answers);
            let arrived = if arrived { "moved" } else { "fresh" };
            response
                .metadata_mut()
                .insert("arrived", arrived.parse().unwrap());
            Ok(response)
        })
    }
}

async fn add(
    mut numbers: Streaming<Number>,
    info: ConnectionInfo,
    answers: mpsc::Sender<Result<Number, Status>>,
) {
    loop {
        let answer = tokio::select! {
            biased;
            number = numbers.next() => match number {
                Some(Ok(number)) => Ok(Number { value: number.value + 1 }),
                Some(Err(_)) | None => return,
            },
            _ = info.told() => Err(Status::unavailable("this node is drained")),
        };
        let last = answer.is_err();
        if answers.send(answer).await.is_err() || last {
            return;
        }
    }
}

impl tower::Service<http::Request<Body>> for Adder {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(Codec::default());
            Ok(match request.uri().path() {
                "/migration.Adder/One" => grpc.unary(Adder, request).await,
                "/migration.Adder/Many" => grpc.streaming(Adder, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

const ONE: PathAndQuery = PathAndQuery::from_static("/migration.Adder/One");
const MANY: PathAndQuery = PathAndQuery::from_static("/migration.Adder/Many");

type StdError = Box<dyn std::error::Error + Send + Sync>;

async fn one<T>(client: &mut Client<T>, value: u64) -> Result<u64, Status>
where
    T: GrpcService<Body>,
    T::ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError>> + Send + 'static,
{
    let ready = client.ready().await;
    ready.map_err(|error| Status::from_error(error.into()))?;
    let request = Request::new(Number { value });
    let answer = client.unary(request, ONE, Codec::default()).await?;
    Ok(answer.into_inner().value)
}

/// One stream in both directions.
struct Talk {
    numbers: mpsc::Sender<Number>,
    answers: Streaming<Number>,
    /// How its connection came to the node.
    arrived: String,
}

impl Talk {
    async fn open<T>(client: &mut Client<T>) -> Result<Self, Status>
    where
        T: GrpcService<Body>,
        T::ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError>> + Send + 'static,
    {
        let ready = client.ready().await;
        ready.map_err(|error| Status::from_error(error.into()))?;
        let (numbers, requests) = mpsc::channel(1);
        let request = Request::new(ReceiverStream::new(requests));
        let response = client.streaming(request, MANY, Codec::default()).await?;
        let arrived = response.metadata().get("arrived").unwrap();
        let arrived = arrived.to_str().unwrap().to_owned();
        Ok(Self {
            numbers,
            answers: response.into_inner(),
            arrived,
        })
    }

    /// Says a number. `Err` is how the stream ends.
    async fn say(&mut self, value: u64) -> Result<u64, Status> {
        // If nobody takes it, the stream has ended, which it says itself.
        let _ = self.numbers.send(Number { value }).await;
        match self.answers.message().await? {
            Some(answer) => Ok(answer.value),
            None => Err(Status::ok("the stream has ended")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unary_calls_do_not_fail_and_streams_reopen_at_the_target_under_drains() {
    let (service, name, mut a, mut b) = two_nodes(Some(Protocol::H2)).await;
    for node in [&mut a, &mut b] {
        node.serve(Routes::new(Adder).prepare().into_axum_router());
    }
    let ended = Arc::new(AtomicBool::new(false));
    let mut calling = JoinSet::new();
    for _ in 0..8 {
        // tonic's own channel does not leave when it is told, and sends no call again that GOAWAY has overtaken on its way.
        let pool = legacy::Client::builder(TokioExecutor::new());
        let pool: Pool<_, Body> = pool.build(connector(&service, Protocol::H2, &name)).into();
        let origin = format!("https://{NAME}").parse().unwrap();
        let (mut client, ended) = (Client::with_origin(pool, origin), Arc::clone(&ended));
        calling.spawn(async move {
            let mut talk = Talk::open(&mut client).await.unwrap();
            let (mut calls, mut reopened) = (0, 0);
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(one(&mut client, calls).await.unwrap(), calls + 1);
                match talk.say(calls).await {
                    Ok(answer) => assert_eq!(answer, calls + 1),
                    Err(status) => {
                        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                        assert_eq!(status.message(), "this node is drained");
                        talk = Talk::open(&mut client).await.unwrap();
                        assert_eq!(talk.arrived, "moved");
                        reopened += 1;
                    }
                }
                calls += 1;
            }
            (calls, reopened)
        });
    }
    const DRAINS: usize = 6;
    for drain in 0..DRAINS {
        let (from, to): (&HttpNode, &HttpNode) = if drain % 2 == 0 { (&a, &b) } else { (&b, &a) };
        while from.acceptor.connections() < 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        name.leads_to([to.address]);
        // Calls and streams are under way meanwhile.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let plan = DrainPlan::to([(to.address, 1)]).spread_over(Duration::from_millis(100));
        let drained = from.acceptor.drain(plan).finished().await.progress;
        assert_eq!((drained.forced, drained.moved), (0, 8), "{drained:?}");
    }
    ended.store(true, Ordering::Relaxed);
    for (calls, reopened) in calling.join_all().await {
        assert!(calls > 0);
        assert_eq!(reopened, DRAINS);
    }
    let migrated = a.acceptor.stats().migrated() + b.acceptor.stats().migrated();
    assert_eq!(migrated, 8 * u64::try_from(DRAINS).unwrap());
}

#[tokio::test]
async fn tonics_own_channel_resumes_at_the_target() {
    let (service, name, mut a, mut b) = two_nodes(Some(Protocol::H2)).await;
    for node in [&mut a, &mut b] {
        node.serve(Routes::new(Adder).prepare().into_axum_router());
    }
    let mut client = channel(&service, &name).await;
    assert_eq!(one(&mut client, 4).await.unwrap(), 5);
    let mut talk = Talk::open(&mut client).await.unwrap();
    assert_eq!((talk.say(7).await.unwrap(), &*talk.arrived), (8, "fresh"));
    let drain = a.acceptor.drain(plan(b.address));
    let status = talk.answers.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "this node is drained")
    );
    assert_eq!(drain.finished().await.progress.moved, 1);
    assert_eq!(one(&mut client, 5).await.unwrap(), 6);
    assert_eq!(Talk::open(&mut client).await.unwrap().arrived, "moved");
}

async fn channel(service: &Service, name: &OneName) -> Client<Channel> {
    let endpoint = Endpoint::from_shared(format!("https://{NAME}")).unwrap();
    let connector = connector(service, Protocol::H2, name);
    Client::new(endpoint.connect_with_connector(connector).await.unwrap())
}

#[tokio::test]
async fn tonics_own_server_serves_streams_that_learn_of_their_move() {
    let (service, name, mut a, mut b) = two_nodes(Some(Protocol::H2)).await;
    b.serve(Routes::new(Adder).prepare().into_axum_router());
    let listener = a.take_listener();
    let incoming = MigrationListener::new(listener, a.acceptor.clone()).unwrap();
    let mut serving = JoinSet::new();
    let server = tonic::transport::Server::builder().add_service(Adder);
    serving.spawn(async { server.serve_with_incoming(incoming).await.unwrap() });
    let mut client = channel(&service, &name).await;
    assert_eq!(one(&mut client, 4).await.unwrap(), 5);
    let mut talk = Talk::open(&mut client).await.unwrap();
    assert_eq!((talk.say(7).await.unwrap(), &*talk.arrived), (8, "fresh"));
    let _drain = a.acceptor.drain(plan(b.address));
    let status = talk.answers.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "this node is drained")
    );
}
