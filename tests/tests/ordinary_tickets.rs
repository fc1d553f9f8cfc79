//! Ordinary resumption, of clients that know nothing of this project: at any node of the service, without a cache, and with
//! early data that is accepted at most once where the nodes share a nonce store.
//!
//! `MIGRATION_RECONNECTS=10000` in the environment makes the reconnect as large as that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration as StdDuration, Instant};

use migration_tests::flight::{Shape, Stock, first_flight, lands};
use migration_tests::node::{ServerStream, echo};
use migration_tests::openssl::Openssl;
use migration_tests::racer::Copied;
use migration_tests::redis::RedisServer;
use migration_tests::stock::Observed;
use migration_tests::{
    CountingStore, FailingStore, Node, RecordingDialer, Service, server_name, stock,
};
use migration_token::{NonceStore, RedisNonceStore};
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, HandshakeKind};
use rustls_migration::server::MigrationServerBuilder;
use rustls_migration::tokio::MigrationAcceptor;
use rustls_migration::{SystemClock, TicketKeys};
use time::{Duration, OffsetDateTime};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

const IPS: [&str; 3] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];

/// Only a broken test waits for it.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// How many clients are on their way at once.
const AT_ONCE: usize = 100;

fn reconnects() -> usize {
    std::env::var("MIGRATION_RECONNECTS").map_or(300, |clients| clients.parse().unwrap())
}

/// A stock client with a cache of its own.
fn client_of(service: &Service) -> Arc<ClientConfig> {
    let mut config = service.client_config_with(Arc::new(stock::provider()));
    config.resumption = Resumption::in_memory_sessions(4);
    Arc::new(config)
}

/// Three nodes of the service, with these settings.
async fn nodes(
    settings: impl Fn(usize) -> MigrationServerBuilder,
) -> ([Node; 3], [MigrationAcceptor; 3]) {
    let mut nodes = [
        Node::bind(IPS[0]).await,
        Node::bind(IPS[1]).await,
        Node::bind(IPS[2]).await,
    ];
    let mut number = 0..;
    let acceptors = nodes
        .each_mut()
        .map(|node| node.serve(settings(number.next().unwrap()), echo));
    (nodes, acceptors)
}

/// What a stock client saw of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visit {
    Full,
    Resumed,
    ResumedWithEarlyData,
}

/// Connects, says something to an echo, as early data if there is a ticket for that, and leaves.
async fn visit(config: &Arc<ClientConfig>, node: &Node) -> Visit {
    visit_at(config, node.address()).await
}

async fn visit_at(config: &Arc<ClientConfig>, at: SocketAddr) -> Visit {
    let dialer = RecordingDialer::default();
    let stream = stock::connect(config, at, &dialer).await.unwrap();
    let stream = stock::exchange(stream, b"what a client says").await;
    let tls = stream.get_ref().1;
    match (tls.handshake_kind(), tls.is_early_data_accepted()) {
        (Some(HandshakeKind::Resumed), true) => Visit::ResumedWithEarlyData,
        (Some(HandshakeKind::Resumed), false) => Visit::Resumed,
        (_, early_data) => {
            assert!(!early_data);
            Visit::Full
        }
    }
}

/// The whole service with one store.
async fn sharing(
    service: &Service,
    store: Arc<dyn NonceStore>,
) -> ([Node; 3], [MigrationAcceptor; 3]) {
    nodes(|_| service.node().nonce_store(Arc::clone(&store))).await
}

/// Has so many clients connect to one of the nodes and then to any, and returns what they saw the second time, and how many did both in
/// a second.
async fn reconnect(
    service: &Service,
    addresses: [SocketAddr; 3],
    clients: usize,
) -> (Vec<Visit>, f64) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let started = Instant::now();
    let mut visits = JoinSet::new();
    for client in 0..clients {
        let (config, places) = (client_of(service), Arc::clone(&places));
        visits.spawn(async move {
            let _place = places.acquire().await.unwrap();
            assert_eq!(visit_at(&config, addresses[client % 3]).await, Visit::Full);
            // Each pair of nodes has its turn.
            visit_at(&config, addresses[client / 3 % 3]).await
        });
    }
    let seen = visits.join_all().await;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = clients as f64 / started.elapsed().as_secs_f64();
    (seen, rate)
}

