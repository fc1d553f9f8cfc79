//! Applications that fill quinn's datagram buffer, as a MASQUE proxy does: their connections move too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quinn::Connection;
use quinn_migration::{AdvertiseError, Alternate, Event, Failure, Outcome};
use tokio::task::JoinSet;

use crate::support::relay::Relay;
use crate::support::silence::decided;
use crate::support::{Identity, Server, World, client, until, within};

const RATE: u32 = 20_000_000;
const DELAY: Duration = Duration::from_millis(10);
const SIZE: usize = 1100;

/// Keeps the buffer full: waits for room, or pushes the oldest ones out.
async fn fill(from: Connection, stop: Arc<AtomicBool>, waits: bool) {
    let mut number = 0u64;
    while !stop.load(Ordering::SeqCst) {
        let mut datagram = vec![0; SIZE];
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        number += 1;
        if waits {
            from.send_datagram_wait(datagram.into()).await.unwrap();
        } else {
            from.send_datagram(datagram.into()).unwrap();
            if number.is_multiple_of(12) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

async fn drain(at: Connection, stop: Arc<AtomicBool>) -> u64 {
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        if at.read_datagram().await.is_err() {
            break;
        }
        count += 1;
    }
    count
}

/// Where datagrams push each other out, an advertisement or a challenge may find no way out in its time. Then the server
/// advertises again.
async fn move_to(world: &mut World, to: SocketAddr, waits: bool) {
    if waits {
        world.move_to(to).await;
        return;
    }
    for attempt in 1.. {
        let advertised = world.advertise(Alternate::forwarded(to)).await;
        if attempt <= 3 && matches!(advertised, Err(AdvertiseError::NotAcknowledged)) {
            continue;
        }
        let advertised = advertised.unwrap();
        let (event, disturbed) = decided(&mut world.migrator).await;
        match event {
            Event::Migrated { to: reached, .. } if reached == to => {
                assert_eq!(within(advertised.outcome()).await.unwrap(), Outcome::Moved);
                return;
            }
            Event::Failed { reason, .. }
                if attempt <= 3 && (disturbed || reason == Failure::NotSent) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn moves_under_load(waits: bool) {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let [one, other] = Relay::pair(&server, [DELAY; 2]).await;
    one.limit(RATE);
    other.limit(RATE);
    let mut world = World::between(server, client(&identity), one.address).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for (from, to) in [(&world.ours, &world.theirs), (&world.theirs, &world.ours)] {
        tasks.spawn(fill(from.clone(), stop.clone(), waits));
        tasks.spawn({
            let drain = drain(to.clone(), stop.clone());
            async { assert!(drain.await > 0) }
        });
    }
    for hop in 1..=4 {
        let to = [one.address, other.address][hop % 2];
        until("the buffer is full", || {
            world.ours.datagram_send_buffer_space() < 8 * SIZE
        })
        .await;
        move_to(&mut world, to, waits).await;
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = within(tasks.join_next()).await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_datagrams_wait_for_room_moves() {
    moves_under_load(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_datagrams_push_each_other_out_moves() {
    moves_under_load(false).await;
}
