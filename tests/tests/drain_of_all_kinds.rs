//! A node with clients of all kinds is drained while new ones come: some in their handshake, some that say nothing, some
//! that never read, some that know nothing of migration. The outcome of each is right, and all add up.
//!
//! `DRAINED=4500 cargo test -p migration-tests --test drain_of_all_kinds -- --nocapture` does so with as many.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migration_tests::node::ServerStream;
use migration_tests::{Node, Service, server_name};
use migration_token::BoxFuture;
use rustls_migration::server::MigrationServerBuilder;
use rustls_migration::tokio::{
    DepartureStatus, Dial, DrainOutcome, DrainPlan, HandOff, MigrationStream, Transport,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How many clients there are unless `DRAINED` says so: of each kind a seventh.
const CLIENTS: usize = 140;

const PATIENCE: Duration = Duration::from_secs(120);

/// What a client is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// Its stream goes on at B.
    HandsOver,
    /// It has a request protocol, and makes its next connection to B.
    Asks,
    /// It leaves before it is told.
    Leaves,
    /// It never reads and never leaves.
    Deaf,
    /// It knows nothing of migration.
    Stock,
    /// Its hello comes when the drain has begun.
    Late,
    /// It never says anything.
    Silent,
}

const KINDS: [Kind; 7] = [
    Kind::HandsOver,
    Kind::Asks,
    Kind::Leaves,
    Kind::Deaf,
    Kind::Stock,
    Kind::Late,
    Kind::Silent,
];

impl Kind {
    fn expected(self) -> DrainOutcome {
        match self {
            Self::HandsOver | Self::Late => DrainOutcome::HandedOver,
            Self::Asks => DrainOutcome::Moved,
            Self::Leaves => DrainOutcome::LeftByItself,
            Self::Deaf | Self::Silent => DrainOutcome::Forced,
            Self::Stock => DrainOutcome::NotMovable,
        }
    }
}

/// Serves what the first byte asks for.
async fn serve(mut stream: ServerStream) -> io::Result<()> {
    stream.set_state(b"")?;
    let handle = stream.handle();
    let kind = stream.read_u8().await?;
    stream.write_u8(kind).await?;
    if kind != b'h' {
        stream.withdraw_state();
        let status = tokio::select! {
            status = handle.told() => status,
            read = stream.read_u8() => return read.map(|_| ()),
        };
        if status == DepartureStatus::Told && kind == b'd' {
            // It goes on answering somebody who does not read.
            stream.write_all(&[0; 1 << 24]).await?;
        }
        return stream.shutdown().await;
    }
    while stream.read(&mut [0; 64]).await? > 0 {
        stream.write_u8(kind).await?;
    }
    stream.shutdown().await
}

/// Gives out a connection that is there, and then dials.
#[derive(Debug)]
struct Once(Mutex<Option<TcpStream>>);

impl Dial for Once {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let held = self.0.lock().unwrap().take();
            let tcp = match held {
                Some(tcp) => tcp,
                None => TcpStream::connect(address).await?,
            };
            let transport: Box<dyn Transport> = Box::new(tcp);
            Ok(transport)
        })
    }
}

/// A client that is connected, as far as its kind is before the drain.
enum Client {
    Tcp(TcpStream),
    Stock(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Moves(Box<MigrationStream>),
}

async fn moving(service: &Service, tcp: TcpStream, word: u8) -> MigrationStream {
    let at_a = tcp.peer_addr().unwrap();
    let connector = service.connector().hand_off(HandOff::Drain);
    let connector = connector.dialer(Once(Mutex::new(Some(tcp))));
    let connector = connector.connect_timeout(PATIENCE);
    let mut stream = connector.connect(server_name(), at_a).await.unwrap();
    stream.write_u8(word).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), word);
    stream
}

/// Connects a client, and says where it comes from.
async fn connected(service: &Service, at_a: SocketAddr, kind: Kind) -> (SocketAddr, Client) {
    let tcp = TcpStream::connect(at_a).await.unwrap();
    let from = tcp.local_addr().unwrap();
    let client = match kind {
        Kind::Silent | Kind::Late => Client::Tcp(tcp),
        Kind::Stock => {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = Arc::new(service.client_config_with(provider));
            let connector = tokio_rustls::TlsConnector::from(config);
            let mut stream = connector.connect(server_name(), tcp).await.unwrap();
            stream.write_u8(b'a').await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'a');
            Client::Stock(Box::new(stream))
        }
        Kind::Deaf => Client::Moves(Box::new(moving(service, tcp, b'd').await)),
        Kind::Asks | Kind::Leaves => Client::Moves(Box::new(moving(service, tcp, b'a').await)),
        Kind::HandsOver => Client::Moves(Box::new(moving(service, tcp, b'h').await)),
    };
    (from, client)
}

