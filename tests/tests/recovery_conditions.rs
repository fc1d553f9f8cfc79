//! Recovery under conditions of every day: slow peers, one long write, clocks that are set, a target that comes late, checkpoints that
//! cannot be made.
//!
//! Time is tokio's, and stands still while anybody has something to do. `ONE_WRITE` in the environment says how long the long write is,
//! in MB.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migration_tests::endings::{Ending, ending};
use migration_tests::mortal::from_environment;
use migration_tests::network::{At, Direction, End, Fault, Incident, Network};
use migration_tests::session::{Content, Script};
use migration_tests::simulated::{Pair, run};
use migration_tests::world::{Case, Outcome, World, undisturbed};
use migration_tests::{TestClock, server_name};
use rustls_migration::Clock as _;
use rustls_migration::server::{Arrival, OfferError};
use rustls_migration::tokio::{
    ConnectError, DrainPlan, Event, HandOff, HandOffError, MigrateError, PastWindow, TlsStream,
};
use time::Duration as Step;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

fn script() -> Script {
    Script {
        seed: 11,
        uploaded: 1_000_000,
        pushed: 10_000,
        answers: false,
        largest: 16_384,
        notify_after: usize::MAX,
        change_of_mind: false,
        checkpoint_every: 60_000,
        takes_number: false,
        halves: true,
        impatient: false,
    }
}

/// A service whose clients wait for checkpoints and probe.
fn world(after: Duration, within: Duration) -> World {
    let mut world = World::new(3);
    let connector = world.connector.recover_from_start();
    let connector = connector.recovery_window(256 * 1024, PastWindow::Wait);
    world.connector = connector.probe(after, within);
    world
}

fn incident(leg: usize, direction: Direction, byte: usize, fault: Fault) -> Incident {
    let at = At::Byte(byte);
    Incident {
        leg,
        direction,
        at,
        fault,
    }
}

/// How often the client gave a server up. Panics unless all was said.
fn recoveries(case: &Case, outcome: &Outcome) -> usize {
    outcome.is_consistent(case).unwrap();
    let client = outcome.client.as_ref().unwrap();
    let ended = ending(client, &outcome.events).unwrap();
    assert_eq!(ended, Ending::Whole, "{:?}", outcome.events);
    let given_up = |event: &&Event| matches!(event, Event::Recovering { .. });
    outcome.events.iter().filter(given_up).count()
}

#[test]
fn a_server_that_dies_at_200_kilobytes_a_second_is_survived_and_a_slow_one_is_not_given_up() {
    let world = world(Duration::from_secs(1), Duration::from_secs(2));
    // 200 bytes in each millisecond.
    let slow = |leg| {
        [Direction::ToServer, Direction::ToClient]
            .map(|direction| incident(leg, direction, 0, Fault::Trickle(200)))
    };
    for answers in [false, true] {
        let mut incidents = [slow(0), slow(1)].concat();
        let script = Script {
            answers,
            ..script()
        };
        let mut case = Case {
            incidents: incidents.clone(),
            ..undisturbed(script)
        };
        assert_eq!(recoveries(&case, &world.run(&case)), 0);
        incidents.push(incident(0, Direction::ToServer, 500_000, Fault::Reset));
        case.incidents = incidents;
        assert_eq!(recoveries(&case, &world.run(&case)), 1);
    }
}

/// Reads what a client uploads, with a checkpoint after every 64 KiB, and says in the end how much it was.
async fn receive(mut stream: TlsStream<End>, next: SocketAddr) -> io::Result<()> {
    let mut received = match stream.arrival() {
        Arrival::Recovered { state, .. } => u64::from_be_bytes(state.to_vec().try_into().unwrap()),
        _ => 0,
    };
    let mut buf = vec![0; 16_384];
    let mut secured = None;
    loop {
        if secured.is_none_or(|last| received >= last + 65_536) {
            secured = Some(received);
            stream.checkpoint(next, &received.to_be_bytes()).await?;
        }
        let len = stream.read(&mut buf).await?;
        if len == 0 {
            break;
        }
        let at = usize::try_from(received).unwrap();
        assert!(Content::FromClient.is_at(at, &buf[..len]), "not at {at}");
        received += u64::try_from(len).unwrap();
    }
    stream.write_all(&received.to_be_bytes()).await?;
    stream.shutdown().await
}

