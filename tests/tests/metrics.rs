//! docs/operating.md names the metrics that there are, and each of them is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::client::{echoed, expect, until_notified};
use migration_tests::metrics::{Observed, value};
use migration_tests::node::{echo_then_notify, movable_echo};
use migration_tests::{Node, Service, server_name};
use rustls_migration::metrics::{Metric, MetricKind};
use rustls_migration::tokio::{DrainPlan, HandOff};
use rustls_migration::{TicketKeys, metrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const OPERATING: &str = include_str!("../../docs/operating.md");

/// What the tables say of each metric: name, kind, labels.
fn documented() -> Vec<(String, String, Vec<String>)> {
    let code = |cell: &str| {
        let names = cell.split('`').skip(1).step_by(2);
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let rows = OPERATING.lines().filter(|line| {
        ["| `rustls_migration_", "| `quinn_migration_"]
            .iter()
            .any(|begin| line.starts_with(begin))
    });
    let row = |line: &str| {
        let cells: Vec<_> = line.split(" | ").collect();
        (
            code(cells[0]).remove(0),
            cells[1].to_owned(),
            code(cells[2]),
        )
    };
    rows.map(row).collect()
}

fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    }
}

#[test]
fn the_tables_name_the_metrics_that_there_are_in_their_order_with_their_kinds_and_labels() {
    let all = metrics::ALL.iter().chain(quinn_migration::metrics::ALL);
    let described: Vec<_> = all
        .map(|metric| {
            let labels = metric.labels.iter().map(|label| (*label).to_owned());
            (
                metric.name.to_owned(),
                kind(metric).to_owned(),
                labels.collect(),
            )
        })
        .collect();
    assert_eq!(documented(), described);
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    for metric in metrics::ALL.iter().chain(quinn_migration::metrics::ALL) {
        let counts = metric.name.ends_with("_total");
        assert_eq!(
            counts,
            metric.kind == MetricKind::Counter,
            "{}",
            metric.name
        );
        let times = metric.name.ends_with("_seconds");
        assert_eq!(
            times,
            metric.kind == MetricKind::Histogram,
            "{}",
            metric.name
        );
        assert!(metric.meaning.ends_with('.'), "{}", metric.meaning);
    }
}

/// A client that moves when its application says so, and one that resumes an ordinary session.
async fn at_once(service: &Service) {
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve(service.node().target(b.address()), echo_then_notify);
    b.serve_echo(service.node());
    let connector = service.connector();
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    echoed(&mut stream, b"hello").await;
    until_notified(&mut stream).await;
    stream.migrate(b"early").await.unwrap();
    expect(&mut stream, b"early").await;
    let mut again = connector.connect(server_name(), a.address()).await.unwrap();
    echoed(&mut again, b"hello").await;
    // The next connection, in the place of the stream.
    until_notified(&mut again).await;
    let mut next = again.handle().successor().await.unwrap();
    echoed(&mut next, b"hello").await;
}

/// A drain of a client that follows and of one that cannot.
async fn drained(service: &Service) {
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let acceptor = a.serve(service.node(), movable_echo);
    b.serve(service.node(), movable_echo);
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = std::sync::Arc::new(service.client_config_with(provider));
    let tcp = TcpStream::connect(a.address()).await.unwrap();
    let stock = tokio_rustls::TlsConnector::from(config).connect(server_name(), tcp);
    let mut stock = stock.await.unwrap();
    stock.write_all(b"hello").await.unwrap();
    stock.read_exact(&mut [0; 5]).await.unwrap();
    let connector = service.connector().hand_off(HandOff::Drain);
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    echoed(&mut stream, b"hello").await;
    let plan = DrainPlan::to([(b.address(), 1)]).spread_over(Duration::ZERO);
    let drain = acceptor.drain(plan.deadline(Duration::from_secs(5)));
    while stream.peer_addr() != b.address() {
        echoed(&mut stream, b"goes on").await;
    }
    drain.finished().await;
}

