//! The target of a checkpoint that is dialled ahead: what becomes of that connection never disturbs the stream, and a dead one costs
//! time and no recovery.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use migration_tests::line::{Line, LineEnd};
use migration_tests::simulated::run;
use migration_tests::{Service, server_name};
use rustls_migration::client::NoWider;
use rustls_migration::server::Arrival;
use rustls_migration::tokio::{
    EarlyDataOutcome, Event, Events, HandOff, MigrationAcceptor, MigrationConnector,
    MigrationStream, RecoveryOutcome,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};

const LATENCY: Duration = Duration::from_millis(50);
const ROUND_TRIP: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// What a test has the first server do.
enum Order {
    Checkpoint(SocketAddr),
    /// An offer without a state.
    TakeItBack,
    Say(&'static [u8]),
    Die,
}

struct World {
    service: Service,
    line: Line,
    a: SocketAddr,
    b: SocketAddr,
    c: SocketAddr,
}

impl World {
    fn new() -> Self {
        let [a, b, c] = ["127.0.0.2:443", "127.0.0.3:443", "127.0.0.4:443"];
        Self {
            service: Service::default(),
            line: Line::new(LATENCY),
            a: a.parse().unwrap(),
            b: b.parse().unwrap(),
            c: c.parse().unwrap(),
        }
    }

    fn acceptor(&self, at: SocketAddr) -> MigrationAcceptor {
        let settings = self.service.node().own_addresses([at]);
        MigrationAcceptor::from(settings.build().unwrap())
    }

    fn connector(&self) -> MigrationConnector {
        let connector = self.service.connector().hand_off(HandOff::Drain);
        connector
            .dialer(self.line.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .recover_from_start()
            .dial_recovery_ahead()
    }

    /// A client's stream to A, which does as it is told.
    async fn connect(&self, connector: MigrationConnector) -> Client {
        let (orders, mut ordered) = unbounded_channel();
        let (acceptor, mut incoming) = (self.acceptor(self.a), self.line.listen(self.a));
        let b = self.b;
        tokio::spawn(async move {
            let mut stream = acceptor.accept(incoming.recv().await.unwrap()).await?;
            while let Some(order) = ordered.recv().await {
                match order {
                    Order::Checkpoint(target) => stream.checkpoint(target, b"state").await?,
                    Order::TakeItBack => stream.offer(b, None).await?,
                    Order::Say(said) => {
                        stream.write_all(said).await?;
                        stream.flush().await?;
                    }
                    Order::Die => break,
                }
            }
            io::Result::Ok(())
        });
        let stream = connector.connect(server_name(), self.a).await.unwrap();
        Client {
            events: stream.events(),
            stream,
            orders,
        }
    }
}

struct Client {
    stream: MigrationStream,
    events: Events,
    orders: UnboundedSender<Order>,
}

impl Client {
    fn order(&self, order: Order) {
        self.orders
            .send(order)
            .unwrap_or_else(|_| panic!("A is gone"));
    }

    /// Reads for so long, and nothing comes.
    async fn wait(&mut self, time: Duration) {
        let mut byte = [0];
        let read = timeout(time, self.stream.read(&mut byte)).await;
        assert!(read.is_err(), "{read:?}");
    }

    /// Reads so many bytes.
    async fn expect(&mut self, expected: &[u8]) {
        let mut read = vec![0; expected.len()];
        self.stream.read_exact(&mut read).await.unwrap();
        assert_eq!(read, expected);
    }