#[test]
fn one_long_write_survives_two_servers() {
    let length = from_environment("ONE_WRITE", 4) * 1_000_000;
    let bytes = usize::try_from(length).unwrap();
    run(async move {
        let mut pair = Pair::new(65_536);
        let dies = |leg, fault| incident(leg, Direction::ToServer, bytes * 2 / 5, fault);
        let incidents = vec![dies(0, Fault::Reset), dies(1, Fault::Fin)];
        pair.network = Network::new(Duration::ZERO, 65_536, incidents);
        let (a, b) = (pair.a, pair.b);
        pair.serve(a, pair.service.node(), move |stream| receive(stream, b));
        pair.serve(b, pair.service.node(), move |stream| receive(stream, a));
        let connector = pair.connector(HandOff::Drain).recover_from_start();
        let connector = connector.recovery_window(256 * 1024, PastWindow::Wait);
        let mut stream = connector.connect(server_name(), a).await.unwrap();
        let all = Content::FromClient.piece(0, bytes);
        stream.write_all(&all).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, length.to_be_bytes());
        assert_eq!(stream.peer_addr(), a, "it has survived both");
    });
}

/// What becomes of a stream whose server dies after a checkpoint, when clocks have been set meanwhile: the client's and A's, and B's.
async fn with_steps(at_client: Step, at_b: Step) -> io::Result<Vec<u8>> {
    let pair = Pair::new(65_536);
    let (b, clock) = (pair.b, TestClock::new());
    // Both begin at a full second, which need not be the same one.
    clock.step(pair.service.clock.now() - clock.now());
    let dies = Arc::new(tokio::sync::Notify::new());
    let death = Arc::clone(&dies);
    pair.serve(pair.a, pair.service.node(), move |mut stream| {
        let death = Arc::clone(&death);
        async move {
            stream.checkpoint(b, b"state").await?;
            stream.write_all(b"said").await?;
            stream.flush().await?;
            death.notified().await;
            Ok(())
        }
    });
    let settings = pair.service.node().clock(clock.clone());
    pair.serve(b, settings, |mut stream| async move {
        if !matches!(stream.arrival(), Arrival::Recovered { .. }) {
            // It is nobody's stream.
            return stream.shutdown().await;
        }
        stream.write_all(b"said again").await?;
        stream.shutdown().await
    });
    let mut stream = pair.connect(HandOff::Drain).await;
    let mut said = [0; 4];
    stream.read_exact(&mut said).await?;
    pair.service.clock.step(at_client);
    clock.step(at_b);
    dies.notify_one();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    Ok(rest)
}

fn not_recovered(error: &io::Error) -> Option<&ConnectError> {
    let inside = error.get_ref()?.downcast_ref()?;
    let HandOffError::NotRecovered { error, .. } = inside else {
        return None;
    };
    match &**error {
        MigrateError::Unreachable(error) => Some(error),
        _ => None,
    }
}

#[test]
fn a_clock_that_is_set_costs_the_recovery_or_nothing_and_never_a_byte() {
    let (none, hour) = (Step::ZERO, Step::HOUR);
    for at_client in [hour, -hour] {
        let rest = run(with_steps(at_client, none)).unwrap();
        assert_eq!(rest, b" again", "{at_client}");
    }
    for at_b in [hour, -hour] {
        let error = run(with_steps(none, at_b)).unwrap_err();
        let why = not_recovered(&error);
        let refused = matches!(why, Some(ConnectError::SessionRefused { .. }));
        assert!(refused, "{at_b}: {error:?}");
    }
}

/// What becomes of a stream whose server dies when its checkpoint's target is away for so long, and how long it took.
async fn with_a_target_that_is_late(away: Duration) -> (io::Result<Vec<u8>>, Duration) {
    let pair = Pair::new(65_536);
    let b = pair.b;
    pair.network.set_away(b, true);
    pair.serve(pair.a, pair.service.node(), move |mut stream| async move {
        stream.checkpoint(b, b"state").await
    });
    let at_b = pair.serve(b, pair.service.node(), |mut stream| async move {
        assert!(matches!(stream.arrival(), Arrival::Recovered { .. }));
        // Its nonce is spent then.
        stream.handshake().await?;
        stream.write_all(b"here").await?;
        stream.shutdown().await
    });
    let mut stream = pair.connect(HandOff::Drain).await;
    let begun = Instant::now();
    let back = pair.network.clone();
    tokio::spawn(async move {
        sleep(away).await;
        back.set_away(b, false);
    });
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest).await;
    let took = begun.elapsed();
    let (stats, came) = (at_b.stats(), u64::from(read.is_ok()));
    assert_eq!((stats.recovered(), stats.committed()), (came, came));
    (read.map(|_| rest), took)
}

