//! Early data that is refused, of every size and shape, for every reason: the client lands, and every byte of it arrives
//! once. A copy of a client's first flight costs it its 0-RTT and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use migration_tests::flight::{self, Client, Shape, Stock, first_flight};
use migration_tests::node::echo;
use migration_tests::peer::Setting;
use migration_tests::racer::Copied;
use migration_tests::{FailingStore, Node, Service, TestClock, stock};
use migration_token::{
    BoxFuture, Claim, ClaimOutcome, CommitOutcome, MemoryNonceStore, NonceStore, StoreError,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls_migration::server::{Arrival, MigrationServerBuilder, Verdict};
use rustls_migration::{Clock as _, TicketKeys};
use time::{Duration, OffsetDateTime};

const SIZES: [usize; 8] = [0, 1, 100, 2000, 8000, 8192, 14_336, 16_384];

const SHAPES: [Shape; 3] = [Shape::Whole, Shape::SmallRecords, Shape::Segments(20)];

/// Sends the first flight, goes on, and checks that an echo says everything once. Early data must have been refused.
async fn lands(
    client: impl Client,
    flight: &[u8],
    early_data: &[u8],
    to: SocketAddr,
    shape: Shape,
) {
    assert!(!flight::lands(client, flight, early_data, to, shape).await);
}

/// A node B that refuses early data of moved clients, for a reason.
type Refusal = fn(&Setting) -> (MigrationServerBuilder, Arrival);

fn migrated() -> Arrival {
    Arrival::Migrated {
        early_data: false,
        state: None,
    }
}

fn config_of(setting: &Setting, change: impl FnOnce(&mut CryptoProvider)) -> ServerConfig {
    let mut provider = CryptoProvider::clone(&setting.service.provider);
    change(&mut provider);
    setting.service.server_config_with(Arc::new(provider))
}

fn clock_off(setting: &Setting) -> (MigrationServerBuilder, Arrival) {
    let ahead = TestClock::new();
    ahead.advance(Duration::minutes(2));
    let mut config = setting.service.server_config();
    config.time_provider = Arc::new(ahead.clone());
    // The node has run for a day, so its store knows the token's time whatever its clock says.
    let age = TestClock::new();
    let began = ahead.now() - Duration::DAY;
    let store = MemoryNonceStore::with_monotonic(10_000, began, Arc::new(age.clone()));
    age.advance(Duration::DAY);
    let node = setting.service.node_with(config).clock(ahead);
    let node = node.nonce_store(Arc::new(store));
    (node.own_addresses([setting.b]), migrated())
}

fn other_alpn(setting: &Setting) -> (MigrationServerBuilder, Arrival) {
    let mut config = setting.service.server_config();
    config.alpn_protocols = vec![b"other".to_vec()];
    let node = setting.service.node_with(config);
    (node.own_addresses([setting.b]), migrated())
}

fn early_data_off(setting: &Setting) -> (MigrationServerBuilder, Arrival) {
    let mut config = setting.service.server_config();
    config.max_early_data_size = 0;
    let node = setting.service.node_with(config);
    (node.own_addresses([setting.b]), migrated())
}

fn retry(setting: &Setting) -> (MigrationServerBuilder, Arrival) {
    let config = config_of(setting, |provider| {
        let last = provider.kx_groups.pop().unwrap();
        provider.kx_groups = vec![last];
    });
    let node = setting.service.node_with(config);
    (node.own_addresses([setting.b]), migrated())
}

fn not_resumed(setting: &Setting, suite: &str) -> (MigrationServerBuilder, Arrival) {
    let config = config_of(setting, |provider| {
        let suites = &mut provider.cipher_suites;
        suites.retain(|found| format!("{:?}", found.suite()) == suite);
    });
    let node = setting.service.node_with(config).own_addresses([setting.b]);
    (node, Arrival::Declined(Verdict::NotResumed))
}

fn not_resumed_aes(setting: &Setting) -> (MigrationServerBuilder, Arrival) {
    not_resumed(setting, "TLS13_AES_128_GCM_SHA256")
}

fn not_resumed_chacha(setting: &Setting) -> (MigrationServerBuilder, Arrival) {
    not_resumed(setting, "TLS13_CHACHA20_POLY1305_SHA256")
}

fn replayed(setting: &Setting) -> (MigrationServerBuilder, Arrival) {
    let node = setting.node().nonce_store(Arc::new(Spent));
    (node, Arrival::Declined(Verdict::Replayed))
}

fn broken_store(setting: &Setting) -> (MigrationServerBuilder, Arrival) {
    let node = setting.node().nonce_store(Arc::new(FailingStore::Broken));
    (node, Arrival::Declined(Verdict::StoreUnavailable))
}

fn wrong_target(setting: &Setting) -> (MigrationServerBuilder, Arrival) {
    let node = setting.service.node();
    (node, Arrival::Declined(Verdict::WrongTarget))
}

fn young_store(setting: &Setting) -> (MigrationServerBuilder, Arrival) {
    let started = setting.service.clock.now() + Duration::SECOND;
    let store = MemoryNonceStore::new(10, started);
    let node = setting.node().nonce_store(Arc::new(store));
    (node, Arrival::Declined(Verdict::Expired))
}

fn wrong_scope(setting: &Setting) -> (MigrationServerBuilder, Arrival) {
    let service = &setting.service;
    let node = service.node_of(service.server_config(), "other", service.keys.clone());
    let node = node.own_addresses([setting.b]);
    (node, Arrival::Declined(Verdict::WrongScope))
}

fn unknown_ticket(setting: &Setting) -> (MigrationServerBuilder, Arrival) {
    let service = &setting.service;
    let other = TicketKeys::generate(service.provider.secure_random).unwrap();
    let node = service.node_of(service.server_config(), "files", other);
    let node = node.own_addresses([setting.b]);
    (node, Arrival::Declined(Verdict::UnknownTicket))
}

/// A store in which every nonce has been spent.
#[derive(Debug)]
struct Spent;

impl NonceStore for Spent {
    fn claim(&self, _: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>> {
        Box::pin(std::future::ready(Ok(ClaimOutcome::Committed)))
    }

    fn commit(&self, _: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>> {
        Box::pin(std::future::ready(Ok(CommitOutcome::Lost)))
    }

    fn remembers_since(&self) -> Option<OffsetDateTime> {
        None
    }
}

fn setting(shape: Shape) -> Setting {
    Setting::with_client(|config| {
        config.alpn_protocols = vec![b"other".to_vec()];
        if matches!(shape, Shape::SmallRecords) {
            config.max_fragment_size = Some(32);
        }
    })
}

/// Moves a client to a node for each size and shape of early data.
async fn refused(refusal: Refusal) {
    for shape in SHAPES {
        let setting = setting(shape);
        let (settings, arrival) = refusal(&setting);
        let mut b = Node::bind("127.0.0.3").await;
        let at_b = b.serve_as_is(settings, echo);
        for size in SIZES {
            let early_data = stock::bytes(size);
            let (mut peer, _) = setting.moved(&early_data).await;
            assert_eq!(peer.connection.early_data_sent(), size);
            let flight = first_flight(&mut peer.connection);
            let landing = lands(peer.connection, &flight, &early_data, b.address(), shape);
            landing.await;
            let found = match b.arrival().await {
                // In draft -03 a ticket that B cannot open is any ticket.
                Arrival::Fresh => Arrival::Declined(Verdict::UnknownTicket),
                other => other,
            };
            assert_eq!(found, arrival, "{size} bytes, {shape:?}");
        }
        assert_eq!(at_b.stats().migrated_with_early_data(), 0);
    }
}

/// A copy of each first flight comes first and takes the 0-RTT.
#[tokio::test]
async fn a_copy_that_comes_first_costs_the_client_nothing_but_its_0_rtt() {
    for shape in SHAPES {
        let setting = setting(shape);
        let mut b = Node::bind("127.0.0.3").await;
        let config = setting.service.server_config();
        let node = setting.service.node_with(config);
        let at_b = b.serve_as_is(node.own_addresses([setting.b]), echo);
        for size in SIZES.into_iter().filter(|size| *size > 0) {
            let early_data = stock::bytes(size);
            let (mut peer, _) = setting.moved(&early_data).await;
            let flight = first_flight(&mut peer.connection);
            let copy = Copied::deliver(&flight, b.address()).await;
            let Arrival::Migrated {
                early_data: true, ..
            } = b.arrival().await
            else {
                panic!("the copy comes first");
            };
            let landing = lands(peer.connection, &flight, &early_data, b.address(), shape);
            landing.await;
            assert_eq!(b.arrival().await, migrated(), "{size} bytes, {shape:?}");
            copy.go_on().await;
        }
        let counts = at_b.stats();
        assert_eq!((counts.committed(), counts.commits_lost()), (7, 0));
    }
}

/// One test for each reason.
macro_rules! refusals {
    ($($test:ident: $refusal:ident;)*) => {$(
        #[tokio::test]
        async fn $test() {
            refused($refusal).await;
        }
    )*};
}

refusals! {
    a_target_whose_clock_is_two_minutes_off: clock_off;
    a_target_that_speaks_another_protocol: other_alpn;
    a_target_that_takes_no_early_data: early_data_off;
    a_target_that_asks_for_another_key_share: retry;
    a_target_with_another_cipher_and_hash: not_resumed_aes;
    a_target_with_another_cipher: not_resumed_chacha;
    a_token_that_has_been_spent: replayed;
    a_store_that_is_broken: broken_store;
    a_token_for_another_target: wrong_target;
    a_store_that_is_younger_than_the_token: young_store;
    a_ticket_of_another_service: wrong_scope;
    a_ticket_under_another_key: unknown_ticket;
}

/// What changes between two ordinary connections of a stock client, so that the second one's early data is refused.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Clock,
    Alpn,
    KeyShare,
    /// The node does not know the ticket's key.
    Keys,
}

/// A node whose early data is known to `store`.
fn ordinary(
    service: &Service,
    change: Option<Change>,
    store: &Arc<MemoryNonceStore>,
) -> MigrationServerBuilder {
    let mut provider = CryptoProvider::clone(&service.provider);
    if change == Some(Change::KeyShare) {
        provider.kx_groups = vec![provider.kx_groups.pop().unwrap()];
    }
    let mut config = service.server_config_with(Arc::new(provider));
    if change == Some(Change::Alpn) {
        config.alpn_protocols = vec![b"other".to_vec()];
    }
    if change == Some(Change::Clock) {
        let ahead = TestClock::new();
        ahead.advance(Duration::minutes(2));
        config.time_provider = Arc::new(ahead);
    }
    let keys = match change {
        Some(Change::Keys) => TicketKeys::generate(service.provider.secure_random).unwrap(),
        Some(Change::Clock | Change::Alpn | Change::KeyShare) | None => service.keys.clone(),
    };
    let node = service.node_of(config, "files", keys);
    node.nonce_store(Arc::clone(store) as Arc<dyn NonceStore>)
}

#[tokio::test]
async fn an_ordinary_resumption() {
    for change in [Change::Clock, Change::Alpn, Change::KeyShare, Change::Keys] {
        let service = Service::default();
        let store = Arc::new(service.store(1000));
        let (mut before, mut after) =
            (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
        before.serve_echo(ordinary(&service, None, &store));
        after.serve_echo(ordinary(&service, Some(change), &store));
        for shape in SHAPES {
            for size in SIZES {
                let mut config = service.client_config_with(Arc::new(stock::provider()));
                config.alpn_protocols = vec![b"other".to_vec()];
                let config = Arc::new(config);
                let mut first = Stock::new(&config, &[], shape);
                let flight = first_flight(&mut first);
                lands(first, &flight, &[], before.address(), shape).await;

                let early_data = stock::bytes(size);
                let mut second = Stock::new(&config, &early_data, shape);
                let flight = first_flight(&mut second);
                lands(second, &flight, &early_data, after.address(), shape).await;
                assert_eq!(after.arrival().await, Arrival::Fresh, "{change:?}");
            }
        }
    }
}

/// So many records that no key opens, each with so many bytes.
fn noise(records: usize, len: u16) -> Vec<u8> {
    let mut record = vec![23, 3, 3];
    record.extend(len.to_be_bytes());
    record.resize(5 + usize::from(len), 7);
    record.repeat(records)
}

#[tokio::test]
async fn what_is_dropped_has_a_limit_in_records_and_in_bytes() {
    const RECORDS: usize = 16_384;
    for refusal in [wrong_target as Refusal, retry] {
        let setting = setting(Shape::Whole);
        let (settings, _) = refusal(&setting);
        let mut b = Node::bind("127.0.0.3").await;
        b.serve_as_is(settings, echo);
        for (records, len, in_time) in [
            // The client's own record is one of them.
            (RECORDS - 1, 18, true),
            (RECORDS + 1000, 18, false),
            (22, 16_640, true),
            (24, 16_640, false),
        ] {
            let early_data = stock::bytes(1);
            let (mut peer, _) = setting.moved(&early_data).await;
            let mut flight = first_flight(&mut peer.connection);
            flight.extend(noise(records, len));
            if in_time {
                let to = b.address();
                lands(peer.connection, &flight, &early_data, to, Shape::Whole).await;
                b.arrival().await;
            } else {
                let copy = Copied::deliver(&flight, b.address()).await;
                let answer = tokio::time::timeout(StdDuration::from_secs(8), copy.go_on()).await;
                answer.expect("the node ends the connection long before its deadline");
                b.accepted().await.arrival.unwrap_err();
            }
        }
    }
}
