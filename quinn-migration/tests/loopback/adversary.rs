//! A server that wants to misuse its clients. What it cannot send with this crate's own server is tested on the
//! client's hook, with made-up packets (`hooks::client`).

use quinn_migration::{AddressClass, Alternate, Event, Outcome, Policy, Refusal};

use crate::support::{World, next, settled, until, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_that_a_loopback_connection_must_not_follow_are_refused_and_never_contacted() {
    let mut world = World::new().await;
    let targets = [
        ("10.0.0.1:443", AddressClass::Private),
        ("192.168.0.1:53", AddressClass::Private),
        ("169.254.169.254:80", AddressClass::Never),
        ("224.0.0.1:443", AddressClass::Never),
        ("255.255.255.255:443", AddressClass::Never),
        ("[ff02::1]:443", AddressClass::Never),
        ("[fe80::1]:443", AddressClass::Never),
        ("[fd00::1]:443", AddressClass::Private),
        ("[::ffff:10.0.0.1]:443", AddressClass::Private),
    ];
    for (address, class) in targets {
        let to = Alternate::forwarded(address.parse::<std::net::SocketAddr>().unwrap());
        let advertised = world.advertise(to).await.unwrap();
        let event = settled(&mut world.migrator).await;
        let expected = Refusal::TargetClass {
            current: AddressClass::Loopback,
            target: class,
        };
        assert!(
            matches!(event, Event::Refused { reason, .. } if reason == expected),
            "{address}: {event:?}"
        );
        assert_eq!(
            within(advertised.outcome()).await.unwrap(),
            Outcome::Declined
        );
        assert_eq!(world.client.open_sockets(), 1);
    }
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_advertisements_is_followed_five_times_and_refused_from_then_on() {
    let mut world = World::new().await;
    drop(world.migrator);
    world.migrator = loop {
        if let Ok(migrator) = world.client.attach(&world.ours, Policy::default()) {
            break migrator;
        }
        tokio::task::yield_now().await;
    };
    for flood in 1..=40 {
        let to = Alternate::from(world.server.address(flood % 2));
        world.advertise(to).await.unwrap();
        let event = settled(&mut world.migrator).await;
        if flood <= 5 {
            assert!(
                matches!(event, Event::Migrated { .. }),
                "{flood}: {event:?}"
            );
        } else {
            let reason = if flood % 2 == 1 {
                Refusal::SameAddress
            } else {
                Refusal::TooMany
            };
            assert!(
                matches!(event, Event::Refused { reason: given, .. } if given == reason),
                "{flood}: {event:?}"
            );
        }
        until("earlier paths are closed", || {
            world.client.open_sockets() <= 3
        })
        .await;
    }
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_nobody_reads_are_counted_and_not_kept() {
    let mut world = World::new().await;
    let same = Alternate::from(world.server.address(0));
    for _ in 0..60 {
        let advertised = world.advertise(same).await.unwrap();
        assert_eq!(
            within(advertised.outcome()).await.unwrap(),
            Outcome::Declined
        );
    }
    let mut kept = 0;
    // Two events for each of them, of which 64 fit; the next one to come brings the count.
    while kept < 64 {
        assert!(!matches!(next(&mut world.migrator).await, Event::Missed(_)));
        kept += 1;
    }
    world.advertise(same).await.unwrap();
    assert_eq!(next(&mut world.migrator).await, Event::Missed(120 - 64));
    world.echo().await;
}