#[test]
fn a_target_that_comes_late_is_dialled_again_within_the_time_for_connecting() {
    let second = Duration::from_secs(1);
    let (read, took) = run(with_a_target_that_is_late(second));
    assert_eq!(read.unwrap(), b"here");
    // Each wait is twice as long as the one before.
    assert!((second..second * 5 / 2).contains(&took), "{took:?}");
    let (read, took) = run(with_a_target_that_is_late(second * 20));
    let error = read.unwrap_err();
    let why = not_recovered(&error);
    assert!(matches!(why, Some(ConnectError::Dial { .. })), "{error:?}");
    assert!((second * 10..second * 11).contains(&took), "{took:?}");
}

fn refused(made: io::Result<()>) -> Option<OfferError> {
    let error = made.unwrap_err();
    let inside = error.get_ref()?.downcast_ref::<OfferError>();
    inside.cloned()
}

#[test]
fn a_checkpoint_that_cannot_be_made_changes_nothing_however_often() {
    run(async {
        let pair = Pair::new(65_536);
        let (b, asked) = (pair.b, Arc::new(AtomicBool::new(false)));
        let was_asked = Arc::clone(&asked);
        let at_a = pair.serve(pair.a, pair.service.node(), move |mut stream| {
            let asked = Arc::clone(&was_asked);
            async move {
                let long = vec![0; 9000];
                for _ in 0..2 {
                    let why = refused(stream.checkpoint(b, &long).await);
                    assert_eq!(why, Some(OfferError::StateTooLong { len: 9000 }));
                }
                stream.checkpoint(b, b"first").await?;
                stream.write_all(b"said").await?;
                stream.flush().await?;
                let mut byte = [0];
                stream.read_exact(&mut byte).await?;
                // A drain is under way, and has told the client.
                for _ in 0..2 {
                    let why = refused(stream.checkpoint(b, &long).await);
                    assert_eq!(why, Some(OfferError::StateTooLong { len: 9000 }));
                }
                stream.checkpoint(b, b"newest").await?;
                stream.shutdown().await?;
                for _ in 0..2 {
                    let why = refused(stream.checkpoint(b, b"late").await);
                    assert_eq!(why, Some(OfferError::Closed));
                }
                asked.store(true, Ordering::Relaxed);
                Ok(())
            }
        });
        let mut stream = pair.connect(HandOff::Drain).await;
        let mut events = stream.events();
        let mut said = [0; 4];
        stream.read_exact(&mut said).await.unwrap();
        let plan = DrainPlan::to([(b, 1)]).spread_over(Duration::ZERO);
        let drain = at_a.drain(plan);
        drain.all_told().await;
        stream.write_all(b"!").await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        stream.shutdown().await.unwrap();
        drop(stream);
        let mut checkpoints = 0;
        while let Some(event) = events.next().await {
            assert!(!matches!(event, Event::Recovering { .. }));
            checkpoints += usize::from(matches!(event, Event::Checkpoint { .. }));
        }
        sleep(Duration::from_secs(60)).await;
        assert_eq!((checkpoints, asked.load(Ordering::Relaxed)), (2, true));
        let stats = at_a.stats();
        assert_eq!(stats.checkpoints(), 2);
    });
}

/// How the end of the server comes to a writer that waits for a checkpoint.
async fn ended_while_waiting(dies: bool) -> io::Result<()> {
    let pair = Pair::new(65_536);
    let b = pair.b;
    pair.network.set_away(b, true);
    pair.serve(pair.a, pair.service.node(), move |mut stream| async move {
        stream.checkpoint(b, b"state").await?;
        sleep(Duration::from_secs(5)).await;
        match dies {
            true => Ok(()),
            false => stream.shutdown().await,
        }
    });
    let connector = pair.connector(HandOff::Drain).recover_from_start();
    let connector = connector.recovery_window(1000, PastWindow::Wait);
    let stream = connector.connect(server_name(), pair.a).await.unwrap();
    let mut events = stream.events();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = tokio::spawn(async move { reader.read_to_end(&mut Vec::new()).await });
    let event = events.next().await;
    assert!(matches!(
        event,
        Some(Event::Checkpoint { usable: true, .. })
    ));
    let written = writer.write_all(&[7; 100_000]).await;
    assert_eq!(reading.await.unwrap().is_err(), dies);
    drop(writer);
    let mut waited = false;
    while let Some(event) = events.next().await {
        waited |= matches!(event, Event::RecoveryWindowFull { waits: true });
    }
    assert!(waited);
    written
}

