//! Exactly once across the death of a server (`docs/protocol.md` section 11): the stream goes on from a checkpoint, and
//! what either application reads is a prefix of what the other wrote. Where it cannot go on, there is an error and no end.
//!
//! Time is virtual and each case has a runtime of its own, so that a seed decides everything and a hang shows at once.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use migration_tests::CountingStore;
use migration_tests::endings::{Ending, ending};
use migration_tests::network::{At, Direction, Fault, Incident};
use migration_tests::server_name;
use migration_tests::session::{Random, Script};
use migration_tests::simulated::{Pair, run};
use migration_tests::world::{Case, FAULTS, Outcome, World, random_incident, require, undisturbed};
use rustls_migration::client::MigrationLimit;
use rustls_migration::server::Verdict;
use rustls_migration::tokio::{Event, HandOff, MigrationConnector, PastWindow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What cases came to.
#[derive(Debug, Default)]
struct Tally {
    /// How often each end came.
    endings: Mutex<BTreeMap<Ending, usize>>,
    recovered: AtomicUsize,
    recovered_twice: AtomicUsize,
    handed_over: AtomicUsize,
}

impl Tally {
    fn count(&self, outcome: &Outcome) {
        let ending = ending(outcome.client.as_ref().unwrap(), &outcome.events).unwrap();
        *self.endings.lock().unwrap().entry(ending).or_default() += 1;
        let add = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed);
        let nodes = &outcome.log.nodes;
        match nodes.iter().filter(|node| node.recovered).count() {
            0 => {}
            1 => drop(add(&self.recovered)),
            _ => drop(add(&self.recovered_twice)),
        }
        if nodes.iter().any(|node| node.handed_over.is_some()) {
            add(&self.handed_over);
        }
    }

    fn ended(&self, ending: Ending) -> usize {
        let endings = self.endings.lock().unwrap();
        endings.get(&ending).copied().unwrap_or_default()
    }

    fn of(count: &AtomicUsize) -> usize {
        count.load(Ordering::Relaxed)
    }
}

/// Whether the outcome is one that may be.
fn judge(case: &Case, outcome: &Outcome) -> Result<(), String> {
    outcome.is_consistent(case)?;
    let client = outcome.client.as_ref().unwrap();
    // It has a row in the table of docs/recovery.md.
    ending(client, &outcome.events)?;
    if !case.incidents.iter().any(|incident| incident.fault.loses()) {
        require(client.ended, "nothing was lost, but there is an error")?;
    }
    Ok(())
}

fn all(world: &World, cases: &[Case]) -> Tally {
    let tally = Tally::default();
    world.run_all(cases, judge, |outcome| tally.count(outcome));
    tally
}

/// A service whose clients recover as often as they must.
fn world(nodes: usize) -> World {
    recovering(World::new(nodes))
}

fn recovering(mut world: World) -> World {
    let limit = MigrationLimit {
        count: 100,
        window: time::Duration::HOUR,
    };
    let client = world.service.client_with(world.service.client_config());
    let connector = MigrationConnector::from(client.limit(limit).build().unwrap());
    let connector = connector.hand_off(HandOff::Drain);
    world.connector = connector.recover_from_start();
    world
}

fn script(seed: u64) -> Script {
    let mut random = Random::new(seed);
    let moves = random.once_in(3);
    Script {
        seed,
        uploaded: random.below(8000),
        pushed: random.below(8000),
        largest: 400,
        notify_after: match moves {
            true => random.below(4000),
            false => usize::MAX,
        },
        answers: true,
        change_of_mind: random.once_in(8),
        checkpoint_every: [1, 50, 400, 3000][random.below(4)],
        takes_number: random.once_in(3),
        halves: random.once_in(2),
        impatient: random.once_in(2),
    }
}

fn random_case(seed: u64) -> Case {
    let mut random = Random::new(seed ^ 0xdead);
    let mut incidents = Vec::new();
    for leg in 0..3 {
        let bytes = [3000, 9000, 30_000][random.below(3)];
        incidents.push(random_incident(&mut random, leg, bytes));
    }
    Case::over_random_line(&mut random, script(seed), incidents)
}

