//! What many connections that move leave behind. A binary of its own, because it counts what the process holds.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::wildcard_enum_match_arm,
    reason = "test code fails by panicking"
)]

#[path = "loopback/support/mod.rs"]
mod support;

use support::silence::follow;
use support::{Identity, Server, client, connect, echo, memory, open_files, tireless, until};

const CONNECTIONS: usize = 200;
const MOVES: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_connections_move_ten_times_and_leave_nothing_behind() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let client = client(&identity);
    let files = open_files();
    let mut after_round = Vec::new();
    for _round in 0..2 {
        let mut worlds = Vec::new();
        for _ in 0..CONNECTIONS {
            let (ours, theirs) = connect(client.endpoint(), &server, server.address(0)).await;
            let migrator = client.attach(&ours, tireless()).unwrap();
            worlds.push((ours, theirs, migrator));
        }
        for hop in 1..=MOVES {
            let to = server.address(hop % 2);
            for (_, theirs, migrator) in &mut worlds {
                follow(&server.inner, theirs, migrator, to, to).await;
            }
            assert!(
                client.open_sockets() <= 1 + 2 * CONNECTIONS,
                "{} sockets",
                client.open_sockets()
            );
            assert!(
                client.routes() <= 12 * CONNECTIONS,
                "{} routes",
                client.routes()
            );
        }
        for (ours, theirs, _) in &worlds {
            echo(ours, theirs).await;
        }
        assert_eq!(client.tracked_connections(), CONNECTIONS);
        for (ours, ..) in &worlds {
            ours.close(0u32.into(), b"done");
        }
        drop(worlds);
        until("the state of every connection is freed", || {
            client.tracked_connections() + server.inner.tracked_connections() == 0
        })
        .await;
        until("the sockets of every connection are closed", || {
            (client.open_sockets(), client.routes(), open_files()) == (1, 0, files)
        })
        .await;
        after_round.push(memory());
    }
    // The first round warms the allocator up; the second one must not need more.
    println!("resident memory after each round, KiB: {after_round:?}");
    let growth = after_round[1].saturating_sub(after_round[0]);
    assert!(
        growth < 8 * 1024,
        "memory grew by {growth} KiB: {after_round:?}"
    );
}
