//! The shared nonce store when its redis server fails in the middle of load: whatever happens, no nonce is accepted
//! twice, every answer comes within the store's time limit, and afterwards the store works again as it is.
//!
//! The servers are real, and so are their deaths.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::redis::{RedisServer, begin};
use migration_tests::relay::Relay;
use migration_tests::spending::{Account, Spending};
use migration_token::{
    Claim, ClaimId, ClaimOutcome, NonceKey, NonceStore, RedisNonceStore, RedisNonceStoreBuilder,
    RedisStoreError, StoreError,
};
use time::OffsetDateTime;

/// The store's time limit.
const LIMIT: Duration = Duration::from_millis(300);

/// What a busy machine may add to it before the test calls it unbounded.
const SCHEDULING: Duration = Duration::from_secs(20);

/// The time limit where a test is not about it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many tokens must be spent before a fault, and after it.
const SOME: usize = 300;

fn store(address: SocketAddr) -> RedisNonceStoreBuilder {
    RedisNonceStore::builder(&format!("redis://{address}"))
        .timeout(LIMIT)
        .connections(4)
}

/// Load on two stores, as two nodes would have them, which works.
async fn load(builder: RedisNonceStoreBuilder) -> Spending {
    let mut stores: Vec<Arc<dyn NonceStore>> = Vec::new();
    for builder in [builder.clone(), builder] {
        let store = builder.build().unwrap();
        begin(&store).await;
        stores.push(Arc::new(store));
    }
    let spending = Spending::start(stores, 16);
    spending.until_spent(SOME).await;
    spending
}

/// Ends the load once it works again, and shows what came of it.
async fn finish(fault: &str, spending: Spending) -> Account {
    spending.until_spent(SOME).await;
    let account = spending.finish().await;
    println!("{fault}: {account}");
    assert!(account.longest < LIMIT + SCHEDULING);
    account
}

fn answers(account: &Account, text: &str) -> usize {
    let alike = account
        .outcomes
        .iter()
        .filter(|(outcome, _)| outcome.contains(text));
    alike.map(|(_, count)| count).sum()
}

fn claim(issued: OffsetDateTime, nonce: u8) -> Claim {
    let now = OffsetDateTime::now_utc();
    Claim {
        nonce: NonceKey::new(&[0; 32], &[1; 32], &[nonce; 16]),
        id: ClaimId::new([nonce; 16]),
        issued_after: issued,
        keep_until: now + Duration::from_secs(600),
        now,
    }
}

