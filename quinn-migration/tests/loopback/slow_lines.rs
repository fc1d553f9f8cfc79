//! Lines of 200 kB in a second, whose queues hold a third of a second: a busy client moves once, and stays.

use std::time::Duration;

use quinn_migration::{Alternate, Event, Outcome};

use crate::recovery::relayed;
use crate::support::silence::undisturbed;
use crate::support::transfer::Transfer;
use crate::support::within;

/// 200 kB in a second.
const SLOW: u32 = 1_600_000;
const FAST: u32 = 100_000_000;
/// More than the line's queue takes, so that it overflows.
const WINDOW: usize = 128 * 1024;
/// What comes over a slow line in a second, so that its queue is full.
const BEFORE: usize = 200_000;
/// What comes over a slow line in five seconds: a path whose round trip is its queue counts as silent after four.
const AFTER: usize = 1_000_000;

#[derive(Clone, Copy)]
enum Direction {
    Download,
    Upload,
}

/// Moves between lines of these rates in the middle of a transfer. Answers `false` when the client has gone back.
async fn moves_once(direction: Direction, old_rate: u32, new_rate: u32) -> bool {
    let (mut world, old, new) = relayed(Duration::ZERO, Duration::ZERO).await;
    let attachment = world.server.inner.attach(&world.theirs).unwrap();
    old.limit(old_rate);
    new.limit(new_rate);
    let transfer = match direction {
        Direction::Download => Transfer::one_way(&world.theirs, &world.ours, WINDOW).await,
        Direction::Upload => Transfer::one_way(&world.ours, &world.theirs, WINDOW).await,
    };
    transfer.progress(BEFORE).await;
    let advertised = world.advertise(Alternate::forwarded(new.address)).await;
    let outcome = within(advertised.unwrap().outcome()).await;
    assert_eq!(outcome.unwrap(), Outcome::Moved);
    transfer.progress(AFTER).await;
    transfer.finish().await;
    if world.client.stats().fell_back > 0 {
        return false;
    }
    assert_eq!(attachment.client().server, world.server.id(1));
    let stats = world.server.inner.stats();
    assert_eq!((stats.moved, stats.fell_back), (1, 0));
    world.ours.close(0u32.into(), b"");
    let mut moves = 0;
    while let Some(event) = within(world.migrator.next()).await {
        match event {
            Event::Advertised { .. } | Event::Validating { .. } => {}
            Event::Migrated { to, .. } if to == new.address => moves += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(moves, 1);
    true
}

/// In all ways at once, since they mostly wait.
async fn moves_once_between_all_lines(direction: Direction) {
    tokio::join!(
        undisturbed(|| moves_once(direction, SLOW, SLOW)),
        undisturbed(|| moves_once(direction, FAST, SLOW)),
        undisturbed(|| moves_once(direction, SLOW, FAST)),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_over_a_slow_line_moves_once_and_stays() {
    moves_once_between_all_lines(Direction::Download).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_over_a_slow_line_moves_once_and_stays() {
    moves_once_between_all_lines(Direction::Upload).await;
}
