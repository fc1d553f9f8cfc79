//! An old server that says nothing more in the middle of a hand-off: the stream fails after its time, and not before.
//!
//! Time is virtual.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use migration_tests::client::expect;
use migration_tests::network::{End, Network};
use migration_tests::{Service, server_name};
use rustls_migration::tokio::{
    Event, HandOff, HandOffError, MigrationAcceptor, MigrationStream, TlsStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(20);

/// What A does after the client has closed its side there.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// It says nothing, and keeps the connection.
    Silent,
    /// It says a byte after each of these, `LIMIT` in all more than once, and then hands over.
    Slow(Duration),
}

async fn serve_a(mut stream: TlsStream<End>, target: SocketAddr, source: Source) -> io::Result<()> {
    stream.migrate_to(target, Some(&[])).await?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await?;
    match source {
        Source::Silent => std::future::pending().await,
        Source::Slow(pause) => {
            for _ in 0..5 {
                sleep(pause).await;
                stream.write_all(b".").await?;
                stream.flush().await?;
            }
            stream.set_state(&[])?;
            stream.shutdown().await
        }
    }
}

/// A client of a service with two nodes in memory.
async fn connect(mode: HandOff, source: Source) -> MigrationStream {
    let service = Service::default();
    let network = Network::new(Duration::from_millis(5), 1 << 16, Vec::new());
    let [a, b] = ["127.0.0.2:443", "127.0.0.3:443"].map(|address| address.parse().unwrap());
    for here in [a, b] {
        let acceptor: MigrationAcceptor =
            service.node().own_addresses([here]).build().unwrap().into();
        let mut incoming = network.listen(here);
        tokio::spawn(async move {
            while let Some(io) = incoming.recv().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let stream = acceptor.accept_from(io, None, Some(here)).await.unwrap();
                    match here == a {
                        true => serve_a(stream, b, source).await.unwrap(),
                        false => migration_tests::node::echo(stream).await.unwrap(),
                    }
                });
            }
        });
    }
    let connector = service.connector().hand_off(mode).source_timeout(LIMIT);
    let connector = connector.dialer(network);
    connector.connect(server_name(), a).await.unwrap()
}

async fn switch_when_ready(stream: &mut MigrationStream) {
    let mut events = stream.events();
    loop {
        tokio::select! {
            biased;
            event = events.next() => if let Event::Ready { .. } = event.unwrap() {
                return stream.switch().unwrap();
            },
            read = stream.read_u8() => panic!("unexpected: {read:?}"),
        }
    }
}

fn assert_lost_to_silence(error: &io::Error) {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<HandOffError>());
    match inner {
        Some(HandOffError::SourceLost(why)) => assert_eq!(why.kind(), io::ErrorKind::TimedOut),
        _ => panic!("{error:?}"),
    }
}

/// About so long: the network takes its time too.
fn assert_about(waited: Duration, expected: Duration) {
    assert!(
        waited >= expected && waited < expected + Duration::from_secs(1),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_is_told_when_a_drained_server_is_silent_for_too_long() {
    let mut stream = connect(HandOff::Drain, Source::Silent).await;
    let started = Instant::now();
    let error = stream.read_u8().await.unwrap_err();
    assert_lost_to_silence(&error);
    assert_about(started.elapsed(), LIMIT);
    assert_lost_to_silence(&stream.write_all(b"more").await.unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_does_not_read_is_told_too() {
    let mut stream = connect(HandOff::Drain, Source::Silent).await;
    let started = Instant::now();
    let error = loop {
        if let Err(error) = stream.write_all(&[0; 1024]).await {
            break error;
        }
        sleep(Duration::from_millis(100)).await;
    };
    assert_lost_to_silence(&error);
    assert_about(started.elapsed(), LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_left_by_overlap_may_not_be_silent_either() {
    let mut stream = connect(HandOff::Overlap, Source::Silent).await;
    switch_when_ready(&mut stream).await;
    let started = Instant::now();
    assert_lost_to_silence(&stream.read_u8().await.unwrap_err());
    assert_about(started.elapsed(), LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_is_waited_for_as_long_as_it_says_something() {
    for mode in [HandOff::Drain, HandOff::Overlap] {
        let pause = LIMIT - Duration::from_secs(1);
        let mut stream = connect(mode, Source::Slow(pause)).await;
        if mode == HandOff::Overlap {
            switch_when_ready(&mut stream).await;
        }
        let started = Instant::now();
        expect(&mut stream, b".....").await;
        assert_about(started.elapsed(), pause * 5);
        stream.write_all(b"at B").await.unwrap();
        expect(&mut stream, b"at B").await;
    }
}