#[tokio::test]
async fn all_clients_that_reconnect_resume_at_any_node_with_early_data_accepted_once_each() {
    let service = Service::default();
    let clients = reconnects();
    let store = Arc::new(service.store(clients * 2));
    let (nodes, acceptors) = sharing(&service, store).await;
    let addresses = nodes.each_ref().map(Node::address);
    let (seen, rate) = reconnect(&service, addresses, clients).await;
    assert!(seen.iter().all(|seen| *seen == Visit::ResumedWithEarlyData));
    let sum = |count: fn(&MigrationAcceptor) -> u64| acceptors.iter().map(count).sum::<u64>();
    let clients = u64::try_from(clients).unwrap();
    assert_eq!(sum(|node| node.stats().resumed()), clients);
    assert_eq!(sum(|node| node.stats().resumed_with_early_data()), clients);
    assert_eq!(sum(|node| node.stats().fresh()), 2 * clients);
    println!("{clients} stock clients reconnected, all with early data: {rate:.0} a second");
}

/// What the last test is to be compared with.
#[tokio::test]
async fn so_do_those_of_stock_servers_with_a_ticketer_but_without_early_data() {
    let service = Service::default();
    let mut config = service.server_config_with(Arc::new(stock::provider()));
    config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
    let servers = [
        Observed::stock(IPS[0], config.clone()).await,
        Observed::stock(IPS[1], config.clone()).await,
        Observed::stock(IPS[2], config).await,
    ];
    let addresses = servers.each_ref().map(|server| server.address);
    let clients = reconnects();
    let (seen, rate) = reconnect(&service, addresses, clients).await;
    assert!(seen.iter().all(|seen| *seen == Visit::Resumed));
    println!("{clients} reconnected to stock servers with a ticketer: {rate:.0} a second");
}

/// What nodes could read as early data, with the number of the node.
type Early = mpsc::UnboundedReceiver<(usize, Vec<u8>)>;

/// Three nodes that say what they can read of a client before its handshake is complete.
async fn telling(settings: impl Fn(usize) -> MigrationServerBuilder) -> ([Node; 3], Early) {
    let (sender, early) = mpsc::unbounded_channel();
    let mut nodes = [
        Node::bind(IPS[0]).await,
        Node::bind(IPS[1]).await,
        Node::bind(IPS[2]).await,
    ];
    for (number, node) in nodes.iter_mut().enumerate() {
        let sender = sender.clone();
        node.serve(settings(number), move |mut stream: ServerStream| {
            let sender = sender.clone();
            async move {
                let mut some = vec![0; 100];
                if stream.get_ref().tls().is_handshaking() {
                    let len = stream.read(&mut some).await?;
                    some.truncate(len);
                    sender.send((number, some)).unwrap();
                    // A transport with unread bytes is reset, and the answer lost.
                    return stream.read_to_end(&mut Vec::new()).await.map(drop);
                }
                echo(&mut stream).await
            }
        });
    }
    (nodes, early)
}

/// The flight of a client that has a ticket of this node.
async fn flight_with_ticket_of(service: &Service, node: &Node) -> (Stock, Vec<u8>) {
    let config = client_of(service);
    assert_eq!(visit(&config, node).await, Visit::Full);
    let mut client = Stock::new(&config, b"act", Shape::Whole);
    let flight = first_flight(&mut client);
    (client, flight)
}

/// Presents the flight to all nodes at once, and returns who could read it. Nobody else can afterwards.
async fn race(nodes: &[Node; 3], early: &mut Early, flight: &[u8]) -> Vec<usize> {
    let mut copies = JoinSet::new();
    for node in nodes {
        let (flight, address) = (flight.to_vec(), node.address());
        copies.spawn(async move {
            // It ends when the node has ended the connection, so the application is done with it.
            let copy = Copied::deliver(&flight, address).await.answered().await;
            copy.go_on().await
        });
    }
    while let Some(answer) = copies.join_next().await {
        assert!(!answer.unwrap().is_empty(), "the hello is answered");
    }
    let mut who = Vec::new();
    while let Ok((node, message)) = early.try_recv() {
        assert_eq!(message, b"act");
        who.push(node);
    }
    who
}

