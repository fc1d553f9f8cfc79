//! How long a stream stands still when its server dies (`docs/protocol.md` section 11): from the moment at which the client learns
//! of it, two round trips, and one with the target dialled ahead. Time is virtual, so that computation takes none of it.
//!
//! Both sides say a byte each millisecond.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migration_tests::line::{Line, LineEnd};
use migration_tests::simulated::run;
use migration_tests::{Service, server_name};
use rustls_migration::server::Arrival;
use rustls_migration::tokio::{
    Event, HandOff, MigrationAcceptor, MigrationConnector, MigrationStream, TlsStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

const LATENCY: Duration = Duration::from_millis(50);
const ROUND_TRIP: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(1);

/// A silent server is asked after the first and given up after the second.
const PROBE: (Duration, Duration) = (Duration::from_millis(700), Duration::from_millis(300));

/// When the first server dies, after the beginning.
const DEATH: Duration = Duration::from_millis(1000);

/// The byte at a position of either direction.
fn byte(position: usize) -> u8 {
    u8::try_from(position % 251).unwrap()
}

/// When each byte of one direction was written, or read.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<Instant>>>);

impl Log {
    fn note(&self, count: usize) {
        let now = Instant::now();
        self.0
            .lock()
            .unwrap()
            .extend(std::iter::repeat_n(now, count));
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn at(&self, position: usize) -> Instant {
        self.0.lock().unwrap()[position]
    }
}

/// How the first server is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Killed,
    /// Nobody is told.
    PowerLoss,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    death: Death,
    ahead: bool,
}

impl Case {
    /// How many round trips it may take.
    fn round_trips(self) -> u32 {
        if self.ahead { 1 } else { 2 }
    }
}

/// One side of a server's conversation.
struct Server {
    stream: TlsStream<LineEnd>,
    /// Where it goes on if this one dies.
    next: Option<SocketAddr>,
    read: usize,
    written: usize,
    /// What was read here.
    log: Log,
}

impl Server {
    fn fresh(stream: TlsStream<LineEnd>, next: SocketAddr) -> Self {
        Self {
            stream,
            next: Some(next),
            read: 0,
            written: 0,
            log: Log::default(),
        }
    }

    fn recovered(mut stream: TlsStream<LineEnd>, log: Log) -> Self {
        let Arrival::Recovered { state, .. } = stream.arrival() else {
            panic!("{:?}", stream.arrival());
        };
        let (read, written) = state.split_first_chunk().unwrap();
        let number = |bytes: &[u8]| usize::from_be_bytes(bytes.try_into().unwrap());
        let (read, written) = (number(read as &[u8; 8]), number(written));
        let ahead = usize::try_from(stream.take_received()).unwrap();
        // What this node reads stands behind what the first one had read.
        log.note(read);
        Self {
            stream,
            next: None,
            read,
            written: written + ahead,
            log,
        }
    }

    async fn checkpoint(&mut self) -> io::Result<()> {
        let Some(next) = self.next else { return Ok(()) };
        let state = [self.read.to_be_bytes(), self.written.to_be_bytes()].concat();
        self.stream.checkpoint(next, &state).await
    }

    async fn serve(mut self) -> io::Result<()> {
        self.checkpoint().await?;
        let mut ticks = interval(TICK);
        let mut buf = [0; 1024];
        loop {
            tokio::select! {
                biased;
                read = self.stream.read(&mut buf) => {
                    let len = read?;
                    for byte_read in &buf[..len] {
                        assert_eq!(*byte_read, byte(self.read));
                        self.read += 1;
                    }
                    self.log.note(len);
                }
                _ = ticks.tick() => {
                    self.stream.write_all(&[byte(self.written)]).await?;
                    self.stream.flush().await?;
                    self.written += 1;
                    if self.written.is_multiple_of(20) {
                        self.checkpoint().await?;
                    }
                }
            }
        }
    }
}

/// Nodes A and B, and a client's connector.
struct World {
    line: Line,
    a: SocketAddr,
    b: SocketAddr,
    /// When A does.
    dies: Instant,
    /// What B read of the client.
    read_by_b: Log,
    connector: MigrationConnector,
}

impl World {
    fn new(case: Case) -> Self {
        let service = Service::default();
        let line = Line::new(LATENCY);
        assert_eq!(line.round_trip(), ROUND_TRIP);
        let (a, b) = ("127.0.0.2:443", "127.0.0.3:443");
        let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
        let acceptor = |at| {
            let settings = service.node().own_addresses([at]);
            MigrationAcceptor::from(settings.build().unwrap())
        };
        let (at_a, at_b) = (acceptor(a), acceptor(b));
        let (mut to_a, mut to_b) = (line.listen(a), line.listen(b));
        let dies = Instant::now() + DEATH;
        tokio::spawn(async move {
            let stream = at_a.accept(to_a.recv().await.unwrap()).await?;
            let serving = Server::fresh(stream, b).serve();
            match case.death {
                Death::Killed => tokio::select! {
                    served = serving => served,
                    () = sleep_until(dies) => Ok(()),
                },
                Death::PowerLoss => serving.await,
            }
        });
        let read_by_b = Log::default();
        let log = read_by_b.clone();
        tokio::spawn(async move {
            while let Some(io) = to_b.recv().await {
                let (acceptor, log) = (at_b.clone(), log.clone());
                tokio::spawn(async move {
                    let stream = acceptor.accept(io).await?;
                    Server::recovered(stream, log).serve().await
                });
            }
        });
        let connector = service.connector().hand_off(HandOff::Drain);
        let connector = connector.dialer(line.clone()).recover_from_start();
        let connector = match case.ahead {
            true => connector.dial_recovery_ahead(),
            false => connector,
        };
        Self {
            a,
            b,
            dies,
            read_by_b,
            connector: match case.death {
                Death::Killed => connector,
                Death::PowerLoss => connector.probe(PROBE.0, PROBE.1),
            },
            line,
        }
    }
}

/// What the client did and learned.
#[derive(Default)]
struct Seen {
    /// Bytes of the client.
    written: Log,
    /// Bytes of the servers.
    read: Log,
    /// When it learned of the death, and how much it had written and read by then.
    learned: Option<(Instant, usize, usize)>,
}

/// Talks for three seconds.
async fn converse(stream: MigrationStream) -> Seen {
    let mut events = stream.events();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut seen = Seen::default();
    let written = seen.written.clone();
    let writing = async {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            writer.write_all(&[byte(written.len())]).await.unwrap();
            written.note(1);
        }
    };
    let read = seen.read.clone();
    let reading = async {
        let mut buf = [0; 1024];
        loop {
            let len = reader.read(&mut buf).await.unwrap();
            assert_ne!(len, 0, "no end");
            for (i, read_byte) in buf[..len].iter().enumerate() {
                assert_eq!(*read_byte, byte(read.len() + i));
            }
            read.note(len);
        }
    };
    let listening = async {
        while let Some(event) = events.next().await {
            if matches!(event, Event::Recovering { .. }) {
                assert!(seen.learned.is_none());
                seen.learned = Some((Instant::now(), seen.written.len(), seen.read.len()));
            }
        }
    };
    tokio::select! {
        biased;
        () = listening => panic!("the stream is gone"),
        () = reading => {}
        () = writing => {}
        () = sleep(Duration::from_secs(3)) => {}
    }
    seen
}

