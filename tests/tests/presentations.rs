//! The same tokens presented over and over by several tasks of two processes: each is spent once.
//!
//! Stores are the real ones; only what stands before them, the handshake, is left out.

use migration_tests::presentations::{Plan, Told};
use migration_tests::program::Program;
use migration_tests::redis::RedisServer;

const PRESENT: &str = env!("CARGO_BIN_EXE_present");

/// Each of two processes presents each of 1,000 nonces 50 times: 100,000 presentations.
const PLAN: Plan = Plan {
    from: 0,
    nonces: 1_000,
    times: 50,
    tasks: 200,
    leave_odd: false,
};

/// Runs the plan in two processes, the first on `store`, the second on what the first owns.
async fn each_nonce_is_spent_once(store: &str) {
    let mut one = PLAN.start(PRESENT, store).await;
    let owner = one.line_after("listening ").await;
    let two = PLAN.start(PRESENT, &owner).await;
    each_nonce_is_spent_once_by(one, two).await;
}

async fn each_nonce_is_spent_once_by(mut one: Program, mut two: Program) {
    for process in [&mut one, &mut two] {
        process.until("ready\n").await;
    }
    for process in [&mut one, &mut two] {
        process.say("begin\n").await;
    }
    for process in [&mut one, &mut two] {
        process.until("presented 50000\n").await;
    }
    let mut told = Told::default();
    for process in [two, one] {
        told.add(&process.finish().await);
    }
    let all: Vec<u64> = (0..PLAN.nonces).collect();
    for answered in [told.first, told.won] {
        let nonces: Vec<u64> = answered.iter().map(|told| told.nonce).collect();
        assert_eq!(nonces, all);
    }
}

#[tokio::test]
async fn two_processes_that_present_to_a_memory_store_spend_each_nonce_once() {
    each_nonce_is_spent_once("memory").await;
}

#[tokio::test]
async fn two_processes_that_present_to_a_file_store_spend_each_nonce_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nonces");
    each_nonce_is_spent_once(&format!("file:{}", path.display())).await;
}

#[tokio::test]
async fn two_processes_that_share_a_redis_store_spend_each_nonce_once() {
    let server = RedisServer::start(&[]).await;
    let store = format!("redis://{}", server.address());
    let one = PLAN.start(PRESENT, &store).await;
    let two = PLAN.start(PRESENT, &store).await;
    each_nonce_is_spent_once_by(one, two).await;
}
