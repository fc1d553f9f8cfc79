//! A nonce file whose process is killed in the middle of its work, time and again: nothing that it has said is taken back.
//!
//! The process is real and so is SIGKILL.

use std::path::Path;

use migration_tests::presentations::{Plan, Presentation, Told};
use migration_token::{
    ClaimOutcome, CommitOutcome, FileNonceStore, FileStoreError, NonceStore as _,
};
use time::OffsetDateTime;

const PRESENT: &str = env!("CARGO_BIN_EXE_present");

/// A connection that no process has.
const OTHER: u64 = 0;

fn open(path: &Path) -> Result<FileNonceStore, FileStoreError> {
    FileNonceStore::open(
        path,
        FileNonceStore::DEFAULT_CAPACITY,
        OffsetDateTime::now_utc(),
    )
}

/// Checks all that has ever been told.
async fn nothing_is_taken_back(store: &FileNonceStore, told: &Told) {
    for presentation in &told.first {
        let claim = presentation.claim();
        let other = Presentation {
            id: OTHER,
            ..*presentation
        };
        let answer = store.claim(other.claim()).await.unwrap();
        assert_ne!(answer, ClaimOutcome::First, "{presentation:?}");
        // The connection itself is still the first, unless the nonce is spent.
        let answer = store.claim(claim).await.unwrap();
        assert_ne!(answer, ClaimOutcome::Pending, "{presentation:?}");
    }
    for presentation in &told.won {
        let other = Presentation {
            id: OTHER,
            ..*presentation
        };
        let answer = store.claim(other.claim()).await.unwrap();
        assert_eq!(answer, ClaimOutcome::Committed, "{presentation:?}");
        let answer = store.commit(other.claim()).await.unwrap();
        assert_eq!(answer, CommitOutcome::Lost, "{presentation:?}");
        let answer = store.commit(presentation.claim()).await.unwrap();
        assert_eq!(answer, CommitOutcome::Won, "{presentation:?}");
    }
}

#[tokio::test]
async fn a_process_killed_at_any_moment_leaves_every_nonce_as_it_was_told() {
    const ROUNDS: u64 = 30;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nonces");
    let name = format!("file:{}", path.display());
    let created = open(&path).unwrap().remembers_since().unwrap();
    let mut told = Told::default();
    for round in 0..ROUNDS {
        let plan = Plan {
            from: round * 1_000_000,
            nonces: 1_000_000,
            times: 2,
            tasks: 16,
            leave_odd: true,
        };
        let mut process = plan.start(PRESENT, &name).await;
        process.say("begin\n").await;
        // From at once, while it opens the file, to long after it has begun.
        let lines = usize::try_from(round * round * 7 % 400).unwrap();
        process.until_lines(lines).await;
        told.add(&process.kill().await);
        let store = open(&path).unwrap();
        let since = store.remembers_since().unwrap();
        // As precisely as the process tells the time to the store.
        assert!((since - created).abs() < time::Duration::SECOND, "{since}");
        nothing_is_taken_back(&store, &told).await;
    }
    assert!(told.first.len() > 1_000 && told.won.len() > 500);
}

#[tokio::test]
async fn a_file_that_another_process_has_open_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nonces");
    let plan = Plan {
        from: 0,
        nonces: 1,
        times: 1,
        tasks: 1,
        leave_odd: false,
    };
    let mut process = plan
        .start(PRESENT, &format!("file:{}", path.display()))
        .await;
    process.until("ready\n").await;
    assert!(matches!(open(&path), Err(FileStoreError::InUse { .. })));
    process.kill().await;
    open(&path).unwrap();
}