    /// Has A die, after the client has said "question" to it, and goes on at B, which answers. Returns how long that took from when
    /// the client learned of the death.
    async fn recover(mut self) -> (Duration, RecoveryOutcome) {
        self.stream.write_all(b"question").await.unwrap();
        self.wait(ROUND_TRIP * 3).await;
        let died = Instant::now();
        self.order(Order::Die);
        self.expect(b"answer").await;
        let took = died.elapsed();
        let outcome = std::iter::from_fn(|| self.events.try_next()).find_map(|event| match event {
            Event::Recovered(outcome) => Some(outcome),
            _ => None,
        });
        (took, outcome.unwrap())
    }
}

/// Waits for the question and answers it.
async fn answer(acceptor: &MigrationAcceptor, io: LineEnd) -> io::Result<()> {
    let mut stream = acceptor.accept(io).await?;
    assert!(matches!(stream.arrival(), Arrival::Recovered { .. }));
    let mut question = [0; 8];
    stream.read_exact(&mut question).await?;
    assert_eq!(&question, b"question");
    stream.write_all(b"answer").await?;
    stream.flush().await?;
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

/// The next connection, within a second.
async fn next(incoming: &mut UnboundedReceiver<LineEnd>) -> LineEnd {
    let next = timeout(Duration::from_secs(1), incoming.recv()).await;
    next.expect("a connection").unwrap()
}

/// Until the other side has closed a connection on which nothing is said.
async fn closed(mut io: LineEnd) {
    let read = timeout(Duration::from_secs(1), io.read(&mut [0])).await;
    assert_eq!(read.expect("it is closed").unwrap(), 0);
}

#[test]
fn a_target_that_closes_the_connection_is_dialled_again_and_the_last_one_is_used() {
    run(async {
        let world = World::new();
        let mut to_b = world.line.listen(world.b);
        let mut client = world.connect(world.connector()).await;
        client.order(Order::Checkpoint(world.b));
        for _ in 0..5 {
            client.wait(Duration::from_millis(500)).await;
            let spare = next(&mut to_b).await;
            client.wait(Duration::from_secs(10)).await;
            drop(spare);
        }
        client.wait(Duration::from_millis(500)).await;
        let (acceptor, spare) = (world.acceptor(world.b), next(&mut to_b).await);
        tokio::spawn(async move { answer(&acceptor, spare).await });
        let (took, outcome) = client.recover().await;
        assert_eq!(took, ROUND_TRIP);
        assert_eq!(outcome.resent, 8);
        assert_eq!(world.line.dialled(world.b), 6);
    });
}

#[test]
fn a_target_that_refuses_is_dialled_less_and_less_and_the_stream_goes_on() {
    run(async {
        let world = World::new();
        let mut client = world.connect(world.connector()).await;
        client.order(Order::Checkpoint(world.b));
        client.wait(Duration::from_secs(600)).await;
        // Doubling from 50 ms to 30 s, and then each 30 s.
        let dialled = world.line.dialled(world.b);
        assert!((25..=30).contains(&dialled), "{dialled}");
        let told = std::iter::from_fn(|| client.events.try_next());
        let told = told.filter(|event| matches!(event, Event::TargetUnreachable { .. }));
        assert_eq!(told.count(), dialled);
        client.order(Order::Say(b"alive"));
        client.expect(b"alive").await;
    });
}

#[test]
fn a_target_that_keeps_no_connection_is_dialled_less_and_less() {
    run(async {
        let world = World::new();
        let mut to_b = world.line.listen(world.b);
        tokio::spawn(async move { while to_b.recv().await.is_some() {} });
        let mut client = world.connect(world.connector()).await;
        client.order(Order::Checkpoint(world.b));
        client.wait(Duration::from_secs(600)).await;
        let dialled = world.line.dialled(world.b);
        assert!((25..=30).contains(&dialled), "{dialled}");
    });
}

#[test]
fn the_connection_is_dropped_when_the_checkpoint_leads_elsewhere_is_taken_back_or_the_stream_ends()
{
    run(async {
        let world = World::new();
        let (mut to_b, mut to_c) = (world.line.listen(world.b), world.line.listen(world.c));
        let mut client = world.connect(world.connector()).await;
        let pause = Duration::from_millis(500);
        for _ in 0..10 {
            // Many checkpoints for one target are one connection.
            client.order(Order::Checkpoint(world.b));
            client.wait(pause).await;
        }
        let spare = next(&mut to_b).await;
        assert_eq!(world.line.dialled(world.b), 1);
        client.order(Order::Checkpoint(world.c));
        client.wait(pause).await;
        closed(spare).await;
        let spare = next(&mut to_c).await;
        client.order(Order::TakeItBack);
        client.wait(pause).await;
        closed(spare).await;
        client.order(Order::Checkpoint(world.c));
        client.wait(pause).await;
        let spare = next(&mut to_c).await;
        drop(client);
        closed(spare).await;
        assert_eq!(
            (world.line.dialled(world.b), world.line.dialled(world.c)),
            (1, 2)
        );
    });
}

#[test]
fn a_target_that_is_not_allowed_is_not_dialled() {
    run(async {
        let world = World::new();
        let elsewhere = SocketAddr::from(([127, 0, 0, 3], 444));
        let client = world.service.client_with(world.service.client_config());
        let client = client.target_policy(NoWider::default()).build().unwrap();
        let connector = MigrationConnector::from(client).hand_off(HandOff::Drain);
        let connector = connector.dialer(world.line.clone()).dial_recovery_ahead();
        let mut client = world.connect(connector).await;
        client.order(Order::Checkpoint(elsewhere));
        client.wait(Duration::from_secs(60)).await;
        assert_eq!(world.line.dialled(elsewhere), 0);
        client.order(Order::Checkpoint(world.b));
        client.wait(Duration::from_secs(1)).await;
        assert!(world.line.dialled(world.b) > 0);
    });
}

/// How a connection that was dialled ahead turns out to be dead when the hello has been sent over it.
#[derive(Clone, Copy, Debug)]
enum Dead {
    /// The target has forgotten it, as one that was started anew, and says so.
    Forgotten,
    /// Nothing comes.
    Silent,
    /// The target has judged the hello, claimed its token and accepted its early data, and says nothing before it closes the connection.
    Claimed,
}

async fn die(how: Dead, acceptor: &MigrationAcceptor, mut spare: LineEnd) -> io::Result<()> {
    match how {
        Dead::Forgotten => {
            spare.read_u8().await?;
            spare.shutdown().await?;
            sleep(ROUND_TRIP).await;
        }
        Dead::Silent => {
            let _ = spare.read_to_end(&mut Vec::new()).await;
        }
        Dead::Claimed => {
            let judged = acceptor.start(spare, None, None).await?;
            assert!(matches!(judged.arrival(), Arrival::Recovered { .. }));
        }
    }
    Ok(())
}

#[test]
fn a_connection_that_is_dead_when_it_is_used_costs_time_and_no_recovery() {
    for how in [Dead::Forgotten, Dead::Silent, Dead::Claimed] {
        run(async {
            let world = World::new();
            let mut to_b = world.line.listen(world.b);
            let mut client = world.connect(world.connector()).await;
            client.order(Order::Checkpoint(world.b));
            client.wait(Duration::from_secs(1)).await;
            let acceptor = world.acceptor(world.b);
            tokio::spawn(async move {
                let spare = next(&mut to_b).await;
                let dies = die(how, &acceptor, spare);
                let goes_on = async { answer(&acceptor, to_b.recv().await.unwrap()).await };
                tokio::try_join!(dies, goes_on)
            });
            let (took, outcome) = client.recover().await;
            // The new connection is dialled, and answers: with the question in its early data, or after the handshake.
            let (until_dead, early_data) = match how {
                Dead::Forgotten => (ROUND_TRIP, EarlyDataOutcome::Accepted),
                Dead::Silent => (CONNECT_TIMEOUT / 2, EarlyDataOutcome::Accepted),
                Dead::Claimed => (LATENCY, EarlyDataOutcome::AfterHandshake),
            };
            let after = match early_data {
                EarlyDataOutcome::Accepted => ROUND_TRIP * 2,
                _ => ROUND_TRIP * 3,
            };
            assert_eq!(outcome.early_data, early_data, "{how:?}");
            assert_eq!(took, until_dead + after, "{how:?}");
            assert_eq!(world.line.dialled(world.b), 2, "{how:?}");
        });
    }
}

#[test]
fn a_connection_that_is_closed_before_the_death_is_noticed_is_not_used() {
    run(async {
        let world = World::new();
        let mut to_b = world.line.listen(world.b);
        let mut client = world.connect(world.connector()).await;
        client.order(Order::Checkpoint(world.b));
        client.wait(Duration::from_secs(1)).await;
        let (acceptor, spare) = (world.acceptor(world.b), next(&mut to_b).await);
        client.stream.write_all(b"question").await.unwrap();
        client.wait(ROUND_TRIP).await;
        // Both at once: the client has read neither when it learns of the death.
        drop(spare);
        client.order(Order::Die);
        tokio::spawn(async move { answer(&acceptor, next(&mut to_b).await).await });
        let died = Instant::now();
        client.expect(b"answer").await;
        assert_eq!(died.elapsed(), ROUND_TRIP * 2);
    });
}