#[test]
fn servers_that_die_at_random_bytes_never_make_a_gap_or_a_repeat() {
    let world = world(4);
    let cases: Vec<_> = match std::env::var("RECOVERY_SEED") {
        Ok(seed) => vec![random_case(seed.parse().unwrap())],
        Err(_) => {
            let count = std::env::var("RECOVERY_CASES").map_or(1500, |n| n.parse().unwrap());
            (0..count).map(random_case).collect()
        }
    };
    let tally = all(&world, &cases);
    println!("{tally:?}");
    if cases.len() >= 1500 {
        let counts = [&tally.recovered, &tally.recovered_twice, &tally.handed_over];
        assert!(
            counts.iter().all(|count| Tally::of(count) > 50),
            "{tally:?}"
        );
    }
}

#[test]
fn a_checkpoint_that_a_client_needs_is_never_spent_by_a_newer_one() {
    let store: OnceLock<Arc<CountingStore>> = OnceLock::new();
    let world = recovering(World::with(4, |service, settings| {
        let store = store.get_or_init(|| Arc::new(CountingStore::new(service.store(1_000_000))));
        settings
            .nonce_store(Arc::clone(store) as _)
            .supersede_checkpoints_in(Arc::clone(store) as _)
    }));
    let cases: Vec<_> = (0..500).map(random_case).collect();
    let tally = all(&world, &cases);
    let superseded = store.get().unwrap().claims();
    println!("{superseded} claims, {tally:?}");
    let recovered = Tally::of(&tally.recovered) + Tally::of(&tally.recovered_twice);
    assert!(recovered > 50 && superseded > 10 * recovered, "{tally:?}");
    for acceptor in &world.acceptors {
        assert_eq!(acceptor.stats().declined(Verdict::Replayed), 0);
    }
}

