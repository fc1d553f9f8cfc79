//! Paths that are slower, smaller, or silent to a client that only listens.

use std::sync::atomic::Ordering;
use std::time::Duration;

use quinn_migration::{Alternate, Event, FollowPolicy, Outcome};

use crate::recovery::relayed;
use crate::support::relay::Relay;
use crate::support::silence::{returned, undisturbed};
use crate::support::transfer::Transfer;
use crate::support::{World, settled, tireless, until, within};

/// Sends in one direction, as fast as it can, for as long as the connection lives.
pub async fn flood(from: &quinn::Connection, to: &quinn::Connection) {
    let mut up = from.open_uni().await.unwrap();
    up.write_all(&[0]).await.unwrap();
    let mut down = within(to.accept_uni()).await.unwrap();
    tokio::spawn(async move { while up.write_all(&[0; 16384]).await.is_ok() {} });
    tokio::spawn(async move { while let Ok(Some(_)) = down.read_chunk(65536, false).await {} });
}

/// quinn takes a challenge that 128 later packets have overtaken for a duplicate.
async fn busy_move_to_a_slower_path(new_delay: u64, up: bool, down: bool) {
    let (mut world, old, new) =
        relayed(Duration::from_millis(1), Duration::from_millis(new_delay)).await;
    old.limit(100_000_000);
    new.limit(100_000_000);
    if up {
        flood(&world.ours, &world.theirs).await;
    }
    if down {
        flood(&world.theirs, &world.ours).await;
    }
    let started = old.up.passed.load(Ordering::SeqCst);
    until("packets leave on the old path", || {
        old.up.passed.load(Ordering::SeqCst) > started + 1000
    })
    .await;
    world
        .advertise(Alternate::forwarded(new.address))
        .await
        .unwrap();
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(event, Event::Migrated { to, .. } if to == new.address),
        "{new_delay} ms, up {up}, down {down}: {event:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_upload_moves_to_a_clearly_slower_path() {
    for delay in [20, 60] {
        busy_move_to_a_slower_path(delay, true, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_download_moves_to_a_clearly_slower_path() {
    for delay in [20, 60] {
        busy_move_to_a_slower_path(delay, false, true).await;
    }
}

/// quinn's datagrams have 1452 bytes on the old path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_takes_smaller_datagrams_only_is_moved_to() {
    for download in [false, true] {
        let (mut world, _old, new) = relayed(Duration::ZERO, Duration::ZERO).await;
        for line in [&new.up, &new.down] {
            line.largest.store(1350, Ordering::SeqCst);
        }
        if download {
            flood(&world.theirs, &world.ours).await;
        }
        world.move_to(new.address).await;
        let before = new.down.passed.load(Ordering::SeqCst);
        world.echo().await;
        if download {
            until("the download goes on", || {
                new.down.passed.load(Ordering::SeqCst) > before + 500
            })
            .await;
        }
    }
}

/// Its packets need no answer, so their silence tells nothing by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_only_listens_notices_a_dead_path() {
    let (mut world, old, new) = relayed(Duration::ZERO, Duration::ZERO).await;
    world.move_to(new.address).await;
    world.echo().await;
    for number in 0..20 {
        world
            .theirs
            .send_datagram(vec![number; 100].into())
            .unwrap();
        within(world.ours.read_datagram()).await.unwrap();
    }
    new.silence();
    let event = returned(&mut world.migrator).await;
    assert!(
        matches!(event, Event::FellBack { to, .. } if to == old.address),
        "{event:?}"
    );
    // The server learns of it by the client's packets.
    world.echo().await;
    world.theirs.send_datagram(b"there"[..].into()).unwrap();
    assert_eq!(
        within(world.ours.read_datagram()).await.unwrap(),
        &b"there"[..]
    );
}

/// The client keeps what is advertised until its path falls silent.
async fn keeping(world: World) -> World {
    drop(world.migrator);
    let mut policy = tireless();
    policy.follow = FollowPolicy::OnSilence;
    let migrator = loop {
        if let Ok(migrator) = world.client.attach(&world.ours, policy.clone()) {
            break migrator;
        }
        tokio::task::yield_now().await;
    };
    World { migrator, ..world }
}

/// Moves after the block. Answers `false` when the client has asked the alternate before.
async fn moves_to_a_kept_alternate(busy: bool) -> bool {
    let (world, old, new) = relayed(Duration::ZERO, Duration::ZERO).await;
    let mut world = keeping(world).await;
    let transfer = if busy {
        Some(Transfer::start(&world.ours, &world.theirs).await)
    } else {
        None
    };
    let advertised = world
        .advertise(Alternate::forwarded(new.address))
        .await
        .unwrap();
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(event, Event::Kept { target, .. } if target == new.address),
        "{event:?}"
    );
    for _ in 0..3 {
        world.echo().await;
    }
    // Not even a challenge.
    if new.up.passed.load(Ordering::SeqCst) > 0 {
        return false;
    }
    old.silence();
    let event = async {
        if busy {
            return returned(&mut world.migrator).await;
        }
        // An idle client notices when it has something to say.
        let (ours, theirs) = (world.ours.clone(), world.theirs.clone());
        tokio::join!(returned(&mut world.migrator), async move {
            crate::support::echo(&ours, &theirs).await
        })
        .0
    }
    .await;
    assert!(
        matches!(event, Event::Migrated { to, .. } if to == new.address),
        "{event:?}"
    );
    assert_eq!(within(advertised.outcome()).await.unwrap(), Outcome::Moved);
    if let Some(transfer) = transfer {
        transfer.check().await;
    }
    world.echo().await;
    true
}