#[tokio::test]
async fn one_flight_at_all_nodes_of_a_store_at_once_is_early_data_at_one() {
    let service = Service::default();
    let store: Arc<dyn NonceStore> = Arc::new(service.store(1_000));
    let (nodes, mut early) = telling(|_| service.node().nonce_store(Arc::clone(&store))).await;
    for round in 0..30 {
        let issuer = &nodes[round % 3];
        let (client, flight) = flight_with_ticket_of(&service, issuer).await;
        let who = race(&nodes, &mut early, &flight).await;
        assert_eq!(who.len(), 1, "round {round}");
        assert!(race(&nodes, &mut early, &flight).await.is_empty());
        // The client whose flight it was has its session, and says it again.
        let to = nodes[round / 3 % 3].address();
        assert!(!lands(client, &flight, b"act", to, Shape::Whole).await);
    }
}

#[tokio::test]
async fn one_flight_at_nodes_with_stores_of_their_own_is_early_data_at_the_issuer_alone() {
    let service = Service::default();
    let stores: [Arc<dyn NonceStore>; 3] =
        [(); 3].map(|()| -> Arc<dyn NonceStore> { Arc::new(service.store(1_000)) });
    let (nodes, mut early) =
        telling(|number| service.node().nonce_store(Arc::clone(&stores[number]))).await;
    for round in 0..12 {
        let (_client, flight) = flight_with_ticket_of(&service, &nodes[round % 3]).await;
        let who = race(&nodes, &mut early, &flight).await;
        assert_eq!(who, [round % 3]);
    }
}

#[tokio::test]
async fn one_flight_at_the_nodes_of_a_redis_store_is_early_data_at_one_until_its_memory_is_lost() {
    let service = Service::default();
    let redis = RedisServer::start(&[]).await;
    let address = format!("redis://{}", redis.address());
    let mut stores: Vec<Arc<dyn NonceStore>> = Vec::new();
    for _ in 0..3 {
        let store = RedisNonceStore::builder(&address).timeout(PATIENCE);
        let store = store.build().unwrap();
        store.check(OffsetDateTime::now_utc()).await.unwrap();
        stores.push(Arc::new(store));
    }
    // As long as rustls' clock stands still, so does the age of tickets.
    let node = |number: usize| {
        let node = service.node().nonce_store(Arc::clone(&stores[number]));
        node.clock(SystemClock).nonce_store_timeout(PATIENCE)
    };
    let (nodes, mut early) = telling(node).await;
    for round in 0..10 {
        let (_client, flight) = flight_with_ticket_of(&service, &nodes[round % 3]).await;
        assert_eq!(race(&nodes, &mut early, &flight).await.len(), 1);
    }
    let (_client, flight) = flight_with_ticket_of(&service, &nodes[0]).await;
    redis.ask(&["FLUSHALL"]);
    assert!(race(&nodes, &mut early, &flight).await.is_empty());
}

#[tokio::test]
async fn a_ticket_that_is_used_again_resumes_without_early_data() {
    let service = Service::default();
    let (nodes, acceptors) = sharing(&service, Arc::new(service.store(1_000))).await;
    let openssl = Openssl::new(&service);
    openssl.write("early", "sent early\n");
    for (node, options, said) in [
        (0, "-sess_out @session", "New, TLSv1.3"),
        (
            1,
            "-sess_in @session -early_data @early",
            "Early data was accepted",
        ),
        (
            2,
            "-sess_in @session -early_data @early",
            "Early data was rejected",
        ),
        (
            1,
            "-sess_in @session -early_data @early",
            "Early data was rejected",
        ),
    ] {
        let mut client = openssl.s_client(nodes[node].address(), options);
        client.until(said).await;
        client.say("a line\n").await;
        client.until("a line").await;
        client.finish().await;
    }
    let resumed = acceptors.map(|node| node.stats().resumed());
    assert_eq!(resumed, [0, 2, 1]);
}

#[tokio::test]
async fn a_copied_flight_is_never_early_data_again_wherever_the_clocks_go() {
    let service = Service::default();
    let store: Arc<dyn NonceStore> = Arc::new(service.store(1_000));
    let (nodes, mut early) = telling(|_| service.node().nonce_store(Arc::clone(&store))).await;
    let (_client, flight) = flight_with_ticket_of(&service, &nodes[0]).await;
    assert_eq!(race(&nodes, &mut early, &flight).await.len(), 1);
    for ahead in [1, 30, 61, 120, 150, 3600] {
        service.clock.step(Duration::seconds(ahead));
        assert!(race(&nodes, &mut early, &flight).await.is_empty());
        // Another claim, by which the store forgets what is over.
        let (_client, other) = flight_with_ticket_of(&service, &nodes[1]).await;
        assert_eq!(race(&nodes, &mut early, &other).await.len(), 1);
        service.clock.step(Duration::seconds(-ahead));
        assert!(race(&nodes, &mut early, &flight).await.is_empty());
    }
}