fn reason<T>(answer: Result<T, StoreError>) -> RedisStoreError {
    match answer {
        Err(StoreError::Unavailable(source)) => *source.downcast().unwrap(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it answered"),
    }
}

/// A patient store, and the age of a token that it remembers.
async fn remembered(builder: &RedisNonceStoreBuilder) -> (RedisNonceStore, OffsetDateTime) {
    let store = builder.clone().timeout(PATIENCE).build().unwrap();
    begin(&store).await;
    let since = store.remembers_since().unwrap();
    (store, since)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_empty_lets_no_spent_nonce_in() {
    let mut server = RedisServer::start(&[]).await;
    let spending = load(store(server.address())).await;
    for _ in 0..3 {
        server.kill();
        spending.until("cannot connect", 10).await;
        server.restart().await;
        spending.until_spent(SOME).await;
    }
    finish("killed, restarted empty", spending).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_without_its_last_second_lets_no_spent_nonce_in() {
    let options = ["--appendonly", "yes", "--appendfsync", "everysec"];
    let mut server = RedisServer::start(&options).await;
    let builder = store(server.address());
    let (old, since) = remembered(&builder).await;
    old.claim(claim(since, 1)).await.unwrap();
    let spending = load(builder).await;
    server.kill();
    server.restart().await;
    let refused = old.claim(claim(since, 2)).await;
    assert!(matches!(refused, Err(StoreError::Forgotten)), "{refused:?}");
    finish("killed, restarted with its file", spending).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_persists_each_write_remembers_after_a_restart() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = RedisServer::start(&options).await;
    let builder = store(server.address()).survives_restarts();
    let (old, since) = remembered(&builder).await;
    old.claim(claim(since, 1)).await.unwrap();
    let spending = load(builder.clone()).await;
    for _ in 0..3 {
        server.kill();
        server.restart().await;
        spending.until_spent(SOME).await;
    }
    let remembered = old.remembers_since().unwrap();
    assert!((remembered - since).abs() < time::Duration::SECOND);
    assert_eq!(
        old.claim(claim(since, 1)).await.unwrap(),
        ClaimOutcome::First
    );
    let mut other = claim(since, 1);
    other.id = ClaimId::new([9; 16]);
    assert_eq!(old.claim(other).await.unwrap(), ClaimOutcome::Pending);
    let account = finish("killed, restarted durable", spending).await;
    assert_eq!(answers(&account, "spent and forgotten"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_costs_each_request_the_time_limit_and_no_more() {
    let server = RedisServer::start(&[]).await;
    let spending = load(store(server.address())).await;
    server.hang();
    spending.until("did not answer within", 40).await;
    server.go_on();
    finish("hung", spending).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_waited_for_within_the_time_limit() {
    let server = RedisServer::start(&[]).await;
    let relay = Relay::to(server.address()).await;
    let spending = load(store(relay.address())).await;
    relay.delay(Duration::from_millis(20));
    spending.until_spent(20).await;
    relay.delay(LIMIT);
    spending.until("did not answer within", 40).await;
    relay.delay(Duration::ZERO);
    finish("slow", spending).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_refuses_and_forgets_nothing() {
    let server = RedisServer::start(&[]).await;
    let spending = load(store(server.address())).await;
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    spending.until("is full", 100).await;
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    let account = finish("full", spending).await;
    assert_eq!(answers(&account, "spent and forgotten"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_takes_over_lets_no_nonce_in_that_its_primary_spent() {
    let mut primary = RedisServer::start(&[]).await;
    let replica = primary.replica().await;
    let relay = Relay::to(primary.address()).await;
    let builder = store(relay.address());
    let (old, since) = remembered(&builder).await;
    let spending = load(builder).await;
    // The replica lags behind: what is claimed now never reaches it.
    replica.hang();
    spending.until_spent(SOME).await;
    old.claim(claim(since, 1)).await.unwrap();
    primary.kill();
    replica.go_on();
    replica.ask(&["REPLICAOF", "NO", "ONE"]);
    relay.turn_to(replica.address());
    let refused = old.claim(claim(since, 1)).await;
    assert!(matches!(refused, Err(StoreError::Forgotten)), "{refused:?}");
    finish("failed over", spending).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_follows_another_and_leads_again_remembers_only_from_then_on() {
    let first = RedisServer::start(&[]).await;
    let second = RedisServer::start(&[]).await;
    let builder = store(first.address());
    let (store, since) = remembered(&builder).await;
    store.claim(claim(since, 1)).await.unwrap();
    let (ip, port) = (
        second.address().ip().to_string(),
        second.address().port().to_string(),
    );
    first.ask(&["REPLICAOF", &ip, &port]);
    let refused = reason(store.claim(claim(since, 1)).await);
    assert!(matches!(refused, RedisStoreError::NotPrimary), "{refused}");
    first.ask(&["REPLICAOF", "NO", "ONE"]);
    let refused = store.claim(claim(since, 1)).await;
    assert!(matches!(refused, Err(StoreError::Forgotten)), "{refused:?}");
    assert!(store.remembers_since() > Some(since));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_too_few_replicas_have_is_not_accepted() {
    let primary = RedisServer::start(&[]).await;
    let replica = primary.replica().await;
    let builder = store(primary.address()).replicas(1);
    let spending = load(builder.clone()).await;
    replica.hang();
    spending.until("0 of 1 replicas acknowledged", 20).await;
    let (_, since) = remembered(&builder).await;
    let alone = builder.build().unwrap();
    begin(&alone).await;
    for _ in 0..2 {
        let refused = reason(alone.claim(claim(since, 1)).await);
        let named = matches!(
            refused,
            RedisStoreError::Replicas { wanted: 1, .. } | RedisStoreError::Timeout(_)
        );
        assert!(named, "{refused}");
    }
    replica.go_on();
    finish("replica hung", spending).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_too_many_is_refused_at_once() {
    let server = RedisServer::start(&[]).await;
    let store = store(server.address()).connections(1).waiting(1);
    // Who waits is patient for half of the time: others have the other half to be served in.
    let store = store.timeout(LIMIT * 10).build();
    let store = store.unwrap();
    begin(&store).await;
    server.hang();
    let since = store.remembers_since().unwrap();
    // Polled in this order: one is sent, one waits, one is too many.
    let (sent, waits, refused) = tokio::join!(
        store.claim(claim(since, 1)),
        store.claim(claim(since, 2)),
        store.claim(claim(since, 3)),
    );
    assert!(matches!(reason(sent), RedisStoreError::Timeout(_)));
    assert!(matches!(waits, Err(StoreError::Busy)));
    assert!(matches!(refused, Err(StoreError::Busy)));
}
