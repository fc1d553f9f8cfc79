//! Exactly once, whatever the network does in a hand-off: what either application reads is a prefix of what the other
//! wrote, and an end without an error is the end.
//!
//! Time is virtual and each case has a runtime of its own, so that a seed decides everything and a hang shows at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use migration_tests::client::{expect, until_notified};
use migration_tests::network::{At, Direction, Fault, Incident, Network};
use migration_tests::node::echo;
use migration_tests::server_name;
use migration_tests::session::{Content, Random, Script};
use migration_tests::world::{
    Case, FAULTS, Outcome, World, paused, random_incident, require, undisturbed,
};
use rustls_migration::client::MigrationLimit;
use rustls_migration::tokio::{
    DepartureStatus, EarlyDataOutcome, HandOff, HandOffError, MigrateError, MigrationConnector,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

/// Stats of what cases came to, so that a test can tell that it tested something.
#[derive(Debug, Default)]
struct Tally {
    complete: AtomicUsize,
    moved: AtomicUsize,
    source_lost: AtomicUsize,
    target_lost: AtomicUsize,
    other_error: AtomicUsize,
}

impl Tally {
    fn count(&self, outcome: &Outcome) {
        let client = outcome.client.as_ref().unwrap();
        let counter = match client.hand_off_error() {
            Some(HandOffError::SourceLost(_)) => &self.source_lost,
            Some(HandOffError::TargetLost { .. }) => &self.target_lost,
            Some(_) => &self.other_error,
            None if client.ended => &self.complete,
            None => &self.other_error,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut later = outcome.log.nodes.iter().skip(1);
        if later.any(|node| node.arrived.is_some()) {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether the outcome is one that may be.
fn judge(case: &Case, outcome: &Outcome) -> Result<(), String> {
    outcome.is_consistent(case)?;
    let (nodes, client) = (&outcome.log.nodes, outcome.client.as_ref().unwrap());
    let refused = matches!(client.hand_off_error(), Some(HandOffError::NotFollowed(_)));
    if !refused && !case.incidents.iter().any(|incident| incident.fault.loses()) {
        require(client.ended, "nothing was lost, but there is an error")?;
    }
    let last = nodes.iter().rposition(|node| node.handed_over.is_some());
    match client.hand_off_error() {
        Some(HandOffError::SourceLost(_)) => {
            let arrivals = nodes.iter().filter(|node| node.arrived.is_some()).count();
            let source = arrivals - 1;
            require(!nodes[source].ended, "the source was not lost")?;
        }
        Some(HandOffError::TargetLost { written_since, .. }) => {
            let at = last
                .and_then(|last| nodes[last].handed_over)
                .ok_or("nothing was handed over")?;
            require(
                client.read == at.sent,
                "not all that the source sent was read",
            )?;
            require(at.received <= client.written, "the source read too much")?;
            let target = &nodes[last.unwrap() + 1];
            let acted = target.reached.received > at.received;
            require(
                !acted || *written_since == EarlyDataOutcome::Unknown,
                "sent after all",
            )?;
        }
        Some(HandOffError::NotFollowed(_)) => {
            let at = last
                .and_then(|last| nodes[last].handed_over)
                .ok_or("nothing was handed over")?;
            require(
                client.read == at.sent,
                "not all that the source sent was read",
            )?;
        }
        Some(_) | None => {}
    }
    Ok(())
}

fn all(world: &World, cases: &[Case]) -> Tally {
    let tally = Tally::default();
    world.run_all(cases, judge, |outcome| tally.count(outcome));
    tally
}

fn script(seed: u64) -> Script {
    let mut random = Random::new(seed);
    Script {
        seed,
        uploaded: random.below(6000),
        pushed: random.below(6000),
        largest: 400,
        notify_after: random.below(3000),
        answers: true,
        change_of_mind: random.once_in(4),
        checkpoint_every: 0,
        takes_number: false,
        halves: random.once_in(2),
        impatient: random.once_in(2),
    }
}

fn random_case(seed: u64) -> Case {
    let mut random = Random::new(seed ^ 0xca5e);
    let mut incidents = Vec::new();
    for _ in 0..random.below(3) {
        let bytes = [200, 1500, 6000, 14_000][random.below(4)];
        let leg = random.below(4);
        incidents.push(random_incident(&mut random, leg, bytes));
    }
    Case::over_random_line(&mut random, script(seed), incidents)
}

#[test]
fn faults_at_random_bytes_never_make_a_gap_or_a_repeat() {
    let world = World::new(3);
    let cases: Vec<_> = match std::env::var("EXACTLY_ONCE_SEED") {
        Ok(seed) => vec![random_case(seed.parse().unwrap())],
        Err(_) => (0..2500).map(random_case).collect(),
    };
    let tally = all(&world, &cases);
    println!("{tally:?}");
}

#[test]
fn faults_at_each_record_boundary_never_make_a_gap_or_a_repeat() {
    let world = World::new(2);
    let mut cases = Vec::new();
    for halves in [true, false] {
        let script = Script {
            seed: 7,
            uploaded: 3000,
            pushed: 3000,
            largest: 400,
            notify_after: 800,
            answers: true,
            change_of_mind: false,
            checkpoint_every: 0,
            takes_number: false,
            halves,
            impatient: false,
        };
        let quiet = Case {
            script,
            latency: Duration::from_millis(5),
            capacity: 65_536,
            incidents: Vec::new(),
        };
        let outcome = world.run(&quiet);
        judge(&quiet, &outcome).unwrap();
        for (leg, delivered) in outcome.delivered.iter().enumerate() {
            let directions = [
                (Direction::ToServer, delivered.to_server),
                (Direction::ToClient, delivered.to_client),
            ];
            for (direction, records) in directions {
                for record in 0..=records {
                    cases.extend(FAULTS.map(|fault| Case {
                        incidents: vec![Incident {
                            leg,
                            direction,
                            at: At::Record(record),
                            fault,
                        }],
                        ..quiet.clone()
                    }));
                }
            }
        }
    }
    let tally = all(&world, &cases);
    println!("{} cases, {tally:?}", cases.len());
}

/// A client that has said all it has to say by the time that it is told to move, and has yet to hear most.
fn closes_early() -> Case {
    undisturbed(Script {
        seed: 1,
        uploaded: 1000,
        pushed: 50_000,
        largest: 400,
        notify_after: 1000,
        answers: true,
        change_of_mind: false,
        checkpoint_every: 0,
        takes_number: false,
        halves: true,
        impatient: false,
    })
}

#[test]
fn a_client_that_closes_its_side_while_the_target_is_dialled_hears_the_rest_there() {
    let (world, case) = (World::new(2), closes_early());
    let outcome = world.run(&case);
    judge(&case, &outcome).unwrap();
    let handed_over = outcome.log.nodes[0].handed_over.expect("A handed over");
    assert!(handed_over.sent < 51_000, "{handed_over:?}");
    assert!(outcome.log.nodes[1].ended);
}

#[test]
fn a_hand_over_that_may_not_be_followed_is_an_error_and_not_an_end() {
    let (mut world, case) = (World::new(2), closes_early());
    let none = MigrationLimit {
        count: 0,
        window: time::Duration::HOUR,
    };
    let client = world.service.client_with(world.service.client_config());
    let connector = MigrationConnector::from(client.limit(none).build().unwrap());
    world.connector = connector.hand_off(HandOff::Drain);
    let outcome = world.run(&case);
    judge(&case, &outcome).unwrap();
    let client = outcome.client.unwrap();
    let why = client.hand_off_error();
    assert!(
        matches!(why, Some(HandOffError::NotFollowed(why)) if matches!(**why, MigrateError::TooOften)),
        "{why:?}"
    );
    assert!(outcome.log.nodes[1].arrived.is_none());
}

#[test]
fn a_server_that_ends_the_stream_after_it_changed_its_mind_about_the_target_ends_it() {
    // A second offer that comes when the client has gone is no hand-over: a notice follows it. The client dials and closes
    // its side within 15 milliseconds, and the server knows after 20, although its application does not read.
    changes_its_mind(Duration::from_millis(17), DepartureStatus::Told);
    // Known to have gone, it is told nothing more; without consent its stream ends here.
    changes_its_mind(Duration::from_secs(1), DepartureStatus::Left);
}

fn changes_its_mind(after: Duration, status: DepartureStatus) {
    let world = World::new(2);
    let runtime = paused();
    runtime.block_on(async {
        let network = Network::new(Duration::from_millis(5), 65_536, Vec::new());
        let mut incoming = network.listen(world.addresses[0]);
        let _nobody = network.listen(world.addresses[1]);
        let target = world.addresses[1];
        let acceptor = world.acceptors[0].clone();
        let server = tokio::spawn(async move {
            let mut stream = acceptor.accept(incoming.recv().await.unwrap()).await?;
            stream.migrate_to(target, Some(&[])).await?;
            sleep(after).await;
            let offers = acceptor.stats().offers();
            stream.migrate_to(target, Some(&[])).await?;
            assert_eq!(stream.handle().status(), status);
            if status == DepartureStatus::Left {
                assert_eq!(acceptor.stats().offers(), offers);
                stream.withdraw_state();
            }
            stream.write_all(b"goodbye").await?;
            stream.shutdown().await?;
            stream.read_to_end(&mut Vec::new()).await
        });
        let connector = world.connector.clone().dialer(network.clone());
        let connected = connector.connect(server_name(), world.addresses[0]).await;
        let mut stream = connected.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"goodbye");
        drop(stream);
        let _ = server.await.unwrap();
    });
}

#[test]
fn a_first_message_of_any_length_reaches_a_server_that_answers_while_it_reads() {
    let world = World::new(2);
    let runtime = paused();
    runtime.block_on(async {
        let network = Network::new(Duration::from_millis(1), 4096, Vec::new());
        let mut incoming: Vec<_> = world
            .addresses
            .iter()
            .map(|at| network.listen(*at))
            .collect();
        let [a, b] = &mut incoming[..] else {
            unreachable!("two nodes")
        };
        let (at_a, at_b) = (world.acceptors[0].clone(), world.acceptors[1].clone());
        let target = world.addresses[1];
        let connector = world.connector.clone().hand_off(HandOff::Manual);
        let connector = connector.dialer(network.clone());
        let message = Content::FromClient.piece(0, 300_000);
        let first = async {
            let mut stream = at_a.accept(a.recv().await.unwrap()).await.unwrap();
            stream.migrate_to(target, Some(&[])).await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let second = async {
            let stream = at_b.accept(b.recv().await.unwrap()).await.unwrap();
            echo(stream).await.unwrap();
        };
        let client = async {
            let connected = connector.connect(server_name(), world.addresses[0]).await;
            let mut stream = connected.unwrap();
            until_notified(&mut stream).await;
            let landing = stream.migrate(&message).await.unwrap();
            assert!(landing.fell_back.is_none(), "{landing:?}");
            expect(&mut stream, &message).await;
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        };
        tokio::join!(first, second, client);
    });
}

#[test]
fn a_server_that_breaks_while_the_target_is_dialled_ends_both_halves() {
    let world = World::new(3);
    for at in 1000..1030 {
        let case = Case {
            script: Script {
                seed: 965,
                uploaded: 2908,
                pushed: 5778,
                largest: 400,
                notify_after: 30,
                answers: true,
                change_of_mind: false,
                checkpoint_every: 0,
                takes_number: false,
                halves: true,
                impatient: false,
            },
            latency: Duration::from_millis(1),
            capacity: 1000,
            incidents: vec![Incident {
                leg: 0,
                direction: Direction::ToServer,
                at: At::Byte(at),
                fault: Fault::HalfClose,
            }],
        };
        for _ in 0..10 {
            let outcome = world.run(&case);
            if let Err(why) = judge(&case, &outcome) {
                panic!("{why}\n{case:#?}\n{outcome:#?}");
            }
        }
    }
}
