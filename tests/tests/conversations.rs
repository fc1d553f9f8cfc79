//! Downloads, uploads and requests with effects survive their servers and move with them (`docs/recovery.md`): what the client reads is what
//! it asked for, byte by byte, what it uploads is kept without a gap, and what it pays for is paid once.
//!
//! Time is virtual and each case has a runtime of its own, so that a seed decides everything and a hang shows at once.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migration_tests::errands::{Answers, ClientHabits, Errand, Habits, Shop, ask, serve};
use migration_tests::network::{At, Direction, Fault, Incident, Network};
use migration_tests::server_name;
use migration_tests::session::Random;
use migration_tests::world::{LONG, World, paused, random_incident, require};
use rustls_migration::client::MigrationLimit;
use rustls_migration::server::Arrival;
use rustls_migration::tokio::conversation::{ConversationError, End};
use rustls_migration::tokio::{DrainPlan, HandOff, MigrationAcceptor, MigrationConnector};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// One conversation, and what goes wrong in it.
#[derive(Clone, Debug)]
struct Case {
    errands: Vec<Errand>,
    client: ClientHabits,
    /// After how many bytes each node makes a checkpoint.
    checkpoint_every: u64,
    /// How a source of each node gives its bytes.
    piece: (usize, Duration),
    /// The nodes from this one to before that one have a disk that fails at a byte.
    failing: (std::ops::Range<usize>, usize),
    latency: Duration,
    capacity: usize,
    incidents: Vec<Incident>,
    /// When each node but the last one is drained.
    drains: Vec<Duration>,
}

impl Case {
    /// A quick network on which nothing goes wrong.
    fn undisturbed(errands: Vec<Errand>) -> Self {
        Self {
            errands,
            client: ClientHabits {
                seed: 1,
                piece: 50_000,
                waits: false,
                slow: Duration::ZERO,
            },
            checkpoint_every: 64 * 1024,
            piece: (16_384, Duration::ZERO),
            failing: (0..0, 0),
            latency: Duration::from_millis(2),
            capacity: 65_536,
            incidents: Vec::new(),
            drains: Vec::new(),
        }
    }

    /// The first node dies when so many bytes have gone this way.
    fn dies(mut self, direction: Direction, at: usize) -> Self {
        self.incidents.push(Incident {
            leg: 0,
            direction,
            at: At::Byte(at),
            fault: Fault::Reset,
        });
        self
    }
}

#[derive(Debug)]
struct Outcome {
    /// `None` when the client hung.
    client: Option<Answers>,
    shop: Arc<Shop>,
    /// How the client came to each node that it came to, and what became of the conversation there.
    nodes: Vec<(Arrival, io::Result<End>)>,
    /// Whether all nodes came to an end.
    quiet: bool,
}

impl Outcome {
    fn count(&self, wanted: impl Fn(&(Arrival, io::Result<End>)) -> bool) -> usize {
        self.nodes.iter().filter(|node| wanted(node)).count()
    }

    fn recovered(&self) -> usize {
        self.count(|(arrival, _)| matches!(arrival, Arrival::Recovered { .. }))
    }

    fn handed_over(&self) -> usize {
        self.count(|(_, end)| matches!(end, Ok(End::HandedOver)))
    }

    fn complete(&self) -> bool {
        self.client
            .as_ref()
            .is_some_and(|client| client.error.is_none())
    }

    fn judge(&self, case: &Case) -> Result<(), String> {
        let client = self.client.as_ref().ok_or("the client hangs")?;
        require(self.quiet, "a node hangs")?;
        self.shop.judge()?;
        let answers = self.shop.answers(&case.errands);
        require(answers.starts_with(&client.read), "the answers are others")?;
        if client.error.is_none() {
            require(client.read == answers, "an end before the end")?;
            require(self.shop.has_done(&case.errands), "an errand is not done")?;
        }
        Ok(())
    }
}

/// A service whose clients recover as often as they must.
fn world(nodes: usize) -> World {
    let mut world = World::new(nodes);
    let limit = MigrationLimit {
        count: 100,
        window: time::Duration::HOUR,
    };
    let client = world.service.client_with(world.service.client_config());
    let connector = MigrationConnector::from(client.limit(limit).build().unwrap());
    world.connector = connector.hand_off(HandOff::Drain).recover_from_start();
    world
}