#[test]
fn a_writer_that_waits_for_a_checkpoint_learns_that_none_comes_any_more() {
    let error = run(ended_while_waiting(true)).unwrap_err();
    assert!(not_recovered(&error).is_some(), "{error:?}");
    // A server that has said all may still read.
    run(ended_while_waiting(false)).unwrap();
}

#[test]
fn a_writer_that_waits_for_a_checkpoint_goes_on_when_the_server_takes_the_former_one_back() {
    run(async {
        let pair = Pair::new(65_536);
        let b = pair.b;
        pair.serve(pair.a, pair.service.node(), move |mut stream| async move {
            stream.checkpoint(b, b"state").await?;
            sleep(Duration::from_secs(5)).await;
            stream.offer(b, None).await?;
            let read = stream.read_to_end(&mut Vec::new()).await?;
            stream.write_all(&read.to_be_bytes()).await?;
            stream.shutdown().await
        });
        let connector = pair.connector(HandOff::Drain).recover_from_start();
        let connector = connector.recovery_window(1000, PastWindow::Wait);
        let stream = connector.connect(server_name(), pair.a).await.unwrap();
        let mut events = stream.events();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).await.map(|_| read)
        });
        let event = events.next().await;
        assert!(matches!(event, Some(Event::Checkpoint { .. })));
        writer.write_all(&[7; 100_000]).await.unwrap();
        writer.shutdown().await.unwrap();
        let read = reading.await.unwrap().unwrap();
        assert_eq!(read, 100_000_usize.to_be_bytes());
    });
}

/// Says nothing for five minutes, and then a word that is answered: what comes, how long it takes, and how much has been delivered to A by
/// then. Past so many records nothing more is.
async fn after_a_long_lull(silent_after: Option<usize>) -> (Vec<u8>, Duration, usize) {
    let mut pair = Pair::new(65_536);
    let silence = silent_after.map(|record| Incident {
        leg: 0,
        direction: Direction::ToServer,
        at: At::Record(record),
        fault: Fault::Hold(Duration::from_secs(1500)),
    });
    let incidents = silence.into_iter().collect();
    pair.network = Network::new(Duration::from_millis(5), 65_536, incidents);
    let b = pair.b;
    let answer = |mut stream: TlsStream<_>| async move {
        let mut word = [0; 4];
        stream.read_exact(&mut word).await?;
        stream.write_all(&word).await?;
        stream.shutdown().await
    };
    pair.serve(pair.a, pair.service.node(), move |mut stream| async move {
        stream.checkpoint(b, b"").await?;
        answer(stream).await
    });
    pair.serve(b, pair.service.node(), answer);
    let connector = pair.connector(HandOff::Drain);
    let connector = connector.probe(Duration::from_secs(5), Duration::from_secs(2));
    let mut stream = connector.connect(server_name(), pair.a).await.unwrap();
    let mut answer = vec![0; 4];
    tokio::select! {
        read = stream.read(&mut answer) => panic!("nothing was to come: {read:?}"),
        () = sleep(Duration::from_secs(300)) => {}
    }
    let delivered = pair.network.delivered()[0].to_server;
    stream.write_all(b"word").await.unwrap();
    let begun = Instant::now();
    stream.read_exact(&mut answer).await.unwrap();
    (answer, begun.elapsed(), delivered)
}

#[test]
fn a_power_loss_that_nobody_can_ask_after_any_more_is_found_when_something_is_written() {
    let (answer, _, delivered) = run(after_a_long_lull(None));
    assert_eq!(answer, b"word");
    let (answer, took, _) = run(after_a_long_lull(Some(delivered)));
    assert_eq!(answer, b"word");
    // It is asked at the next moment for that.
    assert!(took < Duration::from_secs(5 + 2 + 1), "{took:?}");
}