/// What a client sees that has a ticket of the service, at a node with these settings.
async fn presented_to(
    service: &Service,
    settings: impl FnOnce(Arc<dyn NonceStore>) -> MigrationServerBuilder,
) -> Visit {
    let config = &client_of(service);
    let store: Arc<dyn NonceStore> = Arc::new(service.store(1_000));
    let (mut first, mut second) = (Node::bind(IPS[0]).await, Node::bind(IPS[1]).await);
    first.serve_echo(service.node().nonce_store(Arc::clone(&store)));
    second.serve_echo(settings(store));
    assert_eq!(visit(config, &first).await, Visit::Full);
    visit(config, &second).await
}

#[tokio::test]
async fn a_ticket_of_another_service_or_under_another_key_resumes_nothing() {
    let service = Service::default();
    let config = || service.server_config();
    let seen = presented_to(&service, |store| {
        let keys = service.keys.clone();
        service.node_of(config(), "others", keys).nonce_store(store)
    });
    assert_eq!(seen.await, Visit::Full);
    let seen = presented_to(&service, |store| {
        let keys = TicketKeys::generate(service.provider.secure_random).unwrap();
        service.node_of(config(), "files", keys).nonce_store(store)
    });
    assert_eq!(seen.await, Visit::Full);
}

#[tokio::test]
async fn a_session_resumes_for_its_lifetime_and_no_longer() {
    let service = Service::default();
    for (age, seen) in [
        (599, Visit::ResumedWithEarlyData),
        (600, Visit::ResumedWithEarlyData),
        (601, Visit::Full),
    ] {
        let config = client_of(&service);
        // Clients keep tickets for as long as they are told to.
        let issued_for = StdDuration::from_secs(3600);
        let (mut first, mut second) = (Node::bind(IPS[0]).await, Node::bind(IPS[1]).await);
        let store: Arc<dyn NonceStore> = Arc::new(service.store(1_000));
        let node = || service.node().nonce_store(Arc::clone(&store));
        first.serve_echo(node().session_lifetime(issued_for));
        second.serve_echo(node().session_lifetime(StdDuration::from_secs(600)));
        assert_eq!(visit(&config, &first).await, Visit::Full);
        service.clock.advance(Duration::seconds(age));
        assert_eq!(visit(&config, &second).await, seen, "{age} s");
    }
}

#[tokio::test]
async fn a_store_that_cannot_answer_costs_early_data_and_no_more() {
    let service = Service::default();
    for failing in [FailingStore::Broken, FailingStore::Hung] {
        let store: Arc<dyn NonceStore> = Arc::new(failing);
        let node = || {
            let node = service.node().nonce_store(Arc::clone(&store));
            node.nonce_store_timeout(StdDuration::from_millis(50))
        };
        let (nodes, acceptors) = nodes(|_| node()).await;
        let config = client_of(&service);
        assert_eq!(visit(&config, &nodes[0]).await, Visit::Full);
        assert_eq!(visit(&config, &nodes[1]).await, Visit::Resumed, "{store:?}");
        assert_eq!(acceptors[1].stats().resumed_with_early_data(), 0);
    }
}

#[tokio::test]
async fn a_store_that_does_not_know_its_memory_offers_no_early_data_and_sessions_resume() {
    let service = Service::default();
    let away = RedisNonceStore::builder("redis://127.0.0.1:1").build();
    let store: Arc<dyn NonceStore> = Arc::new(away.unwrap());
    let (nodes, _) = sharing(&service, store).await;
    let config = client_of(&service);
    assert_eq!(visit(&config, &nodes[0]).await, Visit::Full);
    assert!(!early_data_of(&config));
    assert_eq!(visit(&config, &nodes[1]).await, Visit::Resumed);
}

