//! What an end means to a client (`docs/protocol.md` section 4): a server that is given up or gives up is an error, never the
//! end of an answer, and takes no target along that is ready.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use migration_tests::client::{echoed, expect};
use migration_tests::network::End;
use migration_tests::node::echo;
use migration_tests::session::Content;
use migration_tests::simulated::{Pair, run};
use rustls_migration::MoveKind;
use rustls_migration::tokio::{
    DrainPlan, Event, HandOff, HandOffError, MigrateError, MigrationAcceptor, MigrationStream,
    TlsStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

const ANSWER: usize = 3_000_000;

/// Consents, tells the client to move to `target`, and answers for as long as it may.
async fn answer_and_tell(mut stream: TlsStream<End>, target: SocketAddr) -> io::Result<()> {
    stream.read_u8().await?;
    let content = Content::FromServer.piece(0, ANSWER);
    let (before, after) = content.split_at(200_000);
    stream.write_all(before).await?;
    stream.migrate_to(target, Some(b"state")).await?;
    stream.write_all(after).await?;
    stream.shutdown().await
}

/// Reads to the end, whatever that is, in so many bytes at a time and with a pause of 10 ms after each.
async fn read_all(stream: &mut MigrationStream, at_a_time: usize) -> (usize, io::Result<()>) {
    let (mut read, mut buf) = (0, vec![0; at_a_time]);
    loop {
        match stream.read(&mut buf).await {
            Ok(0) => return (read, Ok(())),
            Ok(len) => {
                assert!(Content::FromServer.is_at(read, &buf[..len]), "at {read}");
                read += len;
            }
            Err(error) => return (read, Err(error)),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn an_answer_that_is_cut_because_the_target_is_dead_is_an_error() {
    for mode in [HandOff::Drain, HandOff::Overlap, HandOff::Manual] {
        run(async {
            let pair = Pair::new(65_536);
            let dead = pair.b;
            let settings = pair.service.node();
            pair.serve(pair.a, settings, move |stream| {
                answer_and_tell(stream, dead)
            });
            let mut stream = pair.connect(mode).await;
            stream.write_all(b"?").await.unwrap();
            let (read, end) = read_all(&mut stream, 1500).await;
            assert!((200_000..ANSWER).contains(&read), "{read}");
            assert!(end.is_err(), "{mode:?}: an end after {read} of {ANSWER}");
            // It does not become an end later.
            let (_, end) = read_all(&mut stream, 1500).await;
            assert!(end.is_err(), "{mode:?}: an end in the second place");
        });
    }
}

/// Serves a client that asks and then waits: whatever is told or lost, there will be no answer. `gives_up` says how A ends.
async fn never_answer(mut stream: TlsStream<End>, gives_up: GivesUp) -> io::Result<()> {
    let mut question = [0; 1];
    stream.set_state(b"state")?;
    stream.read_exact(&mut question).await?;
    if stream.read(&mut question).await? > 0 {
        panic!("there is only one question");
    }
    match gives_up {
        GivesUp::AtDeadline => pending().await,
        GivesUp::ByDropping => Ok(()),
        GivesUp::ByCrashing => Err(io::ErrorKind::Other.into()),
        GivesUp::BySilence => pending().await,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GivesUp {
    AtDeadline,
    ByDropping,
    ByCrashing,
    BySilence,
}

/// A drain of one second that takes all clients to `target`.
fn drain(acceptor: &MigrationAcceptor, target: SocketAddr) {
    let plan = DrainPlan::to([(target, 1)]).spread_over(Duration::ZERO);
    // It goes on by itself.
    drop(acceptor.drain(plan.deadline(Duration::from_secs(1))));
}

#[test]
fn a_client_that_waits_for_its_answer_when_the_server_gives_up_reads_an_error() {
    use GivesUp::{AtDeadline, ByCrashing, ByDropping, BySilence};
    for gives_up in [AtDeadline, ByDropping, ByCrashing, BySilence] {
        for target_lives in [true, false] {
            run(async {
                let pair = Pair::new(65_536);
                let target = pair.b;
                let settings = pair.service.node();
                let a = pair.serve(pair.a, settings, move |stream| {
                    never_answer(stream, gives_up)
                });
                if target_lives {
                    pair.serve(pair.b, pair.service.node(), echo);
                }
                let mut stream = pair.connect(HandOff::Drain).await;
                stream.write_all(b"?").await.unwrap();
                // A has consented and read it by then.
                sleep(Duration::from_millis(100)).await;
                if gives_up == BySilence {
                    let plan = DrainPlan::to([(target, 1)]).spread_over(Duration::ZERO);
                    drop(a.drain(plan.deadline(Duration::from_secs(300))));
                } else {
                    drain(&a, target);
                }
                let (read, end) = read_all(&mut stream, 1500).await;
                let error = end.expect_err("an end without an answer");
                assert_eq!(read, 0);
                let inner = error.get_ref();
                let inner = inner.and_then(|inner| inner.downcast_ref::<HandOffError>());
                let in_hand_off = matches!(inner, Some(HandOffError::SourceLost(_)));
                assert_eq!(in_hand_off, target_lives, "{gives_up:?}: {error:?}");
                if in_hand_off {
                    // Both halves fail.
                    stream.write_all(b"more").await.unwrap_err();
                }
            });
        }
    }
}

/// How A leaves a client of mode Overlap whose target is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// Its application ends the stream.
    Ends,
    /// Its application drops the stream.
    Drops,
    /// A drain's deadline.
    IsCut,
}

async fn echo_once(mut stream: TlsStream<End>, leaves: Leaves) -> io::Result<()> {
    stream.set_state(b"state")?;
    let mut word = [0; 5];
    stream.read_exact(&mut word).await?;
    stream.write_all(&word).await?;
    // The client says it when its target is ready.
    stream.read_exact(&mut word).await?;
    match leaves {
        Leaves::Ends => {
            stream.withdraw_state();
            stream.shutdown().await?;
            stream.read_to_end(&mut Vec::new()).await.map(|_| ())
        }
        Leaves::Drops => Ok(()),
        Leaves::IsCut => pending().await,
    }
}

/// Whom the application tells to go over.
#[derive(Clone, Copy, Debug)]
enum Switch {
    ToTheStream,
    ToItsHandle,
}

#[test]
fn a_target_that_is_ready_outlives_the_old_server() {
    for leaves in [Leaves::Ends, Leaves::Drops, Leaves::IsCut] {
        for told in [Switch::ToTheStream, Switch::ToItsHandle] {
            run(async {
                let pair = Pair::new(65_536);
                let target = pair.b;
                let settings = pair.service.node();
                let a = pair.serve(pair.a, settings, move |stream| echo_once(stream, leaves));
                pair.serve(pair.b, pair.service.node(), echo);
                let mut stream = pair.connect(HandOff::Overlap).await;
                let mut events = stream.events();
                stream.write_all(b"hello").await.unwrap();
                expect(&mut stream, b"hello").await;
                drain(&a, target);
                loop {
                    tokio::select! {
                        read = stream.read_u8() => panic!("{read:?}"),
                        event = events.next() => match event.unwrap() {
                            Event::Ready { .. } => break,
                            Event::Stayed { why, .. } => panic!("{why}"),
                            _ => {}
                        }
                    }
                }
                stream.write_all(b"ready").await.unwrap();
                let (read, end) = read_all(&mut stream, 1500).await;
                assert_eq!(read, 0);
                assert_eq!(end.is_ok(), leaves == Leaves::Ends, "{leaves:?}: {end:?}");
                assert_eq!(stream.peer_addr(), pair.a, "it was not told to go over");
                // A long time later it is still there.
                sleep(Duration::from_secs(5)).await;
                match told {
                    Switch::ToTheStream => stream.switch().unwrap(),
                    Switch::ToItsHandle => stream.handle().switch().unwrap(),
                }
                echoed(&mut stream, b"at B").await;
                assert_eq!(stream.peer_addr(), target);
                assert!(matches!(stream.switch(), Err(MigrateError::NotReady)));
                stream.shutdown().await.unwrap();
                assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            });
        }
    }
}

#[test]
fn a_writer_that_goes_over_when_the_old_server_is_cut_learns_of_what_it_did_not_get() {
    run(async {
        let pair = Pair::new(65_536);
        let target = pair.b;
        let settings = pair.service.node();
        let a = pair.serve(pair.a, settings, move |stream| {
            echo_once(stream, Leaves::IsCut)
        });
        pair.serve(pair.b, pair.service.node(), echo);
        let mut stream = pair.connect(HandOff::Overlap).await;
        let mut events = stream.events();
        stream.write_all(b"hello").await.unwrap();
        expect(&mut stream, b"hello").await;
        drain(&a, target);
        // It only writes, until the drain's deadline is long over.
        let over = Instant::now() + Duration::from_secs(5);
        while Instant::now() < over {
            stream.write_all(b"more").await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
        let ready = |event| matches!(event, Event::Ready { .. });
        assert!(std::iter::from_fn(|| events.try_next()).any(ready));
        stream.switch().unwrap();
        stream.write_all(b"at B").await.unwrap();
        // What A may have said is missing, and that is said once.
        stream.read_u8().await.unwrap_err();
        expect(&mut stream, b"at B").await;
    });
}

#[test]
fn a_hand_over_that_took_the_old_server_long_does_not_fail_for_an_old_connection_to_the_target() {
    // The target gives a handshake ten seconds, counted from when it accepted the connection.
    for tenths in 0..120 {
        run(async {
            let pair = Pair::at_a_distance(Duration::from_millis(70));
            let target = pair.b;
            let settings = pair.service.node();
            pair.serve(pair.a, settings, move |mut stream| async move {
                stream.migrate_to(target, Some(b"state")).await?;
                stream.read_to_end(&mut Vec::new()).await?;
                sleep(Duration::from_millis(tenths * 100)).await;
                stream.shutdown().await
            });
            pair.serve(pair.b, pair.service.node(), echo);
            let mut stream = pair.connect(HandOff::Drain).await;
            let mut events = stream.events();
            loop {
                tokio::select! {
                    read = stream.read_u8() => panic!("after {tenths} tenths of a second: {read:?}"),
                    event = events.next() => if let Some(Event::Migrated(_)) = event {
                        break;
                    }
                }
            }
            // The server's handshake is complete some time after the client's.
            echoed(&mut stream, b"at B").await;
        });
    }
}

#[test]
fn a_stream_that_only_its_application_moves_fails_when_it_is_handed_over() {
    run(async {
        let pair = Pair::new(65_536);
        let target = pair.b;
        let settings = pair.service.node();
        pair.serve(pair.a, settings, move |mut stream| async move {
            stream.read_u8().await?;
            stream.migrate_to(target, Some(b"state")).await?;
            // It takes the client's end for a departure, and has the target answer.
            stream.read_to_end(&mut Vec::new()).await?;
            stream.shutdown().await
        });
        let mut stream = pair.connect(HandOff::Manual).await;
        stream.write_all(b"?").await.unwrap();
        stream.shutdown().await.unwrap();
        let (_, end) = read_all(&mut stream, 1500).await;
        let error = end.expect_err("an end without an answer");
        let why = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<HandOffError>());
        assert!(
            matches!(why, Some(HandOffError::NotFollowed(why)) if matches!(**why, MigrateError::Manual)),
            "{error:?}"
        );
        // Where the answer is, it can know.
        assert_eq!(stream.offered_target().unwrap(), target);
    });
}

#[test]
fn a_server_that_consents_too_late_knows_that_its_client_waits_for_the_answer() {
    run(async {
        let pair = Pair::new(65_536);
        let target = pair.b;
        let settings = pair.service.node();
        pair.serve(pair.a, settings, move |mut stream| async move {
            let handle = stream.handle();
            assert_eq!(handle.told_to_move(), None);
            stream.read_u8().await?;
            handle.migrate_to(target);
            handle.told().await;
            assert_eq!(handle.told_to_move(), Some(MoveKind::Connection));
            handle.set_state(b"state").map_err(io::Error::other)?;
            stream.read_to_end(&mut Vec::new()).await?;
            if handle.told_to_move() == Some(MoveKind::Connection) {
                stream
                    .write_all(&Content::FromServer.piece(0, 100_000))
                    .await?;
            }
            stream.shutdown().await
        });
        let mut stream = pair.connect(HandOff::Drain).await;
        stream.write_all(b"?").await.unwrap();
        stream.shutdown().await.unwrap();
        let (read, end) = read_all(&mut stream, 15_000).await;
        end.unwrap();
        assert_eq!(read, 100_000);
    });
}
