//! A stream survives servers that lose their power in the middle of a transfer: their packets vanish, both ways, and nobody is told.
//! The probe finds it out, and each byte comes exactly once (`docs/protocol.md` section 11).
//!
//! Each node is a process on a host of its own, a network namespace whose link is cut. As root; a machine that does not permit it
//! fails with what to do. `POWER_LOSSES` in the environment says how many seeds are tried for each habit of the client, and
//! `POWER_LOSSES_FROM` which is the first.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use migration_tests::client::heard;
use migration_tests::folder::ServiceFolder;
use migration_tests::hosts::{self, Host, Site};
use migration_tests::mortal::{Chain, enduring, from_environment};
use migration_tests::redis::RedisServer;
use migration_tests::session::{Habit, Lull, Random, Script, converse_as};
use migration_tests::{Service, server_name};
use rustls_migration::tokio::{Event, Events};
use tokio::time::{sleep, timeout};

const MORTAL: &str = env!("CARGO_BIN_EXE_mortal");

/// When a silent server is asked whether it lives, and how long it may take to answer.
const AFTER: Duration = Duration::from_secs(1);
const WITHIN: Duration = Duration::from_secs(2);

/// Only a broken test waits for it. TCP itself gives up after a quarter of an hour.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many nodes there are: two may lose their power.
const NODES: usize = 3;

/// What was seen of all seeds.
#[derive(Debug, Default)]
struct Seen {
    seeds: u64,
    cuts: usize,
    /// Nothing was left to be said when the link was cut.
    over: usize,
    /// The server was given up before the link was cut: it was too slow for the probe.
    early: usize,
    /// Somebody else than the probe found it out.
    otherwise: Vec<Arc<io::Error>>,
    resent: usize,
    discarded: u64,
    /// From the cut to the moment at which the probe has found it out.
    found: Vec<Duration>,
    /// From the cut to the moment at which the stream goes on.
    stalls: Vec<Duration>,
}

/// A client's host, whose thread this is, and the nodes' hosts, each at a link of its own.
struct World {
    nodes: Vec<Host>,
    /// Each node but the first has one on its host.
    stores: Vec<RedisServer>,
    files: tempfile::TempDir,
    _client: Host,
}

impl World {
    /// The `number`th world of this process.
    fn new(number: u8) -> io::Result<Self> {
        hosts::permitted()?;
        let world = format!("power{number}-");
        let address = |node: u8| Ipv4Addr::new(10, 79, number * 8 + node, 2);
        let client = Host::add(&world, "client", address(7))?;
        let mut nodes = Vec::new();
        for node in 0..u8::try_from(NODES).unwrap() {
            let host = Host::add(&world, &node.to_string(), address(node))?;
            host.link_with(&client)?;
            nodes.push(host);
        }
        let stores = nodes.iter().skip(1).map(redis_on).collect();
        client.enter()?;
        Ok(Self {
            nodes,
            stores,
            files: tempfile::tempdir()?,
            _client: client,
        })
    }

    /// Memory, a file and redis in turn.
    fn store(&self, seed: u64, here: usize) -> String {
        let redis = here.checked_sub(1).and_then(|at| self.stores.get(at));
        match (seed % 3, redis) {
            (0, Some(redis)) => format!("redis://{}", redis.address()),
            (1, _) => format!("file:{}/{seed}-{here}", self.files.path().display()),
            _ => "memory".to_owned(),
        }
    }
}

/// Starts a redis server that only its host reaches.
fn redis_on(host: &Host) -> RedisServer {
    std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            host.enter().unwrap();
            runtime().block_on(RedisServer::start(&[]))
        });
        started.join().unwrap()
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn script(seed: u64, habit: Habit) -> Script {
    let mut random = Random::new(seed ^ 0x70ee);
    let largest = [1, 100, 16_384, 1 << 20][random.below(4)];
    let most = (largest * 300).min(2 << 20);
    let (half, some) = (most / 2 + random.below(most / 2), random.below(most));
    // What a client that does not read yet may leave to the layer and to the system.
    let little = some.min(32_768);
    let (uploaded, pushed) = match habit {
        Habit::Both => (half, some),
        Habit::WritesFirst => (half, little),
        Habit::ReadsOnly => (0, half),
        Habit::Idles(_) => (half.min(32_768), little),
    };
    Script {
        seed,
        uploaded,
        pushed,
        answers: habit != Habit::WritesFirst,
        largest,
        notify_after: usize::MAX,
        change_of_mind: false,
        checkpoint_every: (most / 20).clamp(1, 65_536),
        takes_number: random.once_in(3),
        halves: true,
        impatient: random.once_in(4),
    }
}

/// Waits for the moment at which the node where the client is loses its power. `false` when it is too late for that.
async fn moment(habit: Habit, lull: &Lull, events: &mut Events, random: &mut Random) -> bool {
    let most = match habit {
        Habit::Idles(_) => {
            lull.begun.notified().await;
            2 * usize::try_from(AFTER.as_micros()).unwrap()
        }
        Habit::Both | Habit::WritesFirst | Habit::ReadsOnly => {
            let usable =
                |event| matches!(event, Event::Checkpoint { usable: true, .. }).then_some(());
            if heard(events, usable).await.is_none() {
                return false;
            }
            1 << random.below(18)
        }
    };
    let moment = u64::try_from(random.below(most)).unwrap();
    sleep(Duration::from_micros(moment)).await;
    true
}

