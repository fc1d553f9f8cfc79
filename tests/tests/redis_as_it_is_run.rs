//! The shared nonce store on redis as it is run: over TLS, as a user with few rights, behind Sentinels, in a cluster.
//!
//! The servers are real. Whatever happens, no nonce is accepted twice, and no client is left without an answer.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use migration_tests::Pki;
use migration_tests::redis::{RedisServer, begin};
use migration_tests::redis_groups::{Cluster, PRIMARY, Watched};
use migration_tests::spending::Spending;
use migration_token::{
    Claim, ClaimId, ClaimOutcome, CommitOutcome, NonceKey, NonceStore, RedisNonceStore,
    RedisNonceStoreBuilder, RedisStoreError, StoreError,
};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// The store's time limit.
const LIMIT: Duration = Duration::from_millis(500);

/// How many tokens must be spent before a fault, and after it.
const SOME: usize = 300;

/// How long a client tries before it is lost.
const PATIENCE: Duration = Duration::from_secs(60);

fn claim(number: u64) -> Claim {
    let now = OffsetDateTime::now_utc();
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    Claim {
        nonce: NonceKey::new(&[0; 32], &[2; 32], &number.to_be_bytes()),
        id: ClaimId::new(id),
        issued_after: now + Duration::from_millis(2),
        keep_until: now + Duration::from_secs(600),
        now,
    }
}

fn reason<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> RedisStoreError {
    match answer.unwrap_err() {
        StoreError::Unavailable(source) => *source.downcast().unwrap(),
        other => panic!("{other}"),
    }
}

/// A store that works, which is shown.
async fn works(builder: RedisNonceStoreBuilder) -> RedisNonceStore {
    let store = builder.timeout(PATIENCE).build().unwrap();
    store.check(OffsetDateTime::now_utc()).await.unwrap();
    let asked = claim(1);
    assert_eq!(store.claim(asked).await.unwrap(), ClaimOutcome::First);
    assert_eq!(store.commit(asked).await.unwrap(), CommitOutcome::Won);
    store
}

async fn refused(builder: RedisNonceStoreBuilder) -> RedisStoreError {
    let store = builder.timeout(PATIENCE).build().unwrap();
    reason(store.check(OffsetDateTime::now_utc()).await)
}

#[tokio::test]
async fn over_tls_a_server_of_the_authority_is_used_and_one_of_another_is_not() {
    let (pki, other) = (Pki::new(), Pki::new());
    let folder = tempfile::tempdir().unwrap();
    let (_server, address) = RedisServer::with_tls(&pki, folder.path()).await;
    let builder = || RedisNonceStore::builder(&address);
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let none = builder().build().unwrap_err();
        assert!(matches!(none, RedisStoreError::NoCryptoProvider), "{none}");
        rustls::crypto::ring::default_provider()
            .install_default()
            .unwrap();
    }
    works(builder().authority(pki.ca_pem().as_bytes())).await;
    let error = refused(builder().authority(other.ca_pem().as_bytes())).await;
    assert!(matches!(error, RedisStoreError::Connect(_)), "{error}");
    assert!(
        error.to_string().contains("invalid peer certificate"),
        "{error}"
    );
    // The system's authorities know nothing of it either.
    assert!(matches!(
        refused(builder()).await,
        RedisStoreError::Connect(_)
    ));
    // Its certificate is for another name.
    let elsewhere = RedisNonceStore::builder(&address.replace("127.0.0.2", "localhost"));
    let error = refused(elsewhere.authority(pki.ca_pem().as_bytes())).await;
    assert!(matches!(error, RedisStoreError::Connect(_)), "{error}");
    let error = builder().authority(b"no certificate").build();
    let none_trusted = match error {
        Ok(store) => reason(store.check(OffsetDateTime::now_utc()).await),
        Err(error) => error,
    };
    assert!(
        matches!(
            none_trusted,
            RedisStoreError::Authority | RedisStoreError::Connect(_)
        ),
        "{none_trusted}"
    );
    let plain = RedisNonceStore::builder("redis://127.0.0.2")
        .authority(b"")
        .build();
    assert!(matches!(plain.unwrap_err(), RedisStoreError::Authority));
}

