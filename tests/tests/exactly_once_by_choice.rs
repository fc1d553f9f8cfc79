//! Exactly once in the modes in which the application takes part: Overlap, where it chooses the boundary, and Immediate,
//! where it says where to go on.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migration_tests::network::{At, Direction, End, Fault, Incident, Network};
use migration_tests::session::{Content, Random};
use migration_tests::{Service, server_name};
use rustls_migration::tokio::{
    EarlyDataOutcome, Event, HandOff, MigrationAcceptor, MigrationConnector, TlsStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(600);

struct World {
    acceptors: Vec<MigrationAcceptor>,
    addresses: Vec<SocketAddr>,
    connector: MigrationConnector,
}

impl World {
    fn new(mode: HandOff) -> Self {
        let service = Service::default();
        let addresses = ["127.0.0.2:443", "127.0.0.3:443"].map(|at| at.parse().unwrap());
        let acceptor = |address: &SocketAddr| {
            let settings = service.node().own_addresses([*address]);
            MigrationAcceptor::from(settings.build().unwrap())
        };
        Self {
            acceptors: addresses.iter().map(acceptor).collect(),
            addresses: addresses.to_vec(),
            connector: service.connector().hand_off(mode),
        }
    }

    /// Serves each connection to either node by `serve`, which gets the node's number.
    fn listen<F, S>(&self, network: &Network, serve: F)
    where
        F: Fn(usize, TlsStream<End>) -> S + Clone + Send + Sync + 'static,
        S: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        for (i, acceptor) in self.acceptors.iter().enumerate() {
            let mut incoming = network.listen(self.addresses[i]);
            let (acceptor, serve) = (acceptor.clone(), serve.clone());
            tokio::spawn(async move {
                while let Some(io) = incoming.recv().await {
                    let (acceptor, serve) = (acceptor.clone(), serve.clone());
                    // What a connection's end means, the client's side says.
                    tokio::spawn(async move { serve(i, acceptor.accept(io).await?).await });
                }
            });
        }
    }
}

fn run<F: Future>(seed: u64, case: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let limited = runtime.block_on(async { timeout(LONG, case).await });
    limited.unwrap_or_else(|_| panic!("seed {seed}: the client hangs"))
}

fn network(random: &mut Random, harm: bool) -> Network {
    let faults = [
        Fault::Fin,
        Fault::Reset,
        Fault::HalfClose,
        Fault::Hold(Duration::from_millis(50)),
        Fault::Trickle(5),
    ];
    let (from, legs) = if harm { (0, 3) } else { (3, 2) };
    let incidents = vec![Incident {
        leg: random.below(legs),
        direction: [Direction::ToServer, Direction::ToClient][random.below(2)],
        at: At::Byte(random.below(6000)),
        fault: faults[from + random.below(faults.len() - from)],
    }];
    let latency = Duration::from_millis(u64::try_from(random.below(15)).unwrap());
    Network::new(latency, [1000, 65_536][random.below(2)], incidents)
}

/// What each node has read.
type Received = Arc<Mutex<[Vec<u8>; 2]>>;

/// Echoes, notes what it reads, and tells the client to move after a while if it is the first node.
async fn echo_and_note(
    node: usize,
    mut stream: TlsStream<End>,
    target: SocketAddr,
    received: Received,
) -> std::io::Result<()> {
    let (mut buf, mut told) = ([0; 700], node > 0);
    loop {
        let len = stream.read(&mut buf).await?;
        if len == 0 {
            return stream.shutdown().await;
        }
        let so_far = {
            let mut received = received.lock().unwrap();
            received[node].extend_from_slice(&buf[..len]);
            received[node].len()
        };
        stream.write_all(&buf[..len]).await?;
        stream.flush().await?;
        if so_far > 600 && !told {
            told = true;
            stream.migrate_to(target, Some(&[])).await?;
        }
    }
}

/// One task that only wrote would wait for ever for a server that waits for it to read.
async fn a_while<T>(doing: impl Future<Output = std::io::Result<T>>) -> std::io::Result<Option<T>> {
    let done = timeout(Duration::from_millis(5), doing).await.ok();
    done.transpose()
}

/// Whether it read to an end without an error, and whether it went over.
async fn overlap(world: &World, seed: u64, harm: bool) -> (bool, bool) {
    const LEN: usize = 4000;
    let mut random = Random::new(seed);
    let network = network(&mut random, harm);
    let received = Received::default();
    let (noted, target) = (Arc::clone(&received), world.addresses[1]);
    world.listen(&network, move |node, stream| {
        echo_and_note(node, stream, target, Arc::clone(&noted))
    });
    let connector = world.connector.clone().dialer(network);
    let connected = connector.connect(server_name(), world.addresses[0]).await;
    let Ok(mut stream) = connected else {
        return (false, false);
    };
    let mut events = stream.events();
    let (mut written, mut read, mut ready, mut switched, mut closed) = (0, 0, false, false, false);
    let mut buf = [0; 700];
    let ended = loop {
        let step = async {
            let len = (LEN - written).min(1 + random.below(200));
            let pause = Duration::from_millis(u64::try_from(random.below(5)).unwrap());
            tokio::select! {
                got = stream.read(&mut buf) => got.map(|len| (Some(len), 0)),
                () = sleep(pause), if !closed => match len {
                    0 => a_while(stream.shutdown()).await.map(|done| { closed |= done.is_some(); (None, 0) }),
                    len => {
                        let piece = Content::FromClient.piece(written, len);
                        a_while(stream.write(&piece)).await.map(|len| (None, len.unwrap_or(0)))
                    }
                },
            }
        };
        match step.await {
            Ok((Some(0), _)) => break true,
            Ok((got, sent)) => {
                let got = got.unwrap_or(0);
                let right = Content::FromClient.is_at(read, &buf[..got]);
                assert!(right, "seed {seed}: what was read is not at {read}");
                read += got;
                written += sent;
            }
            Err(_) => break false,
        }
        ready |= std::iter::from_fn(|| events.try_next())
            .any(|event| matches!(event, Event::Ready { .. }));
        if ready && !switched && random.once_in(4) {
            switched = stream.switch().is_ok();
        }
    };
    if ended {
        assert_eq!((read, written), (LEN, LEN), "seed {seed}: no real end");
        let [a, b] = &*received.lock().unwrap();
        let all = [&a[..], b].concat();
        let right = all.len() == LEN && Content::FromClient.is_at(0, &all);
        assert!(right, "seed {seed}: {} and {} bytes", a.len(), b.len());
    }
    (ended, switched)
}

