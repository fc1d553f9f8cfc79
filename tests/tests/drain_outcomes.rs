//! What a drain says of its connections, when it ends, and how it keeps its pace: one outcome for each, whatever it does.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use migration_tests::client::{echoed, until_notified};
use migration_tests::node::{ServerStream, echo};
use migration_tests::{Node, Service, server_name};
use migration_token::BoxFuture;
use rustls_migration::tokio::{
    Dial, Drain, DrainOutcome, DrainPlan, DrainProgress, HandOff, MigrationAcceptor,
    MigrationStream, Transport,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Only a broken test waits so long.
const LONG: Duration = Duration::from_secs(60);

/// How soon a drain ends when its last connection has gone.
const SOON: Duration = Duration::from_millis(100);

/// Long for a busy machine, and far below the deadlines and slots that would be waited for.
const AT_ONCE: Duration = Duration::from_secs(20);

type StockStream = tokio_rustls::client::TlsStream<TcpStream>;

/// Where all clients move to.
fn plan(target: &Node) -> DrainPlan {
    DrainPlan::to([(target.address(), 1)])
        .spread_over(Duration::ZERO)
        .deadline(LONG)
}

/// An echo whose stream can go on elsewhere.
async fn consenting(mut stream: ServerStream) -> io::Result<()> {
    stream.set_state(b"")?;
    echo(stream).await
}

/// An application of requests: it ends its side when it is told that the client should move.
async fn requests(mut stream: ServerStream) -> io::Result<()> {
    let handle = stream.handle();
    let mut buf = [0; 64];
    loop {
        tokio::select! {
            _ = handle.told() => return stream.shutdown().await,
            read = stream.read(&mut buf) => match read? {
                0 => return stream.shutdown().await,
                len => stream.write_all(&buf[..len]).await?,
            },
        }
    }
}

async fn connect(service: &Service, node: &Node, mode: HandOff) -> MigrationStream {
    let connector = service.connector().hand_off(mode);
    let mut stream = connector
        .connect(server_name(), node.address())
        .await
        .unwrap();
    echoed(&mut stream, b"hello").await;
    stream
}

async fn connect_stock(service: &Service, node: &Node) -> StockStream {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let connector =
        tokio_rustls::TlsConnector::from(Arc::new(service.client_config_with(provider)));
    let tcp = TcpStream::connect(node.address()).await.unwrap();
    let mut stream = connector.connect(server_name(), tcp).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    stream
}

/// Each connection has one outcome.
fn assert_adds_up(progress: DrainProgress) {
    let all = progress.untold
        + progress.pending
        + progress.moved
        + progress.left_by_itself
        + progress.not_movable
        + progress.forced;
    assert_eq!(all, progress.total, "{progress:?}");
}

async fn until(drain: &Drain, done: impl Fn(&DrainProgress) -> bool) -> DrainProgress {
    let mut watched = drain.watch();
    let seen = timeout(LONG, watched.wait_for(|progress| done(progress))).await;
    let seen = *seen.expect("it comes").expect("the drain goes on");
    assert_adds_up(seen);
    seen
}

/// Waits until the acceptor has so many connections.
async fn until_connections(acceptor: &MigrationAcceptor, count: usize) {
    let reached = async {
        while acceptor.connections() != count {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, reached).await.expect("they come and go");
}

/// Awaits the drain's end, and checks that it comes at once.
async fn ends_now(drain: Drain) -> DrainProgress {
    let last_gone = Instant::now();
    let summary = timeout(LONG, drain.finished()).await.unwrap();
    assert!(last_gone.elapsed() < AT_ONCE, "{:?}", last_gone.elapsed());
    assert_adds_up(summary.progress);
    assert_eq!(summary.connections.len(), summary.progress.total);
    assert_eq!(summary.progress.remaining, 0);
    assert!(!summary.replaced);
    summary.progress
}

#[tokio::test]
async fn a_drain_ends_when_the_last_client_has_left_and_waits_out_no_slots() {
    let service = Service::default();
    let (mut a, b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let acceptor = a.serve(service.node(), echo);
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(connect(&service, &a, HandOff::Manual).await);
    }
    let drain = acceptor.drain(plan(&b).spread_over(LONG).deadline(2 * LONG));
    drop(streams);
    until_connections(&acceptor, 0).await;
    let progress = ends_now(drain).await;
    // A pool that drops an idle connection has not moved.
    assert_eq!((progress.total, progress.left_by_itself), (3, 3));
    assert_eq!((progress.moved, progress.notified), (0, 0));
}

#[tokio::test]
async fn what_has_been_accepted_is_drained_although_its_hello_is_still_to_come() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let mut b = Node::bind("127.0.0.3").await;
    let acceptor = a.serve(service.node(), consenting);
    b.serve_echo(service.node());
    let from = TcpStream::connect(a.address()).await.unwrap();
    until_connections(&acceptor, 1).await;
    let drain = acceptor.drain(plan(&b));
    a.stop_listening().await;
    assert_eq!(drain.progress().untold, 1);

    // The hello comes now, and the client is told as soon as it can be.
    let dialer = Once(Mutex::new(Some(from)));
    let connector = service.connector().hand_off(HandOff::Drain).dialer(dialer);
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    while stream.peer_addr() != b.address() {
        echoed(&mut stream, b"word").await;
    }
    let summary = drain.finished().await;
    assert_eq!(summary.progress.handed_over, 1, "{:?}", summary.progress);
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

#[tokio::test]
async fn a_connection_belongs_to_the_acceptor_from_the_call_on() {
    let service = Service::default();
    let acceptor = MigrationAcceptor::from(service.node().build().unwrap());
    let (_client, io) = tokio::io::duplex(64);
    let accepting = acceptor.accept(io);
    assert_eq!(acceptor.connections(), 1);
    drop(accepting);
    assert_eq!(acceptor.connections(), 0);
}

#[tokio::test]
async fn a_client_that_never_says_anything_is_given_up_at_the_deadline() {
    let service = Service::default();
    let (mut a, b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let acceptor = a.serve(service.node(), echo);
    let mut silent = TcpStream::connect(a.address()).await.unwrap();
    until_connections(&acceptor, 1).await;
    let drain = acceptor.drain(plan(&b).deadline(SOON));
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    let progress = ends_now(drain).await;
    assert_eq!((progress.total, progress.forced), (1, 1));
}

#[tokio::test]
async fn each_connection_has_its_outcome_and_they_add_up() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let served = AtomicUsize::new(0);
    // In the order of their arrival.
    let acceptor = a.serve(service.node(), move |stream| {
        let index = served.fetch_add(1, Ordering::SeqCst);
        async move {
            match index {
                0 => consenting(stream).await,
                1 | 3 => requests(stream).await,
                _ => echo(stream).await,
            }
        }
    });
    b.serve_echo(service.node());
    let mut handed_over = connect(&service, &a, HandOff::Drain).await;
    let mut by_request = connect(&service, &a, HandOff::Drain).await;
    let left = connect(&service, &a, HandOff::Manual).await;
    let mut stock = connect_stock(&service, &a).await;
    let mut stays = connect(&service, &a, HandOff::Manual).await;
    let left_from = acceptor.connections();

    let drain = acceptor.drain(plan(&b).deadline(Duration::from_secs(8)));
    drain.pause();
    drop(left);
    until_connections(&acceptor, left_from - 1).await;
    drain.resume();
    while handed_over.peer_addr() != b.address() {
        echoed(&mut handed_over, b"word").await;
    }
    // Its application is told, and ends it.
    assert_eq!(stock.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(by_request.read(&mut [0; 1]).await.unwrap(), 0);
    until_notified(&mut stays).await;
    let told = drain.all_told().await;
    assert_eq!(told.untold, 0);

    let all = drain.finished().await;
    let expected = [
        DrainOutcome::HandedOver,
        DrainOutcome::Moved,
        DrainOutcome::LeftByItself,
        DrainOutcome::NotMovable,
        DrainOutcome::Forced,
    ];
    for outcome in expected {
        let found = all.connections.iter().filter(|c| c.outcome == outcome);
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 1, "{outcome:?}: {:?}", all.connections);
        assert!(found[0].gone && found[0].peer.is_some());
    }
    let progress = all.progress;
    assert_adds_up(progress);
    assert_eq!((progress.total, progress.remaining), (5, 0));
    // Who is forced has been told all the same.
    assert_eq!((progress.notified, progress.moved), (3, 2));
}

#[tokio::test]
async fn moves_by_the_application_count_too() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let to = b.address();
    let acceptor = a.serve(service.node(), move |mut stream| async move {
        let mut word = [0; 5];
        stream.read_exact(&mut word).await?;
        stream.write_all(&word).await?;
        stream.migrate_to(to, Some(b"")).await?;
        echo(stream).await
    });
    b.serve_echo(service.node());
    let mut stream = connect(&service, &a, HandOff::Manual).await;
    until_notified(&mut stream).await;
    let drain = acceptor.drain(plan(&b).spread_over(LONG).deadline(2 * LONG));
    let begun = drain.progress();
    assert_eq!((begun.notified, begun.pending, begun.untold), (1, 1, 0));
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    drop(stream);
    until_connections(&acceptor, 0).await;
    let progress = ends_now(drain).await;
    assert_eq!((progress.moved, progress.handed_over), (1, 1));
}

#[tokio::test]
async fn no_more_moves_are_under_way_than_the_plan_allows() {
    const CLIENTS: usize = 12;
    let service = Service::default();
    let (mut a, b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let acceptor = a.serve(service.node(), echo);
    let mut streams = Vec::new();
    for _ in 0..CLIENTS {
        streams.push(connect(&service, &a, HandOff::Manual).await);
    }
    let drain = acceptor.drain(plan(&b).max_moving(3));
    for gone in 0..CLIENTS {
        let moving = 3.min(CLIENTS - gone);
        let seen = until(&drain, |progress| {
            (progress.moved, progress.notified) == (gone, gone + moving)
        });
        assert_eq!(seen.await.pending, moving);
        let told = loop {
            match streams.iter_mut().position(is_told) {
                Some(told) => break told,
                None => tokio::task::yield_now().await,
            }
        };
        drop(streams.remove(told));
    }
    assert_eq!(drain.finished().await.progress.moved, CLIENTS);
}

/// Whether the client has been told, as far as has come.
fn is_told(stream: &mut MigrationStream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    let mut byte = [0; 1];
    let mut buf = ReadBuf::new(&mut byte);
    let read = AsyncRead::poll_read(Pin::new(&mut *stream), &mut cx, &mut buf);
    assert!(read.is_pending(), "{read:?}");
    stream.is_notified()
}

#[tokio::test]
async fn clients_that_stay_do_not_keep_others_from_being_told() {
    let service = Service::default();
    let (mut a, b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let settings = service.node().departure_deadline(SOON);
    let acceptor = a.serve(settings, echo);
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(connect(&service, &a, HandOff::Manual).await);
    }
    let drain = acceptor.drain(plan(&b).max_moving(1));
    let all = timeout(LONG, drain.all_told()).await.unwrap();
    assert_eq!((all.notified, all.remaining, all.forced), (3, 3, 0));
    drop(streams);
    until_connections(&acceptor, 0).await;
    ends_now(drain).await;
}

#[tokio::test]
async fn a_second_drain_takes_the_place_of_the_first() {
    let service = Service::default();
    let (mut a, b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let acceptor = a.serve(service.node(), echo);
    let mut told = connect(&service, &a, HandOff::Manual).await;
    let first = acceptor.drain(plan(&b));
    until_notified(&mut told).await;
    first.pause();
    let mut new = connect(&service, &a, HandOff::Manual).await;
    let second = acceptor.drain(plan(&b).deadline(Duration::from_secs(5)));
    let summary = timeout(LONG, first.finished()).await.unwrap();
    assert!(summary.replaced);
    assert_eq!((summary.progress.total, summary.progress.remaining), (2, 2));
    until_notified(&mut new).await;
    // The second one's deadline governs both.
    let progress = timeout(LONG, second.finished()).await.unwrap().progress;
    assert_eq!(
        (progress.total, progress.forced, progress.remaining),
        (2, 2, 0)
    );
    assert_eq!(progress.notified, 2);
}

#[tokio::test]
async fn a_paused_drain_says_how_far_it_is_and_an_aborted_one_counts_no_more() {
    let service = Service::default();
    let (mut a, b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let acceptor = a.serve(service.node(), echo);
    let first = connect(&service, &a, HandOff::Manual).await;
    let drain = acceptor.drain(plan(&b));
    drain.pause();
    let second = connect(&service, &a, HandOff::Manual).await;
    let seen = until(&drain, |progress| progress.total == 2).await;
    assert_eq!((seen.untold, seen.remaining), (2, 2));
    drop(first);
    until(&drain, |progress| progress.left_by_itself == 1).await;
    let summary = drain.abort();
    assert_eq!((summary.progress.total, summary.progress.untold), (2, 1));
    drop(second);
    until_connections(&acceptor, 0).await;
}
