//! A connection moves to another address of its server: the straight paths.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn_migration::{
    AddressId, AdvertiseError, Alternate, AttachError, Event, Failure, Outcome, Policy,
};

use tokio::task::JoinSet;

use crate::support::silence::follow;
use crate::support::transfer::Transfer;
use crate::support::{
    Identity, Server, World, client, connect, echo, settled, tireless, until, within,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_moves_and_leaves_the_old_address_silent() {
    let mut world = World::new().await;
    let to = world.server.address(1);
    world.move_to(to).await;
    world.echo().await;
    world.answered_on_the_path_left().await;
    let before = world.server.datagrams(0);
    for _ in 0..20 {
        world.echo().await;
    }
    assert_eq!(world.server.datagrams(0), before);
    assert!(world.server.datagrams(1) > 20);
    assert_eq!(world.migrator.server(), Some(to));
    assert_eq!(
        world.server.inner.client_of(&world.theirs).server,
        world.server.id(1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_in_both_directions_moves_with_every_byte_intact() {
    let mut world = World::new().await;
    let transfer = Transfer::at_full_speed(&world.ours, &world.theirs).await;
    let to = world.server.address(1);
    // Packets on the old path may overtake the challenges: then the server tries again (see the crate's limits).
    for attempt in 1.. {
        let alternate = Alternate::from(to);
        let advertise = world.advertise(alternate);
        let advertised = advertise.await.unwrap();
        match settled(&mut world.migrator).await {
            Event::Migrated { to: reached, .. } if reached == to => break,
            Event::Failed {
                reason: Failure::Unreachable { .. },
                ..
            } if attempt < 10 => assert_eq!(
                within(advertised.outcome()).await.unwrap(),
                Outcome::Declined
            ),
            other => panic!("{other:?}"),
        }
    }
    // Once this much has passed, nothing is under way on the old path any more, but for the server's challenge to it and the
    // answer.
    transfer.progress(4 << 20).await;
    let before = world.server.datagrams(0);
    transfer.check().await;
    assert!(world.server.datagrams(0) - before <= 2);
    assert!(world.server.datagrams(1) > 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_survives_the_removal_of_the_address_it_left() {
    let mut world = World::new().await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let to = world.server.address(1);
    world.move_to(to).await;
    assert!(world.server.inner.remove_address(world.server.id(0)));
    transfer.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_moves_ten_times_in_a_row_over_ipv4() {
    let addresses = ["127.0.0.2:0", "127.0.0.3:0", "127.0.0.4:0"];
    ten_moves(World::on(&addresses).await, addresses.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_moves_ten_times_in_a_row_over_ipv6() {
    let addresses = ["[::1]:0", "[::1]:0", "[::1]:0"];
    ten_moves(World::on(&addresses).await, addresses.len()).await;
}

async fn ten_moves(mut world: World, addresses: usize) {
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    for hop in 1..=10 {
        let to = world.server.address(hop % addresses);
        world.move_to(to).await;
        transfer.progress(64 << 10).await;
    }
    transfer.check().await;
    assert_eq!(
        world.client.open_sockets(),
        3,
        "the endpoint's, the path in use and the one before"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_of_one_client_move_there_and_back_at_once() {
    let identity = Identity::new();
    let server = Arc::new(Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]));
    let client = client(&identity);
    let mut moves = JoinSet::new();
    for _ in 0..32 {
        let (ours, theirs) = connect(client.endpoint(), &server, server.address(0)).await;
        let mut migrator = client.attach(&ours, tireless()).unwrap();
        let server = Arc::clone(&server);
        moves.spawn(async move {
            for index in [1, 0] {
                let to = server.address(index);
                follow(&server.inner, &theirs, &mut migrator, to, to).await;
                echo(&ours, &theirs).await;
            }
        });
    }
    while let Some(moved) = within(moves.join_next()).await {
        moved.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_added_at_run_time_is_moved_to() {
    let mut world = World::on(&["127.0.0.2:0"]).await;
    world.echo().await;
    world.server.add("127.0.0.5:0");
    let to = world.server.address(1);
    world.move_to(to).await;
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_goes_on_through_key_updates_of_both_sides() {
    let mut world = World::new().await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    world.ours.force_key_update();
    world.theirs.force_key_update();
    let to = world.server.address(1);
    world.move_to(to).await;
    world.ours.force_key_update();
    world.theirs.force_key_update();
    transfer.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_one_advertisement_at_a_time_and_one_migrator_per_connection() {
    let world = World::new().await;
    let to = Alternate::from(world.server.address(1));
    // Normally the first pair overlaps. The first may be acknowledged before the other begins, when this task is
    // interrupted between them.
    let mut overlapped = false;
    for _ in 0..20 {
        world.echo().await;
        let (one, other) = tokio::join!(world.advertise(to), world.advertise(to));
        // Or it has led to a move by then, and the other one has taken its place.
        let replaced = matches!(one, Err(AdvertiseError::NotAcknowledged)) && other.is_ok();
        assert!(one.is_ok() || replaced, "{one:?}, {other:?}");
        overlapped = matches!(other, Err(AdvertiseError::Busy));
        if overlapped {
            break;
        }
    }
    assert!(overlapped, "two advertisements at a time");
    assert_eq!(
        world.client.attach(&world.ours, Policy::default()).err(),
        Some(AttachError::Attached)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_migrator_leaves_the_connection_where_it_is_and_can_be_replaced() {
    let mut world = World::new().await;
    let (first, second) = (world.server.address(0), world.server.address(1));
    world.move_to(second).await;
    world.migrator = {
        drop(world.migrator);
        let mut attached = world.client.attach(&world.ours, tireless());
        while attached.is_err() {
            tokio::task::yield_now().await;
            attached = world.client.attach(&world.ours, tireless());
        }
        attached.unwrap()
    };
    assert_eq!(world.migrator.server(), Some(second));
    world.echo().await;
    world.move_to(first).await;
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_another_endpoint_are_told_apart() {
    let identity = Identity::new();
    let (one, other) = (
        Server::on(&identity, &["127.0.0.2:0"]),
        Server::on(&identity, &["127.0.0.3:0"]),
    );
    let client = client(&identity);
    let (ours, theirs) = connect(client.endpoint(), &one, one.address(0)).await;
    let foreign = other
        .inner
        .advertise(&theirs, Alternate::from(other.address(0)))
        .await;
    assert!(
        matches!(foreign, Err(AdvertiseError::UnknownConnection)),
        "{foreign:?}"
    );
    let empty = one.inner.advertise(&theirs, Alternate::default()).await;
    assert!(matches!(empty, Err(AdvertiseError::NoAddress)), "{empty:?}");
    assert!(one.inner.supports(&theirs) && !other.inner.supports(&theirs));
    drop(ours);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_from_which_the_server_does_not_answer_is_not_advertised() {
    let identity = Identity::new();
    let mut server = Server::on(&identity, &["0.0.0.0:0", "127.0.0.3:0"]);
    let gone = server.add("127.0.0.4:0");
    assert!(server.inner.remove_address(gone));
    let client = client(&identity);
    let port = server.address(0).port();
    let on_all = |ip: [u8; 4]| SocketAddr::from((ip, port));
    let (ours, theirs) = connect(client.endpoint(), &server, on_all([127, 0, 0, 9])).await;
    let mut migrator = client.attach(&ours, tireless()).unwrap();
    let second = server.address(1);
    for nobody in [
        Alternate::from(gone),
        Alternate::from(AddressId::FIRST),
        Alternate::from(server.address(2)),
        Alternate::from(SocketAddr::from(([127, 0, 0, 3], port))),
        // The socket is there, but answers would leave from 127.0.0.1.
        Alternate::from(on_all([127, 0, 0, 8])),
    ] {
        let refused = server.inner.advertise(&theirs, nobody).await;
        let expected = match refused {
            Err(AdvertiseError::NotServed) => true,
            // 0.0.0.0 is none at all.
            Err(AdvertiseError::NoAddress) => nobody == Alternate::from(AddressId::FIRST),
            _ => false,
        };
        assert!(expected, "{nobody:?}: {refused:?}");
    }
    for (alternate, to) in [
        (Alternate::from(server.id(1)), second),
        (
            Alternate::from(on_all([127, 0, 0, 9])),
            on_all([127, 0, 0, 9]),
        ),
        (Alternate::from(second), second),
    ] {
        follow(&server.inner, &theirs, &mut migrator, alternate, to).await;
        echo(&ours, &theirs).await;
    }
}

/// RFC 9000 section 9.4: the window of one path says nothing about another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_congestion_window_begins_anew_on_a_new_path() {
    let mut world = World::new().await;
    let window = |world: &World| world.ours.congestion_state().window();
    let initial = window(&world);
    let transfer = Transfer::at_full_speed(&world.ours, &world.theirs).await;
    until("the window has grown", || window(&world) > 10 * initial).await;
    transfer.check().await;
    let grown = window(&world);
    let to = world.server.address(1);
    world.move_to(to).await;
    let after = window(&world);
    assert!(after <= initial + 3000, "{initial}, {grown}, {after}");
    Transfer::start(&world.ours, &world.theirs)
        .await
        .check()
        .await;
}
