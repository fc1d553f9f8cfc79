//! The store against a real redis-server, which each test starts for itself on a socket in a directory of its own.

use std::future::Future;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::runtime::Runtime;

use super::*;
use crate::nonce::contract::clocks::{self, ClockKind};
use crate::nonce::contract::{self, HandClock, Kind};
use crate::nonce::{ClaimId, Monotonic, NonceKey};

struct Server {
    process: Child,
    dir: TempDir,
    runtime: Runtime,
    stores: AtomicU32,
    /// The test's own.
    line: Mutex<Option<redis::Connection>>,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(dir.path().join("socket"))
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null());
        let process = command
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server: {error}; run tools/setup-tests"));
        let server = Self {
            process,
            dir,
            runtime: Runtime::new().unwrap(),
            stores: AtomicU32::new(0),
            line: Mutex::default(),
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
        let mut line = self.line.lock().unwrap();
        let line = line.get_or_insert_with(|| client.get_connection().unwrap());
        let mut words = command.split(' ');
        redis::cmd(words.next().unwrap())
            .arg(words.collect::<Vec<_>>())
            .query(line)
            .unwrap()
    }

    fn store(&self) -> RedisNonceStore {
        self.builder().build().unwrap()
    }

    /// One for which a pause of the machine is no difference of clocks.
    fn builder(&self) -> RedisNonceStoreBuilder {
        RedisNonceStore::builder(&self.address())
            .timeout(PATIENCE)
            .clock_margin(PATIENCE)
    }

    /// A store whose server remembers by now.
    fn begun(&self) -> RedisNonceStore {
        let store = self.store();
        self.check(&store).unwrap();
        store
    }

    fn check(&self, store: &RedisNonceStore) -> Result<(), StoreError> {
        self.wait(store.check(OffsetDateTime::now_utc()))
    }

    fn claim(&self, store: &RedisNonceStore, claim: Claim) -> Result<ClaimOutcome, StoreError> {
        self.wait(store.claim(claim))
    }
}

