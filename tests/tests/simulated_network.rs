//! Conversations over a simulated network that holds, releases and partitions its links at random moments. Time is the
//! simulation's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use migration_tests::session::{Client, Nodes, Random, Script, converse};
use migration_tests::{Service, server_name};
use migration_token::BoxFuture;
use rustls_migration::tokio::{Dial, HandOff, MigrationAcceptor, MigrationConnector, Transport};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use turmoil::net::{TcpListener, TcpStream};

/// Nobody waits so long for an answer: who heard nothing by then is cut off.
const PATIENCE: Duration = Duration::from_secs(60);

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

#[derive(Debug)]
struct Simulated;

impl Dial for Simulated {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let stream: Box<dyn Transport> = Box::new(TcpStream::connect(address).await?);
            Ok(stream)
        })
    }
}

/// A socket that reads on to the client's end after it has been dropped, as a kernel does for one that was closed with
/// nothing unread. The simulation resets the connection instead.
struct Closing(Option<TcpStream>);

impl Closing {
    fn io(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.0.as_mut().expect("it is there until it is dropped"))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let Some(mut io) = self.0.take() else { return };
        // At the end of the simulation there is no runtime any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = io.shutdown().await;
                let mut ignored = [0; 1024];
                while io.read(&mut ignored).await.is_ok_and(|len| len > 0) {}
            });
        }
    }
}

impl AsyncRead for Closing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buf)
    }
}

impl AsyncWrite for Closing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}

/// What became of one conversation.
struct Outcome {
    /// `None` when it was cut off.
    client: Option<Client>,
    nodes: Arc<Nodes>,
    partitioned: bool,
}

struct World {
    acceptors: Vec<MigrationAcceptor>,
    addresses: Vec<SocketAddr>,
    connector: MigrationConnector,
}

impl World {
    fn new() -> Self {
        let service = Service::default();
        let addresses: Vec<SocketAddr> = ["10.0.0.2:443", "10.0.0.3:443"]
            .map(|address| address.parse().unwrap())
            .to_vec();
        let acceptor = |address: &SocketAddr| {
            let settings = service.node().own_addresses([*address]);
            MigrationAcceptor::from(settings.build().unwrap())
        };
        Self {
            acceptors: addresses.iter().map(acceptor).collect(),
            connector: service
                .connector()
                .hand_off(HandOff::Drain)
                .dialer(Simulated),
            addresses,
        }
    }

    fn run(&self, seed: u64, partitions: bool) -> Outcome {
        let mut random = Random::new(seed);
        let script = Script {
            seed,
            uploaded: 500 + random.below(5000),
            pushed: 500 + random.below(5000),
            largest: 400,
            notify_after: random.below(2000),
            answers: true,
            change_of_mind: false,
            checkpoint_every: 0,
            takes_number: false,
            halves: random.once_in(2),
            impatient: random.once_in(2),
        };
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .simulation_duration(Duration::from_secs(600))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(20))
            .build();
        let nodes = Nodes::new(script.clone(), self.addresses.clone());
        for (i, address) in self.addresses.iter().enumerate() {
            let (nodes, acceptor) = (Arc::clone(&nodes), self.acceptors[i].clone());
            sim.host(address.ip(), move || {
                let (nodes, acceptor) = (Arc::clone(&nodes), acceptor.clone());
                async move {
                    let listener = TcpListener::bind("0.0.0.0:443").await?;
                    let (sender, incoming) = mpsc::unbounded_channel();
                    tokio::spawn(nodes.serve(i, acceptor, incoming));
                    loop {
                        let (io, _) = listener.accept().await?;
                        sender.send(Closing(Some(io)))?;
                    }
                }
            });
        }
        let seen = Arc::new(Mutex::new(None));
        let (noted, connector, first) =
            (Arc::clone(&seen), self.connector.clone(), self.addresses[0]);
        sim.client(CLIENT, async move {
            let whole = async {
                let stream = connector.connect(server_name(), first).await.ok()?;
                Some(converse(&script, stream).await)
            };
            *noted.lock().unwrap() = timeout(PATIENCE, whole).await.unwrap_or(None);
            Ok(())
        });
        let partitioned = self.disturb(&mut sim, &mut random, partitions);
        let client = seen.lock().unwrap().take();
        Outcome {
            client,
            nodes,
            partitioned,
        }
    }

    /// Runs the simulation to its end. Returns whether a link was ever partitioned: what was sent then is gone for good.
    fn disturb(&self, sim: &mut turmoil::Sim<'_>, random: &mut Random, partitions: bool) -> bool {
        let mut held: Vec<Option<usize>> = vec![None; self.addresses.len()];
        let (mut step, mut partitioned) = (0, false);
        while !sim.step().unwrap() {
            step += 1;
            let link = random.below(self.addresses.len());
            let node = self.addresses[link].ip();
            match held[link] {
                Some(until) if until <= step => {
                    sim.release(CLIENT, node);
                    held[link] = None;
                }
                None if random.once_in(60) => {
                    sim.hold(CLIENT, node);
                    held[link] = Some(step + random.below(300));
                }
                None if partitions && !partitioned && random.once_in(150) => {
                    sim.partition(CLIENT, node);
                    partitioned = true;
                }
                Some(_) | None => {}
            }
        }
        partitioned
    }
}

fn check(seed: u64, outcome: &Outcome) {
    let log = outcome.nodes.log();
    assert!(log.violations.is_empty(), "seed {seed}: {log:?}");
    let received = log.nodes.iter().map(|node| node.reached.received).max();
    let Some(client) = &outcome.client else {
        assert!(outcome.partitioned, "seed {seed} hangs: {log:?}");
        return;
    };
    let script = outcome.nodes.script();
    if client.ended {
        let all = client.read == script.said(script.uploaded) && client.closed;
        assert!(all, "seed {seed}: {client:?} {log:?}");
        assert_eq!(received, Some(script.uploaded), "seed {seed}");
    }
    let whole = client.ended || outcome.partitioned;
    assert!(whole, "seed {seed}: {client:?} {log:?}");
}

#[test]
fn what_is_held_and_released_at_random_arrives_exactly_once() {
    let world = World::new();
    let mut moved = 0;
    for seed in 0..80 {
        let outcome = world.run(seed, false);
        check(seed, &outcome);
        moved += usize::from(outcome.nodes.log().nodes[1].arrived.is_some());
    }
    assert!(moved > 40, "only {moved} moved");
}

#[test]
fn a_partition_at_any_moment_makes_no_gap_and_no_repeat() {
    let world = World::new();
    let (mut partitioned, mut ended) = (0, 0);
    for seed in 1000..1080 {
        let outcome = world.run(seed, true);
        check(seed, &outcome);
        partitioned += usize::from(outcome.partitioned);
        ended += usize::from(outcome.client.is_some_and(|client| client.ended));
    }
    // Some of either kind, or nothing was tested.
    assert!(partitioned > 15 && ended > 5, "{partitioned} {ended}");
}
