//! A target that is away for half a second or for three, at each point of a hand-off: it is dialled again, and nothing is lost
//! or repeated.

use std::io;
use std::time::Duration;

use migration_tests::client::{echoed, expect, until, until_notified};
use migration_tests::direct::{Direct, PLACES};
use migration_tests::{Service, server_name};
use rustls_migration::server::Arrival;
use rustls_migration::tokio::{Event, HandOff, MigrateError, MigrationAcceptor};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

const AWAY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(3)];

fn acceptors(service: &Service) -> [MigrationAcceptor; 2] {
    PLACES.map(|at| {
        let settings = service.node().own_addresses([at]);
        MigrationAcceptor::from(settings.build().unwrap())
    })
}

/// Serves B from now on: it echoes, and says first with which state the stream came.
fn serve_b(network: &Direct, acceptor: MigrationAcceptor) {
    let mut incoming = network.listen(PLACES[1]);
    tokio::spawn(async move {
        while let Some(io) = incoming.recv().await {
            let mut stream = acceptor.accept(io).await?;
            if let Arrival::Migrated {
                state: Some(state), ..
            } = stream.arrival()
            {
                let state = state.to_vec();
                stream.write_all(&state).await?;
            }
            migration_tests::node::echo(stream).await?;
        }
        io::Result::Ok(())
    });
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_away_when_the_old_server_is_done_gets_the_stream_when_it_is_back() {
    for away in AWAY {
        let (service, network) = (Service::default(), Direct::default());
        let [acceptor_a, acceptor_b] = acceptors(&service);
        let [at_a, at_b] = PLACES;
        let (mut to_a, mut to_b) = (network.listen(at_a), network.listen(at_b));
        let (done, at_a_done) = oneshot::channel();
        let gone = network.clone();
        tokio::spawn(async move {
            let mut stream = acceptor_a.accept(to_a.recv().await.unwrap()).await?;
            stream.migrate_to(at_b, Some(b"")).await?;
            // B has answered TCP, and goes now.
            drop(to_b.recv().await);
            gone.close(at_b);
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await?;
            stream.set_state(&all)?;
            stream.shutdown().await?;
            let _ = done.send(());
            io::Result::Ok(())
        });
        let connector = service.connector().hand_off(HandOff::Drain);
        let connector = connector.dialer(network.clone());
        let mut stream = connector.connect(server_name(), at_a).await.unwrap();
        let mut events = stream.events();
        stream.write_all(b"before, ").await.unwrap();
        let back = network.clone();
        tokio::spawn(async move {
            at_a_done.await.unwrap();
            sleep(away).await;
            assert!(back.dialled(at_b) >= 3, "it is dialled again meanwhile");
            serve_b(&back, acceptor_b);
        });
        let mut began = None;
        let mut byte = [0];
        // What is written meanwhile is held, and comes after the state.
        let read = loop {
            tokio::select! {
                biased;
                read = stream.read(&mut byte) => break read.unwrap(),
                () = sleep(Duration::from_millis(10)), if began.is_none() => {
                    if network.dialled(at_b) > 1 {
                        stream.write_all(b"after").await.unwrap();
                        began = Some(Instant::now());
                    }
                }
            }
        };
        assert_eq!((read, byte), (1, *b"b"));
        assert!(began.unwrap().elapsed() + Duration::from_millis(100) >= away);
        expect(&mut stream, b"efore, after").await;
        let migrated = std::iter::from_fn(|| events.try_next());
        assert_eq!(
            migrated
                .filter(|one| matches!(one, Event::Migrated(_)))
                .count(),
            1
        );
        assert_eq!(stream.peer_addr(), at_b);
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_away_when_the_client_is_told_gets_the_stream_when_it_is_back() {
    for mode in [HandOff::Drain, HandOff::Overlap] {
        for away in AWAY {
            let (service, network) = (Service::default(), Direct::default());
            let [acceptor_a, acceptor_b] = acceptors(&service);
            let [at_a, at_b] = PLACES;
            let mut to_a = network.listen(at_a);
            tokio::spawn(async move {
                let mut stream = acceptor_a.accept(to_a.recv().await.unwrap()).await?;
                stream.migrate_to(at_b, Some(b"")).await?;
                migration_tests::node::echo(stream).await
            });
            let connector = service.connector().hand_off(mode);
            let connector = connector.dialer(network.clone());
            let mut stream = connector.connect(server_name(), at_a).await.unwrap();
            let mut events = stream.events();
            let told = Instant::now();
            let back = network.clone();
            tokio::spawn(async move {
                sleep(away).await;
                serve_b(&back, acceptor_b);
            });
            until(&mut stream, &mut events, |event| {
                matches!(event, Event::TargetUnreachable { .. })
            })
            .await;
            echoed(&mut stream, b"at A").await;
            until(&mut stream, &mut events, |event| {
                matches!(event, Event::Migrated(_) | Event::Ready { .. })
            })
            .await;
            assert!(told.elapsed() >= away);
            if mode == HandOff::Overlap {
                stream.switch().unwrap();
            }
            echoed(&mut stream, b"at B").await;
            assert_eq!(stream.peer_addr(), at_b);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_migration_to_a_target_that_is_away_keeps_the_old_server_and_the_offer() {
    for away in AWAY {
        let (service, network) = (Service::default(), Direct::default());
        let [acceptor_a, acceptor_b] = acceptors(&service);
        let [at_a, at_b] = PLACES;
        let mut to_a = network.listen(at_a);
        tokio::spawn(async move {
            let mut stream = acceptor_a.accept(to_a.recv().await.unwrap()).await?;
            stream.migrate_to(at_b, None).await?;
            migration_tests::node::echo(stream).await
        });
        let connector = service.connector().dialer(network.clone());
        let mut stream = connector.connect(server_name(), at_a).await.unwrap();
        until_notified(&mut stream).await;
        let back = network.clone();
        tokio::spawn(async move {
            sleep(away).await;
            serve_b(&back, acceptor_b);
        });
        let mut failed = 0;
        let outcome = loop {
            match stream.migrate(b"go on").await {
                Ok(outcome) => break outcome,
                Err(MigrateError::Unreachable(_)) => failed += 1,
                Err(error) => panic!("{error:?}"),
            }
            echoed(&mut stream, b"still at A").await;
            assert!(stream.offered_target().is_some());
            sleep(Duration::from_millis(50)).await;
        };
        assert!(failed >= 9, "{failed}");
        assert_eq!((outcome.at, outcome.fell_back.is_none()), (at_b, true));
        expect(&mut stream, b"go on").await;
    }
}
