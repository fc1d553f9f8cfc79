//! Connection IDs: lifetimes, lengths, stateless resets, and what a rebind does to them.

use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionError, EndpointConfig};
use quinn_migration::{AdvertiseError, Alternate, Event, Failure};
use quinn_proto::{ConnectionIdGenerator, RandomConnectionIdGenerator};

use crate::support::silence::{decided, returned};
use crate::support::transfer::Transfer;
use crate::support::{
    Identity, Server, World, accept, bind, client, client_with, next, tireless, until, within,
};

/// An endpoint whose connection IDs have this length, and live this long.
fn with_ids(length: usize, lifetime: Option<Duration>) -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.cid_generator(move || {
        let mut ids = RandomConnectionIdGenerator::new(length);
        lifetime.map(|lifetime| ids.set_lifetime(lifetime));
        Box::new(ids) as Box<dyn ConnectionIdGenerator>
    });
    config
}

async fn world_with(server_ids: EndpointConfig, client_ids: EndpointConfig) -> World {
    let identity = Identity::new();
    let server = Server::with(
        identity.server_tls(),
        server_ids,
        &["127.0.0.2:0", "127.0.0.3:0"],
    );
    let first = server.address(0);
    let client = client_with(identity.client_tls(), client_ids, "0.0.0.0:0");
    World::between(server, client, first).await
}

