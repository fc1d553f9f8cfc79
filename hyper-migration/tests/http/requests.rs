//! Requests of hyper's client, one by one: where they go before and after their server asks the client to move.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::header::CONNECTION;
use hyper::{Request, Response};
use hyper_migration::client;
use hyper_migration::server::ConnectionInfo;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpInfo;
use hyper_util::rt::TokioExecutor;
use migration_tests::NAME;
use rustls_migration::server::Arrival;
use rustls_migration::tokio::DrainPlan;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::cluster::{Body, HttpNode, MovingClient, Protocol, plan, two_nodes};

const PROTOCOLS: [Protocol; 2] = [Protocol::H1, Protocol::H2];

/// Says which node answers and how the client came there; holds an answer until it is let go, or until the client is to move; counts
/// what is uploaded.
fn router(place: &'static str, go: &Arc<Semaphore>) -> Router {
    let go = Arc::clone(go);
    Router::new()
        .route(
            "/where",
            get(async move |Extension(info): Extension<ConnectionInfo>| {
                assert!(info.peer_addr().is_some() && info.local_addr().is_some());
                match info.arrival() {
                    Arrival::Migrated { .. } => format!("{place}, moved"),
                    _ => format!("{place}, fresh"),
                }
            }),
        )
        .route(
            "/held",
            get(async move || {
                go.acquire().await.unwrap().forget();
                format!("{place}, held")
            }),
        )
        .route(
            "/told",
            get(async move |Extension(info): Extension<ConnectionInfo>| {
                info.told().await;
                format!("{place}, told")
            }),
        )
        .route("/upload", post(async |body: Bytes| body.len().to_string()))
}