/// The alternate waits until the path in use is silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_alternate_is_followed_when_the_path_falls_silent() {
    for busy in [false, true] {
        undisturbed(|| moves_to_a_kept_alternate(busy)).await;
    }
}

/// A censor that lets every new address live for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_survives_one_dying_path_after_another() {
    let (mut world, old, _) = relayed(Duration::ZERO, Duration::ZERO).await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let server = world.server.address(1);
    for number in 0..8 {
        let listen = format!("127.0.1.{}:0", 10 + number);
        let doomed = Relay::start(&listen, server, Duration::ZERO).await;
        doomed.die_after(400 + 100 * number);
        world
            .advertise(Alternate::forwarded(doomed.address))
            .await
            .unwrap();
        let event = settled(&mut world.migrator).await;
        assert!(
            matches!(event, Event::Migrated { to, .. } if to == doomed.address),
            "{number}: {event:?}"
        );
        let event = returned(&mut world.migrator).await;
        assert!(
            matches!(event, Event::FellBack { from, to, .. } if from == doomed.address && to == old.address),
            "{number}: {event:?}"
        );
        transfer.progress(256 << 10).await;
    }
    transfer.check().await;
    assert_eq!(world.client.open_sockets(), 1);
}

/// A censor that lets every address live for a while, the first one too. The server tells the next one in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_survives_the_death_of_every_path_when_it_knows_the_next_one() {
    let (world, first, _) = relayed(Duration::ZERO, Duration::ZERO).await;
    let mut world = keeping(world).await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let server = world.server.address(1);
    let mut alive = first;
    for number in 0..5 {
        let listen = format!("127.0.1.{}:0", 40 + number);
        let next = Relay::start(&listen, server, Duration::ZERO).await;
        let told = world.advertise(Alternate::forwarded(next.address)).await;
        told.unwrap();
        let event = settled(&mut world.migrator).await;
        assert!(
            matches!(event, Event::Kept { target, .. } if target == next.address),
            "{number}: {event:?}"
        );
        transfer.progress(256 << 10).await;
        alive.silence();
        let event = returned(&mut world.migrator).await;
        assert!(
            matches!(event, Event::Migrated { to, .. } if to == next.address),
            "{number}: {event:?}"
        );
        alive = next;
    }
    transfer.check().await;
}
