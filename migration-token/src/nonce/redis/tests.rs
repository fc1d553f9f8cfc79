//! The store against a real redis-server, which each test starts for itself on a socket in a directory of its own.

use std::future::Future;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::runtime::Runtime;

use super::*;
use crate::nonce::contract::{self, Kind};
use crate::nonce::{ClaimId, NonceKey};

struct Server {
    process: Child,
    dir: TempDir,
    runtime: Runtime,
    stores: AtomicU32,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(dir.path().join("socket"))
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server: {error}; run tools/setup-tests"));
        let server = Self {
            process,
            dir,
            runtime: Runtime::new().unwrap(),
            stores: AtomicU32::new(0),
        };
        while redis::Client::open(server.address())
            .unwrap()
            .get_connection()
            .is_err()
        {
            thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn address(&self) -> String {
        format!("unix://{}", self.dir.path().join("socket").display())
    }

    fn ask<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let client = redis::Client::open(self.address()).unwrap();
        let mut words = command.split(' ');
        redis::cmd(words.next().unwrap())
            .arg(words.collect::<Vec<_>>())
            .query(&mut client.get_connection().unwrap())
            .unwrap()
    }

    /// Notes that the server's data is as old as the epoch.
    fn age(&self, prefix: &str) {
        let info: String = self.ask("INFO replication");
        let id = info.split("master_replid:").nth(1).unwrap();
        let client = redis::Client::open(self.address()).unwrap();
        let () = redis::cmd("SET")
            .arg(format!("{{{prefix}}}-born"))
            .arg(format!("{} 1", id.lines().next().unwrap()))
            .query(&mut client.get_connection().unwrap())
            .unwrap();
    }

    fn store(&self) -> RedisNonceStore {
        self.age("migration");
        RedisNonceStore::builder(&self.address())
            .timeout(PATIENCE)
            .build()
            .unwrap()
    }

