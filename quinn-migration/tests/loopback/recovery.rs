//! Loss, delay and dead paths: each recovers as documented.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quinn_migration::{Alternate, Event, Failure, Outcome};

use crate::support::relay::Relay;
use crate::support::silence::{decided, returned};
use crate::support::transfer::Transfer;
use crate::support::{
    Identity, Server, World, client, connect_with, settled, tireless, until, within,
};

/// A world in which the client reaches both server addresses through relays.
pub async fn relayed(old: Duration, new: Duration) -> (World, Relay, Relay) {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let [old, new] = Relay::pair(&server, [old, new]).await;
    let world = World::between(server, client(&identity), old.address).await;
    // Handshake leftovers (tickets, connection IDs, path MTU probes) must not be taken for what a test loses.
    world.echo().await;
    until("path MTU discovery is over", || {
        [&world.ours, &world.theirs].map(|end| end.stats().path.current_mtu) == [1452; 2]
    })
    .await;
    (world, old, new)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_advertisement_is_sent_again() {
    let (mut world, old, new) = relayed(Duration::ZERO, Duration::ZERO).await;
    old.down.silence(true);
    let several_are_lost = async {
        until("several are lost", || {
            old.down.lost.load(Ordering::SeqCst) >= 5
        })
        .await;
        old.down.silence(false);
    };
    let alternate = Alternate::forwarded(new.address);
    let advertising = world.advertise(alternate);
    let (advertised, ()) = tokio::join!(advertising, several_are_lost);
    let advertised = advertised.unwrap();
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
        .advertise(Alternate::forwarded(new.address))
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
        .advertise(Alternate::forwarded(new.address))
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
        .advertise(Alternate::forwarded(new.address))
        .await
        .unwrap();
    let event = settled(&mut world.migrator).await;
    // A third one leaves when the answer to the second is read late.
    assert!(
        matches!(event, Event::Migrated { to, challenges: 2..=3, .. } if to == new.address),
        "{event:?}"
    );
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_does_not_answer_is_given_up_and_a_second_one_works() {
    let mut world = World::new().await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let nobody: std::net::SocketAddr = "127.0.0.77:9".parse().unwrap();
    let advertised = world.advertise(Alternate::forwarded(nobody)).await.unwrap();
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
    let nobody = Alternate::forwarded("127.0.0.77:9".parse::<std::net::SocketAddr>().unwrap());
    for _ in 0..6 {
        let advertised = world.advertise(nobody).await.unwrap();
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
        .advertise(Alternate::forwarded(new.address))
        .await
        .unwrap();
    let event = settled(&mut world.migrator).await;
    assert!(matches!(event, Event::Migrated { .. }), "{event:?}");
    until("the new path is in use", || {
        new.up.passed.load(Ordering::SeqCst) > 100
    })
    .await;
    new.silence();
    let event = returned(&mut world.migrator).await;
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

/// A connection with a transfer that has moved, and hears nothing any more. The server has given its first address up: going back
/// there would be the end.
async fn moved_and_cut_off() -> (World, Transfer, Relay, Relay) {
    let (mut world, old, new) = relayed(Duration::ZERO, Duration::ZERO).await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    world
        .advertise(Alternate::forwarded(new.address))
        .await
        .unwrap();
    let event = settled(&mut world.migrator).await;
    assert!(matches!(event, Event::Migrated { .. }), "{event:?}");
    transfer.progress(1 << 20).await;
    assert!(world.server.inner.remove_address(world.server.id(0)));
    old.silence();
    new.silence();
    (world, transfer, old, new)
}

/// Ends [`moved_and_cut_off`]: where it was cut off, it goes on.
async fn goes_on_there(world: World, transfer: Transfer, new: Relay) {
    new.restore();
    transfer.check().await;
    assert_eq!(world.migrator.server(), Some(new.address));
    assert_eq!(
        world.server.inner.client_of(&world.theirs).server,
        world.server.id(1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_break_on_the_new_path_does_not_lead_back_to_an_address_that_is_gone() {
    let (mut world, transfer, _old, new) = moved_and_cut_off().await;
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(event, Event::Stranded { on } if on == new.address),
        "{event:?}"
    );
    goes_on_there(world, transfer, new).await;
}

/// On a silent path quinn sends no DATAGRAM of more than 1200 bytes, and none behind one: the earlier path cannot be asked, and
/// gets what is sent unasked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_went_back_unasked_to_an_address_that_is_gone_returns() {
    let (world, transfer, old, new) = moved_and_cut_off().await;
    let lost = || old.up.lost.load(Ordering::SeqCst);
    let before = lost();
    until("packets go to the earlier path", || {
        world.ours.send_datagram(vec![7; 1300].into()).unwrap();
        lost() > before + 1
    })
    .await;
    goes_on_there(world, transfer, new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_on_an_address_that_the_server_removes_go_back() {
    let mut world = World::new().await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let (first, to) = (world.server.address(0), world.server.address(1));
    world.move_to(to).await;
    assert!(world.server.inner.remove_address(world.server.id(1)));
    let event = returned(&mut world.migrator).await;
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
    let event = returned(&mut world.migrator).await;
    assert!(matches!(event, Event::FellBack { .. }), "{event:?}");
    world.move_to(third).await;
    transfer.check().await;
}

/// Without path MTU discovery, and after quinn has seen a black hole, packets have 1200 bytes: just what a challenge
/// needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_packets_have_1200_bytes_moves_idle_and_busy() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let client = client(&identity);
    let mut transport = quinn::TransportConfig::default();
    transport.mtu_discovery_config(None);
    let mut config = client.client_config();
    config.transport_config(Arc::new(transport));
    let first = server.address(0);
    let ends = connect_with(config, client.endpoint(), &server, first).await;
    let mut world = World::of(server, client, ends, tireless());
    let second = world.server.address(1);
    world.move_to(second).await;
    world.echo().await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    for to in [first, second, first] {
        world.move_to(to).await;
        transfer.progress(1 << 20).await;
    }
    assert_eq!(world.ours.stats().path.current_mtu, 1200);
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
        .advertise(Alternate::forwarded(new.address))
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

/// On the old path the packet numbers run ahead: one of a single byte is not readable any more after 128.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_hundreds_of_packets_overtake_counts() {
    let (mut world, old, new) = relayed(Duration::ZERO, Duration::ZERO).await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    new.down.hold(true);
    world
        .advertise(Alternate::forwarded(new.address))
        .await
        .unwrap();
    // quinn answers only the last one of those that it reads at once.
    until("all challenges have come and are answered", || {
        let come = world.theirs.stats().frame_rx.path_challenge;
        come >= 3 && new.down.passed.load(Ordering::SeqCst) >= 1
    })
    .await;
    let later = old.down.passed.load(Ordering::SeqCst) + 250;
    until("later packets arrive", || {
        old.down.passed.load(Ordering::SeqCst) > later
    })
    .await;
    new.down.hold(false);
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(event, Event::Migrated { to, .. } if to == new.address),
        "{event:?}"
    );
    transfer.check().await;
}

/// The round trip of the new path is 300 times that of the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_moves_to_a_very_much_slower_path() {
    let (mut world, _old, new) =
        relayed(Duration::from_millis(1), Duration::from_millis(300)).await;
    // On a busy host the answer may be read when the client has given up.
    for attempt in 1.. {
        let alternate = Alternate::forwarded(new.address);
        let advertised = world.advertise(alternate).await.unwrap();
        match settled(&mut world.migrator).await {
            Event::Migrated { to, .. } if to == new.address => {
                assert_eq!(within(advertised.outcome()).await.unwrap(), Outcome::Moved);
                break;
            }
            Event::Failed {
                reason: Failure::Unreachable { .. },
                ..
            } if attempt < 3 => {}
            other => panic!("{other:?}"),
        }
    }
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_to_a_faster_path_works() {
    move_over(60, 20, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_between_lossy_paths_works() {
    move_over(25, 25, 0.02).await;
}

/// A stateful firewall, or a censor: the path answers, carries so many datagrams of the server, and drops everything from
/// then on. The connection IDs that quinn gives back when it moves leave on that path alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_move_to_a_path_that_answers_and_then_dies_leads_back() {
    for lives in [1, 2, 3, 5, 10, 40] {
        let identity = Identity::new();
        let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0", "127.0.0.4:0"]);
        // All of them through relays, so that none is much faster.
        let [one, two] = Relay::pair(&server, [Duration::ZERO; 2]).await;
        let doomed = Relay::start("127.0.1.4:0", server.address(2), Duration::ZERO).await;
        let (first, second) = (one.address, two.address);
        let mut world = World::between(server, client(&identity), first).await;
        let transfer = Transfer::start(&world.ours, &world.theirs).await;
        world.move_to(second).await;
        transfer.progress(1 << 20).await;
        doomed.die_after(lives);
        world
            .advertise(Alternate::forwarded(doomed.address))
            .await
            .unwrap();
        let (event, _) = decided(&mut world.migrator).await;
        assert!(
            matches!(event, Event::Migrated { .. }),
            "{lives}: {event:?}"
        );
        // Both earlier paths are asked in turns, the last one first; on a busy host the other may be heard before it.
        let event = returned(&mut world.migrator).await;
        let Event::FellBack { to, .. } = event else {
            panic!("{lives}: {event:?}")
        };
        assert!([first, second].contains(&to), "{lives}: {event:?}");
        transfer.progress(1 << 20).await;
        // And it goes on from there.
        let other = if to == first { second } else { first };
        world.move_to(other).await;
        transfer.check().await;
        world.echo().await;
    }
}