fn request(path: &str) -> Request<Body> {
    let request = Request::get(format!("https://{NAME}{path}"));
    request.body(Empty::new().boxed()).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

async fn ask(client: &MovingClient, path: &str) -> String {
    text(client.request(request(path)).await.unwrap()).await
}

fn serve(a: &mut HttpNode, b: &mut HttpNode) -> Arc<Semaphore> {
    let go = Arc::new(Semaphore::new(0));
    a.serve(router("A", &go));
    b.serve(router("B", &go));
    go
}

#[tokio::test]
async fn the_next_request_resumes_at_the_target_while_the_old_connection_still_answers() {
    for protocol in PROTOCOLS {
        let (service, name, mut a, mut b) = two_nodes(Some(protocol)).await;
        let go = serve(&mut a, &mut b);
        let client = crate::cluster::client(&service, protocol, &name);
        assert_eq!(ask(&client, "/where").await, "A, fresh");
        // One answer is under way, and one upload.
        let held = tokio::spawn(client.request(request("/told")));
        let late = tokio::spawn(client.request(request("/held")));
        let (mut body, channel) = Channel::<Bytes>::new(1);
        let upload = Request::post(format!("https://{NAME}/upload")).body(channel.boxed());
        let upload = tokio::spawn(client.request(upload.unwrap()));
        body.send_data(Bytes::from_static(&[7; 1000]))
            .await
            .unwrap();
        while a.acceptor.connections() < if protocol == Protocol::H1 { 3 } else { 1 } {
            tokio::task::yield_now().await;
        }

        let drain = a.acceptor.drain(plan(b.address));
        // A's handler learns of it.
        let told = held.await.unwrap().unwrap();
        if protocol == Protocol::H1 {
            assert_eq!(told.headers()[CONNECTION], "close");
        }
        assert_eq!(text(told).await, "A, told");
        let next = client.request(request("/where")).await.unwrap();
        let info = next
            .extensions()
            .get::<client::ConnectionInfo>()
            .unwrap()
            .clone();
        assert!(info.is_successor());
        assert_eq!(info.peer_addr(), b.address);
        assert_eq!(text(next).await, "B, moved");

        body.send_data(Bytes::from_static(&[7; 2000]))
            .await
            .unwrap();
        drop(body);
        assert_eq!(text(upload.await.unwrap().unwrap()).await, "3000");
        go.add_permits(1);
        assert_eq!(text(late.await.unwrap().unwrap()).await, "A, held");
        let drained = drain.finished().await.progress;
        assert_eq!((drained.forced, drained.moved), (0, drained.total));
        assert_eq!(ask(&client, "/where").await, "B, moved");
    }
}

#[tokio::test]
async fn an_idle_connection_is_not_used_again_when_it_has_been_told() {
    for protocol in PROTOCOLS {
        let (service, name, mut a, mut b) = two_nodes(Some(protocol)).await;
        let _go = serve(&mut a, &mut b);
        let client = crate::cluster::client(&service, protocol, &name);
        let first = client.request(request("/where")).await.unwrap();
        let info = first
            .extensions()
            .get::<client::ConnectionInfo>()
            .unwrap()
            .clone();
        text(first).await;
        let drain = a.acceptor.drain(plan(b.address));
        while !info.handle().is_notified() {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask(&client, "/where").await, "B, moved");
        let drained = drain.finished().await.progress;
        assert_eq!((drained.forced, drained.moved), (0, 1));
        assert_eq!(b.acceptor.stats().migrated(), 1);
    }
}

/// As a graceful shutdown does: there is nowhere to go.
#[tokio::test]
async fn a_drain_without_targets_ends_idle_connections_and_lets_answers_finish() {
    for protocol in PROTOCOLS {
        let (service, name, mut a, mut b) = two_nodes(Some(protocol)).await;
        let go = serve(&mut a, &mut b);
        let clients = [(); 2].map(|()| crate::cluster::client(&service, protocol, &name));
        let [idle, busy] = &clients;
        assert_eq!(ask(idle, "/where").await, "A, fresh");
        let told = tokio::spawn(busy.request(request("/told")));
        let held = tokio::spawn(busy.request(request("/held")));
        while a.acceptor.connections() < if protocol == Protocol::H1 { 3 } else { 2 } {
            tokio::task::yield_now().await;
        }
        let plan = DrainPlan::to([])
            .spread_over(Duration::ZERO)
            .deadline(Duration::from_secs(600));
        let drain = a.acceptor.drain(plan);
        assert_eq!(text(told.await.unwrap().unwrap()).await, "A, told");
        go.add_permits(1);
        assert_eq!(text(held.await.unwrap().unwrap()).await, "A, held");
        let drained = drain.finished().await.progress;
        assert_eq!(
            (drained.forced, drained.notified, drained.not_movable),
            (0, 0, drained.total)
        );
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_reached_costs_no_request() {
    let (service, name, mut a, mut b) = two_nodes(None).await;
    let _go = serve(&mut a, &mut b);
    let client = crate::cluster::client(&service, Protocol::H1, &name);
    assert_eq!(ask(&client, "/where").await, "A, fresh");
    name.leads_to([b.address]);
    // Nobody listens there.
    let nobody = tokio::net::TcpListener::bind("127.0.0.9:0").await.unwrap();
    let gone = nobody.local_addr().unwrap();
    drop(nobody);
    let drain = a.acceptor.drain(plan(gone));
    assert_eq!(drain.finished().await.progress.forced, 0);
    assert_eq!(ask(&client, "/where").await, "B, fresh");
}

#[tokio::test]
async fn many_requests_at_once_share_the_connection_that_moves() {
    let (service, name, mut a, mut b) = two_nodes(Some(Protocol::H2)).await;
    let go = Arc::new(Semaphore::new(0));
    a.serve(router("A", &go));
    let client = crate::cluster::client(&service, Protocol::H2, &name);
    assert_eq!(ask(&client, "/where").await, "A, fresh");
    a.acceptor.drain(plan(b.address)).finished().await;
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        asked.spawn(async move { ask(&client, "/where").await });
    }
    // The target is slow. A, where the name leads, would be faster.
    sleep(Duration::from_millis(200)).await;
    b.serve(router("B", &go));
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.unwrap(), "B, moved");
    }
}