async fn converse(world: &World, case: &Case) -> Outcome {
    let network = Network::new(case.latency, case.capacity, case.incidents.clone());
    let (shop, nodes) = (Arc::new(Shop::default()), Arc::new(Mutex::new(Vec::new())));
    let mut serving = JoinSet::new();
    for (here, local) in world.addresses.iter().copied().enumerate() {
        let next = world.addresses.get(here + 1).copied();
        // A drain is for all connections of an acceptor, so no other conversation may be there.
        let node = world.service.node().own_addresses([local]);
        let acceptor = MigrationAcceptor::from(node.build().unwrap());
        let (failing, fails_at) = &case.failing;
        let habits = Habits {
            seed: case.client.seed + u64::try_from(here).unwrap(),
            piece: case.piece,
            fails_at: failing.contains(&here).then_some(*fails_at),
            ..Habits::new(next, case.checkpoint_every)
        };
        if let (Some(next), Some(after)) = (next, case.drains.get(here).copied()) {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                sleep(after).await;
                let plan = DrainPlan::to([(next, 1)]).spread_over(Duration::ZERO);
                acceptor.drain(plan).finished().await;
            });
        }
        let mut incoming = network.listen(local);
        let (shop, nodes) = (Arc::clone(&shop), Arc::clone(&nodes));
        serving.spawn(async move {
            let mut tasks = JoinSet::new();
            while let Some(io) = incoming.recv().await {
                let (acceptor, shop) = (acceptor.clone(), Arc::clone(&shop));
                let nodes = Arc::clone(&nodes);
                tasks.spawn(async move {
                    // Who opens a connection and says nothing concerns no conversation.
                    let Ok(stream) = acceptor.accept_from(io, None, Some(local)).await else {
                        return;
                    };
                    let arrival = stream.arrival().clone();
                    let end = serve(&shop, stream, habits).await;
                    nodes.lock().unwrap().push((arrival, end));
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        });
    }
    let connector = world.connector.clone().dialer(network.clone());
    let client = match connector.connect(server_name(), world.addresses[0]).await {
        Ok(stream) => timeout(LONG, ask(stream, &case.errands, case.client))
            .await
            .ok(),
        Err(error) => Some(Answers {
            read: Vec::new(),
            error: Some(error.into()),
        }),
    };
    network.close();
    let ended = async { while serving.join_next().await.is_some() {} };
    let quiet = timeout(LONG, ended).await.is_ok();
    let nodes = std::mem::take(&mut *nodes.lock().unwrap());
    Outcome {
        client,
        shop,
        nodes,
        quiet,
    }
}

/// Panics when the outcome is not one that may be.
fn run(world: &World, case: &Case) -> Outcome {
    let outcome = paused().block_on(converse(world, case));
    if let Err(why) = outcome.judge(case) {
        let read = outcome
            .client
            .map(|client| (client.read.len(), client.error));
        panic!("{why}\n{case:#?}\n{read:?}\n{:#?}", outcome.nodes);
    }
    outcome
}

fn random_case(seed: u64) -> Case {
    let mut random = Random::new(seed ^ 0xe44a);
    let mut errands = Vec::new();
    for _ in 0..2 + random.below(12) {
        let start = random.below(1000);
        let most = [1, 200, 3000][random.below(3)];
        let len = 1 + random.below(most);
        errands.push(match random.below(4) {
            0 => Errand::Get { start, len },
            1 => Errand::Put { start, len },
            2 => Errand::Pay { len },
            _ => Errand::Sum {
                number: u64::try_from(start).unwrap(),
            },
        });
    }
    let mut case = Case::undisturbed(errands);
    case.client = ClientHabits {
        seed,
        piece: [20, 300, 5000][random.below(3)],
        waits: random.once_in(2),
        slow: Duration::from_millis(u64::try_from(random.below(3)).unwrap()),
    };
    case.checkpoint_every = [20, 500, 5000][random.below(3)];
    let pause = u64::try_from(random.below(5)).unwrap();
    case.piece = (
        [5, 100, 4000][random.below(3)],
        Duration::from_millis(pause),
    );
    case.latency = Duration::from_millis(u64::try_from(random.below(10)).unwrap());
    case.capacity = [300, 2000, 65_536][random.below(3)];
    for leg in 0..3 {
        let bytes = [3000, 6000, 15_000][random.below(3)];
        case.incidents
            .push(random_incident(&mut random, leg, bytes));
        let after = u64::try_from(random.below(300)).unwrap();
        case.drains.push(match random.once_in(2) {
            true => Duration::from_millis(after),
            false => LONG,
        });
    }
    case
}

#[test]
fn servers_that_die_or_are_drained_at_random_moments_answer_each_request_once() {
    let world = world(4);
    let seeds: Vec<u64> = match std::env::var("CONVERSATION_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => {
            let count = std::env::var("CONVERSATION_CASES").map_or(600, |n| n.parse().unwrap());
            (0..count).collect()
        }
    };
    let [complete, recovered, handed_over, both, again, next]: [AtomicUsize; 6] =
        Default::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run(&world, &random_case(*seed));
                    let (died, moved) = (outcome.recovered() > 0, outcome.handed_over() > 0);
                    let counts = [
                        (&complete, outcome.complete()),
                        (&recovered, died),
                        (&handed_over, moved),
                        (&both, died && moved),
                        (&again, outcome.shop.answered_again() > 0),
                    ];
                    for (counter, counts) in counts {
                        counter.fetch_add(usize::from(counts), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let counts = [complete, recovered, handed_over, both, again].map(AtomicUsize::into_inner);
    println!(
        "{} cases; complete, recovered, handed over, both, answered again: {counts:?}",
        seeds.len()
    );
    if seeds.len() >= 600 {
        assert!(counts.iter().all(|count| *count >= 20), "{counts:?}");
    }
}

/// How long what is transferred is, in bytes, and how often.
const SIZES: [(usize, usize); 3] = [(1, 400), (100_000, 1), (1 << 20, 1)];

/// Runs a case in which the first node dies, and the second one goes on.
fn survive(case: &Case) {
    let outcome = run(&world(2), case);
    let what = (case.errands.last(), case.client, &case.incidents);
    let error = outcome
        .client
        .as_ref()
        .and_then(|client| client.error.as_ref());
    assert!(error.is_none(), "{what:?}: {error:?}, {:?}", outcome.nodes);
    assert_eq!(outcome.recovered(), 1, "{what:?}: {:?}", outcome.nodes);
}

#[test]
fn a_download_goes_on_where_its_server_died() {
    for (len, count) in SIZES {
        for share in [10, 50, 90] {
            let mut errands = vec![Errand::Get { start: 3, len }; count];
            errands.push(Errand::Sum { number: 4 });
            let mut case = Case::undisturbed(errands);
            case.client.waits = share == 50;
            if share == 90 {
                // A reader that is slower than the network.
                case.client.slow = Duration::from_millis(1);
                case.client.piece = 1000;
            }
            let at = (4000 + len * share / 100).max(8000);
            survive(&case.dies(Direction::ToClient, at));
        }
    }
}

#[test]
fn an_upload_goes_on_from_what_was_kept() {
    for (len, count) in SIZES {
        for share in [10, 50, 90] {
            let mut errands = vec![Errand::Sum { number: 4 }];
            errands.extend(vec![Errand::Put { start: 3, len }; count]);
            let mut case = Case::undisturbed(errands);
            case.client.piece = if len > 1 { 20_000 } else { 1 };
            survive(&case.dies(Direction::ToServer, 3000 + len * share / 100));
        }
    }
}

#[test]
fn what_was_paid_for_at_a_server_that_died_is_answered_as_it_was_there() {
    for (len, count) in SIZES {
        let case = Case::undisturbed(vec![Errand::Pay { len }; 3 * count]);
        survive(&case.dies(Direction::ToClient, 4000 + len * 5 / 2));
    }
}

#[test]
fn a_drain_moves_downloads_and_uploads_in_their_middle() {
    let world = world(2);
    let len = 1 << 20;
    for errand in [Errand::Get { start: 0, len }, Errand::Put { start: 0, len }] {
        let mut case = Case::undisturbed(vec![errand, Errand::Pay { len: 100 }]);
        case.piece = (16_384, Duration::from_millis(10));
        case.capacity = 4096;
        // A client that has said all is not told to move.
        case.client.waits = true;
        case.drains = vec![Duration::from_millis(300)];
        let outcome = run(&world, &case);
        assert!(outcome.complete(), "{errand:?}: {:?}", outcome.nodes);
        assert_eq!(outcome.handed_over(), 1, "{errand:?}: {:?}", outcome.nodes);
    }
}

/// The conversation's error at a node.
fn error_of(end: &io::Result<End>) -> Option<&ConversationError> {
    end.as_ref().err()?.get_ref()?.downcast_ref()
}

#[test]
fn a_disk_that_fails_costs_its_node_and_one_that_fails_everywhere_is_no_end() {
    let world = world(2);
    let len = 300_000;
    for errand in [Errand::Get { start: 0, len }, Errand::Put { start: 0, len }] {
        for (failing, complete) in [(0..1, true), (0..2, false)] {
            let mut case = Case::undisturbed(vec![errand]);
            case.failing = (failing, 200_000);
            let outcome = run(&world, &case);
            assert_eq!(outcome.complete(), complete, "{:?}", outcome.nodes);
            assert_eq!(outcome.recovered(), 1);
            let (_, end) = &outcome.nodes[0];
            assert_eq!(end.as_ref().unwrap_err().kind(), io::ErrorKind::StorageFull);
            match errand {
                Errand::Get { .. } => {
                    assert!(matches!(error_of(end), Some(ConversationError::Source(_))));
                }
                Errand::Put { .. } | Errand::Pay { .. } | Errand::Sum { .. } => {
                    assert!(matches!(error_of(end), Some(ConversationError::Sink(_))));
                }
            }
        }
    }
}
