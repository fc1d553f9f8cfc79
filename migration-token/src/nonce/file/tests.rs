//! The file store against the contract of all stores, and what only a file can do: close, fail and be wrong.
//!
//! Files are real; only faults of a disk are made by a backend that has them on demand.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};

use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use tempfile::TempDir;
use time::Duration;

use super::*;
use crate::nonce::contract::{self, Kind};
use crate::nonce::{ClaimId, NonceKey};

const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const CAPACITY: usize = 100;

/// Stores in files of their own, in one folder.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("nonces")
    }

    fn open(&self) -> Result<FileNonceStore, FileStoreError> {
        self.open_at(0)
    }

    fn open_at(&self, now: i64) -> Result<FileNonceStore, FileStoreError> {
        FileNonceStore::open(self.path(), CAPACITY, START + Duration::seconds(now))
    }
}

impl Kind for Files {
    type Store = FileNonceStore;

    // A disk takes its time.
    const CASES: u32 = 8;

    fn empty(&self, capacity: usize) -> FileNonceStore {
        // Open files have no need of a name.
        let _ = fs::remove_file(self.path());
        FileNonceStore::open(self.path(), capacity, START).unwrap()
    }

    fn live(&self, store: &FileNonceStore) -> Option<usize> {
        Some(store.len())
    }
}

/// Stores in files that are in memory.
struct Memory;

impl Kind for Memory {
    type Store = FileNonceStore;

    fn empty(&self, capacity: usize) -> FileNonceStore {
        let ledger = Ledger::create(InMemoryBackend::new(), START).unwrap();
        let reopen = || Err(LedgerError::Foreign);
        FileNonceStore::on(
            ledger,
            Box::new(reopen),
            capacity,
            FileNonceStore::MAX_WAITING,
            PathBuf::new(),
        )
        .unwrap()
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

fn asked(nonce: u8, id: u8) -> Claim {
    asked_at(nonce, id, 0)
}

fn asked_at(nonce: u8, id: u8, now: i64) -> Claim {
    Claim {
        nonce: NonceKey::new(&[0; 32], &[0; 32], &[nonce; 16]),
        id: ClaimId::new([id; 16]),
        issued_after: START,
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
    let store = files.open_at(7).unwrap();
    let created = store.remembers_since();
    assert_eq!(created, Some(START + Duration::seconds(7)));
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
        drop(Ledger::create(self.clone(), START).unwrap());
        let open = {
            let disk = self.clone();
            move || Ledger::open(disk.clone())
        };
        let ledger = open().unwrap();
        FileNonceStore::on(
            ledger,
            Box::new(open),
            CAPACITY,
            max_waiting,
            PathBuf::new(),
        )
        .unwrap()
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
    let reopen = || Err(LedgerError::Foreign);
    let store = FileNonceStore::on(ledger, Box::new(reopen), CAPACITY, 10, PathBuf::new()).unwrap();
    assert_ne!(claim(&store, asked(1, 2)).unwrap(), ClaimOutcome::First);
}

#[test]
fn nothing_is_answered_before_it_is_synced_and_what_does_not_fit_in_the_queue_is_refused_at_once() {
    const MAX_WAITING: usize = 4;
    let disk = Disk::default();
    let store = disk.store(MAX_WAITING);
    let slow = disk.slow.lock().unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let mut waiting = Vec::new();
    let mut busy = 0;
    // The writer takes some away from the queue before it waits for the disk, at most once.
    while busy < 3 * MAX_WAITING {
        let nonce = u8::try_from(waiting.len()).unwrap();
        let mut claim = store.claim(asked(nonce, 1));
        match claim.as_mut().poll(&mut cx) {
            Poll::Pending => waiting.push(claim),
            Poll::Ready(answer) => {
                assert!(matches!(answer, Err(StoreError::Busy)));
                busy += 1;
            }
        }
    }
    assert!((MAX_WAITING..=2 * MAX_WAITING + 1).contains(&waiting.len()));
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
