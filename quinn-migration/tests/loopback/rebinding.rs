//! The client's sockets: those of new paths are the application's, and a rebind loses nothing that is under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quinn::Connection;
use quinn_migration::{Alternate, Event, Failure, MigrationClient};

use crate::support::relay::Relay;
use crate::support::stock::stock_client;
use crate::support::{
    Identity, PATIENCE, Server, World, bind, client, client_with, connect, echo, settled, until,
};

const UNDER_WAY: u8 = 9;

/// Sends datagrams to the client that are held back until it has rebound; answers with those that arrive. A client waits so long
/// for the next one.
async fn received_across(
    relay: &Relay,
    ours: &Connection,
    theirs: &Connection,
    rebind: impl FnOnce(),
    patience: Duration,
) -> Vec<u8> {
    echo(ours, theirs).await;
    relay.down.hold(true);
    let before = relay.down.passed.load(Ordering::SeqCst);
    for number in 0..UNDER_WAY {
        theirs.send_datagram(vec![number; 1000].into()).unwrap();
    }
    until("they are under way", || {
        relay.down.passed.load(Ordering::SeqCst) >= before + u32::from(UNDER_WAY)
    })
    .await;
    rebind();
    relay.down.hold(false);
    // What comes back over the new socket is later than all of them.
    echo(ours, theirs).await;
    let mut numbers = Vec::new();
    while numbers.len() < UNDER_WAY.into()
        && let Ok(datagram) = tokio::time::timeout(patience, ours.read_datagram()).await
    {
        numbers.push(datagram.unwrap()[0]);
    }
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebind_receives_what_is_under_way_as_stock_quinn_does() {
    let identity = Identity::new();
    let all: Vec<u8> = (0..UNDER_WAY).collect();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let [old, new] = Relay::pair(&server, [Duration::ZERO; 2]).await;

    // Stock quinn reads the old socket for a moment only once something has come to the new one.
    let mut received = Vec::new();
    for _ in 0..5 {
        let stock = stock_client(&identity);
        let (ours, theirs) = connect(&stock, &server, old.address).await;
        let rebind = || stock.rebind(bind("0.0.0.0:0")).unwrap();
        received = received_across(&old, &ours, &theirs, rebind, Duration::from_millis(500)).await;
        if received == all {
            break;
        }
    }
    assert_eq!(received, all, "stock quinn");

    let mut world = World::between(server, client(&identity), old.address).await;
    for relay in [&old, &new] {
        if relay.address == new.address {
            world.move_to(new.address).await;
        }
        let rebind = || world.client.rebind(bind("0.0.0.0:0")).unwrap();
        let received = received_across(relay, &world.ours, &world.theirs, rebind, PATIENCE).await;
        assert_eq!(received, all, "on {}", relay.address);
    }
    world.echo().await;
}

fn at(address: SocketAddr) -> Alternate {
    Alternate::from(address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_moves_keeps_its_local_address_also_after_a_rebind() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0", "[::1]:0"]);
    let client = client_with(identity.client_tls(), Default::default(), "127.0.0.5:0");
    let first = server.address(0);
    let mut world = World::between(server, client, first).await;
    let to = world.server.address(1);
    let seen = |world: &World| world.server.inner.client_of(&world.theirs).client;
    let before = seen(&world);
    world.move_to(to).await;
    world.echo().await;
    let moved = seen(&world);
    assert_eq!(moved.ip(), before.ip(), "as it was bound");
    assert_ne!(moved.port(), before.port());
    // To another family there is no way from there, whatever the policy allows.
    world.advertise(at(world.server.address(2))).await.unwrap();
    let event = settled(&mut world.migrator).await;
    let no_address = Failure::Socket(std::io::ErrorKind::AddrNotAvailable);
    assert!(
        matches!(event, Event::Failed { reason, .. } if reason == no_address),
        "{event:?}"
    );
    world.client.rebind(bind("127.0.0.6:0")).unwrap();
    world.echo().await;
    let other: std::net::IpAddr = "127.0.0.6".parse().unwrap();
    until("the server sees the new address", || {
        seen(&world).ip() == other
    })
    .await;
    assert_eq!(
        world.server.inner.client_of(&world.theirs).server,
        world.server.id(1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sockets_of_new_paths_are_the_applications_if_it_likes() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let first = server.address(0);
    let client = MigrationClient::builder(Arc::new(identity.client_tls()), bind("127.0.0.5:0"))
        .path_sockets(|path| {
            assert_eq!(path.local.ip().to_string(), "127.0.0.5");
            if path.server.ip().to_string() == "127.0.0.3" {
                std::net::UdpSocket::bind("127.0.0.7:0")
            } else {
                Err(std::io::ErrorKind::PermissionDenied.into())
            }
        })
        .bind()
        .unwrap();
    let mut world = World::between(server, client, first).await;
    let to = world.server.address(1);
    world.move_to(to).await;
    world.echo().await;
    let seen = world.server.inner.client_of(&world.theirs).client;
    assert_eq!(seen.ip().to_string(), "127.0.0.7");
    world.advertise(at(first)).await.unwrap();
    let event = settled(&mut world.migrator).await;
    let refused = Failure::Socket(std::io::ErrorKind::PermissionDenied);
    assert!(
        matches!(event, Event::Failed { reason, .. } if reason == refused),
        "{event:?}"
    );
    world.echo().await;
}
