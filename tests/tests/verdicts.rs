//! Every refusal of the admission table (`docs/protocol.md` section 7) that an honest client can run into, over real
//! connections: the client lands by a full handshake, its data arrives once, the verdict reaches the server's
//! application and the node's counts, and the wire does not tell the reasons apart. The refusals that take a dishonest
//! client are in `interop_python.rs` and `bad_input.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use migration_tests::client::{Chosen, echoed, expect};
use migration_tests::node::echo;
use migration_tests::peer::{Setting, acceptor};
use migration_tests::{
    CountingStore, FailingStore, Node, RecordingDialer, Service, Spoken, StumblingStore, TestClock,
    server_name,
};
use migration_token::MemoryNonceStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use rustls_migration::client::MigrationClientBuilder;
use rustls_migration::server::{Arrival, MigrationServerBuilder, Verdict};
use rustls_migration::tokio::{
    EarlyDataOutcome, MigrationAcceptor, MigrationConnector, MigrationOutcome, MigrationStream,
};
use rustls_migration::{Clock as _, TicketKeys};
use time::Duration;
use tokio::io::AsyncReadExt as _;

type Shape = Vec<(u8, usize)>;

/// Moves a client from a node A to a node B with the given settings, where it lands by a full handshake. Returns what
/// B's application and the wire saw.
async fn refused_by(
    service: &Service,
    b: impl FnOnce(&Service) -> MigrationServerBuilder,
) -> (Arrival, Shape) {
    let (mut node_a, mut node_b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    node_a.serve_echo(service.node().target(node_b.address()));
    let at_b = node_b.serve(b(service), echo);
    let dialer = RecordingDialer::default();
    let (stream, landing) = moved(service, &dialer, [&node_a, &node_b]).await;
    assert_eq!(landing.at, node_b.address());
    landed_in_full(stream, &landing).await;
    let arrival = node_b.arrival().await;
    assert_counted(&at_b, &[&arrival]);
    (arrival, dialer.last().received_shape())
}

/// Checks that a node counted these refusals and nothing else.
fn assert_counted(acceptor: &MigrationAcceptor, refusals: &[&Arrival]) {
    let counts = acceptor.stats();
    for verdict in Verdict::ALL {
        let these = |arrival: &&&Arrival| ***arrival == declined(verdict);
        let expected = refusals.iter().filter(these).count();
        assert_eq!(counts.declined(verdict), expected as u64, "{verdict:?}");
    }
    let fresh = refusals
        .iter()
        .filter(|arrival| ***arrival == Arrival::Fresh);
    assert_eq!(counts.fresh(), fresh.count() as u64);
    assert_eq!(counts.migrated(), 0);
    assert_eq!((counts.committed(), counts.offers()), (0, 0));
}

/// A client that leaves for this address unasked, and goes on there in draft -03 too where it has to make a full handshake.
fn leaving_for(client: MigrationClientBuilder, target: SocketAddr) -> MigrationConnector {
    let client = client.allow_full_handshakes().build().unwrap();
    MigrationConnector::from(client).target_resolver(Chosen(vec![target]))
}

async fn moved(
    service: &Service,
    dialer: &RecordingDialer,
    [node_a, node_b]: [&Node; 2],
) -> (MigrationStream, MigrationOutcome) {
    moved_to(service, dialer, node_a, node_b.address()).await
}

async fn moved_to(
    service: &Service,
    dialer: &RecordingDialer,
    node_a: &Node,
    target: SocketAddr,
) -> (MigrationStream, MigrationOutcome) {
    let client = service.client_with(service.client_config());
    let connector = leaving_for(client, target).dialer(dialer.clone());
    let mut stream = connector
        .connect(server_name(), node_a.address())
        .await
        .unwrap();
    echoed(&mut stream, b"at A").await;
    let landing = stream.migrate(b"first at B").await.unwrap();
    (stream, landing)
}

async fn landed_in_full(mut stream: MigrationStream, landing: &MigrationOutcome) {
    assert_eq!(landing.handshake, HandshakeKind::Full);
    assert_eq!(landing.early_data, EarlyDataOutcome::AfterHandshake);
    assert!(landing.fell_back.is_none());
    expect(&mut stream, b"first at B").await;
    echoed(&mut stream, b"more at B").await;
}

fn declined(verdict: Verdict) -> Arrival {
    Arrival::Declined(verdict)
}

/// A service with a certificate whose signatures have one length, so that shapes can be compared.
fn service() -> Service {
    Service::default().with_ed25519()
}

async fn unknown_ticket() -> (Arrival, Shape) {
    refused_by(&service(), |service| {
        let other = TicketKeys::generate(service.provider.secure_random).unwrap();
        service.node_of(service.server_config(), "files", other)
    })
    .await
}

async fn wrong_scope() -> (Arrival, Shape) {
    refused_by(&service(), |service| {
        service.node_of(service.server_config(), "other", service.keys.clone())
    })
    .await
}

async fn wrong_target() -> (Arrival, Shape) {
    let service = service();
    let (mut node_a, mut node_b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let elsewhere = "127.0.0.4:443".parse().unwrap();
    node_a.serve_echo(service.node().target(elsewhere));
    let at_b = node_b.serve(service.node(), echo);
    let dialer = RecordingDialer::default();
    dialer.redirect(elsewhere, node_b.address());
    let (stream, landing) = moved_to(&service, &dialer, &node_a, elsewhere).await;
    landed_in_full(stream, &landing).await;
    let arrival = node_b.arrival().await;
    assert_counted(&at_b, &[&arrival]);
    (arrival, dialer.last().received_shape())
}

async fn expired() -> (Arrival, Shape) {
    refused_by(&service(), |service| {
        let ahead = TestClock::new();
        ahead.advance(Duration::hours(2));
        service.node().clock(ahead)
    })
    .await
}

async fn from_the_future() -> (Arrival, Shape) {
    refused_by(&service(), |service| {
        let slow = TestClock::new();
        slow.step(Duration::minutes(-10));
        service.node().clock(slow)
    })
    .await
}

async fn older_than_the_stores_memory() -> (Arrival, Shape) {
    refused_by(&service(), |service| {
        let started = service.clock.now() + Duration::SECOND;
        let store = MemoryNonceStore::new(10, started);
        service.node().nonce_store(Arc::new(store))
    })
    .await
}

async fn broken_store() -> (Arrival, Shape) {
    refused_by(&service(), |service| {
        service.node().nonce_store(Arc::new(FailingStore::Broken))
    })
    .await
}

async fn hung_store() -> (Arrival, Shape) {
    refused_by(&service(), |service| {
        service
            .node()
            .nonce_store(Arc::new(FailingStore::Hung))
            .nonce_store_timeout(StdDuration::from_millis(20))
    })
    .await
}

async fn full_store() -> (Arrival, Shape) {
    refused_by(&service(), |service| {
        service.node().nonce_store(Arc::new(service.store(0)))
    })
    .await
}

#[tokio::test]
async fn a_ticket_of_unknown_keys_is_refused() {
    let arrival = unknown_ticket().await.0;
    // In draft -03 it may be the ticket of any other stack.
    let expected = match Spoken::here() {
        Spoken::Draft01 => &[declined(Verdict::UnknownTicket)][..],
        Spoken::Draft03 => &[Arrival::Fresh],
        Spoken::Mixed => &[declined(Verdict::UnknownTicket), Arrival::Fresh],
    };
    assert!(expected.contains(&arrival), "{arrival:?}");
}

#[tokio::test]
async fn a_ticket_of_another_service_is_refused() {
    assert_eq!(wrong_scope().await.0, declined(Verdict::WrongScope));
}

#[tokio::test]
async fn a_ticket_of_another_server_name_is_refused() {
    let setting = Setting::new();
    let store = Arc::new(CountingStore::new(setting.store()));
    let at_b = acceptor(setting.node().nonce_store(store.clone()));
    for name in ["other.example", "127.0.0.3"] {
        let name = ServerName::try_from(name).unwrap();
        let (mut client, io) = setting.moved_as(name, b"early").await;
        client.send().await;
        let start = at_b.start(io, None, None).await.unwrap();
        assert_eq!(*start.arrival(), declined(Verdict::WrongScope));
    }
    assert_eq!(store.claims(), 0);
}

#[tokio::test]
async fn a_session_does_not_move_to_where_other_certificates_are_asked_for() {
    let service = service();
    let (certificate, key) = service.pki.issue("client", &rcgen::PKCS_ECDSA_P256_SHA256);
    let roots = service.pki.roots();
    let mut member = ClientConfig::builder_with_provider(Arc::clone(&service.provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    member.enable_early_data = true;
    let anyone = || service.node();
    let members = || {
        let config = service.server_config_for_members();
        service.node_of(config, "files for members", service.keys.clone())
    };
    for (from, to, client, lands) in [
        (anyone(), members(), service.client_config(), false),
        (members(), anyone(), member, true),
    ] {
        let (mut node_a, mut node_b) =
            (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
        node_a.serve_echo(from.target(node_b.address()));
        let at_b = node_b.serve(to, echo);
        let connector = leaving_for(service.client_with(client), node_b.address());
        let mut stream = connector
            .connect(server_name(), node_a.address())
            .await
            .unwrap();
        echoed(&mut stream, b"at A").await;
        stream.migrate(b"first at B").await.unwrap();
        // Who has no certificate learns that after its own handshake.
        let mut answer = [0; 10];
        let answered = stream.read_exact(&mut answer).await;
        assert_eq!(answered.is_ok(), lands, "{answered:?}");
        assert_eq!(node_b.accepted().await.arrival.is_ok(), lands);
        assert_counted(&at_b, &[&declined(Verdict::WrongScope)]);
    }
}

#[tokio::test]
async fn a_token_for_an_address_that_is_not_this_nodes_is_refused() {
    assert_eq!(wrong_target().await.0, declined(Verdict::WrongTarget));
}

#[tokio::test]
async fn a_token_that_was_issued_later_than_now_is_refused() {
    assert_eq!(from_the_future().await.0, declined(Verdict::Expired));
}

#[tokio::test]
async fn a_token_that_was_issued_later_than_now_by_the_skew_is_accepted() {
    const SKEW: Duration = Duration::seconds(5);
    let service = service();
    for (behind, early_data) in [
        (SKEW, EarlyDataOutcome::Accepted),
        (SKEW + Duration::SECOND, EarlyDataOutcome::AfterHandshake),
    ] {
        let slow = service.clock.now() - behind;
        let (mut node_a, mut node_b) =
            (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
        node_a.serve_echo(service.node().target(node_b.address()));
        let clock = TestClock::new();
        clock.step(slow - clock.now());
        let store = MemoryNonceStore::new(10, slow - SKEW);
        let settings = service.node().clock_skew(SKEW.unsigned_abs()).clock(clock);
        node_b.serve_echo(settings.nonce_store(Arc::new(store)));
        let (_, landing) = moved(&service, &RecordingDialer::default(), [&node_a, &node_b]).await;
        assert_eq!(landing.early_data, early_data, "{behind}");
    }
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    assert_eq!(expired().await.0, declined(Verdict::Expired));
}

#[tokio::test]
async fn a_token_from_before_the_stores_memory_is_refused() {
    let (arrival, _) = older_than_the_stores_memory().await;
    assert_eq!(arrival, declined(Verdict::Expired));
}

#[tokio::test]
async fn a_store_that_fails_hangs_or_is_full_refuses_and_the_client_lands() {
    for (arrival, _) in [broken_store().await, hung_store().await, full_store().await] {
        assert_eq!(arrival, declined(Verdict::StoreUnavailable));
    }
}

/// A provider with just the suites whose names end like this.
fn only(provider: &CryptoProvider, suite: &str) -> Arc<CryptoProvider> {
    let mut provider = provider.clone();
    provider
        .cipher_suites
        .retain(|found| format!("{:?}", found.suite()).ends_with(suite));
    assert_eq!(provider.cipher_suites.len(), 1);
    Arc::new(provider)
}

#[tokio::test]
async fn a_session_whose_suite_is_not_enabled_is_not_resumed_and_its_token_stays_unspent() {
    for (suite, claims) in [
        ("TLS13_AES_128_GCM_SHA256", 0),
        ("TLS13_CHACHA20_POLY1305_SHA256", 1),
    ] {
        let service = service();
        // A negotiates AES-256 with SHA-384, or AES-128; B has another hash, or another cipher only.
        let at_a = ["TLS13_AES_256_GCM_SHA384", "TLS13_AES_128_GCM_SHA256"][claims];
        let (mut node_a, mut node_b) =
            (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
        let config = service.server_config_with(only(&service.provider, at_a));
        node_a.serve_echo(service.node_with(config).target(node_b.address()));
        let store = Arc::new(service.store(10));
        let config = service.server_config_with(only(&service.provider, suite));
        let settings = service.node_with(config).nonce_store(store.clone());
        let at_b = node_b.serve(settings, echo);
        let (stream, landing) =
            moved(&service, &RecordingDialer::default(), [&node_a, &node_b]).await;
        landed_in_full(stream, &landing).await;
        assert_eq!(node_b.arrival().await, declined(Verdict::NotResumed));
        assert_counted(&at_b, &[&declined(Verdict::NotResumed)]);
        assert_eq!(store.len(), claims);
    }
}

#[tokio::test]
async fn a_connection_whose_commit_is_lost_or_fails_is_closed_before_it_gets_data() {
    for (store, lost_and_failed) in [
        (FailingStore::LostToAnother, (1, 0)),
        (FailingStore::FailingCommits, (0, 1)),
    ] {
        let service = service();
        let (mut node_a, mut node_b) =
            (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
        node_a.serve_echo(service.node().target(node_b.address()));
        let at_b = node_b.serve(service.node().nonce_store(Arc::new(store)), echo);
        let client = service.client_with(service.client_config());
        let mut stream = leaving_for(client, node_b.address())
            .connect(server_name(), node_a.address())
            .await
            .unwrap();
        echoed(&mut stream, b"at A").await;
        // The client's handshake completes before B has judged its Finished, so its first read tells.
        stream.migrate(b"first at B").await.unwrap();
        let mut byte = [0; 1];
        let read = stream.read(&mut byte).await;
        assert!(read.is_err(), "{read:?}");
        let refused = node_b.accepted().await.arrival.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionAborted);
        let counts = at_b.stats();
        assert_eq!(
            (counts.commits_lost(), counts.commits_failed()),
            lost_and_failed
        );
        assert_eq!((counts.migrated(), counts.committed()), (1, 0));
    }
}

#[tokio::test]
async fn a_store_that_fails_for_a_moment_costs_no_client_its_connection() {
    let service = service();
    let (mut node_a, mut node_b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    node_a.serve_echo(service.node().target(node_b.address()));
    let store = StumblingStore::new(service.store(10), 3);
    let settings = service.node().nonce_store(Arc::new(store));
    let settings = settings.nonce_store_timeout(StdDuration::from_secs(30));
    let at_b = node_b.serve(settings, echo);
    let (mut stream, _) = moved(&service, &RecordingDialer::default(), [&node_a, &node_b]).await;
    expect(&mut stream, b"first at B").await;
    echoed(&mut stream, b"more at B").await;
    let counts = at_b.stats();
    assert_eq!((counts.committed(), counts.commits_failed()), (1, 0));
}

#[tokio::test]
async fn clients_that_are_new_and_clients_that_are_moved_are_counted_with_their_offers() {
    let service = service();
    let (mut node_a, mut node_b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let at_a = node_a.serve(service.node().target(node_b.address()), echo);
    let at_b = node_b.serve(service.node(), echo);
    let (mut stream, landing) =
        moved(&service, &RecordingDialer::default(), [&node_a, &node_b]).await;
    assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
    expect(&mut stream, b"first at B").await;
    // What is sent now is read after the commit.
    echoed(&mut stream, b"more at B").await;
    let counts = at_a.stats();
    assert_eq!(
        (counts.fresh(), counts.offers(), counts.migrated()),
        (1, 1, 0)
    );
    let counts = at_b.stats();
    assert_eq!(
        (counts.fresh(), counts.offers(), counts.migrated()),
        (0, 0, 1)
    );
    let (early, committed) = (counts.migrated_with_early_data(), counts.committed());
    assert_eq!((early, committed), (1, 1));
}

#[tokio::test]
async fn the_wire_does_not_tell_the_reasons_apart() {
    let all = [
        ("unknown ticket", unknown_ticket().await),
        ("wrong scope", wrong_scope().await),
        ("wrong target", wrong_target().await),
        ("expired", expired().await),
        ("from the future", from_the_future().await),
        ("forgotten", older_than_the_stores_memory().await),
        ("broken store", broken_store().await),
        ("hung store", hung_store().await),
        ("full store", full_store().await),
    ];
    let (_, (_, expected)) = &all[0];
    assert!(expected.len() > 5, "{expected:?}");
    for (name, (_, shape)) in &all {
        assert_eq!(shape, expected, "{name}");
    }
}