/// Talks until the stream is at B.
async fn follow(mut stream: MigrationStream, at_b: SocketAddr) {
    while stream.peer_addr() != at_b {
        stream.write_u8(b'h').await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'h');
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a client does while the drain goes on. Returns what is to be held until its end.
async fn go_on(
    service: Arc<Service>,
    kind: Kind,
    client: Client,
    at_b: SocketAddr,
) -> Option<Client> {
    match (kind, client) {
        (Kind::HandsOver, Client::Moves(stream)) => follow(*stream, at_b).await,
        (Kind::Late, Client::Tcp(tcp)) => follow(moving(&service, tcp, b'h').await, at_b).await,
        (Kind::Asks, Client::Moves(mut stream)) => {
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "a clean end");
        }
        (Kind::Stock, Client::Stock(mut stream)) => {
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "a clean end");
        }
        (_, client) => return Some(client),
    }
    None
}

fn clients() -> usize {
    std::env::var("DRAINED").map_or(CLIENTS, |clients| clients.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcome_of_each_is_right_and_all_add_up() {
    let service = Arc::new(Service::default());
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let (at_a, at_b) = (a.address(), b.address());
    let patient = |settings: MigrationServerBuilder| {
        settings
            .handshake_timeout(PATIENCE)
            .hello_timeout(PATIENCE * 2)
    };
    let acceptor = a.serve(patient(service.node()), serve);
    b.serve(patient(service.node()), serve);
    // The system may give a port that is free again to another client.
    let mut expected = Vec::new();
    let mut there = Vec::new();
    let mut connecting = JoinSet::new();
    for index in 0..clients() {
        if connecting.len() == 64 {
            there.push(connecting.join_next().await.unwrap().unwrap());
        }
        let (service, kind) = (Arc::clone(&service), KINDS[index % KINDS.len()]);
        connecting.spawn(async move { (kind, connected(&service, at_a, kind).await) });
    }
    while let Some(client) = connecting.join_next().await {
        there.push(client.unwrap());
    }
    // Who says nothing may not have been accepted yet.
    while acceptor.connections() < clients() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // A second for each two hundred, so that a machine that builds other things besides has the time.
    let deadline = Duration::from_secs(12) + Duration::from_millis(5) * clients() as u32;
    let plan = DrainPlan::to([(at_b, 1)]).spread_over(Duration::from_secs(1));
    let drain = acceptor.drain(plan.deadline(deadline));
    drain.pause();
    // A first one may have been told by now. Where it was to leave by itself, it does what it is asked.
    let told: Vec<_> = drain
        .connections()
        .into_iter()
        .filter(|known| known.outcome != DrainOutcome::Untold)
        .map(|known| known.peer.unwrap())
        .collect();
    let (leaving, there): (Vec<_>, Vec<_>) = there
        .into_iter()
        .map(|(kind, (from, client))| match kind {
            Kind::Leaves if told.contains(&from) => (Kind::Asks, (from, client)),
            _ => (kind, (from, client)),
        })
        .inspect(|(kind, (from, _))| {
            expected.push((*from, kind.expected()));
        })
        .partition(|(kind, _)| *kind == Kind::Leaves);
    let left = leaving.len();
    drop(leaving);
    let mut watched = drain.watch();
    let all_left = watched.wait_for(|progress| progress.left_by_itself == left);
    timeout(PATIENCE, all_left).await.unwrap().unwrap();
    drain.resume();
    let mut going_on = JoinSet::new();
    for (kind, (_, client)) in there {
        going_on.spawn(go_on(Arc::clone(&service), kind, client, at_b));
    }
    // New ones come meanwhile.
    for _ in 0..clients() / 10 {
        let (from, client) = connected(&service, at_a, Kind::HandsOver).await;
        expected.push((from, Kind::HandsOver.expected()));
        going_on.spawn(go_on(Arc::clone(&service), Kind::HandsOver, client, at_b));
    }
    a.stop_listening().await;
    let mut held = Vec::new();
    while let Some(client) = going_on.join_next().await {
        held.extend(client.unwrap());
    }
    let summary = timeout(PATIENCE, drain.finished()).await.unwrap();
    drop(held);
    let progress = summary.progress;
    println!("{progress:?} in {:?}", summary.elapsed);
    assert!(summary.elapsed < deadline + PATIENCE);
    assert_eq!((progress.total, progress.remaining), (expected.len(), 0));
    let known = summary.connections.iter();
    let mut known: Vec<_> = known
        .map(|known| (known.peer.unwrap(), known.outcome))
        .collect();
    let order = |(peer, outcome): &(SocketAddr, DrainOutcome)| (*peer, format!("{outcome:?}"));
    known.sort_by_key(order);
    expected.sort_by_key(order);
    assert_eq!(known, expected);
    let sum = progress.moved + progress.left_by_itself + progress.not_movable + progress.forced;
    assert_eq!(sum, progress.total);
}
