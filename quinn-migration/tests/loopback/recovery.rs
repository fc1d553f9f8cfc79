//! Loss, delay and dead paths: each recovers as documented.

use std::sync::atomic::Ordering;
use std::time::Duration;

use quinn_migration::{Alternate, Event, Failure, Outcome};

use crate::support::relay::Relay;
use crate::support::transfer::Transfer;
use crate::support::{Identity, Server, World, client, settled, until, within};

/// A world in which the client reaches both server addresses through relays.
async fn relayed(old: Duration, new: Duration) -> (World, Relay, Relay) {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let old = Relay::start("127.0.1.2:0", server.address(0), old).await;
    let new = Relay::start("127.0.1.3:0", server.address(1), new).await;
    let world = World::between(server, client(&identity), old.address).await;
    // Handshake leftovers (tickets, connection IDs, path MTU probes) must not be taken for what a test loses.
    world.echo().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    (world, old, new)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_advertisement_is_sent_again() {
    let (mut world, old, new) = relayed(Duration::ZERO, Duration::ZERO).await;
    old.down.lose_next.store(2, Ordering::SeqCst);
    let advertised = world
        .server
        .inner
        .advertise(&world.theirs, Alternate::from(new.address))
        .await
        .unwrap();
    assert!(advertised.packets() > 1, "nothing was lost: {advertised:?}");
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(event, Event::Migrated { to, .. } if to == new.address),
        "{event:?}"
    );
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_acknowledgement_does_not_make_the_client_move_twice() {
    let (mut world, old, new) = relayed(Duration::ZERO, Duration::ZERO).await;
    old.up.lose_next.store(1, Ordering::SeqCst);
    let advertised = world
        .server
        .inner
        .advertise(&world.theirs, Alternate::from(new.address))
        .await
        .unwrap();
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(event, Event::Migrated { to, .. } if to == new.address),
        "{event:?}"
    );
    assert_eq!(within(advertised.outcome()).await.unwrap(), Outcome::Moved);
    world.echo().await;
    world.ours.close(0u32.into(), b"");
    while let Some(event) = within(world.migrator.next()).await {
        assert!(
            !matches!(event, Event::Migrated { .. } | Event::Refused { .. }),
            "{event:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_challenge_is_sent_again() {
    let (mut world, _old, new) = relayed(Duration::ZERO, Duration::ZERO).await;
    new.up.lose_next.store(2, Ordering::SeqCst);
    world
        .server
        .inner
        .advertise(&world.theirs, Alternate::from(new.address))
        .await
        .unwrap();
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(event, Event::Migrated { to, challenges: 3, .. } if to == new.address),
        "{event:?}"
    );
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_response_leads_to_another_challenge() {
    let (mut world, _old, new) = relayed(Duration::ZERO, Duration::ZERO).await;
    new.down.lose_next.store(1, Ordering::SeqCst);
    world
        .server
        .inner
        .advertise(&world.theirs, Alternate::from(new.address))
        .await
        .unwrap();
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(event, Event::Migrated { to, challenges: 2, .. } if to == new.address),
        "{event:?}"
    );
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_does_not_answer_is_given_up_and_a_second_one_works() {
    let mut world = World::new().await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let nobody = "127.0.0.77:9".parse().unwrap();
    let advertised = world
        .server
        .inner
        .advertise(&world.theirs, Alternate::v4(nobody))
        .await
        .unwrap();
    let event = settled(&mut world.migrator).await;
    let unreachable = Failure::Unreachable { challenges: 3 };
    assert!(
        matches!(event, Event::Failed { reason, .. } if reason == unreachable),
        "{event:?}"
    );
    assert_eq!(
        within(advertised.outcome()).await.unwrap(),
        Outcome::Declined
    );
    assert_eq!(
        world.server.inner.client_of(&world.theirs).server,
        world.server.id(0)
    );
    let to = world.server.address(1);
    world.move_to(to).await;
    transfer.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_failures_in_a_row_do_not_use_up_the_connection_ids() {
    let mut world = World::new().await;
    let nobody = Alternate::v4("127.0.0.77:9".parse().unwrap());
    for _ in 0..7 {
        let advertised = world
            .server
            .inner
            .advertise(&world.theirs, nobody)
            .await
            .unwrap();
        let event = settled(&mut world.migrator).await;
        assert!(matches!(event, Event::Failed { .. }), "{event:?}");
        assert_eq!(
            within(advertised.outcome()).await.unwrap(),
            Outcome::Declined
        );
    }
    let to = world.server.address(1);
    world.move_to(to).await;
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_dies_after_the_move_is_left_for_the_old_one() {
    let (mut world, old, new) = relayed(Duration::ZERO, Duration::ZERO).await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    world
        .server
        .inner
        .advertise(&world.theirs, Alternate::from(new.address))
        .await
        .unwrap();
    let event = settled(&mut world.migrator).await;
    assert!(matches!(event, Event::Migrated { .. }), "{event:?}");
    until("the new path is in use", || {
        new.up.passed.load(Ordering::SeqCst) > 100
    })
    .await;
    new.silence();
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(event, Event::FellBack { from, to, .. } if from == new.address && to == old.address),
        "{event:?}"
    );
    transfer.check().await;
    assert_eq!(
        world.server.inner.client_of(&world.theirs).server,
        world.server.id(0)
    );
    assert_eq!(
        world.client.open_sockets(),
        1,
        "the dead path's socket is closed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_on_an_address_that_the_server_removes_go_back() {
    let mut world = World::new().await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let (first, to) = (world.server.address(0), world.server.address(1));
    world.move_to(to).await;
    assert!(world.server.inner.remove_address(world.server.id(1)));
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(event, Event::FellBack { to, .. } if to == first),
        "{event:?}"
    );
    transfer.check().await;
    assert!(!world.server.inner.remove_address(world.server.id(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_falling_back_the_connection_can_move_again() {
    let mut world = World::on(&["127.0.0.2:0", "127.0.0.3:0", "127.0.0.4:0"]).await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let (second, third) = (world.server.address(1), world.server.address(2));
    world.move_to(second).await;
    world.server.inner.remove_address(world.server.id(1));
    let event = settled(&mut world.migrator).await;
    assert!(matches!(event, Event::FellBack { .. }), "{event:?}");
    world.move_to(third).await;
    transfer.check().await;
}

/// Paths of different length, and with loss: the move takes round trips, not luck.
async fn move_over(old_delay: u64, new_delay: u64, loss: f64) {
    let (old_delay, new_delay) = (
        Duration::from_millis(old_delay),
        Duration::from_millis(new_delay),
    );
    let (mut world, old, new) = relayed(old_delay, new_delay).await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    if loss > 0.0 {
        old.lose(loss);
        new.lose(loss);
    }
    let advertised = world
        .server
        .inner
        .advertise(&world.theirs, Alternate::from(new.address))
        .await
        .unwrap();
    let event = settled(&mut world.migrator).await;
    let Event::Migrated { to, validation, .. } = event else {
        panic!("{event:?}")
    };
    assert_eq!(to, new.address);
    assert!(
        validation >= old_delay.min(new_delay) + new_delay,
        "faster than light: {validation:?}"
    );
    assert_eq!(within(advertised.outcome()).await.unwrap(), Outcome::Moved);
    transfer.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_between_paths_of_the_same_delay_works() {
    move_over(25, 25, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_to_a_slower_path_works() {
    move_over(25, 60, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_to_a_faster_path_works() {
    move_over(60, 20, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_between_lossy_paths_works() {
    move_over(25, 25, 0.02).await;
}
