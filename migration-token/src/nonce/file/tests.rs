//! The file store against the contract of all stores, and what only a file can do: close, fail and be wrong.
//!
//! Files are real; only faults of a disk are made by a backend that has them on demand.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};
use std::thread;

use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use tempfile::TempDir;
use time::Duration;

use super::*;
use crate::nonce::contract::clocks::{self, ClockKind};
use crate::nonce::contract::{self, HandClock, Kind};
use crate::nonce::{ClaimId, NonceKey};

const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const CAPACITY: usize = 100;

/// Stores in files of their own, in one folder, and the clock that is never set.
struct Files(TempDir, Arc<HandClock>);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap(), Arc::default())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("nonces")
    }

    fn open(&self) -> Result<FileNonceStore, FileStoreError> {
        self.open_at(0)
    }

    /// Opens it at this second of both clocks.
    fn open_at(&self, now: i64) -> Result<FileNonceStore, FileStoreError> {
        self.1.turn_to(now);
        self.open_while_the_clock_says(now)
    }

    /// Opens it while the clock that is never set is where it was.
    fn open_while_the_clock_says(&self, now: i64) -> Result<FileNonceStore, FileStoreError> {
        let now = START + Duration::seconds(now);
        FileNonceStore::open_with_monotonic(self.path(), CAPACITY, now, self.1.clone())
    }
}

impl Kind for Files {
    type Store = FileNonceStore;

    // A disk takes its time.
    const CASES: u32 = 8;

    fn empty(
        &self,
        capacity: usize,
        now: OffsetDateTime,
        clock: &Arc<HandClock>,
    ) -> FileNonceStore {
        // Open files have no need of a name.
        let _ = fs::remove_file(self.path());
        FileNonceStore::open_with_monotonic(self.path(), capacity, now, clock.clone()).unwrap()
    }

    fn live(&self, store: &FileNonceStore) -> Option<usize> {
        Some(store.len())
    }
}

/// A store on `ledger`, which can be opened again on `disk`.
fn on(
    ledger: Ledger,
    disk: Option<Disk>,
    clock: &Arc<HandClock>,
    (capacity, max_waiting): (usize, usize),
) -> Result<FileNonceStore, LedgerError> {
    let reopen = move || {
        let disk = disk.clone().ok_or(LedgerError::Foreign)?;
        Ledger::open(disk)
    };
    let age = Age {
        birth: Arc::new(ledger.life().birth(START, clock.elapsed(), &**clock)),
        clock: clock.clone(),
    };
    let on = OnLedger {
        reopen: Box::new(reopen),
        capacity,
        max_waiting,
        age,
        path: PathBuf::new(),
    };
    on.store(ledger)
}

/// Stores in files that are in memory.
struct Memory;

impl Kind for Memory {
    type Store = FileNonceStore;

    fn empty(
        &self,
        capacity: usize,
        now: OffsetDateTime,
        clock: &Arc<HandClock>,
    ) -> FileNonceStore {
        let ledger =
            Ledger::create(InMemoryBackend::new(), now, clock.elapsed(), &**clock).unwrap();
        on(ledger, None, clock, (capacity, FileNonceStore::MAX_WAITING)).unwrap()
    }

    fn live(&self, store: &FileNonceStore) -> Option<usize> {
        Some(store.len())
    }
}

#[test]
fn the_first_claim_is_first_again_and_others_wait_for_its_commit() {
    contract::the_first_claim_is_first_again_and_others_wait_for_its_commit(&Files::new());
}

#[test]
fn a_commit_without_a_claim_is_lost() {
    contract::a_commit_without_a_claim_is_lost(&Files::new());
}

#[test]
fn a_full_store_refuses_until_a_nonce_expires() {
    contract::a_full_store_refuses_until_a_nonce_expires(&Files::new());
}

