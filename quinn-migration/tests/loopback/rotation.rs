//! Rotation over a pool of addresses behind one socket. What it costs is in `tests/footprint_of_rotation.rs`.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::EndpointConfig;
use quinn_migration::{
    AddressError, AddressId, AddressPool, AddressRange, Codepoints, Event, MigrationServer,
    Rotation, RotationProgress, ServerEvent,
};
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;

use crate::support::transfer::Transfer;
use crate::support::{
    Identity, Server, World, bind, client, client_with, connect, echo, next, settled, tireless,
    until, within,
};

/// All of 127.0.0.0/8 reaches this host, so a wildcard socket serves any part of it.
fn pool(world: &World, range: &str) -> AddressPool {
    let range = range.parse().unwrap();
    world
        .server
        .inner
        .add_pool(bind("0.0.0.0:0"), &range)
        .unwrap()
}

fn fast(pools: &[&AddressPool]) -> Rotation {
    Rotation::over(pools.iter().copied())
        .every(Duration::from_millis(20))
        .jitter(Duration::from_millis(10))
        .linger(Duration::from_millis(40))
}

/// Nobody was passed over, but for clients that went back at that moment: on a busy host one may, after a false silence.
fn all_followed(world: &World, progress: &RotationProgress) {
    let fell_back = world.client.stats().fell_back;
    assert!(fell_back <= 2, "{fell_back} have gone back");
    assert!(
        progress.declined + progress.skipped <= fell_back,
        "{progress:?}"
    );
}