/// A client whose server dies behind a checkpoint.
async fn recovered(service: &Service) {
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let target = b.address();
    a.serve(service.node(), move |mut stream| async move {
        stream.checkpoint(target, b"").await?;
        let mut said = [0; 5];
        stream.read_exact(&mut said).await?;
        stream.write_all(&said).await?;
        stream.flush().await
    });
    b.serve_echo(service.node());
    let connector = service
        .connector()
        .hand_off(HandOff::Drain)
        .recover_from_start();
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    echoed(&mut stream, b"hello").await;
    echoed(&mut stream, b"again").await;
}

/// A server that spends a former checkpoint.
async fn superseded(service: &Service, observed: &Observed) {
    let mut a = Node::bind("127.0.0.2").await;
    let settings = service.node();
    let settings = settings.supersede_checkpoints_in(Arc::new(service.store(10)));
    a.serve(settings, move |mut stream| async move {
        let elsewhere = "127.0.0.3:443".parse().unwrap();
        stream.checkpoint(elsewhere, b"former").await?;
        stream.checkpoint(elsewhere, b"newer").await?;
        movable_echo(stream).await
    });
    let connector = service.connector().hand_off(HandOff::Drain);
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    let spent = "rustls_migration_checkpoints_superseded_total{outcome=\"spent\"}";
    while value(&observed.metrics(), spent).is_none() {
        echoed(&mut stream, b"hello").await;
    }
}

/// Clients that say nothing, or only half of a hello; and one whose target is away.
async fn bad_clients(service: &Service) {
    let mut a = Node::bind("127.0.0.2").await;
    let settings = service.node().hello_timeout(Duration::from_secs(1));
    a.serve_echo(settings.handshake_timeout(Duration::from_secs(1)));
    for said in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut tcp = TcpStream::connect(a.address()).await.unwrap();
        tcp.write_all(said).await.unwrap();
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    }
}

async fn away(service: &Service) {
    let (mut a, b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let target: SocketAddr = b.address();
    drop(b);
    let acceptor = a.serve(service.node(), movable_echo);
    let connector = service.connector().hand_off(HandOff::Drain);
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    echoed(&mut stream, b"hello").await;
    let plan = DrainPlan::to([(target, 1)]).spread_over(Duration::ZERO);
    let drain = acceptor.drain(plan.deadline(Duration::from_secs(2)));
    let _ = stream.read_to_end(&mut Vec::new()).await;
    drain.finished().await;
}

#[tokio::test]
async fn each_metric_of_the_tls_layer_is_measured_in_real_traffic() {
    let observed = Observed::begin();
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let mut service = Service::default();
    TicketKeys::create(&keys, service.provider.secure_random).unwrap();
    service.keys = TicketKeys::load(&keys).unwrap();
    service.keys.reload().unwrap();
    at_once(&service).await;
    drained(&service).await;
    recovered(&service).await;
    superseded(&service, &observed).await;
    bad_clients(&service).await;
    away(&service).await;
    let seen = observed.metrics();
    for metric in metrics::ALL {
        let samples = |line: &str| match line.strip_prefix(metric.name) {
            Some(rest) if metric.kind == MetricKind::Histogram => {
                rest.starts_with('_') || rest.starts_with('{')
            }
            Some(rest) => rest.starts_with(['{', ' ']),
            None => false,
        };
        let mut lines = seen.lines().filter(|line| samples(line)).peekable();
        assert!(lines.peek().is_some(), "no {} in\n{seen}", metric.name);
        for line in lines.filter(|line| line.contains('{')) {
            let named = metric
                .labels
                .iter()
                .all(|label| line.contains(&format!("{label}=\"")));
            assert!(named, "{line}");
        }
    }
    let nothing_under_way = [
        "rustls_migration_handshakes_in_progress",
        "rustls_migration_drains_in_progress",
        "rustls_migration_drain_remaining_connections",
    ];
    for gauge in nothing_under_way {
        assert_eq!(value(&seen, gauge), Some(0.0), "{gauge}");
    }
}
