//! Exactly once, whatever applications do with their streams, and whatever the server's application says about going on
//! elsewhere: messages of one byte and of a megabyte, readers and writers that are slow or pause, targets that come and go,
//! consent that is given, withdrawn, or late.
//!
//! There are three kinds of end, and nothing else: a clean end is one that a server's application made; the stream goes on;
//! an error has a reason. A seed decides everything, and stands in what a failure prints.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migration_tests::habits::millis;
use migration_tests::network::{At, Direction, Fault, Incident, Network};
use migration_tests::services::{
    Client, Consent, Log, Nodes, NodesEnd, Plan, converse, is_overdue,
};
use migration_tests::session::Random;
use migration_tests::{Service, server_name};
use rustls_migration::MoveKind;
use rustls_migration::tokio::{
    HandOff, HandOffError, MigrateError, MigrationAcceptor, MigrationConnector,
};
use tokio::time::timeout;

/// How many cases there are, unless the environment's EXACTLY_ONCE_CASES says so.
const CASES: u64 = 600;

/// No conversation takes so long, in virtual time, unless it hangs.
const LONG: Duration = Duration::from_secs(1200);

const NODES: usize = 3;

#[derive(Clone, Debug)]
struct Case {
    plan: Arc<Plan>,
    mode: HandOff,
    latency: Duration,
    /// What each end of a connection buffers, in bytes.
    capacity: usize,
    incidents: Vec<Incident>,
    departure_deadline: Duration,
}

fn case(seed: u64) -> Case {
    let mut plan = Plan::random(seed, NODES);
    let volume = plan.uploaded().max(plan.pushed());
    let mut random = Random::new(seed ^ 0xca5e);
    let mut incidents = Vec::new();
    if random.once_in(4) {
        let within = [500, 5000, 5000 + volume][random.below(3)];
        incidents.push(Incident {
            leg: random.below(3),
            direction: [Direction::ToServer, Direction::ToClient][random.below(2)],
            at: At::Byte(random.below(within)),
            fault: [
                Fault::Fin,
                Fault::Reset,
                Fault::HalfClose,
                Fault::Hold(Duration::from_secs(3)),
            ][random.below(4)],
        });
    }
    let modes = [HandOff::Drain, HandOff::Drain, HandOff::Drain];
    let mode = modes.get(random.below(5)).copied();
    let mode = mode.unwrap_or([HandOff::Overlap, HandOff::Manual][random.below(2)]);
    plan.overlaps = mode == HandOff::Overlap;
    Case {
        plan: Arc::new(plan),
        mode,
        latency: millis(&mut random, 20),
        capacity: [64, 1000, 16_384, 65_536, 1 << 20][random.below(5)].max(volume / 200),
        incidents,
        departure_deadline: Duration::from_secs([1, 10, 10, 60, 600][random.below(5)]),
    }
}

/// A service, which all cases share.
struct World {
    service: Service,
    addresses: Vec<SocketAddr>,
    connector: MigrationConnector,
}

impl World {
    fn new() -> Self {
        let service = Service::default();
        let addresses = (2..).take(NODES);
        Self {
            addresses: addresses
                .map(|last| ([127, 0, 0, last], 443).into())
                .collect(),
            connector: service.connector(),
            service,
        }
    }

    fn run(&self, case: &Case) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(self.converse(case))
    }

    async fn converse(&self, case: &Case) -> Outcome {
        let network = Network::new(case.latency, case.capacity, case.incidents.clone());
        let away = network.clone();
        let set_away = move |address, is_away| away.set_away(address, is_away);
        let nodes = Nodes::new(Arc::clone(&case.plan), self.addresses.clone(), set_away);
        let config = self.service.server_config();
        let serving: Vec<_> = (self.addresses.iter().enumerate())
            .map(|(i, address)| {
                let settings = self.service.node_with(config.clone());
                let settings = settings.departure_deadline(case.departure_deadline);
                let server = settings.own_addresses([*address]).build().unwrap();
                let incoming = network.listen(*address);
                let node = Arc::clone(&nodes);
                tokio::spawn(node.serve(i, MigrationAcceptor::from(server), incoming))
            })
            .collect();
        let connector = self.connector.clone().hand_off(case.mode);
        let connector = connector.dialer(network.clone());
        let connected = connector.connect(server_name(), self.addresses[0]).await;
        let client = match connected {
            Ok(stream) => timeout(LONG, converse(&case.plan, stream)).await.ok(),
            Err(failure) => Some(Client {
                read_error: Some(failure.into()),
                ..Client::default()
            }),
        };
        network.close();
        let mut quiet = true;
        for node in serving {
            match timeout(LONG, node).await {
                Ok(done) => done.unwrap(),
                Err(_) => quiet = false,
            }
        }
        let log = std::mem::take(&mut *nodes.log());
        Outcome { client, log, quiet }
    }
}

#[derive(Debug)]
struct Outcome {
    /// `None` when it hung.
    client: Option<Client>,
    log: Log,
    /// Whether the nodes came to an end too.
    quiet: bool,
}

/// What a case came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// All was said, at the first node or after this many moves.
    Complete {
        moves: usize,
    },
    /// The server's application ended the stream before all was said.
    EndedEarly,
    Overdue,
    /// It was handed over when only the application could have moved it.
    NotFollowed,
    /// The network lost something.
    Lost,
}

fn require(holds: bool, otherwise: &str) -> Result<(), String> {
    holds.then_some(()).ok_or_else(|| otherwise.to_owned())
}