async fn rounds(progress: &mut watch::Receiver<RotationProgress>, moved: u64) -> RotationProgress {
    let enough = |progress: &RotationProgress| progress.moved >= moved;
    *within(progress.wait_for(enough)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_rotates_over_a_prefix_while_it_carries_a_transfer() {
    let mut world = World::new().await;
    let pool = pool(&world, "127.77.0.0/16");
    let prefix: IpAddr = "127.77.0.0".parse().unwrap();
    let transfer = Transfer::start(&world.ours, &world.theirs).await;
    let rotating = world.server.inner.rotate(&world.theirs, fast(&[&pool]));
    let mut seen = HashSet::new();
    while seen.len() < 20 {
        if let Event::Migrated { to, .. } = settled(&mut world.migrator).await {
            assert_eq!(to.ip().to_string()[..7], prefix.to_string()[..7], "{to}");
            assert!(seen.insert(to), "{to} came twice");
        }
        transfer.progress(64 << 10).await;
    }
    let progress = rounds(&mut rotating.watch(), 20).await;
    all_followed(&world, &progress);
    assert!(progress.addresses <= 8, "{progress:?}");
    drop(rotating);
    transfer.check().await;
    // The one that the client is on stays, the others go.
    until("old addresses are gone", || {
        world.server.inner.stats().addresses_now == 3
    })
    .await;
    world.echo().await;
    world.ours.close(0u32.into(), b"");
    until("the last address is gone with the connection", || {
        world.server.inner.stats().addresses_now == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_attached_connections_rotate_together_or_each_to_its_own_address() {
    for own in [false, true] {
        let world = World::new().await;
        let pool = pool(&world, "127.78.0.0/16");
        let mut others = Vec::new();
        for _ in 0..4 {
            let endpoint = world.client.endpoint();
            let (ours, theirs) = connect(endpoint, &world.server, world.server.address(0)).await;
            let migrator = world.client.attach(&ours, tireless()).unwrap();
            let attachment = world.server.inner.attach(&theirs).unwrap();
            others.push((ours, theirs, migrator, attachment));
        }
        let rotation = fast(&[&pool]).every(Duration::from_millis(100));
        let rotation = if own {
            rotation.each_its_own()
        } else {
            rotation
        };
        let rotating = world.server.inner.rotate_all(rotation);
        let progress = rounds(&mut rotating.watch(), 8).await;
        all_followed(&world, &progress);
        let mut first: HashSet<SocketAddr> = HashSet::new();
        for (_, _, migrator, _) in &mut others {
            if let Event::Migrated { to, .. } = settled(migrator).await {
                first.insert(to);
            }
        }
        assert_eq!(first.len(), if own { 4 } else { 1 });
        drop(rotating);
        for (ours, theirs, ..) in &others {
            echo(ours, theirs).await;
        }
        // The one that is not attached has stayed.
        let client = world.server.inner.client_of(&world.theirs);
        assert_eq!(client.server, world.server.id(0));
    }
}

/// Fault 11: there were 65,535 addresses in a server's life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_addresses_in_a_servers_life_cost_what_ten_do() {
    let mut world = World::new().await;
    let pool = pool(&world, "127.79.0.0/16");
    let server = &world.server.inner;
    let before = server.stats();
    let mut live = std::collections::VecDeque::new();
    for _ in 0..10_000 {
        live.push_back(server.draw_address(&pool).unwrap());
        if live.len() > 10 {
            assert!(server.remove_address(live.pop_front().unwrap()));
        }
    }
    let after = server.stats();
    assert_eq!(after.addresses_now, before.addresses_now + 10);
    assert_eq!(after.addresses_added, before.addresses_added + 10_000);
    let last = server.address(*live.back().unwrap()).unwrap();
    world.move_to(last).await;
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_a_pool_answers_only_while_it_is_drawn() {
    let world = World::new().await;
    let pool = pool(&world, "127.80.0.0/30");
    let server = &world.server.inner;
    let drawn = server.draw_address(&pool).unwrap();
    let address = server.address(drawn).unwrap();
    let connecting = world
        .client
        .endpoint()
        .connect(address, "localhost")
        .unwrap();
    let (ours, theirs) = tokio::join!(connecting, world.server.accept());
    let ours = ours.unwrap();
    echo(&ours, &theirs).await;
    assert_eq!(server.client_of(&theirs).server, drawn);
    // Its neighbour, and itself once it is removed, answer nothing.
    let probe = bind("127.0.0.1:0");
    let mut neighbour = address;
    neighbour.set_ip("127.80.0.0".parse().unwrap());
    let strays = server.stats().strays;
    probe.send_to(&[0xc0; 1200], neighbour).unwrap();
    until("the neighbour's packet is dropped", || {
        server.stats().strays == strays + 1
    })
    .await;
    assert!(server.remove_address(drawn) && !server.remove_address(drawn));
    probe.send_to(&[0xc0; 1200], address).unwrap();
    until("the removed address's packets are dropped", || {
        server.stats().strays > strays + 1
    })
    .await;
    assert_eq!(server.address(drawn), None);
    assert!(server.remove_pool(&pool) && !server.remove_pool(&pool));
    assert!(matches!(
        server.draw_address(&pool),
        Err(AddressError::NoneFree)
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_used_up_skips_and_goes_on_when_an_address_is_free() {
    let mut world = World::new().await;
    let range = AddressRange::list(["127.81.0.1".parse().unwrap()]);
    let server = &world.server.inner;
    let pool = server.add_pool(bind("0.0.0.0:0"), &range).unwrap();
    let taken = server.draw_address(&pool).unwrap();
    let rotating = server.rotate(&world.theirs, fast(&[&pool]));
    let skipped = |progress: &RotationProgress| progress.skipped > 0;
    within(rotating.watch().wait_for(skipped)).await.unwrap();
    server.remove_address(taken);
    rounds(&mut rotating.watch(), 1).await;
    let event = next(&mut world.migrator).await;
    assert!(matches!(event, Event::Advertised { .. }), "{event:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_wants_a_wildcard_socket_of_its_family() {
    let world = World::new().await;
    let server = &world.server.inner;
    let range: AddressRange = "127.82.0.0/16".parse().unwrap();
    let specific = server.add_pool(bind("127.0.0.9:0"), &range);
    assert!(matches!(specific, Err(AddressError::Specific)));
    let both = ["127.0.0.9".parse().unwrap(), "::1".parse().unwrap()];
    for (socket, range) in [
        (only_v6("[::]:0"), range),
        (bind("0.0.0.0:0"), "2001:db8::/64".parse().unwrap()),
        (bind("[::]:0"), AddressRange::list(both)),
        (bind("[::]:0"), AddressRange::list([])),
    ] {
        let family = server.add_pool(socket, &range);
        assert!(matches!(family, Err(AddressError::Io(_))), "{family:?}");
    }
    let none = server.add_pools(bind("[::]:0"), &[]);
    assert!(matches!(none, Err(AddressError::Io(_))), "{none:?}");
}

/// A socket for IPv6 alone.
fn only_v6(address: &str) -> UdpSocket {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
    socket.set_only_v6(true).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    socket.bind(&address.into()).unwrap();
    socket.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dual_stack_socket_has_pools_of_both_families() {
    for (first, any) in [("127.0.0.2:0", "0.0.0.0:0"), ("[::1]:0", "[::]:0")] {
        let identity = Identity::new();
        let server = Server::on(&identity, &[first]);
        let v4: AddressRange = "127.84.0.0/16".parse().unwrap();
        let v6 = AddressRange::list(["::1".parse().unwrap()]);
        let pools = server.inner.add_pools(bind("[::]:0"), &[v4, v6]);
        let pools = pools.unwrap();
        assert_eq!([pools[0].is_ipv4(), pools[1].is_ipv4()], [true, false]);
        let to = server.address(0);
        let client = client_with(identity.client_tls(), EndpointConfig::default(), any);
        let mut world = World::between(server, client, to).await;
        let server = &world.server.inner;
        // A connection moves there, and another one begins there.
        let transfer = Transfer::start(&world.ours, &world.theirs).await;
        let rotating = server.rotate(&world.theirs, fast(&[&pools[0], &pools[1]]));
        let moves = if to.is_ipv4() { 5 } else { 1 };
        rounds(&mut rotating.watch(), moves).await;
        let event = settled(&mut world.migrator).await;
        let Event::Migrated { to: moved, .. } = event else {
            panic!("{event:?}")
        };
        assert_eq!(moved.is_ipv4(), to.is_ipv4());
        drop(rotating);
        transfer.check().await;
        let seen = server.client_of(&world.theirs);
        assert_eq!(seen.client.is_ipv4(), to.is_ipv4(), "{seen:?}");
        world.ours.close(0u32.into(), b"");
        let pool = &pools[usize::from(to.is_ipv6())];
        let mut drawn = server.draw_address(pool);
        while drawn.is_err() {
            // The rotation's lingers.
            tokio::task::yield_now().await;
            drawn = server.draw_address(pool);
        }
        let drawn = drawn.unwrap();
        let address = server.address(drawn).unwrap();
        let endpoint = world.client.endpoint();
        let (ours, theirs) = connect(endpoint, &world.server, address).await;
        assert_eq!(theirs.remote_address().is_ipv4(), to.is_ipv4());
        echo(&ours, &theirs).await;
        assert_eq!(server.client_of(&theirs).server, drawn);
        // The other pool stays.
        assert!(server.remove_pool(pool) && !server.remove_pool(pool));
        assert!(matches!(
            server.draw_address(pool),
            Err(AddressError::NoneFree)
        ));
        let other = &pools[usize::from(to.is_ipv4())];
        server.draw_address(other).unwrap();
        assert!(server.remove_pool(other));
    }
}

/// Clients' firewalls may let one port pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_has_the_port_of_the_first_address() {
    let shared = |address: &str| {
        let address: SocketAddr = address.parse().unwrap();
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket
            .bind(&address.into())
            .map(|()| UdpSocket::from(socket))
    };
    let identity = Identity::new();
    // Another test may have the same port on another address.
    let (first, pool) = loop {
        let first = shared("127.0.0.2:0").unwrap();
        let port = first.local_addr().unwrap().port();
        match shared(&format!("[::]:{port}")) {
            Ok(pool) => break (first, pool),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse),
        }
    };
    let address = first.local_addr().unwrap();
    let tls = Arc::new(identity.server_tls());
    let codepoints = Codepoints::default();
    let inner = MigrationServer::bind(tls, codepoints, EndpointConfig::default(), first);
    let server = Server {
        inner: inner.unwrap(),
        addresses: vec![(AddressId::FIRST, address)],
    };
    let range = "127.85.0.0/16".parse().unwrap();
    let pool = server.inner.add_pool(pool, &range).unwrap();
    let mut world = World::between(server, client(&identity), address).await;
    world.echo().await;
    for _ in 0..3 {
        let drawn = world.server.inner.draw_address(&pool).unwrap();
        let to = world.server.inner.address(drawn).unwrap();
        assert_eq!(to.port(), address.port());
        world.move_to(to).await;
        world.echo().await;
        world.move_to(address).await;
        world.echo().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_hears_of_each_rotation_of_an_attached_connection() {
    let world = World::new().await;
    let pool = pool(&world, "127.83.0.0/16");
    let server = &world.server.inner;
    let mut events = server.events();
    let attachment = server.attach(&world.theirs).unwrap();
    let rotating = server.rotate(&world.theirs, fast(&[&pool]));
    let (mut at, mut moves) = (world.server.id(0), 0);
    while moves < 5 {
        let event = within(events.next()).await.unwrap();
        moves += usize::from(matches!(event, ServerEvent::Moved { .. }));
        let (connection, from, to) = match event {
            ServerEvent::Moved {
                connection,
                from,
                to,
                ..
            }
            // A client on a busy machine may hear of a path too late, and go back.
            | ServerEvent::FellBack {
                connection,
                from,
                to,
                ..
            } => (connection, from, to),
            other => panic!("{other:?}"),
        };
        assert_eq!((connection, from), (attachment.id(), at));
        at = to;
    }
    drop(rotating);
}