/// The server's lifetimes only: with lifetimes at the client, quinn 0.11.19 itself now and then ends a connection
/// whose path changes (CONNECTION_ID_LIMIT_ERROR), also between two stock endpoints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_work_while_the_server_retires_connection_ids_by_lifetime() {
    let lifetime = Some(Duration::from_millis(300));
    let mut world = world_with(with_ids(8, lifetime), with_ids(8, None)).await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    for hop in 1..=6 {
        let retired = || world.ours.stats().frame_tx.retire_connection_id;
        let before = retired();
        let going_on = || {
            assert_eq!(
                (world.ours.close_reason(), world.theirs.close_reason()),
                (None, None)
            );
            retired() > before + 2
        };
        until("connection IDs are retired", going_on).await;
        let to = world.server.address(hop % 2);
        // A retirement may overtake the advertisement: then it is withdrawn, and the next one counts.
        let mut attempts = 0;
        loop {
            attempts += 1;
            assert!(attempts <= 20, "no advertisement leads to a move");
            let before = world.server.datagrams(hop % 2);
            let advertised = within(world.advertise(Alternate::from(to))).await;
            if matches!(advertised, Err(AdvertiseError::NotAcknowledged)) {
                continue;
            }
            let (event, _) = decided(&mut world.migrator).await;
            match event {
                Event::Migrated { to: reached, .. } if reached == to => break,
                Event::Failed {
                    reason: Failure::Withdrawn,
                    ..
                }
                | Event::Refused { .. } => {}
                other => {
                    let arrived = world.server.datagrams(hop % 2) - before;
                    panic!("{other:?}, {arrived} datagrams at {to}, after {advertised:?}")
                }
            }
        }
        transfer.progress(64 << 10).await;
    }
    assert_eq!(world.ours.close_reason(), None);
    assert!(
        world.client.routes() <= 12,
        "routes of retired connection IDs stay: {}",
        world.client.routes()
    );
    transfer.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_ids_of_4_and_of_20_bytes_work() {
    for length in [4, 20] {
        let mut world = world_with(with_ids(length, None), with_ids(length, None)).await;
        for index in [1, 0, 1] {
            let to = world.server.address(index);
            world.move_to(to).await;
            world.echo().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_zero_length_connection_ids_moves() {
    let mut world = world_with(with_ids(8, None), with_ids(0, None)).await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let to = world.server.address(1);
    world.move_to(to).await;
    transfer.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_zero_length_connection_ids_cannot_advertise_and_says_so() {
    let world = world_with(with_ids(0, None), with_ids(8, None)).await;
    let to = Alternate::from(world.server.address(1));
    let advertised = world.advertise(to).await;
    assert!(
        matches!(advertised, Err(AdvertiseError::NoConnectionId)),
        "{advertised:?}"
    );
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebind_of_the_client_keeps_a_moved_connection_on_its_server_address() {
    let mut world = World::new().await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let (first, second) = (world.server.address(0), world.server.address(1));
    world.move_to(second).await;
    transfer.progress(64 << 10).await;
    let before = world.server.datagrams(0);
    world.client.rebind(bind("0.0.0.0:0")).unwrap();
    transfer.progress(1 << 20).await;
    // The server's challenge to the path that was left, and the answer to it, may be late.
    let since = world.server.datagrams(0) - before;
    assert!(since <= 2, "the connection went back to the first address");
    world.move_to(first).await;
    world.client.rebind(bind("0.0.0.0:0")).unwrap();
    world.move_to(second).await;
    transfer.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebind_without_the_migration_client_is_noticed_and_the_connection_survives() {
    let mut world = World::on(&["127.0.0.2:0", "127.0.0.3:0", "127.0.0.4:0"]).await;
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let (first, second) = (world.server.address(0), world.server.address(1));
    world.move_to(second).await;
    world.client.endpoint().rebind(bind("0.0.0.0:0")).unwrap();
    transfer.progress(1 << 20).await;
    assert_eq!(
        world.server.inner.client_of(&world.theirs).server,
        world.server.id(0),
        "back on the first address"
    );
    world
        .advertise(Alternate::from(world.server.address(2)))
        .await
        .unwrap();
    // The silence of the path that has lost its socket may be noticed before.
    let event = loop {
        let event = returned(&mut world.migrator).await;
        if !matches!(event, Event::FellBack { from, to, .. } if from == second && to == first) {
            break event;
        }
    };
    assert!(
        matches!(
            event,
            Event::Failed {
                reason: Failure::SocketReplaced,
                ..
            }
        ),
        "{event:?}"
    );
    assert_eq!(world.migrator.server(), Some(first));
    until("the sockets of the paths are closed", || {
        world.client.open_sockets() == 1
    })
    .await;
    transfer.check().await;
}

/// The same reset key in two lives of a server.
fn resettable() -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ring::hmac::Key::new(
        ring::hmac::HMAC_SHA256,
        &[7; 64],
    )));
    config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(8)));
    config
}

#[test]
fn a_restarted_server_ends_a_moved_connection_by_the_advertised_reset_token() {
    let identity = Identity::new();
    let client_runtime = tokio::runtime::Runtime::new().unwrap();
    let server_runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = client_runtime.enter();
    let (server, theirs, ours, _migrator) = client_runtime.block_on(async {
        let server = {
            let _inside = server_runtime.enter();
            Server::with(
                identity.server_tls(),
                resettable(),
                &["127.0.0.2:0", "127.0.0.3:0"],
            )
        };
        let client = client(&identity);
        let connecting = client
            .endpoint()
            .connect(server.address(0), "localhost")
            .unwrap();
        let (ours, theirs) = tokio::join!(connecting, accept(server.inner.endpoint()));
        let (ours, theirs) = (ours.unwrap(), theirs);
        let mut migrator = client.attach(&ours, tireless()).unwrap();
        server
            .inner
            .advertise(&theirs, Alternate::from(server.address(1)))
            .await
            .unwrap();
        while !matches!(next(&mut migrator).await, Event::Migrated { .. }) {}
        (server, theirs, ours, migrator)
    });
    // The server dies without a word, and another process takes its address.
    let second = server.address(1).to_string();
    server_runtime.shutdown_timeout(crate::support::PATIENCE);
    drop((server, theirs));
    client_runtime.block_on(async {
        let mut socket = std::net::UdpSocket::bind(&second);
        while socket.is_err() {
            tokio::task::yield_now().await;
            socket = std::net::UdpSocket::bind(&second);
        }
        drop(socket);
        let _restarted = Server::with(identity.server_tls(), resettable(), &[&second]);
        // quinn may have sent something by itself already, and been reset.
        let writing = async {
            if let Ok(mut stream) = ours.open_uni().await {
                while stream.write_all(&[0; 4096]).await.is_ok() {}
            }
        };
        let (_, reason) = within(async { tokio::join!(writing, ours.closed()) }).await;
        assert_eq!(reason, ConnectionError::Reset);
    });
}