#[test]
fn a_server_that_dies_at_each_record_boundary_never_makes_a_gap_or_a_repeat() {
    let world = world(3);
    let mut cases = Vec::new();
    for (takes_number, notify_after) in [(false, usize::MAX), (true, usize::MAX), (false, 800)] {
        let quiet = undisturbed(Script {
            seed: 7,
            uploaded: 3000,
            pushed: 3000,
            largest: 400,
            notify_after,
            answers: true,
            change_of_mind: false,
            checkpoint_every: 300,
            takes_number,
            halves: true,
            impatient: false,
        });
        let outcome = world.run(&quiet);
        judge(&quiet, &outcome).unwrap();
        for (leg, delivered) in outcome.delivered.iter().enumerate() {
            let directions = [
                (Direction::ToServer, delivered.to_server),
                (Direction::ToClient, delivered.to_client),
            ];
            for (direction, records) in directions {
                for record in 0..=records {
                    let losses = FAULTS.into_iter().filter(|fault| fault.loses());
                    cases.extend(losses.map(|fault| Case {
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
    assert!(tally.ended(Ending::Whole) * 2 > cases.len(), "{tally:?}");
}

/// A conversation without a hand-over whose first server resets it after so many bytes have come from it.
fn dies_after(bytes: usize, script: Script) -> Case {
    Case {
        incidents: vec![Incident {
            leg: 0,
            direction: Direction::ToClient,
            at: At::Byte(bytes),
            fault: Fault::Reset,
        }],
        ..undisturbed(script)
    }
}

fn long_upload() -> Script {
    Script {
        seed: 3,
        uploaded: 40_000,
        pushed: 1000,
        largest: 400,
        notify_after: usize::MAX,
        answers: true,
        change_of_mind: false,
        checkpoint_every: 1000,
        takes_number: false,
        halves: true,
        impatient: false,
    }
}

#[test]
fn a_window_that_is_outgrown_costs_the_recovery_or_time_and_never_a_byte() {
    for (past, window, recovers) in [
        (PastWindow::Wait, 2500, true),
        (PastWindow::GiveUp, 60, false),
    ] {
        let mut world = world(2);
        world.connector = world.connector.recovery_window(window, past);
        let case = dies_after(20_000, long_upload());
        let outcome = world.run(&case);
        judge(&case, &outcome).unwrap();
        let recovered = outcome.log.nodes[1].recovered;
        assert_eq!(recovered, recovers, "{past:?}: {outcome:#?}");
        assert_eq!(recovered, outcome.client.unwrap().ended, "{past:?}");
    }
}

#[test]
fn what_is_held_during_a_recovery_follows_what_is_said_again_however_much_that_is() {
    let world = world(2);
    for seed in 0..8 {
        let script = Script {
            seed,
            uploaded: 400_000,
            // Its writer waits in a write most of the time, and not in a flush.
            largest: 200_000,
            checkpoint_every: 300_000,
            ..long_upload()
        };
        // The network takes little at once, and the target's answer takes longer than the client needs to write what is held.
        let case = Case {
            latency: Duration::from_millis(50),
            capacity: 4096,
            ..dies_after(100_000, script)
        };
        let outcome = world.run(&case);
        judge(&case, &outcome).unwrap();
        let resent = outcome.events.iter().find_map(|event| match event {
            Event::Recovered(outcome) => Some(outcome.resent),
            _ => None,
        });
        assert!(resent.is_some_and(|resent| resent > 90_000), "{resent:?}");
        assert!(outcome.client.unwrap().ended, "{:?}", outcome.events);
    }
}

#[test]
fn a_stream_without_a_window_does_not_recover() {
    let mut world = world(2);
    world.connector = world.connector.recovery_window(0, PastWindow::Wait);
    let case = dies_after(20_000, long_upload());
    let outcome = world.run(&case);
    judge(&case, &outcome).unwrap();
    assert!(!outcome.client.unwrap().ended && outcome.log.nodes[1].arrived.is_none());
}

/// A server that lives, and whose words are not delivered any more after so many bytes.
fn falls_silent_after(bytes: usize) -> Case {
    let mut case = dies_after(bytes, long_upload());
    // Much longer than the conversation takes; its node, which waits for the network, comes to its end then.
    case.incidents[0].fault = Fault::Hold(Duration::from_secs(400));
    case
}

#[test]
fn a_server_that_falls_silent_is_dead_when_it_does_not_answer_a_probe() {
    let mut world = world(2);
    let (after, within) = (Duration::from_secs(5), Duration::from_secs(2));
    world.connector = world.connector.probe(after, within);
    for bytes in [8000, 12_000, 20_000] {
        let case = falls_silent_after(bytes);
        let outcome = world.run(&case);
        judge(&case, &outcome).unwrap();
        assert!(outcome.log.nodes[1].recovered && outcome.client.unwrap().ended);
        assert!(outcome.took < Duration::from_secs(9), "{:?}", outcome.took);
    }
}

#[test]
fn what_is_written_while_more_is_said_again_than_the_transport_takes_follows_it() {
    run(async {
        // The ends buffer much less than is said again.
        let pair = Pair::new(4096);
        let (b, before, meanwhile) = (pair.b, vec![1; 200_000], vec![2; 10_000]);
        let all = [&before[..], &meanwhile].concat();
        pair.serve(pair.a, pair.service.node(), move |mut stream| async move {
            stream.checkpoint(b, b"state").await?;
            stream.read_exact(&mut vec![0; 200_000]).await?;
            io::Result::Ok(())
        });
        pair.serve(b, pair.service.node(), move |mut stream| {
            let all = all.clone();
            async move {
                let mut read = Vec::new();
                stream.read_to_end(&mut read).await?;
                let said: &[u8] = if read == all { b"all" } else { b"some" };
                stream.write_all(said).await?;
                stream.shutdown().await
            }
        });
        let connector = pair.connector(HandOff::Drain).recover_from_start();
        let mut stream = connector.connect(server_name(), pair.a).await.unwrap();
        stream.write_all(&before).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        // It learns of the death by this, and holds it.
        stream.write_all(&meanwhile).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"all");
    });
}