#[test]
fn many_threads_that_present_the_same_nonces_commit_each_of_them_once() {
    contract::many_threads_that_present_the_same_nonces_commit_each_of_them_once(&Files::new());
}

#[test]
fn any_sequence_is_answered_as_by_a_plain_map() {
    contract::any_sequence_is_answered_as_by_a_plain_map(&Files::new());
    contract::any_sequence_is_answered_as_by_a_plain_map(&Memory);
}

impl ClockKind for Files {
    const NODES: usize = 1;
    const WORLDS: u32 = 150;
    const MARGIN: Option<i64> = None;

    fn begin(&self, _: OffsetDateTime) {
        let _ = fs::remove_file(self.path());
    }

    fn open(
        &self,
        _: usize,
        now: OffsetDateTime,
        clock: &Arc<HandClock>,
    ) -> Option<FileNonceStore> {
        let clock: Arc<dyn Monotonic> = Arc::<HandClock>::clone(clock);
        match FileNonceStore::open_with_monotonic(self.path(), 1_000, now, clock) {
            Ok(store) => Some(store),
            Err(FileStoreError::Ahead { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn close(&self, store: FileNonceStore) -> bool {
        drop(store);
        false
    }

    fn lose(&self) {
        fs::remove_file(self.path()).unwrap();
    }

    fn set_server(&self, _: OffsetDateTime) {}
}

#[test]
fn what_was_forgotten_under_a_clock_that_was_ahead_is_refused_when_it_is_back() {
    contract::what_was_forgotten_under_a_clock_that_was_ahead_is_refused_when_it_is_back(
        &Files::new(),
    );
}

#[test]
fn a_token_from_before_the_memory_or_after_its_time_is_refused() {
    contract::a_token_from_before_the_memory_or_after_its_time_is_refused(&Files::new());
}

#[test]
fn a_memory_that_began_under_a_slow_clock_begins_later_when_the_clock_is_set() {
    contract::a_memory_that_began_under_a_slow_clock_begins_later_when_the_clock_is_set(
        &Files::new(),
    );
}

#[test]
fn whatever_the_clocks_do_no_token_is_won_twice() {
    clocks::whatever_the_clocks_do_no_token_is_won_twice(&Files::new());
}

#[test]
fn no_clock_fault_that_was_seen_lets_a_token_in_again() {
    clocks::no_clock_fault_that_was_seen_lets_a_token_in_again(&Files::new());
}

fn asked(nonce: u8, id: u8) -> Claim {
    asked_at(nonce, id, 0)
}

fn asked_at(nonce: u8, id: u8, now: i64) -> Claim {
    Claim {
        nonce: NonceKey::new(&[0; 32], &[0; 32], &[nonce; 16]),
        id: ClaimId::new([id; 16]),
        issued_after: START + Duration::seconds(now),
        keep_until: START + Duration::seconds(now + 60),
        now: START + Duration::seconds(now),
    }
}

fn claim(store: &FileNonceStore, asked: Claim) -> Result<ClaimOutcome, StoreError> {
    pollster::block_on(store.claim(asked))
}

fn commit(store: &FileNonceStore, asked: Claim) -> Result<CommitOutcome, StoreError> {
    pollster::block_on(store.commit(asked))
}

#[test]
fn a_file_that_is_opened_again_knows_claims_and_commits_and_what_is_left_of_its_capacity() {
    let files = Files::new();
    let store = files.open_at(0).unwrap();
    let created = store.remembers_since();
    assert_eq!(created, Some(START));
    claim(&store, asked(1, 1)).unwrap();
    claim(&store, asked(2, 1)).unwrap();
    commit(&store, asked(2, 1)).unwrap();
    for other in 3..CAPACITY {
        claim(&store, asked(u8::try_from(other).unwrap(), 1)).unwrap();
    }
    drop(store);

    let store = files.open_at(20).unwrap();
    assert_eq!(store.remembers_since(), created);
    assert_eq!(store.len(), CAPACITY - 1);
    assert_eq!(claim(&store, asked(1, 1)).unwrap(), ClaimOutcome::First);
    assert_eq!(claim(&store, asked(1, 2)).unwrap(), ClaimOutcome::Pending);
    assert_eq!(claim(&store, asked(2, 2)).unwrap(), ClaimOutcome::Committed);
    assert_eq!(commit(&store, asked(2, 1)).unwrap(), CommitOutcome::Won);
    assert_eq!(commit(&store, asked(2, 2)).unwrap(), CommitOutcome::Lost);
    assert_eq!(claim(&store, asked(200, 1)).unwrap(), ClaimOutcome::First);
    let full = claim(&store, asked(201, 1));
    assert!(matches!(full, Err(StoreError::Full)));
    files.1.turn_to(62);
    assert_eq!(
        claim(&store, asked_at(201, 1, 62)).unwrap(),
        ClaimOutcome::First
    );
    assert_eq!(store.len(), 1);
}

#[test]
fn a_removed_file_begins_to_remember_anew() {
    let files = Files::new();
    drop(files.open_at(0).unwrap());
    fs::remove_file(files.path()).unwrap();
    let store = files.open_at(30).unwrap();
    assert_eq!(store.remembers_since(), Some(START + Duration::seconds(30)));
}

#[test]
fn a_file_made_while_the_clock_was_a_year_ahead_says_so_and_what_to_do() {
    const YEAR: i64 = 365 * 24 * 3600;
    let files = Files::new();
    drop(files.open_while_the_clock_says(YEAR).unwrap());
    let error = files.open_while_the_clock_says(60).unwrap_err();
    let FileStoreError::Ahead { until, now, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*until, START + Duration::seconds(YEAR));
    assert_eq!(*now, START + Duration::seconds(60));
    let said = error.to_string();
    assert!(said.contains("set the clock, or remove the file"), "{said}");
    // A little ahead is waited for.
    assert!(files.open_while_the_clock_says(YEAR - 600).is_ok());
    fs::remove_file(files.path()).unwrap();
    let store = files.open_while_the_clock_says(60).unwrap();
    let answer = claim(&store, asked_at(1, 1, 60)).unwrap();
    assert_eq!(answer, ClaimOutcome::First);
}

#[test]
fn a_file_knows_its_age_when_it_is_opened_again_and_after_a_start_of_the_machine_what_it_was() {
    let files = Files::new();
    // Made under a clock that is slow by 600 seconds.
    drop(files.open_while_the_clock_says(0).unwrap());
    files.1.turn_to(50);
    // Closed for all this time, and set meanwhile.
    let store = files.open_while_the_clock_says(650).unwrap();
    let since = Some(START + Duration::seconds(600));
    assert_eq!(store.remembers_since(), since);
    drop(store);
    files.1.start_anew();
    files.1.turn_to(7);
    // Fifty seconds of age are known, and how long the machine was down is not.
    let store = files.open_while_the_clock_says(700).unwrap();
    let since = Some(START + Duration::seconds(650));
    assert_eq!(store.remembers_since(), since);
}

#[test]
fn a_file_is_its_owners_alone_and_nothing_else_is_left_in_its_folder() {
    let files = Files::new();
    let _store = files.open().unwrap();
    let mode = fs::metadata(files.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(files.0.path()).unwrap().count(), 1);
}

#[test]
fn a_file_is_open_once() {
    let files = Files::new();
    let store = files.open().unwrap();
    assert!(matches!(files.open(), Err(FileStoreError::InUse { .. })));
    drop(store);
    files.open().unwrap();
}

#[test]
fn another_file_is_not_taken_for_a_nonce_file_and_is_left_alone() {
    let files = Files::new();
    let database = redb::Database::create(files.path()).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = redb::TableDefinition::<u8, u8>::new("another");
    transaction.open_table(table).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let of_redb = fs::read(files.path()).unwrap();
    let of_text = b"a file of another program\n".repeat(1_000);
    for content in [&[][..], b"x", &of_text, &of_redb] {
        fs::write(files.path(), content).unwrap();
        let opened = files.open();
        assert!(
            matches!(opened, Err(FileStoreError::NotANonceFile { .. })),
            "{opened:?}"
        );
        assert!(content.len() == of_redb.len() || fs::read(files.path()).unwrap() == content);
    }
}

#[test]
fn a_damaged_file_is_refused() {
    let files = Files::new();
    let store = files.open().unwrap();
    for nonce in 0..100 {
        claim(&store, asked(nonce, 1)).unwrap();
    }
    drop(store);
    let whole = fs::read(files.path()).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let mut refused = 0;
    // Some bytes of the header, and some of each page.
    for place in (0..320).step_by(16).chain((4096..used).step_by(4096)) {
        let mut damaged = whole.clone();
        let len = if place < 4096 { 1 } else { 4096 };
        for byte in damaged.iter_mut().skip(place).take(len) {
            *byte ^= 0x5a;
        }
        fs::write(files.path(), damaged).unwrap();
        match files.open() {
            Err(FileStoreError::Damaged { .. } | FileStoreError::NotANonceFile { .. }) => {
                refused += 1;
            }
            // A place that is not in use, or that can be restored: nothing is forgotten.
            Ok(store) => {
                for nonce in 0..100 {
                    let claimed = claim(&store, asked(nonce, 2)).unwrap();
                    assert_eq!(claimed, ClaimOutcome::Pending, "{place}");
                }
            }
            Err(error) => panic!("{place}: {error:?}"),
        }
    }
    assert!(refused > 0);
    fs::write(files.path(), &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(files.open(), Err(FileStoreError::Damaged { .. })));
}

#[test]
fn a_file_that_cannot_be_made_is_an_error_of_the_system() {
    let files = Files::new();
    let nowhere = files.path().join("nonces");
    let opened = FileNonceStore::open(nowhere, CAPACITY, START);
    assert!(matches!(opened, Err(FileStoreError::Io { .. })));
}

#[test]
fn a_request_whose_future_is_dropped_blocks_nothing() {
    let files = Files::new();
    let store = files.open().unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..100 {
        // One that has not begun, and one that may be anywhere.
        drop(store.claim(asked(1, 1)));
        let mut begun = store.claim(asked(2, 1));
        let _ = begun.as_mut().poll(&mut cx);
    }
    assert_eq!(claim(&store, asked(1, 2)).unwrap(), ClaimOutcome::First);
    assert_ne!(claim(&store, asked(2, 2)).unwrap(), ClaimOutcome::Committed);
}

/// A disk in memory whose faults the test chooses.
#[derive(Clone, Debug, Default)]
struct Disk {
    content: Arc<InMemoryBackend>,
    /// Writes and syncs fail with this.
    fault: Arc<Mutex<Option<io::ErrorKind>>>,
    /// Syncs wait while this is locked.
    slow: Arc<Mutex<()>>,
    sync_begun: Arc<AtomicBool>,
    synced: Arc<AtomicBool>,
}

impl Disk {
    fn fails_with(&self, fault: impl Into<Option<io::ErrorKind>>) {
        *self.fault.lock().unwrap() = fault.into();
    }

    fn check(&self) -> io::Result<()> {
        let fault = *self.fault.lock().unwrap();
        fault.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn store(&self, max_waiting: usize) -> FileNonceStore {
        let clock: Arc<HandClock> = Arc::default();
        drop(Ledger::create(self.clone(), START, clock.elapsed(), &*clock).unwrap());
        let ledger = Ledger::open(self.clone()).unwrap();
        on(ledger, Some(self.clone()), &clock, (CAPACITY, max_waiting)).unwrap()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.content.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.content.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.content.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_begun.store(true, Ordering::SeqCst);
        drop(self.slow.lock().unwrap());
        self.check()?;
        self.synced.store(true, Ordering::SeqCst);
        self.content.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.content.write(offset, data)
    }
}

#[test]
fn without_room_nothing_is_accepted_and_with_room_the_store_goes_on() {
    let disk = Disk::default();
    let store = disk.store(10);
    claim(&store, asked(1, 1)).unwrap();
    for kind in [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::FileTooLarge,
    ] {
        disk.fails_with(kind);
        for _ in 0..3 {
            let committed = commit(&store, asked(1, 1));
            assert!(matches!(committed, Err(StoreError::Unavailable(_))));
            let claimed = claim(&store, asked(2, 1));
            assert!(matches!(claimed, Err(StoreError::Unavailable(_))));
        }
        disk.fails_with(None);
        assert_eq!(claim(&store, asked(1, 2)).unwrap(), ClaimOutcome::Pending);
    }
    assert_eq!(claim(&store, asked(2, 2)).unwrap(), ClaimOutcome::First);
    assert_eq!(commit(&store, asked(1, 1)).unwrap(), CommitOutcome::Won);
}

#[test]
fn after_a_failed_write_nothing_is_accepted_until_the_store_is_opened_anew() {
    let disk = Disk::default();
    let store = disk.store(10);
    claim(&store, asked(1, 1)).unwrap();
    disk.fails_with(io::ErrorKind::Other);
    let committed = commit(&store, asked(1, 1));
    assert!(matches!(committed, Err(StoreError::Unavailable(_))));
    disk.fails_with(None);
    for nonce in [1, 2] {
        let claimed = claim(&store, asked(nonce, 1));
        assert!(matches!(claimed, Err(StoreError::Unavailable(_))));
    }
    drop(store);
    let ledger = Ledger::open(disk).unwrap();
    let store = on(ledger, None, &Arc::default(), (CAPACITY, 10)).unwrap();
    assert_ne!(claim(&store, asked(1, 2)).unwrap(), ClaimOutcome::First);
}

#[test]
fn nothing_is_answered_before_it_is_synced_and_what_does_not_fit_in_the_queue_is_refused_at_once() {
    const MAX_WAITING: usize = 4;
    let disk = Disk::default();
    let store = disk.store(MAX_WAITING);
    let slow = disk.slow.lock().unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    disk.sync_begun.store(false, Ordering::SeqCst);
    let mut claim_anew = |nonce| {
        let mut claim = store.claim(asked(nonce, 1));
        let answer = claim.as_mut().poll(&mut cx);
        (claim, answer)
    };
    let (first, answer) = claim_anew(0);
    assert!(answer.is_pending());
    // From here the writer has taken the first, and takes nothing more from the queue.
    while !disk.sync_begun.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    let mut waiting = vec![first];
    for nonce in 1..=MAX_WAITING {
        let (claim, answer) = claim_anew(u8::try_from(nonce).unwrap());
        assert!(answer.is_pending());
        waiting.push(claim);
    }
    for _ in 0..3 {
        let (_, answer) = claim_anew(u8::MAX);
        assert!(matches!(answer, Poll::Ready(Err(StoreError::Busy))));
    }
    for claim in &mut waiting {
        assert!(claim.as_mut().poll(&mut cx).is_pending());
    }
    drop(slow);
    for claim in waiting {
        assert_eq!(pollster::block_on(claim).unwrap(), ClaimOutcome::First);
    }
}

#[test]
fn an_answer_that_changes_nothing_costs_no_sync() {
    let disk = Disk::default();
    let store = disk.store(10);
    claim(&store, asked(1, 1)).unwrap();
    assert!(disk.synced.swap(false, Ordering::SeqCst));
    claim(&store, asked(1, 2)).unwrap();
    commit(&store, asked(2, 2)).unwrap();
    assert!(!disk.synced.load(Ordering::SeqCst));
}