#[tokio::test]
async fn a_user_needs_the_rights_that_are_documented_and_no_more() {
    const COMMANDS: [&str; 9] = [
        "+evalsha", "+eval", "+info", "+time", "+hget", "+hmget", "+hlen", "+hset", "+hdel",
    ];
    let server = RedisServer::start(&[]).await;
    let set_user = |commands: &[&str], keys: &str| {
        let user = ["ACL", "SETUSER", "nonces", "reset", "on", ">word", keys];
        let answer = server.ask(&[&user[..], commands].concat());
        assert!(answer.contains("OK"), "{answer}");
    };
    let store = || RedisNonceStore::builder(&format!("redis://nonces:word@{}", server.address()));
    set_user(&COMMANDS, "~{migration}-nonces");
    works(store()).await;

    // Without any one of them.
    for missing in 0..COMMANDS.len() {
        server.ask(&["FLUSHALL"]);
        let mut commands = COMMANDS.to_vec();
        let command = commands.remove(missing);
        if command == "+eval" || command == "+hdel" {
            // Only a server that does not know the script, or has something to forget, is asked for these.
            continue;
        }
        set_user(&commands, "~{migration}-nonces");
        let store = store().timeout(PATIENCE).build().unwrap();
        let checked = store.check(OffsetDateTime::now_utc()).await;
        let claimed = store.claim(claim(2)).await;
        let error = reason(checked.map(|()| ClaimOutcome::First).and(claimed));
        assert!(
            matches!(error, RedisStoreError::Command(_)),
            "{command}: {error}"
        );
        assert!(!error.to_string().contains("word"), "{error}");
    }
    set_user(&COMMANDS, "~another");
    assert!(matches!(
        refused(store()).await,
        RedisStoreError::Command(_)
    ));
    let wrong = RedisNonceStore::builder(&format!("redis://nonces:wrong@{}", server.address()));
    let error = refused(wrong).await;
    assert!(matches!(error, RedisStoreError::Connect(_)), "{error}");
    assert!(!error.to_string().contains("wrong@"), "{error}");
}

/// Clients with a token each, one after the other: what came of them.
#[derive(Default)]
struct Clients {
    stopped: AtomicBool,
    next: AtomicUsize,
    won: AtomicUsize,
    /// Their token was issued before the present life of the data: they land by a full handshake.
    in_full: AtomicUsize,
    /// They had no answer in time.
    lost: AtomicUsize,
}

