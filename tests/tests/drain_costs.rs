//! What a handshake costs while a node with many idle connections is drained: as much as without a drain.
//!
//! `IDLE=15000 cargo test --release -p migration-tests --test drain_costs -- --nocapture` shows the figures. The clients'
//! side of the handshakes is counted too.

use std::time::Duration;

use migration_tests::peer::{Peer, Setting, acceptor};
use rustls_migration::tokio::{DrainPlan, MigrationAcceptor, TlsStream};
use tokio::io::DuplexStream;

/// How many idle connections there are unless `IDLE` says so.
const IDLE: usize = 1500;

/// How many handshakes are made at a time.
const HANDSHAKES: usize = 50;

/// Processor time of this thread, which does all the work.
fn processor_time() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let running = times.split_whitespace().next().unwrap();
    Duration::from_nanos(running.parse().unwrap())
}

async fn handshake(setting: &Setting, at: &MigrationAcceptor) -> (Peer, TlsStream<DuplexStream>) {
    let (mut peer, io) = setting.fresh();
    let (accepted, ()) = tokio::join!(at.accept(io), peer.say(b"hello"));
    (peer, accepted.unwrap())
}

/// Processor time per handshake at each of these, in turn: the least of some rounds, since others use the machine too.
async fn costs<const N: usize>(setting: &Setting, nodes: [&MigrationAcceptor; N]) -> [Duration; N] {
    let mut least = [Duration::MAX; N];
    for _ in 0..20 {
        for (at, least) in nodes.iter().zip(&mut least) {
            let before = processor_time();
            for _ in 0..HANDSHAKES {
                drop(handshake(setting, at).await);
            }
            *least = (*least).min((processor_time() - before) / HANDSHAKES as u32);
        }
    }
    least
}

#[tokio::test]
async fn a_handshake_costs_no_more_while_a_node_with_many_idle_connections_is_drained() {
    let idle = std::env::var("IDLE").map_or(IDLE, |idle| idle.parse().unwrap());
    let setting = Setting::new();
    let (at, stays) = (acceptor(setting.node()), acceptor(setting.node()));
    let mut held = Vec::new();
    for _ in 0..idle {
        held.push(handshake(&setting, &at).await);
    }
    let plan = DrainPlan::to([(setting.b, 1)]).spread_over(Duration::ZERO);
    let drain = at.drain(plan.deadline(Duration::from_secs(3600)));
    drain.all_told().await;
    let [with, without] = costs(&setting, [&at, &stays]).await;
    println!(
        "{idle} idle: {with:?} for each handshake during a drain, {without:?} at a node that has nothing else"
    );
    let progress = drain.abort().progress;
    assert_eq!(progress.remaining, idle);
    // A handshake that is told to move besides costs an offer more.
    assert!(with.as_secs_f64() < 1.5 * without.as_secs_f64());
}
