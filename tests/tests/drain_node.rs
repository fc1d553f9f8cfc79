//! Draining a node: thousands of connections with traffic on them, paused, aborted, and with clients that stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration as StdDuration;

use migration_tests::client::echoed;
use migration_tests::node::movable_echo;
use migration_tests::{Node, Service, server_name};
use rustls_migration::tokio::{DrainPlan, HandOff, MigrationStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

async fn connect(service: &Service, node: &Node, mode: HandOff) -> MigrationStream {
    let connector = service.connector().hand_off(mode);
    connector
        .connect(server_name(), node.address())
        .await
        .unwrap()
}

/// Sends numbered bytes through an echo without a pause, and checks each that comes back, until the stream is where it
/// belongs and has done some work there. Returns how many bytes it checked.
async fn traffic(mut stream: MigrationStream, from: std::net::SocketAddr) -> usize {
    let (mut sent, mut extra) = (0u32, 0);
    while extra < 3 {
        let word = sent.to_be_bytes();
        echoed(&mut stream, &word).await;
        sent += 1;
        extra += usize::from(stream.peer_addr() != from);
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    usize::try_from(sent).unwrap() * 4
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_connections_move_with_their_traffic_and_none_is_left_behind() {
    const CONNECTIONS: usize = 2_000;
    let service = Arc::new(Service::default());
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    // How long it takes depends on the machine; that it comes to an end does not.
    let patient = StdDuration::from_secs(300);
    let settings = || {
        let node = service.node().departure_deadline(patient);
        node.handshake_timeout(patient)
    };
    let acceptor = a.serve(settings(), movable_echo);
    b.serve_echo(settings());
    let connector = service.connector().connect_timeout(patient);
    let connector = connector.hand_off(HandOff::Drain);
    let (at_a, at_b) = (a.address(), b.address());
    let mut clients = JoinSet::new();
    let checked = Arc::new(AtomicUsize::new(0));
    for _ in 0..CONNECTIONS {
        let stream = connector.connect(server_name(), at_a).await.unwrap();
        let checked = Arc::clone(&checked);
        clients.spawn(async move {
            checked.fetch_add(traffic(stream, at_a).await, Ordering::Relaxed);
        });
    }
    assert_eq!(acceptor.connections(), CONNECTIONS);
    let plan = DrainPlan::to([(at_b, 1)])
        .spread_over(StdDuration::from_secs(5))
        .deadline(patient);
    let summary = acceptor.drain(plan).finished().await;
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let progress = summary.progress;
    assert_eq!(progress.total, CONNECTIONS);
    assert_eq!(progress.moved, CONNECTIONS, "{progress:?}");
    assert_eq!((progress.remaining, progress.forced), (0, 0));
    let rate = CONNECTIONS as f64 / summary.elapsed.as_secs_f64();
    let checked = checked.load(Ordering::Relaxed);
    println!(
        "{CONNECTIONS} moved in {:?}, {rate:.0}/s, {checked} bytes checked",
        summary.elapsed
    );
}

#[tokio::test]
async fn clients_that_stay_and_clients_that_cannot_be_told_are_given_up_at_the_deadline() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let acceptor = a.serve(service.node(), movable_echo);
    b.serve_echo(service.node());
    let mut stays = connect(&service, &a, HandOff::Manual).await;
    let mut follows = connect(&service, &a, HandOff::Drain).await;
    let stock = tokio_rustls::TlsConnector::from(Arc::new(
        service.client_config_with(Arc::new(rustls::crypto::ring::default_provider())),
    ));
    let tcp = tokio::net::TcpStream::connect(a.address()).await.unwrap();
    let mut stock = stock.connect(server_name(), tcp).await.unwrap();
    for _ in 0..3 {
        a.arrival().await;
    }
    let plan = DrainPlan::to([(b.address(), 1)])
        .spread_over(StdDuration::ZERO)
        .deadline(StdDuration::from_secs(3));
    let drain = acceptor.drain(plan);
    while follows.peer_addr() != b.address() {
        echoed(&mut follows, b"word").await;
    }
    let (mut rest, mut stock_rest) = (Vec::new(), Vec::new());
    // They were given up, which is no end of their streams.
    let given_up = stays.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(given_up.kind(), std::io::ErrorKind::UnexpectedEof);
    let given_up = stock.read_to_end(&mut stock_rest).await.unwrap_err();
    assert_eq!(given_up.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(stays.is_notified() && rest.is_empty() && stock_rest.is_empty());
    let progress = drain.finished().await.progress;
    assert_eq!((progress.total, progress.moved, progress.forced), (3, 1, 2));
    assert_eq!(progress.remaining, 0);
}

#[tokio::test]
async fn a_paused_drain_tells_nobody_and_an_aborted_one_leaves_the_rest() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let mut b = Node::bind("127.0.0.3").await;
    let acceptor = a.serve(service.node(), movable_echo);
    b.serve_echo(service.node());
    let mut stream = connect(&service, &a, HandOff::Drain).await;
    echoed(&mut stream, b"hello").await;
    let plan = || {
        DrainPlan::to([(b.address(), 1)])
            .spread_over(StdDuration::ZERO)
            .deadline(StdDuration::from_secs(60))
    };
    let drain = acceptor.drain(plan());
    drain.pause();
    for _ in 0..50 {
        echoed(&mut stream, b"word").await;
    }
    assert!(!stream.is_notified());
    let summary = drain.abort();
    assert_eq!((summary.progress.moved, summary.progress.notified), (0, 0));
    echoed(&mut stream, b"stays").await;
    assert_eq!(stream.peer_addr(), a.address());

    let drain = acceptor.drain(plan());
    drain.pause();
    drain.resume();
    while stream.peer_addr() != b.address() {
        echoed(&mut stream, b"word").await;
    }
    assert_eq!(drain.finished().await.progress.moved, 1);
    echoed(&mut stream, b"at B").await;
}

#[tokio::test]
async fn targets_get_their_shares() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let acceptor = a.serve(service.node(), movable_echo);
    let (mut b, mut c) = (Node::bind("127.0.0.3").await, Node::bind("127.0.0.4").await);
    b.serve_echo(service.node());
    c.serve_echo(service.node());
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut stream = connect(&service, &a, HandOff::Drain).await;
        echoed(&mut stream, b"hello").await;
        streams.push(stream);
    }
    let plan = DrainPlan::to([(b.address(), 3), (c.address(), 1)]).spread_over(StdDuration::ZERO);
    let drain = acceptor.drain(plan);
    let mut at_b = 0;
    for stream in &mut streams {
        while stream.peer_addr() == a.address() {
            echoed(stream, b"word").await;
        }
        at_b += usize::from(stream.peer_addr() == b.address());
    }
    assert_eq!(at_b, 6);
    assert_eq!(drain.finished().await.progress.moved, 8);
}