impl Clients {
    fn start(store: &Arc<RedisNonceStore>, tasks: usize) -> (Arc<Self>, JoinSet<()>) {
        let clients = Arc::new(Self::default());
        let mut running = JoinSet::new();
        for _ in 0..tasks {
            let (clients, store) = (Arc::clone(&clients), Arc::clone(store));
            running.spawn(async move {
                while !clients.stopped.load(Ordering::Relaxed) {
                    let number = clients.next.fetch_add(1, Ordering::Relaxed);
                    let came = one_client(&store, u64::try_from(number).unwrap() + 1_000_000).await;
                    let count = match came {
                        Some(true) => &clients.won,
                        Some(false) => &clients.in_full,
                        None => &clients.lost,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        (clients, running)
    }

    /// Ends them, and shows what came of them. None is lost.
    async fn finish(&self, fault: &str, running: JoinSet<()>) -> (usize, usize) {
        self.stopped.store(true, Ordering::Relaxed);
        running.join_all().await;
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        let (won, in_full, lost) = (count(&self.won), count(&self.in_full), count(&self.lost));
        println!("{fault}: {won} clients resumed, {in_full} landed in full, {lost} lost");
        assert_eq!(lost, 0);
        (won, in_full)
    }
}

/// A client asks again when there was no answer, as long as it is patient.
async fn one_client(store: &RedisNonceStore, number: u64) -> Option<bool> {
    let (first, deadline) = (claim(number), Instant::now() + PATIENCE);
    while Instant::now() < deadline {
        let asked = Claim {
            now: OffsetDateTime::now_utc(),
            ..first
        };
        match store.claim(asked).await {
            Ok(ClaimOutcome::First) => break,
            Err(StoreError::Forgotten) => return Some(false),
            Ok(other) => panic!("{other:?}"),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
    while Instant::now() < deadline {
        match store.commit(first).await {
            Ok(CommitOutcome::Won) => return Some(true),
            Err(StoreError::Forgotten) | Ok(CommitOutcome::Lost) => return Some(false),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
    None
}

/// Load on two stores, as two nodes would have them, and clients beside it.
async fn load(builder: RedisNonceStoreBuilder) -> (Spending, Arc<Clients>, JoinSet<()>) {
    let mut stores = Vec::new();
    for builder in [builder.clone(), builder] {
        let store = builder.timeout(LIMIT).connections(4).build().unwrap();
        begin(&store).await;
        stores.push(Arc::new(store));
    }
    let (clients, running) = Clients::start(&stores[0], 4);
    let stores = stores.into_iter().map(|store| store as Arc<dyn NonceStore>);
    let spending = Spending::start(stores.collect(), 8);
    spending.until_spent(SOME).await;
    (spending, clients, running)
}

#[tokio::test(flavor = "multi_thread")]
async fn when_sentinels_promote_a_replica_no_nonce_is_accepted_twice_and_no_client_is_lost() {
    let mut watched = Watched::start().await;
    let addresses = watched.sentinels.iter();
    let addresses: Vec<_> = addresses
        .map(|sentinel| format!("redis://{}", sentinel.address()))
        .collect();
    let builder = RedisNonceStore::builder(&format!("redis://{PRIMARY}")).sentinels(addresses);
    let (spending, clients, running) = load(builder).await;
    // One Sentinel hangs, which costs its part of the time and no more.
    watched.sentinels[0].hang();
    let began = Instant::now();
    watched.primary.kill();
    spending.until("cannot connect", 5).await;
    spending.until_spent(SOME).await;
    println!("the replica serves after {:?}", began.elapsed());
    let account = spending.finish().await;
    println!("Sentinel failover: {account}");
    let (won, _) = clients.finish("Sentinel failover", running).await;
    assert!(won > SOME);
    assert!(
        watched
            .replica
            .ask(&["INFO", "replication"])
            .contains("role:master")
    );
}

#[tokio::test]
async fn when_no_sentinel_answers_the_store_says_so_within_its_time() {
    let free = TcpListener::bind("127.0.0.2:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let builder = RedisNonceStore::builder("redis://nonces").sentinels([format!("redis://{free}")]);
    let error = refused(builder).await;
    assert!(
        matches!(&error, RedisStoreError::NoPrimary { sentinels: 1, name } if name == PRIMARY),
        "{error}"
    );
}

const KEY: &str = "{migration}-nonces";

#[tokio::test(flavor = "multi_thread")]
async fn when_a_clusters_slot_moves_no_nonce_is_accepted_twice_and_no_client_is_lost() {
    let cluster = Cluster::start(&[]).await;
    let addresses = cluster.addresses();
    let builder = RedisNonceStore::builder(&addresses[0]).cluster(&addresses[1..]);
    let (spending, clients, running) = load(builder).await;
    for _ in 0..3 {
        // Meanwhile the slot is at one node and the key at the other (ASK); then at the new one (MOVED).
        let asked = async || spending.until_spent(SOME).await;
        cluster.move_slot_of(KEY, asked).await;
        spending.until_spent(SOME).await;
    }
    let account = spending.finish().await;
    println!("slot moved: {account}");
    let (won, _) = clients.finish("slot moved", running).await;
    assert!(won > SOME);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_a_durable_cluster_moves_with_what_is_remembered() {
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let cluster = Cluster::start(&durable).await;
    let addresses = cluster.addresses();
    let builder = RedisNonceStore::builder(&addresses[0]).cluster(&addresses[1..]);
    let (spending, clients, running) = load(builder.survives_restarts()).await;
    for _ in 0..3 {
        cluster
            .move_slot_of(KEY, async || spending.until_spent(20).await)
            .await;
        spending.until_spent(20).await;
    }
    let account = spending.finish().await;
    println!("slot moved, durable: {account}");
    let (_, in_full) = clients.finish("slot moved, durable", running).await;
    assert_eq!(in_full, 0, "the life of the data goes on");
}