/// Takes the power from each node but the last, at a moment that the seed decides.
async fn lose_power(
    nodes: &[Host],
    seed: u64,
    habit: Habit,
    lull: &Lull,
    events: &mut Events,
    seen: &mut Seen,
) {
    let mut random = Random::new(seed ^ 0x9e);
    for node in nodes {
        if !moment(habit, lull, events, &mut random).await {
            return;
        }
        let cut = Instant::now();
        node.set_linked(false).unwrap();
        seen.cuts += 1;
        let recovering = |event| match event {
            Event::Recovering { lost } => Some(lost),
            _ => None,
        };
        let Some(lost) = heard(events, recovering).await else {
            seen.over += 1;
            return;
        };
        let found = cut.elapsed();
        let recovered = |event| match event {
            Event::Recovered(outcome) => Some(outcome),
            _ => None,
        };
        let Some(outcome) = heard(events, recovered).await else {
            return;
        };
        if found < WITHIN {
            seen.early += 1;
        } else if lost.kind() == io::ErrorKind::TimedOut && lost.raw_os_error().is_none() {
            seen.found.push(found);
            seen.stalls.push(cut.elapsed());
        } else {
            seen.otherwise.push(lost);
        }
        seen.resent += outcome.resent;
        seen.discarded += outcome.received;
        if random.once_in(2) {
            // It was not dead, and what it still has to say concerns nobody.
            node.set_linked(true).unwrap();
        }
        lull.over.notify_one();
    }
}

async fn one_seed(
    seed: u64,
    habit: Habit,
    world: &World,
    service: &Service,
    folder: &ServiceFolder,
    seen: &mut Seen,
) {
    for node in &world.nodes {
        node.set_linked(true).unwrap();
    }
    let losses = 1 + usize::from(seed % 4 == 3);
    let habit = match habit {
        Habit::Idles(_) => Habit::Idles(losses),
        Habit::Both | Habit::WritesFirst | Habit::ReadsOnly => habit,
    };
    let script = script(seed, habit);
    let nodes = world.nodes.iter().take(losses + 1);
    let sites: Vec<_> = nodes.map(|host| Site::on(host, MORTAL)).collect();
    let stores = |here| world.store(seed, here);
    let chain = Chain::start(&sites, folder, stores, &script).await;
    let connector = enduring(service).probe(AFTER, WITHIN);
    let connected = connector.connect(server_name(), chain.first()).await;
    let stream = connected.unwrap();
    let mut events = stream.events();
    let lull = Arc::new(Lull::default());
    let client = {
        let (script, lull) = (script.clone(), Arc::clone(&lull));
        tokio::spawn(async move { converse_as(habit, &script, stream, &lull).await })
    };
    let whole = async {
        let lost = &world.nodes[..losses];
        lose_power(lost, seed, habit, &lull, &mut events, seen).await;
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

/// The shortest, the median and the longest.
fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    let (shortest, longest) = (at(0), at(times.len().saturating_sub(1)));
    format!("{shortest:.2?}, {:.2?}, {longest:.2?}", at(times.len() / 2))
}

fn survive(number: u8, habit: Habit) {
    let world = World::new(number).unwrap_or_else(|error| panic!("{error}"));
    let mut service = Service::default();
    let folder = ServiceFolder::new(&mut service);
    let mut seen = Seen::default();
    let first = from_environment("POWER_LOSSES_FROM", 0);
    let runtime = runtime();
    for seed in first..first + from_environment("POWER_LOSSES", 4) {
        runtime.block_on(one_seed(seed, habit, &world, &service, &folder, &mut seen));
    }
    println!(
        "{habit:?}: {} seeds, {} cuts, {} found by the probe, {} too late, {} given up before; found after {}, stall {}; {} bytes resent, {} discarded",
        seen.seeds,
        seen.cuts,
        seen.found.len(),
        seen.over,
        seen.early,
        spread(&mut seen.found),
        spread(&mut seen.stalls),
        seen.resent,
        seen.discarded
    );
    assert!(seen.otherwise.is_empty(), "{:?}", seen.otherwise);
    assert!(!seen.found.is_empty(), "nothing was to be found");
}

#[test]
fn a_power_loss_is_found_by_a_client_that_reads_and_writes() {
    survive(0, Habit::Both);
}

#[test]
fn a_power_loss_is_found_by_a_writer_that_does_not_read() {
    survive(1, Habit::WritesFirst);
}

#[test]
fn a_power_loss_is_found_by_a_reader_that_does_not_write() {
    survive(2, Habit::ReadsOnly);
}

#[test]
fn a_power_loss_is_found_by_a_client_that_waits_for_a_word() {
    survive(3, Habit::Idles(1));
}
