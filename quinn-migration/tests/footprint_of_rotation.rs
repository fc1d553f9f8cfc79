//! What rotation leaves behind: nothing. A binary of its own, because it counts what the process holds. The long form is
//! `tools/rotation-cost` (issue 12, must show 5; fault 11: two descriptors for each address).
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::wildcard_enum_match_arm,
    reason = "test code fails by panicking"
)]

#[path = "loopback/support/mod.rs"]
mod support;

use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use quinn_migration::{Rotation, RotationProgress};
use support::transfer::Transfer;
use support::{World, bind, memory, open_files, until, within};

/// Says in a process of its own that the namespace is there.
const INSIDE: &str = "FOOTPRINT_OF_ROTATION_INSIDE";
const NAME: &str = "over_a_64_in_a_network_namespace_rotation_keeps_descriptors_and_memory_flat";

/// Moves one connection, which carries a transfer, 100 times over `prefix`.
async fn rotate(addresses: &[&str], any: &str, prefix: &str) {
    let world = World::on(addresses).await;
    let server = &world.server.inner;
    let pool = server
        .add_pool(bind(any), &prefix.parse().unwrap())
        .unwrap();
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let rotation = Rotation::over([&pool])
        .every(Duration::from_millis(10))
        .jitter(Duration::from_millis(5))
        .linger(Duration::from_millis(50));
    let files = open_files();
    let rotating = server.rotate(&world.theirs, rotation);
    let mut progress = rotating.watch();
    let mut held = Vec::new();
    for moves in (10..=100).step_by(10) {
        let enough = |progress: &RotationProgress| progress.moved >= moves;
        within(progress.wait_for(enough)).await.unwrap();
        transfer.progress(16 << 10).await;
        held.push((memory(), open_files(), server.stats().addresses_now));
    }
    for (_, open, served) in &held {
        // The client's sockets: the path in use, the one before, one under validation, one that is being closed.
        assert!(
            *open <= files + 4,
            "{files} descriptors before, then {held:?}"
        );
        assert!(*served <= 12, "{held:?}");
    }
    let growth = held[held.len() - 1]
        .0
        .saturating_sub(held[held.len() / 2].0);
    assert!(growth < 4 * 1024, "memory grew by {growth} KiB: {held:?}");
    drop(rotating);
    transfer.check().await;
    until("old addresses are gone", || {
        server.stats().addresses_now <= 3
    })
    .await;
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().worker_threads(2).build().unwrap();
    runtime.block_on(work);
}

/// One at a time: each counts what the process holds.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn rotation_keeps_descriptors_and_memory_flat() {
    let _alone = ALONE.lock();
    run(rotate(
        &["127.0.0.2:0", "127.0.0.3:0"],
        "0.0.0.0:0",
        "127.64.0.0/10",
    ));
}

/// It was two (fault 11).
#[test]
fn an_address_with_a_socket_of_its_own_costs_one_descriptor() {
    let _alone = ALONE.lock();
    run(async {
        let mut world = World::new().await;
        let files = open_files();
        for _ in 0..64 {
            world.server.add("127.0.0.9:0");
        }
        assert_eq!(open_files(), files + 64);
        world.move_to(world.server.address(40)).await;
        world.echo().await;
    });
}

/// A namespace with a /64 that is routed to it, removed when dropped.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        let namespace = Self(format!("rotation-{}", std::process::id()));
        namespace.ip(&["netns", "add", &namespace.0]);
        for arguments in [
            "link set lo up",
            "-6 address add 2001:db8:1::1/64 dev lo nodad",
            "-6 address add 2001:db8:1::2/64 dev lo nodad",
            "-6 route add local 2001:db8:2::/64 dev lo",
        ] {
            let mut all = vec!["-n", &namespace.0];
            all.extend(arguments.split(' '));
            namespace.ip(&all);
        }
        namespace
    }

    fn ip(&self, arguments: &[&str]) {
        let ended = Command::new("ip").args(arguments).status();
        let ended = ended.expect("ip is missing; install it: apt-get install iproute2");
        assert!(ended.success(), "ip {arguments:?} failed; it needs root");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.ip(&["netns", "del", &self.0]);
    }
}

#[test]
fn over_a_64_in_a_network_namespace_rotation_keeps_descriptors_and_memory_flat() {
    if std::env::var_os(INSIDE).is_some() {
        let addresses = ["[2001:db8:1::1]:0", "[2001:db8:1::2]:0"];
        return run(rotate(&addresses, "[::]:0", "2001:db8:2::/64"));
    }
    let _alone = ALONE.lock();
    let namespace = Namespace::new();
    let ended = Command::new("ip")
        .args(["netns", "exec", &namespace.0])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    assert!(ended.unwrap().success());
}