#[test]
fn overlap_loses_and_repeats_nothing() {
    let world = World::new(HandOff::Overlap);
    let mut switched = 0;
    for seed in 0..200 {
        let (ended, moved) = run(seed, overlap(&world, seed, false));
        assert!(
            ended,
            "seed {seed}: nothing was lost, but there is an error"
        );
        switched += usize::from(moved);
    }
    assert!(switched > 100, "only {switched} went over");
    for seed in 1000..1400 {
        run(seed, overlap(&world, seed, true));
    }
}

/// How often each request was acted upon, and what the first node has sent.
#[derive(Default)]
struct Requests {
    acted: [usize; 2],
    sent_by_a: usize,
}

const DOWNLOAD: usize = 6000;

/// Sends what a request asks for: its number, and where to begin.
async fn send_from(
    node: usize,
    mut stream: TlsStream<End>,
    target: SocketAddr,
    requests: Arc<Mutex<Requests>>,
) -> std::io::Result<()> {
    let number = usize::from(stream.read_u8().await?);
    let mut at = usize::try_from(stream.read_u64().await?).unwrap();
    requests.lock().unwrap().acted[number] += 1;
    let mut told = node > 0 || number > 0;
    while at < DOWNLOAD {
        let len = (DOWNLOAD - at).min(400);
        stream
            .write_all(&Content::FromServer.piece(at, len))
            .await?;
        stream.flush().await?;
        at += len;
        if number == 0 {
            requests.lock().unwrap().sent_by_a = at;
        }
        if at > 1000 && !told {
            told = true;
            stream.migrate_to(target, Some(&[])).await?;
        }
        sleep(Duration::from_millis(2)).await;
    }
    stream.shutdown().await?;
    // A socket that is dropped with something unread may destroy what it sent.
    stream.read_to_end(&mut Vec::new()).await.map(|_| ())
}

fn request(number: u8, at: usize) -> [u8; 9] {
    let mut request = [number; 9];
    request[1..].copy_from_slice(&u64::try_from(at).unwrap().to_be_bytes());
    request
}

/// Whether the client got all, and whether it went over.
async fn immediate(world: &World, seed: u64, harm: bool) -> (bool, bool) {
    let mut random = Random::new(seed);
    let network = network(&mut random, harm);
    let requests = Arc::new(Mutex::new(Requests::default()));
    let (noted, target) = (Arc::clone(&requests), world.addresses[1]);
    world.listen(&network, move |node, stream| {
        send_from(node, stream, target, Arc::clone(&noted))
    });
    let connector = world.connector.clone().dialer(network);
    let connected = connector.connect(server_name(), world.addresses[0]).await;
    let Ok(mut stream) = connected else {
        return (false, false);
    };
    if stream.write_all(&request(0, 0)).await.is_err() {
        return (false, false);
    }
    let (mut read, mut landing) = (0, None);
    let mut buf = [0; 300];
    let ended = loop {
        match stream.read(&mut buf).await {
            Ok(0) => break true,
            Ok(len) => {
                let right = Content::FromServer.is_at(read, &buf[..len]);
                assert!(right, "seed {seed}: what was read is not at {read}");
                read += len;
            }
            Err(_) => break false,
        }
        if stream.is_notified() && landing.is_none() {
            let sent = requests.lock().unwrap().sent_by_a;
            let Ok(landed) = stream.migrate(&request(1, read)).await else {
                break false;
            };
            assert!(read + landed.unread <= sent, "seed {seed}: {landed:?}");
            if landed.early_data == EarlyDataOutcome::Unknown {
                break false;
            }
            landing = Some(landed);
        }
    };
    // Whoever acted, nobody did so twice.
    let acted = requests.lock().unwrap().acted;
    assert!(
        acted.iter().all(|times| *times <= 1),
        "seed {seed}: {acted:?}"
    );
    if ended {
        assert_eq!(read, DOWNLOAD, "seed {seed}: no real end");
    }
    let moved = landing.is_some_and(|landing| landing.fell_back.is_none());
    (ended, moved)
}

#[test]
fn immediate_acts_upon_nothing_twice_and_goes_on_where_the_client_says() {
    let world = World::new(HandOff::Manual);
    let mut moved = 0;
    for seed in 0..200 {
        let (ended, went_over) = run(seed, immediate(&world, seed, false));
        assert!(
            ended,
            "seed {seed}: nothing was lost, but there is an error"
        );
        moved += usize::from(went_over);
    }
    assert!(moved > 100, "only {moved} went over");
    for seed in 1000..1400 {
        run(seed, immediate(&world, seed, true));
    }
}