/// What the outcome is, if it is one that may be.
fn judge(case: &Case, outcome: &Outcome) -> Result<Kind, String> {
    let client = outcome.client.as_ref().ok_or("the client hangs")?;
    require(outcome.quiet, "a node hangs")?;
    require(outcome.log.violations.is_empty(), "a node saw a violation")?;
    require(client.violations.is_empty(), "the client saw a violation")?;
    let plan = &case.plan;
    let nodes = &outcome.log.nodes;
    let here = nodes.iter().rposition(|node| node.arrived.is_some());
    for node in nodes {
        let Some(kind) = node.told else { continue };
        let consent = plan.nodes.iter().any(|node| node.consent != Consent::Never);
        require(
            consent || kind == MoveKind::Connection,
            "consent from nowhere",
        )?;
    }
    if plan.corks {
        for node in nodes {
            if let NodesEnd::HandedOver(at) = &node.end {
                let whole = at.received == 0 || plan.up.contains(&at.received);
                require(whole, "a message was cut that a cork held together")?;
            }
        }
    }
    let Some(here) = here else {
        let lost = case.incidents.iter().any(|one| one.fault.loses());
        require(lost, "there was no conversation")?;
        return Ok(Kind::Lost);
    };
    let last = &nodes[here];
    require(
        last.reached.received <= client.written,
        "read more than was written",
    )?;
    let sent = last.reached.sent.max(last.tried);
    require(client.read <= sent, "read more than was sent")?;
    require(
        here == 0 || case.mode == HandOff::Drain,
        "the stream moved without its application",
    )?;
    match client.ended {
        true => judge_end(case, client, outcome, here),
        false => judge_error(case, client, outcome),
    }
}

/// A clean end is the word of the application where the stream is.
fn judge_end(case: &Case, client: &Client, outcome: &Outcome, here: usize) -> Result<Kind, String> {
    let (plan, last) = (&case.plan, &outcome.log.nodes[here]);
    // A connection may be lost after its end has been read.
    let ended = matches!(last.end, NodesEnd::Ended | NodesEnd::Failed(_));
    require(ended, "an end that no application made")?;
    require(
        !matches!(&last.end, NodesEnd::Failed(error) if is_overdue(error)),
        "an end where the server gave up",
    )?;
    require(
        client.read == last.reached.sent,
        "an end in the middle of what was sent",
    )?;
    let complete = last.reached.received == plan.uploaded() && client.read == plan.pushed();
    if complete {
        return Ok(Kind::Complete { moves: here });
    }
    let early = last.told == Some(MoveKind::Connection) && plan.nodes[here].ends_early;
    let withdrawn = plan.nodes[here].consent == Consent::WithdrawnAfterTheNotice;
    require(early || withdrawn, "an end before all was said")?;
    Ok(Kind::EndedEarly)
}

/// An error has a reason.
fn judge_error(case: &Case, client: &Client, outcome: &Outcome) -> Result<Kind, String> {
    require(client.read_error.is_some(), "no end of any kind")?;
    let nodes = &outcome.log.nodes;
    let overdue = nodes
        .iter()
        .any(|node| matches!(&node.end, NodesEnd::Failed(error) if is_overdue(error)));
    let lost = case.incidents.iter().any(|one| one.fault.loses());
    if let Some(HandOffError::NotFollowed(why)) = client.hand_off_error() {
        // It was about to close its side, or had, and the server took that for a hand-over.
        let all = client.written == case.plan.uploaded();
        let closes = all && matches!(**why, MigrateError::Manual);
        require(closes, "there is no reason not to follow")?;
        return Ok(Kind::NotFollowed);
    }
    // Nobody takes a minute to leave, or to say all there is to say.
    let soon = case.departure_deadline < Duration::from_secs(60);
    require(!overdue || lost || soon, "given up in vain")?;
    match (overdue, lost) {
        (true, _) => Ok(Kind::Overdue),
        (false, true) => Ok(Kind::Lost),
        (false, false) => Err("an error without a reason".to_owned()),
    }
}

#[test]
fn nothing_is_lost_or_repeated_whatever_the_applications_do() {
    let cases = std::env::var("EXACTLY_ONCE_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let seeds = match std::env::var("EXACTLY_ONCE_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).unwrap(),
        Err(_) => 0..cases,
    };
    let (world, next) = (World::new(), AtomicU64::new(seeds.start));
    let tally: Mutex<BTreeMap<(String, Kind), usize>> = Mutex::default();
    let threads = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    let case = case(seed);
                    let outcome = world.run(&case);
                    let kind = judge(&case, &outcome).unwrap_or_else(|why| {
                        panic!("EXACTLY_ONCE_SEED={seed}: {why}\n{case:#?}\n{outcome:#?}")
                    });
                    let consent = format!("{:?}", case.plan.nodes[0].consent);
                    *tally.lock().unwrap().entry((consent, kind)).or_default() += 1;
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    println!("{tally:#?}");
    let count = |wanted: fn(&Kind) -> bool| -> usize {
        let those = tally.iter().filter(|((_, kind), _)| wanted(kind));
        those.map(|(_, count)| count).sum()
    };
    if seeds.end - seeds.start >= CASES {
        // It tested something.
        let kinds = [
            count(|kind| matches!(kind, Kind::Complete { moves: 0 })),
            count(|kind| matches!(kind, Kind::Complete { moves: 1.. })),
            count(|kind| *kind == Kind::EndedEarly),
            count(|kind| *kind == Kind::Overdue),
            count(|kind| *kind == Kind::Lost),
        ];
        assert!(kinds.iter().all(|count| *count > 10), "{kinds:?}");
    }
}
