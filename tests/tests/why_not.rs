//! Why clients do not follow, told from metrics and logs alone: each row of the table in docs/operating.md is carried out, and shows what
//! the row says and nothing that another row does.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::client::echoed;
use migration_tests::metrics::{Observed, value};
use migration_tests::node::movable_echo;
use migration_tests::{FailingStore, Node, Service, TestClock, server_name};
use rustls_migration::TicketKeys;
use rustls_migration::client::{MigrationClient, MigrationLimit};
use rustls_migration::server::MigrationServerBuilder;
use rustls_migration::tokio::{DrainPlan, HandOff, MigrationConnector};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

const OPERATING: &str = include_str!("../../docs/operating.md");

/// How long a client has that stays: long enough for it to say why, also on a busy machine.
const STAYS: Duration = Duration::from_secs(3);

/// How long one has that goes. Only a broken test waits so long.
const GOES: Duration = Duration::from_secs(60);

/// A row of the table: why, a sample, words of the log.
struct Row {
    why: &'static str,
    sample: &'static str,
    words: &'static str,
}

fn rows() -> Vec<Row> {
    let (_, table) = OPERATING
        .split_once("| why | metric | log | where |\n")
        .expect("a table");
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let row = |line: &'static str| {
        let cells: Vec<_> = line
            .split(" | ")
            .map(|cell| cell.trim_matches([' ', '|']))
            .collect();
        let code = |cell: &'static str| cell.trim_matches('`');
        Row {
            why: cells[0],
            sample: code(cells[1]),
            words: code(cells[2]),
        }
    };
    rows.map(row).collect()
}

/// A client that cannot or does not follow from A to B, for one reason.
struct Case {
    service: Service,
    connector: MigrationConnector,
    /// The target's settings; `None` when it is down.
    at_b: Option<MigrationServerBuilder>,
    stock: bool,
    deadline: Duration,
}

impl Case {
    fn new() -> Self {
        let service = Service::default();
        Self {
            connector: service.connector(),
            at_b: Some(service.node()),
            stock: false,
            deadline: GOES,
            service,
        }
    }

    /// The one of a row.
    fn of(why: &str) -> Self {
        let mut case = Self::new();
        let service = &case.service;
        match why {
            "it is a stock client" => {
                case.stock = true;
                case.deadline = STAYS;
            }
            "the target is down" => {
                case.at_b = None;
                case.deadline = STAYS;
            }
            "a clock is off, or the target's store is younger than the token" => {
                let ahead = TestClock::new();
                ahead.step(time::Duration::hours(2));
                case.at_b = Some(service.node().clock(ahead));
            }
            "a ticket key is missing at the target" => {
                let random = service.provider.secure_random;
                let other = TicketKeys::generate(random).unwrap();
                case.at_b = Some(service.node_of(service.server_config(), "files", other));
            }
            "the nonce store is down" => {
                let down = Arc::new(FailingStore::Broken);
                let settings = service.node().nonce_store(down);
                let settings = settings.nonce_store_timeout(Duration::from_millis(100));
                case.at_b = Some(settings.handshake_timeout(Duration::from_secs(1)));
            }
            "it has moved as often as its limit allows" => {
                let limit = MigrationLimit {
                    count: 0,
                    ..MigrationLimit::default()
                };
                let client = service.client_with(service.client_config()).limit(limit);
                case.connector = client.build().unwrap().into();
                case.deadline = STAYS;
            }
            "its policy forbids the target" => {
                // The default allows no other port.
                let client = MigrationClient::builder(service.client_config());
                case.connector = client.build().unwrap().into();
                case.deadline = STAYS;
            }
            other => panic!("no case for {other:?}"),
        }
        case
    }

    /// Drains A with one client at it, and waits for the client's end or for its arrival at B. Whether it goes on at B.
    async fn drained(self) -> bool {
        let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
        let target = b.address();
        match self.at_b {
            Some(settings) => drop(b.serve(settings, movable_echo)),
            None => drop(b),
        }
        let acceptor = a.serve(self.service.node(), movable_echo);
        let plan = DrainPlan::to([(target, 1)]).spread_over(Duration::ZERO);
        let plan = plan.deadline(self.deadline);
        if self.stock {
            let mut stream = stock(&self.service, a.address()).await.unwrap();
            let drain = acceptor.drain(plan);
            // The node closes it at the deadline.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            drain.finished().await;
            return false;
        }
        let connector = self.connector.hand_off(HandOff::Drain);
        let stream = connector.connect(server_name(), a.address()).await;
        let mut stream = stream.unwrap();
        echoed(&mut stream, b"hello").await;
        let drain = acceptor.drain(plan);
        let mut byte = [0];
        while stream.peer_addr() != target {
            tokio::select! {
                read = stream.read(&mut byte) => {
                    assert!(read.is_err() || read.is_ok_and(|len| len == 0));
                    break;
                }
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
        drain.finished().await;
        stream.peer_addr() == target
    }
}

async fn stock(
    service: &Service,
    address: SocketAddr,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = Arc::new(service.client_config_with(provider));
    let tcp = TcpStream::connect(address).await?;
    let mut stream = tokio_rustls::TlsConnector::from(config)
        .connect(server_name(), tcp)
        .await?;
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello").await?;
    stream.read_exact(&mut [0; 5]).await?;
    Ok(stream)
}

/// What an operator sees of one case: whether the client went on, metrics, and log.
async fn seen(case: Case) -> (bool, String, String) {
    let observed = Observed::begin();
    let followed = case.drained().await;
    (followed, observed.metrics(), observed.log())
}

#[tokio::test]
async fn each_reason_for_not_following_shows_in_metrics_and_log_as_its_row_says_and_no_other_row_does()
 {
    let rows = rows();
    assert_eq!(rows.len(), 7);
    let mut all = HashMap::new();
    for row in &rows {
        let (followed, metrics, log) = seen(Case::of(row.why)).await;
        assert!(!followed, "{}", row.why);
        all.insert(row.why, (metrics, log));
    }
    let (followed, metrics, log) = seen(Case::new()).await;
    assert!(followed, "{log}");
    all.insert("it follows", (metrics, log));
    for (why, (metrics, log)) in &all {
        for row in &rows {
            let shows = (
                value(metrics, row.sample).is_some(),
                log.contains(row.words),
            );
            let expected = row.why == *why;
            assert_eq!(
                shows,
                (expected, expected),
                "{}: {why}\n{metrics}\n{log}",
                row.why
            );
        }
    }
    // What a client decides, its node sees only like this.
    let overdue = "rustls_migration_connections_closed_total{departure=\"overdue\"}";
    for row in [&rows[1], &rows[5], &rows[6]] {
        assert_eq!(value(&all[row.why].0, overdue), Some(1.0), "{}", row.why);
    }
}