    fn claim(&self, store: &RedisNonceStore, claim: Claim) -> Result<ClaimOutcome, StoreError> {
        self.wait(store.claim(claim))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// No test is about the time limit here.
const PATIENCE: Duration = Duration::from_secs(30);

impl Kind for Server {
    type Store = RedisNonceStore;

    const CASES: u32 = 100;
    const BOUNDED: bool = false;
    const TIME_OF_CLAIMS: bool = false;

    fn start(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn empty(&self, _: usize) -> RedisNonceStore {
        let prefix = self.stores.fetch_add(1, Ordering::Relaxed).to_string();
        self.age(&prefix);
        RedisNonceStore::builder(&self.address())
            .prefix(&prefix)
            .timeout(PATIENCE)
            .build()
            .unwrap()
    }

    fn live(&self, _: &RedisNonceStore) -> Option<usize> {
        None
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

fn claim(id: u8) -> Claim {
    let now = OffsetDateTime::now_utc();
    Claim {
        nonce: NonceKey::new(&[0; 32], &[0; 32], &[0; 16]),
        id: ClaimId::new([id; 16]),
        issued_after: now,
        keep_until: now + Duration::from_secs(600),
        now,
    }
}

/// What is behind a [`StoreError::Unavailable`].
fn reason<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> RedisStoreError {
    match answer.unwrap_err() {
        StoreError::Unavailable(source) => *source.downcast().unwrap(),
        other @ (StoreError::Full | StoreError::Busy) => panic!("{other:?}"),
    }
}

#[test]
fn the_first_claim_is_first_again_and_others_wait_for_its_commit() {
    contract::the_first_claim_is_first_again_and_others_wait_for_its_commit(&Server::start());
}

#[test]
fn a_commit_without_a_claim_is_lost() {
    contract::a_commit_without_a_claim_is_lost(&Server::start());
}

#[test]
fn many_threads_that_present_the_same_nonces_commit_each_of_them_once() {
    contract::many_threads_that_present_the_same_nonces_commit_each_of_them_once(&Server::start());
}

#[test]
fn any_sequence_is_answered_as_by_a_plain_map() {
    contract::any_sequence_is_answered_as_by_a_plain_map(&Server::start());
}

#[test]
fn a_nonce_is_kept_for_its_time_and_the_margin_and_its_commit_does_not_change_that() {
    let server = Server::start();
    let store = server.store();
    let asked = claim(1);
    server.claim(&store, asked).unwrap();
    let latest = asked.keep_until.unix_timestamp() + 3;
    for _ in 0..2 {
        let client = redis::Client::open(server.address()).unwrap();
        let nonce = [b"{migration}:", asked.nonce.as_bytes().as_slice()].concat();
        let expiry: u64 = redis::cmd("PEXPIRETIME")
            .arg(nonce)
            .query(&mut client.get_connection().unwrap())
            .unwrap();
        let expiry = OffsetDateTime::UNIX_EPOCH + Duration::from_millis(expiry);
        assert!(expiry >= asked.keep_until + Duration::from_secs(2));
        assert!(expiry.unix_timestamp() <= latest);
        assert_eq!(
            server.wait(store.commit(asked)).unwrap(),
            CommitOutcome::Won
        );
    }
}

#[test]
fn a_policy_that_may_evict_nonces_is_refused_with_what_to_set() {
    let server = Server::start();
    for policy in [
        "allkeys-lru",
        "allkeys-lfu",
        "allkeys-random",
        "volatile-lru",
        "volatile-lfu",
        "volatile-random",
        "volatile-ttl",
    ] {
        let () = server.ask(&format!("CONFIG SET maxmemory-policy {policy}"));
        let refused = reason(server.wait(server.store().check()));
        assert!(matches!(refused, RedisStoreError::Evicts { policy: named } if named == policy));
    }
    let () = server.ask("CONFIG SET maxmemory-policy noeviction");
    server.wait(server.store().check()).unwrap();
}

#[test]
fn a_claim_is_refused_when_the_clocks_differ_by_more_than_the_margin() {
    let server = Server::start();
    let store = server.store();
    for seconds in [-3, 3] {
        let mut asked = claim(1);
        asked.now += time::Duration::seconds(seconds);
        let refused = reason(server.claim(&store, asked));
        assert!(
            matches!(refused, RedisStoreError::Clock { .. }),
            "{refused}"
        );
    }
    assert_eq!(server.claim(&store, claim(2)).unwrap(), ClaimOutcome::First);
}

#[test]
fn a_flushed_server_is_not_asked_about_older_tokens_by_claim_or_commit() {
    let server = Server::start();
    let store = server.store();
    let old = claim(1);
    assert_eq!(server.claim(&store, old).unwrap(), ClaimOutcome::First);
    assert!(store.remembers_since().unwrap() < old.issued_after);
    let () = server.ask("FLUSHALL");
    let refused = reason(server.claim(&store, old));
    assert!(matches!(refused, RedisStoreError::Forgotten));
    let refused = reason(server.wait(store.commit(old)));
    assert!(matches!(refused, RedisStoreError::Forgotten));
    assert!(store.remembers_since().unwrap() > old.issued_after);
    let mut young = claim(1);
    young.issued_after = store.remembers_since().unwrap();
    assert_eq!(server.claim(&store, young).unwrap(), ClaimOutcome::First);
}

#[test]
fn the_promise_to_survive_restarts_is_checked() {
    let server = Server::start();
    let store = || {
        RedisNonceStore::builder(&server.address())
            .timeout(PATIENCE)
            .survives_restarts()
            .build()
            .unwrap()
    };
    let refused = reason(server.wait(store().check()));
    assert!(
        matches!(refused, RedisStoreError::NotDurable { setting, .. } if setting == "appendonly")
    );
    let () = server.ask("CONFIG SET appendonly yes");
    let refused = reason(server.wait(store().check()));
    assert!(
        matches!(refused, RedisStoreError::NotDurable { setting, .. } if setting == "appendfsync")
    );
    let () = server.ask("CONFIG SET appendfsync always");
    server.wait(store().check()).unwrap();
}

#[test]
fn a_password_is_never_shown() {
    let builder = RedisNonceStore::builder("redis://user:secret@127.0.0.2:1/0");
    assert!(!format!("{builder:?}").contains("secret"));
    let store = builder.timeout(PATIENCE).build().unwrap();
    assert!(!format!("{store:?}").contains("secret"));
    let refused = Runtime::new().unwrap().block_on(store.check()).unwrap_err();
    let shown = format!("{refused:?}") + &reason::<()>(Err(refused)).to_string();
    assert!(!shown.contains("secret"));
    for address in [
        "redis:secret",
        "rediss://:secret@host",
        "http://:secret@host",
        "secret",
    ] {
        let refused = RedisNonceStore::builder(address).build().unwrap_err();
        assert!(matches!(refused, RedisStoreError::Address));
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let builder = || RedisNonceStore::builder("redis://127.0.0.2");
    for prefix in ["", "{", "a}"] {
        let refused = builder().prefix(prefix).build().unwrap_err();
        assert!(matches!(refused, RedisStoreError::Prefix));
    }
    let refused = [
        builder().connections(0).build(),
        builder().waiting(0).build(),
        builder().timeout(Duration::ZERO).build(),
    ];
    for refused in refused {
        assert!(matches!(refused.unwrap_err(), RedisStoreError::Limits));
    }
}
