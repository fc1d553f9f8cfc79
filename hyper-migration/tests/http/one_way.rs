//! Applications that only write, or only read, or take their time, at nodes that are drained: what docs/protocols.md says of them.

use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_migration::client;
use hyper_migration::server::ConnectionInfo;
use migration_tests::NAME;
use rustls_migration::server::Arrival;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::{HttpNode, MovingClient, Protocol, plan, two_nodes};

const PROTOCOLS: [Protocol; 2] = [Protocol::H1, Protocol::H2];

/// 200 kB in a second.
const PIECE: &[u8] = &[7; 10_000];
const PIECE_TIME: Duration = Duration::from_millis(50);

/// How many pieces take three seconds: longer than the grace of a connection that is told.
const LONG: usize = 60;

/// A body of so many pieces, which ends earlier when nobody reads it any more.
fn paced(pieces: usize) -> Channel<Bytes> {
    let (mut body, channel) = Channel::new(1);
    tokio::spawn(async move {
        for _ in 0..pieces {
            sleep(PIECE_TIME).await;
            if body.send_data(Bytes::from_static(PIECE)).await.is_err() {
                return;
            }
        }
    });
    channel
}

fn router(place: &'static str) -> Router {
    let arrived = async move |Extension(info): Extension<ConnectionInfo>| match info.arrival() {
        Arrival::Migrated { .. } => format!("{place}, moved"),
        _ => format!("{place}, fresh"),
    };
    let written = |pieces| async move || axum::body::Body::new(paced(pieces));
    let read = async move |body: axum::body::Body| {
        let read = body.collect().await.map(|body| body.to_bytes().len());
        format!("{place} read {}", read.unwrap_or_default())
    };
    Router::new()
        .route("/where", get(arrived))
        .route("/endless", get(written(usize::MAX)))
        .route("/long", get(written(LONG)))
        .route("/upload", post(read))
}

fn serve(a: &mut HttpNode, b: &mut HttpNode) {
    a.serve(router("A"));
    b.serve(router("B"));
}

async fn get_from(client: &MovingClient, path: &str) -> Response<Incoming> {
    let uri = format!("https://{NAME}{path}").parse().unwrap();
    client.get(uri).await.unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

/// The connection that an answer came by.
fn info(answer: &Response<Incoming>) -> client::ConnectionInfo {
    let info = answer.extensions().get::<client::ConnectionInfo>();
    info.unwrap().clone()
}

fn upload(pieces: usize) -> Request<crate::cluster::Body> {
    let request = Request::post(format!("https://{NAME}/upload"));
    request.body(paced(pieces).boxed()).unwrap()
}

#[tokio::test]
async fn an_answer_that_never_ends_is_cut_at_the_deadline_and_other_requests_go_on_at_the_target() {
    for protocol in PROTOCOLS {
        let (service, name, mut a, mut b) = two_nodes(Some(protocol)).await;
        serve(&mut a, &mut b);
        let client = crate::cluster::client(&service, protocol, &name);
        let endless = get_from(&client, "/endless").await;
        let info = info(&endless);
        let mut endless = endless.into_body();

        let deadline = Duration::from_secs(3);
        let drain = a.acceptor.drain(plan(b.address).deadline(deadline));
        while !info.handle().is_notified() {
            endless.frame().await.unwrap().unwrap();
        }
        assert_eq!(text(get_from(&client, "/where").await).await, "B, moved");
        let cut = loop {
            match endless.frame().await {
                Some(Ok(_)) => {}
                ended => break ended,
            }
        };
        assert!(
            matches!(cut, Some(Err(_))),
            "an end would be a lie: {cut:?}"
        );
        let drained = drain.finished().await;
        assert!(drained.elapsed >= deadline);
        let progress = drained.progress;
        assert_eq!((progress.total, progress.forced), (1, 1));
        assert_eq!(text(get_from(&client, "/where").await).await, "B, moved");
    }
}

#[tokio::test]
async fn an_upload_that_is_answered_at_its_end_is_finished_where_it_began_or_fails_at_the_deadline()
{
    for protocol in PROTOCOLS {
        for (deadline, answered) in [(60, true), (2, false)] {
            let (service, name, mut a, mut b) = two_nodes(Some(protocol)).await;
            serve(&mut a, &mut b);
            let client = crate::cluster::client(&service, protocol, &name);
            let first = get_from(&client, "/where").await;
            let info = info(&first);
            assert_eq!(text(first).await, "A, fresh");
            let uploading = tokio::spawn(client.request(upload(LONG)));
            sleep(PIECE_TIME * 4).await;
            let plan = plan(b.address).deadline(Duration::from_secs(deadline));
            let drain = a.acceptor.drain(plan);
            while !info.handle().is_notified() {
                tokio::task::yield_now().await;
            }
            assert_eq!(text(get_from(&client, "/where").await).await, "B, moved");
            let answer = uploading.await.unwrap();
            let progress = drain.finished().await.progress;
            assert_eq!((progress.forced == 0, answer.is_ok()), (answered, answered));
            if let Ok(answer) = answer {
                let read = LONG * PIECE.len();
                assert_eq!(text(answer).await, format!("A read {read}"));
            }
        }
    }
}

/// Downloads and uploads by turns, until it is time to stop. Returns how often.
async fn take_time(client: MovingClient, until: Instant) -> usize {
    let mut answered = 0;
    while Instant::now() < until {
        let body = get_from(&client, "/long").await.into_body();
        let read = body.collect().await.unwrap().to_bytes().len();
        assert_eq!(read, LONG * PIECE.len());
        let answer = text(client.request(upload(LONG)).await.unwrap()).await;
        assert!(answer.ends_with(&format!("read {read}")), "{answer}");
        answered += 2;
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_200_kilobytes_a_second_are_finished_while_their_nodes_are_drained_in_turn() {
    for protocol in PROTOCOLS {
        let (service, name, mut a, mut b) = two_nodes(Some(protocol)).await;
        serve(&mut a, &mut b);
        let began = Instant::now();
        let until = began + Duration::from_secs(9);
        let mut clients = JoinSet::new();
        for _ in 0..10 {
            clients.spawn(take_time(
                crate::cluster::client(&service, protocol, &name),
                until,
            ));
        }
        let mut moved = 0;
        for turn in 1..=4 {
            sleep_until(began + Duration::from_secs(2) * turn).await;
            let (from, to) = if turn % 2 == 1 { (&a, &b) } else { (&b, &a) };
            name.leads_to([to.address]);
            let drained = from
                .acceptor
                .drain(plan(to.address))
                .finished()
                .await
                .progress;
            assert_eq!(drained.forced, 0);
            moved += drained.moved;
        }
        let answered: usize = clients.join_all().await.into_iter().sum();
        let resumed = a.acceptor.stats().migrated() + b.acceptor.stats().migrated();
        println!("{protocol:?}: {answered} requests, {moved} moves, {resumed} resumed");
        assert!(moved >= 10 && resumed >= 10, "{moved}, {resumed}");
    }
}