/// A clock of the server that the test turns: whole seconds, in a key.
const TURNED: &str = "local clock = {redis.call('GET', 'clock'), 0}\n";

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
    const KEPT_LONGER: i64 = 1;
    const CLAIMS_TO_FORGET: u8 = 190;

    fn start(&self) -> OffsetDateTime {
        time::macros::datetime!(2027-01-01 00:00 UTC)
    }

    fn empty(&self, _: usize, now: OffsetDateTime, clock: &Arc<HandClock>) -> RedisNonceStore {
        let prefix = self.stores.fetch_add(1, Ordering::Relaxed).to_string();
        let store = RedisNonceStore::builder(&self.address())
            .prefix(&prefix)
            .clock_margin(Duration::from_secs(1))
            .timeout(PATIENCE)
            .monotonic(clock.clone())
            .server_time(TURNED)
            .build()
            .unwrap();
        self.wait(store.check(now)).unwrap();
        store
    }

    fn turn_to(&self, now: OffsetDateTime) {
        let () = self.ask(&format!("SET clock {}", now.unix_timestamp()));
    }

    fn live(&self, _: &RedisNonceStore) -> Option<usize> {
        None
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

impl ClockKind for Server {
    const NODES: usize = 2;
    const WORLDS: u32 = 1_500;
    const MARGIN: Option<i64> = Some(2);

    fn begin(&self, now: OffsetDateTime) {
        let () = self.ask("FLUSHALL");
        self.turn_to(now);
    }

    fn open(
        &self,
        _: usize,
        now: OffsetDateTime,
        clock: &Arc<HandClock>,
    ) -> Option<RedisNonceStore> {
        let clock: Arc<dyn Monotonic> = Arc::<HandClock>::clone(clock);
        let store = RedisNonceStore::builder(&self.address())
            // What a busy machine takes for an answer is no difference of clocks.
            .clock_margin(Duration::from_millis(2_500))
            .timeout(PATIENCE)
            .monotonic(clock)
            .server_time(TURNED)
            .build()
            .unwrap();
        // It may be refused because of the clocks, and asked again.
        let _ = self.wait(store.check(now));
        Some(store)
    }

    fn close(&self, store: RedisNonceStore) -> bool {
        drop(store);
        false
    }

    fn lose(&self) {
        let () = self.ask("DEL {migration}-nonces");
    }

    fn set_server(&self, now: OffsetDateTime) {
        self.turn_to(now);
    }
}

/// A claim for a token that was issued after all that has been answered by now.
fn claim(id: u8) -> Claim {
    let now = OffsetDateTime::now_utc();
    Claim {
        nonce: NonceKey::new(&[0; 32], &[0; 32], &[0; 16]),
        id: ClaimId::new([id; 16]),
        issued_after: now + Duration::from_millis(2),
        keep_until: now + Duration::from_secs(600),
        now,
    }
}

/// What is behind a [`StoreError::Unavailable`].
fn reason<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> RedisStoreError {
    match answer.unwrap_err() {
        StoreError::Unavailable(source) => *source.downcast().unwrap(),
        other @ (StoreError::Full | StoreError::Busy | StoreError::Forgotten) => {
            panic!("{other:?}")
        }
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
fn what_was_forgotten_under_a_clock_that_was_ahead_is_refused_when_it_is_back() {
    contract::what_was_forgotten_under_a_clock_that_was_ahead_is_refused_when_it_is_back(
        &Server::start(),
    );
}

#[test]
fn a_token_from_before_the_memory_or_after_its_time_is_refused() {
    contract::a_token_from_before_the_memory_or_after_its_time_is_refused(&Server::start());
}

#[test]
fn a_memory_that_began_under_a_slow_clock_begins_later_when_the_clock_is_set() {
    contract::a_memory_that_began_under_a_slow_clock_begins_later_when_the_clock_is_set(
        &Server::start(),
    );
}

#[test]
fn whatever_the_clocks_do_no_token_is_won_twice() {
    clocks::whatever_the_clocks_do_no_token_is_won_twice(&Server::start());
}

#[test]
fn no_clock_fault_that_was_seen_lets_a_token_in_again() {
    clocks::no_clock_fault_that_was_seen_lets_a_token_in_again(&Server::start());
}

#[test]
fn the_server_forgets_nothing_by_itself() {
    let server = Server::start();
    let store = server.begun();
    let asked = claim(1);
    server.claim(&store, asked).unwrap();
    for _ in 0..2 {
        let expiry: i64 = server.ask("PEXPIRETIME {migration}-nonces");
        assert_eq!(expiry, -1, "no time to live");
        let committed = server.wait(store.commit(asked)).unwrap();
        assert_eq!(committed, CommitOutcome::Won);
    }
}

#[test]
fn what_is_forgotten_frees_its_room_a_part_with_each_claim() {
    const NONCES: i64 = 1_000;
    let server = Server::start();
    let clock = Arc::<HandClock>::default();
    server.turn_to(Kind::start(&server));
    let store = server.empty(0, Kind::start(&server), &clock);
    let at = |nonce: i64, now: i64| {
        clock.turn_to(now);
        let now = Kind::start(&server) + time::Duration::seconds(now);
        server.turn_to(now);
        let asked = Claim {
            nonce: NonceKey::new(&[0; 32], &[0; 32], &nonce.to_be_bytes()),
            id: ClaimId::new([1; 16]),
            issued_after: now,
            keep_until: now + Duration::from_secs(60 + nonce.unsigned_abs() % 7),
            now,
        };
        assert_eq!(server.claim(&store, asked).unwrap(), ClaimOutcome::First);
    };
    let fields = || server.ask::<i64>("HLEN {0}-nonces");
    for nonce in 0..NONCES {
        at(nonce, 5);
    }
    assert!(fields() > NONCES);
    // One that is the last for a long time, and then some that make up for it.
    for (nonce, now) in (NONCES..).zip([5_000, 5_001, 5_002].into_iter().chain(20_000..20_060)) {
        at(nonce, now);
    }
    assert!(fields() < 200, "{}", fields());
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
        let refused = reason(server.check(&server.store()));
        assert!(matches!(refused, RedisStoreError::Evicts { policy: named } if named == policy));
    }
    let () = server.ask("CONFIG SET maxmemory-policy noeviction");
    server.check(&server.store()).unwrap();
}

#[test]
fn a_claim_is_refused_when_the_clocks_differ_by_more_than_the_margin_and_no_memory_begins() {
    let server = Server::start();
    let store = server.store();
    for seconds in [-300, 300] {
        let mut asked = claim(1);
        asked.now += time::Duration::seconds(seconds);
        let refused = reason(server.claim(&store, asked));
        assert!(
            matches!(refused, RedisStoreError::Clock { .. }),
            "{refused}"
        );
    }
    assert_eq!(server.ask::<i64>("EXISTS {migration}-nonces"), 0);
    let store = server.begun();
    assert_eq!(server.claim(&store, claim(2)).unwrap(), ClaimOutcome::First);
}

#[test]
fn tokens_are_accepted_as_soon_as_the_node_knows_that_the_memory_has_begun() {
    let server = Server::start();
    let store = server.store();
    let began = OffsetDateTime::now_utc();
    // The first claim begins it, and its token is older.
    let refused = server.claim(&store, claim_issued(1, began));
    assert!(matches!(refused, Err(StoreError::Forgotten)), "{refused:?}");
    let known = OffsetDateTime::now_utc() + Duration::from_millis(2);
    assert!(store.remembers_since().unwrap() <= known);
    let accepted = server.claim(&store, claim_issued(2, known)).unwrap();
    assert_eq!(accepted, ClaimOutcome::First);
}

fn claim_issued(id: u8, issued_after: OffsetDateTime) -> Claim {
    Claim {
        issued_after,
        ..claim(id)
    }
}

#[test]
fn a_flushed_server_is_not_asked_about_older_tokens_by_claim_or_commit() {
    let server = Server::start();
    let store = server.begun();
    let old = claim_issued(1, store.remembers_since().unwrap());
    assert_eq!(server.claim(&store, old).unwrap(), ClaimOutcome::First);
    let () = server.ask("FLUSHALL");
    let refused = server.wait(store.commit(old));
    assert!(matches!(refused, Err(StoreError::Forgotten)), "{refused:?}");
    let refused = server.claim(&store, old);
    assert!(matches!(refused, Err(StoreError::Forgotten)), "{refused:?}");
    let refused = server.wait(store.commit(old));
    assert!(matches!(refused, Err(StoreError::Forgotten)), "{refused:?}");
    assert!(store.remembers_since().unwrap() > old.issued_after);
    let young = claim_issued(1, store.remembers_since().unwrap());
    assert_eq!(server.claim(&store, young).unwrap(), ClaimOutcome::First);
}

#[test]
fn of_two_lives_that_begin_in_one_millisecond_the_second_remembers_nothing_of_the_first() {
    let server = Server::start();
    let (now, clock) = (OffsetDateTime::now_utc(), Arc::<HandClock>::default());
    server.turn_to(now);
    let store = server.empty(0, now, &clock);
    let spent = Claim {
        now,
        ..claim_issued(1, store.remembers_since().unwrap())
    };
    assert_eq!(server.claim(&store, spent).unwrap(), ClaimOutcome::First);
    let () = server.ask("FLUSHALL");
    server.turn_to(now);
    let refused = server.claim(&store, spent);
    assert!(matches!(refused, Err(StoreError::Forgotten)), "{refused:?}");
}

#[test]
fn the_promise_to_survive_restarts_is_checked() {
    let server = Server::start();
    let store = || server.builder().survives_restarts().build().unwrap();
    let refused = reason(server.check(&store()));
    assert!(
        matches!(refused, RedisStoreError::NotDurable { setting, .. } if setting == "appendonly")
    );
    let () = server.ask("CONFIG SET appendonly yes");
    let refused = reason(server.check(&store()));
    assert!(
        matches!(refused, RedisStoreError::NotDurable { setting, .. } if setting == "appendfsync")
    );
    let () = server.ask("CONFIG SET appendfsync always");
    server.check(&store()).unwrap();
}

#[test]
fn a_password_is_never_shown() {
    let builder = RedisNonceStore::builder("redis://user:secret@127.0.0.2:1/0");
    assert!(!format!("{builder:?}").contains("secret"));
    let store = builder.timeout(PATIENCE).build().unwrap();
    assert!(!format!("{store:?}").contains("secret"));
    let refused = Runtime::new()
        .unwrap()
        .block_on(store.check(OffsetDateTime::now_utc()))
        .unwrap_err();
    let shown = format!("{refused:?}") + &reason::<()>(Err(refused)).to_string();
    assert!(!shown.contains("secret"));
    for address in ["redis:secret", "http://:secret@host", "secret"] {
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