fn check(case: Case) {
    let (seen, world, died) = run(async {
        let world = World::new(case);
        let connected = world.connector.connect(server_name(), world.a).await;
        let stream = connected.unwrap();
        let died = world.dies;
        if case.death == Death::PowerLoss {
            let (line, a) = (world.line.clone(), world.a);
            tokio::spawn(async move {
                sleep_until(died).await;
                line.cut_power(a);
            });
        }
        (converse(stream).await, world, died)
    });
    let (learned, written, read) = seen.learned.expect("a death");
    let detection = match case.death {
        Death::Killed => Duration::ZERO,
        Death::PowerLoss => PROBE.0 + PROBE.1,
    };
    let last_heard = seen.read.at(read - 1);
    assert!(last_heard <= died + LATENCY, "{case:?}");
    assert!(
        (last_heard + detection..=last_heard + detection + TICK).contains(&learned),
        "{case:?}: learned {:?} after the last byte",
        learned - last_heard
    );
    let most = ROUND_TRIP * case.round_trips();
    // What the servers say.
    assert_eq!(seen.read.at(read) - learned, most, "{case:?}");
    // What the client says: what it has written before, and what it writes next.
    let arrived = |position| world.read_by_b.at(position);
    assert_eq!(arrived(written - 1) - learned, most - LATENCY, "{case:?}");
    assert!(arrived(written) - learned <= most, "{case:?}");
    for position in written..written + 1000 {
        let took = arrived(position) - seen.written.at(position);
        assert!(took <= most + LATENCY, "{case:?} {position}: {took:?}");
    }
    let dialled = world.line.dialled(world.b);
    assert_eq!(dialled, 1, "{case:?}");
}

#[test]
fn a_stream_goes_on_two_round_trips_after_the_death_of_its_server() {
    for death in [Death::Killed, Death::PowerLoss] {
        let ahead = false;
        check(Case { death, ahead });
    }
}

#[test]
fn a_stream_whose_target_was_dialled_ahead_goes_on_one_round_trip_after_the_death_of_its_server() {
    for death in [Death::Killed, Death::PowerLoss] {
        let ahead = true;
        check(Case { death, ahead });
    }
}