#[tokio::test]
async fn a_request_that_comes_after_the_notice_is_answered_and_then_the_connection_ends() {
    // hyper's bare connection knows nothing of the notice.
    let (service, _, mut a, b) = two_nodes(Some(Protocol::H1)).await;
    let go = Arc::new(Semaphore::new(0));
    a.serve_with(router("A", &go), |server| {
        server.grace(Duration::from_secs(20))
    });
    let connector = crate::cluster::tls_connector(&service, Protocol::H1);
    let stream = connector.connect(migration_tests::server_name(), a.address);
    let stream = stream.await.unwrap();
    let handle = stream.handle();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut requests, connection) = hyper::client::conn::http1::handshake::<_, Full<Bytes>>(io)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let ask = Request::get("/where").header("host", NAME);
    let ask = ask.body(Full::default()).unwrap();
    assert_eq!(
        text(requests.send_request(ask.clone()).await.unwrap()).await,
        "A, fresh"
    );
    let drain = a.acceptor.drain(plan(b.address));
    while !handle.is_notified() {
        tokio::task::yield_now().await;
    }
    // It takes its time, for which the server waits.
    sleep(Duration::from_millis(200)).await;
    let last = requests.send_request(ask).await.unwrap();
    assert_eq!(last.headers()[CONNECTION], "close");
    assert_eq!(text(last).await, "A, fresh");
    connection.await.unwrap().expect("a clean end");
    assert_eq!(drain.finished().await.progress.forced, 0);
}

#[tokio::test]
async fn what_the_inner_connector_says_comes_with_the_response_and_http_stays_its_own() {
    let (service, name, mut a, mut b) = two_nodes(Some(Protocol::H1)).await;
    let _go = serve(&mut a, &mut b);
    let client = crate::cluster::client(&service, Protocol::H1, &name);
    let response = client.request(request("/where")).await.unwrap();
    let http = response.extensions().get::<HttpInfo>().unwrap();
    assert_eq!(http.remote_addr(), a.address);
    assert_eq!(text(response).await, "A, fresh");
    // Without TLS there is nothing that moves.
    let plain = tokio::net::TcpListener::bind("127.0.0.5:0").await.unwrap();
    name.leads_to([plain.local_addr().unwrap()]);
    let router = Router::new().route("/", get("without TLS"));
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async { axum::serve(plain, router).await.unwrap() });
    let uri = format!("http://{NAME}/").parse().unwrap();
    let response = client.get(uri).await.unwrap();
    assert!(
        response
            .extensions()
            .get::<client::ConnectionInfo>()
            .is_none()
    );
    assert_eq!(text(response).await, "without TLS");
}

#[tokio::test]
async fn a_request_that_is_said_to_be_safe_leaves_with_the_hello_and_the_pool_goes_on_there() {
    let (service, name, mut a, mut b) = two_nodes(Some(Protocol::H1)).await;
    let go = Arc::new(Semaphore::new(0));
    a.serve(router("A", &go));
    b.serve_with(router("B", &go), |server| server.early_data());
    let connector = crate::cluster::connector(&service, Protocol::H1, &name);
    let pool = legacy::Client::builder(TokioExecutor::new()).build(connector.clone());
    let client = MovingClient::from(pool);
    let refused = connector.send_early(request("/where")).await.unwrap_err();
    assert!(
        matches!(refused, client::SendEarlyError::NoOffer(_)),
        "{refused:?}"
    );
    assert_eq!(ask(&client, "/where").await, "A, fresh");
    a.acceptor.drain(plan(b.address)).finished().await;
    let answer = connector.send_early(request("/where?early")).await.unwrap();
    assert_eq!(text(answer).await, "B, moved");
    assert_eq!(b.acceptor.stats().migrated_with_early_data(), 1);
    // The name still leads to A.
    assert_eq!(ask(&client, "/where").await, "B, fresh");
    // What is not marked leaves after the handshake.
    let drain = b.acceptor.drain(plan(a.address));
    drain.finished().await;
    assert_eq!(ask(&client, "/where").await, "A, moved");
    assert_eq!(a.acceptor.stats().migrated_with_early_data(), 0);
}

#[tokio::test]
async fn an_offer_of_http_2_is_left_to_the_pool() {
    let (service, name, mut a, mut b) = two_nodes(Some(Protocol::H2)).await;
    let _go = serve(&mut a, &mut b);
    let connector = crate::cluster::connector(&service, Protocol::H2, &name);
    let pool = legacy::Client::builder(TokioExecutor::new()).build(connector.clone());
    let client = MovingClient::from(pool);
    assert_eq!(ask(&client, "/where").await, "A, fresh");
    a.acceptor.drain(plan(b.address)).finished().await;
    let refused = connector.send_early(request("/where")).await.unwrap_err();
    let client::SendEarlyError::NoOffer(request) = refused else {
        panic!("{refused:?}");
    };
    let answer = client.request(*request).await.unwrap();
    assert_eq!(text(answer).await, "B, moved");
}
