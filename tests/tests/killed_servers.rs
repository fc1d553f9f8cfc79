//! A stream survives servers that are killed with SIGKILL in the middle of a two-way transfer, on every store: each byte comes
//! exactly once, both ways (`docs/protocol.md` section 11).
//!
//! `KILLED_SERVERS` in the environment says how many seeds are tried on each store, and `KILLED_SERVERS_FROM` which is the first.

use std::time::{Duration, Instant};

use migration_tests::client::heard;
use migration_tests::folder::ServiceFolder;
use migration_tests::hosts::Site;
use migration_tests::mortal::{Chain, enduring, from_environment, moment};
use migration_tests::redis::RedisServer;
use migration_tests::session::{Random, Script, converse};
use migration_tests::{Service, server_name};
use rustls_migration::tokio::{Event, Events};
use tokio::time::{sleep, timeout};

const MORTAL: &str = env!("CARGO_BIN_EXE_mortal");

/// Only a broken test waits for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was seen of all seeds on one store.
#[derive(Debug, Default)]
struct Seen {
    seeds: u64,
    recovered: usize,
    resent: usize,
    discarded: u64,
    /// From the kill to the moment at which the stream has gone on.
    stalls: Vec<Duration>,
}

fn script(seed: u64) -> Script {
    let mut random = Random::new(seed ^ 0x4111);
    let largest = [1, 100, 16_384, 1 << 20][random.below(4)];
    let most = (largest * 300).min(2 << 20);
    Script {
        seed,
        uploaded: most / 2 + random.below(most / 2),
        pushed: random.below(most),
        largest,
        notify_after: usize::MAX,
        answers: true,
        change_of_mind: false,
        checkpoint_every: (most / 20).clamp(1, 65_536),
        takes_number: random.once_in(3),
        halves: true,
        impatient: random.once_in(4),
    }
}

/// Kills each node but the last, at a moment that the seed decides.
async fn kill_all(
    chain: &mut Chain,
    kills: usize,
    events: &mut Events,
    seen: &mut Seen,
    seed: u64,
) {
    let mut random = Random::new(seed ^ 0x9111);
    for node in 0..kills {
        let usable = |event| matches!(event, Event::Checkpoint { usable: true, .. }).then_some(());
        if heard(events, usable).await.is_none() {
            return;
        }
        sleep(moment(&mut random)).await;
        chain.kill(node).await;
        let killed = Instant::now();
        let recovered = |event| match event {
            Event::Recovered(outcome) => Some(outcome),
            _ => None,
        };
        let Some(outcome) = heard(events, recovered).await else {
            return;
        };
        seen.stalls.push(killed.elapsed());
        seen.recovered += 1;
        seen.resent += outcome.resent;
        seen.discarded += outcome.received;
    }
}

async fn one_seed(
    seed: u64,
    service: &Service,
    folder: &ServiceFolder,
    stores: impl Fn(usize) -> String,
    seen: &mut Seen,
) {
    let script = script(seed);
    let kills = 1 + usize::from(seed % 4 == 3);
    let sites = vec![Site::here(MORTAL); kills + 1];
    let mut chain = Chain::start(&sites, folder, stores, &script).await;
    let connector = enduring(service);
    let connected = connector.connect(server_name(), chain.first()).await;
    let stream = connected.unwrap();
    let mut events = stream.events();
    let client = {
        let script = script.clone();
        tokio::spawn(async move { converse(&script, stream).await })
    };
    let whole = async {
        kill_all(&mut chain, kills, &mut events, seen, seed).await;
        client.await.unwrap()
    };
    let client = timeout(PATIENCE, whole).await;
    let client = client.unwrap_or_else(|_| panic!("seed {seed} hangs"));
    assert!(client.ended && client.closed, "seed {seed}: {client:?}");
    let all = (script.uploaded, script.said(script.uploaded));
    assert_eq!((client.written, client.read), all, "seed {seed}");
    chain.end().await;
    seen.seeds += 1;
}

/// Each node but the first, which nobody comes to with a token, has the store that `name` says for its place.
async fn survive(what: &str, name: impl Fn(u64, usize) -> String) {
    let mut service = Service::default();
    let folder = ServiceFolder::new(&mut service);
    let mut seen = Seen::default();
    let first = from_environment("KILLED_SERVERS_FROM", 0);
    for seed in first..first + from_environment("KILLED_SERVERS", 12) {
        one_seed(seed, &service, &folder, |here| name(seed, here), &mut seen).await;
    }
    seen.stalls.sort();
    let (median, longest) = (seen.stalls[seen.stalls.len() / 2], seen.stalls.last());
    println!(
        "{what}: {} seeds, {} recoveries, {} bytes resent, {} discarded, stall {median:?} (median), {longest:?} (longest)",
        seen.seeds, seen.recovered, seen.resent, seen.discarded
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_survives_killed_servers_with_stores_in_memory() {
    survive("memory", |_, _| "memory".to_owned()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_survives_killed_servers_with_stores_in_files() {
    let stores = tempfile::tempdir().unwrap();
    let path = stores.path().display().to_string();
    survive("file", |seed, here| format!("file:{path}/{seed}-{here}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_survives_killed_servers_that_share_a_redis_store() {
    let server = RedisServer::start(&[]).await;
    let store = format!("redis://{}", server.address());
    survive("redis", |_, _| store.clone()).await;
}
