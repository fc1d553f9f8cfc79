//! Server-sent events: a handler that learns that its client is to move ends its answer behind an event, and the client goes on from the
//! last one that it has (`Last-Event-ID`).

#[allow(dead_code, reason = "its main is not run")]
#[path = "../../examples/events.rs"]
mod example;

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use migration_tests::NAME;
use tokio::task::JoinSet;

use crate::cluster::{HttpNode, MovingClient, Protocol, client, plan, two_nodes};

/// Reads `count` events in as many answers as it takes. Returns how many answers that were.
async fn read(client: MovingClient, count: u64) -> u64 {
    let (mut last, mut answers) = (0, 0);
    while last < count {
        let request = Request::get(format!("https://{NAME}/"));
        let request = request.header("last-event-id", last.to_string());
        let request = request.body(Empty::new().boxed()).unwrap();
        let mut body = client.request(request).await.unwrap().into_body();
        answers += 1;
        let mut unread = String::new();
        while let Some(frame) = body.frame().await {
            unread.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap());
            while let Some((event, rest)) = unread.split_once("\n\n") {
                last += 1;
                let mut lines: Vec<_> = event.lines().collect();
                lines.sort_unstable();
                assert_eq!(
                    lines,
                    [format!("data: token {last}"), format!("id: {last}")]
                );
                unread = rest.to_owned();
            }
            if last >= count {
                return answers;
            }
        }
        assert_eq!(unread, "", "an answer ends behind an event");
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_or_repeated_by_a_client_that_is_moved_in_the_middle() {
    let long = std::env::var("HTTP_TRIAL_SECONDS").is_ok();
    let (sessions, moves) = if long { (100, 20) } else { (10, 4) };
    for protocol in [Protocol::H1, Protocol::H2] {
        let (service, name, mut a, mut b) = two_nodes(Some(protocol)).await;
        for node in [&mut a, &mut b] {
            node.serve(Router::new().route("/", get(example::tokens)));
        }
        let mut reading = JoinSet::new();
        for _ in 0..sessions {
            reading.spawn(read(client(&service, protocol, &name), 200 * moves));
        }
        let mut moved = 0;
        for turn in 0..moves {
            let (from, to): (&HttpNode, &HttpNode) =
                if turn % 2 == 0 { (&a, &b) } else { (&b, &a) };
            name.leads_to([to.address]);
            tokio::time::sleep(Duration::from_millis(200)).await;
            let drained = from
                .acceptor
                .drain(plan(to.address))
                .finished()
                .await
                .progress;
            assert_eq!(drained.forced, 0);
            moved += drained.moved;
        }
        let answers: u64 = reading.join_all().await.into_iter().sum();
        let resumed = a.acceptor.stats().migrated() + b.acceptor.stats().migrated();
        println!(
            "{protocol:?}: {sessions} readers, {moved} moves, {answers} answers, {resumed} resumed"
        );
        assert!(answers > sessions);
        // Who has read all at its first node need not follow.
        assert!(resumed <= u64::try_from(moved).unwrap() && resumed >= answers - sessions);
    }
}
