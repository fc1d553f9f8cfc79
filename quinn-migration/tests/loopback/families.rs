//! IPv4 and IPv6: advertisements with one family or both, and moves between them.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn_migration::{Alternate, Event, Family, MigrationClient, Outcome, Policy, Refusal};

use crate::support::transfer::Transfer;
use crate::support::{Identity, Server, World, bind, client, connect, settled, tireless, within};

fn both(one: SocketAddr, other: SocketAddr) -> Alternate {
    let mut alternate = Alternate::default();
    for address in [one, other] {
        match address {
            SocketAddr::V4(v4) => alternate.v4 = Some(v4),
            SocketAddr::V6(v6) => alternate.v6 = Some(v6),
        }
    }
    alternate
}

async fn with_policy(addresses: &[&str], policy: Policy) -> World {
    let identity = Identity::new();
    let server = Server::on(&identity, addresses);
    let client = client(&identity);
    let ends = connect(client.endpoint(), &server, server.address(0)).await;
    World::of(server, client, ends, policy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_moves_from_ipv4_to_ipv6_and_back() {
    let mut world = World::on(&["127.0.0.2:0", "[::1]:0"]).await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let (v4, v6) = (world.server.address(0), world.server.address(1));
    world.move_to(v6).await;
    world.move_to(v4).await;
    world.move_to(v6).await;
    transfer.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_moves_from_ipv6_to_ipv4() {
    let mut world = World::on(&["[::1]:0", "127.0.0.2:0"]).await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let v4 = world.server.address(1);
    world.move_to(v4).await;
    transfer.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_families_the_one_in_use_is_chosen() {
    let mut world = World::on(&["127.0.0.2:0", "127.0.0.3:0", "[::1]:0"]).await;
    let (v4, v6) = (world.server.address(1), world.server.address(2));
    let advertised = world.advertise(both(v4, v6)).await.unwrap();
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(event, Event::Migrated { to, .. } if to == v4),
        "{event:?}"
    );
    assert_eq!(within(advertised.outcome()).await.unwrap(), Outcome::Moved);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preference_for_ipv6_is_followed() {
    let mut policy = tireless();
    policy.family = Family::V6First;
    let mut world = with_policy(&["127.0.0.2:0", "127.0.0.3:0", "[::1]:0"], policy).await;
    let (v4, v6) = (world.server.address(1), world.server.address(2));
    world.advertise(both(v4, v6)).await.unwrap();
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(event, Event::Migrated { to, .. } if to == v6),
        "{event:?}"
    );
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_family_that_the_policy_does_not_allow_is_reported_and_the_connection_goes_on() {
    let mut policy = tireless();
    policy.family = Family::CurrentOnly;
    let mut world = with_policy(&["127.0.0.2:0", "[::1]:0"], policy).await;
    let advertised = world
        .advertise(Alternate::from(world.server.address(1)))
        .await
        .unwrap();
    let event = settled(&mut world.migrator).await;
    assert!(
        matches!(
            event,
            Event::Refused {
                reason: Refusal::NoUsableFamily,
                ..
            }
        ),
        "{event:?}"
    );
    assert_eq!(
        within(advertised.outcome()).await.unwrap(),
        Outcome::Declined
    );
    world.echo().await;
}

/// RFC 9000 section 9.5 allows it, because nothing has been sent with the connection ID.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_family_without_a_socket_leaves_the_other_one_to_try() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0", "[::1]:0"]);
    let client = MigrationClient::builder(Arc::new(identity.client_tls()), bind("127.0.0.5:0"))
        .bind()
        .unwrap();
    let (ours, theirs) = connect(client.endpoint(), &server, server.address(0)).await;
    let mut policy = tireless();
    policy.family = Family::V6First;
    let mut migrator = client.attach(&ours, policy).unwrap();
    let (v4, v6) = (server.address(1), server.address(2));
    server
        .inner
        .advertise(&theirs, [server.id(1), server.id(2)])
        .await
        .unwrap();
    let event = settled(&mut migrator).await;
    assert!(
        matches!(event, Event::Migrated { to, .. } if to == v4 && to != v6),
        "{event:?}"
    );
}