#[tokio::test]
async fn without_early_data_no_store_is_asked() {
    let service = Service::default();
    let store = Arc::new(CountingStore::new(service.store(1_000)));
    let shared: Arc<dyn NonceStore> = store.clone();
    let node = |early_data: u32| {
        let mut config = service.server_config();
        config.max_early_data_size = early_data;
        service.node_with(config).nonce_store(Arc::clone(&shared))
    };
    // Tickets with early data at nodes that take none, and tickets without.
    let sizes = [16_384, 0, 0];
    let (nodes, _) = nodes(|number| node(sizes[number])).await;
    let config = client_of(&service);
    assert_eq!(visit(&config, &nodes[0]).await, Visit::Full);
    assert_eq!(visit(&config, &nodes[1]).await, Visit::Resumed);
    assert_eq!(visit(&config, &nodes[2]).await, Visit::Resumed);
    assert_eq!(store.claims(), 0);
    let config = client_of(&service);
    assert_eq!(visit(&config, &nodes[1]).await, Visit::Full);
    assert!(!early_data_of(&config));
}

#[tokio::test]
async fn a_flight_with_a_wrong_binder_spends_nothing() {
    let service = Service::default();
    let store = Arc::new(CountingStore::new(service.store(1_000)));
    let shared: Arc<dyn NonceStore> = store.clone();
    let (nodes, mut early) = telling(|_| service.node().nonce_store(Arc::clone(&shared))).await;
    let (_client, flight) = flight_with_ticket_of(&service, &nodes[0]).await;
    let mut wrong = flight.clone();
    // The binder ends the hello, which is the first record.
    let hello = 5 + usize::from(u16::from_be_bytes([flight[3], flight[4]]));
    wrong[hello - 1] ^= 1;
    assert!(race(&nodes, &mut early, &wrong).await.is_empty());
    assert_eq!(store.claims(), 0);
    assert_eq!(race(&nodes, &mut early, &flight).await.len(), 1);
}

#[tokio::test]
async fn what_the_client_proved_of_itself_is_known_at_the_other_node() {
    let service = Service::default();
    let mut config = ClientConfig::clone(&client_of(&service));
    let certificate = stock::identify(&service, &mut config, "member");
    let config = Arc::new(config);
    let store: Arc<dyn NonceStore> = Arc::new(service.store(1_000));
    let (sender, mut seen) = mpsc::unbounded_channel();
    let mut nodes = [Node::bind(IPS[0]).await, Node::bind(IPS[1]).await];
    for node in &mut nodes {
        let sender = sender.clone();
        let settings = service.node_with(service.server_config_for_members());
        node.serve(
            settings.nonce_store(Arc::clone(&store)),
            move |mut stream| {
                let sender = sender.clone();
                async move {
                    let first = stream.get_ref().tls().peer_certificates().map(|all| {
                        let first = all.first().cloned();
                        first.unwrap().into_owned()
                    });
                    sender.send(first).unwrap();
                    echo(&mut stream).await
                }
            },
        );
    }
    assert_eq!(visit(&config, &nodes[0]).await, Visit::Full);
    let then = visit(&config, &nodes[1]).await;
    assert_eq!(then, Visit::ResumedWithEarlyData);
    for _ in 0..2 {
        assert_eq!(seen.recv().await.unwrap().as_ref(), Some(&certificate));
    }
}

#[tokio::test]
async fn a_service_that_keeps_no_sessions_gives_no_ordinary_tickets_and_takes_none() {
    let service = Service::default();
    let keeping_none = || {
        let mut config = service.server_config();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config
    };
    let seen = presented_to(&service, |store| {
        service.node_with(keeping_none()).nonce_store(store)
    });
    assert_eq!(seen.await, Visit::Full);
    let mut node = Node::bind(IPS[0]).await;
    node.serve_echo(service.node_with(keeping_none()));
    let config = client_of(&service);
    assert_eq!(visit(&config, &node).await, Visit::Full);
    assert_eq!(visit(&config, &node).await, Visit::Full);
}

#[tokio::test]
async fn as_many_tickets_are_given_as_the_configuration_says() {
    let service = Service::default();
    for tickets in [0, 1, 2, 5] {
        let mut config = service.server_config();
        config.send_tls13_tickets = tickets;
        let mut node = Node::bind(IPS[0]).await;
        node.serve_echo(service.node_with(config));
        let client = client_of(&service);
        assert_eq!(visit(&client, &node).await, Visit::Full);
        let mut held = 0;
        while early_data_of(&client) {
            held += 1;
        }
        // rustls' cache has room for eight.
        assert_eq!(held, tickets);
    }
}

/// Takes a ticket out of the client's cache, if there is one.
fn early_data_of(config: &Arc<ClientConfig>) -> bool {
    let mut client = rustls::ClientConnection::new(Arc::clone(config), server_name()).unwrap();
    client.early_data().is_some()
}
