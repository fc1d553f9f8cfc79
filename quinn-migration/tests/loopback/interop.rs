//! Stock quinn on one side: nothing changes for it. And what the rest of QUIC has to keep doing: Retry, resumption,
//! 0-RTT, application datagrams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{Connection, Endpoint};
use quinn_migration::{AdvertiseError, Alternate, Event, MigrationClient, Policy};

use crate::support::relay::Relay;
use crate::support::stock::{self, stock_client};
use crate::support::transfer::Transfer;
use crate::support::{
    ALPN, Identity, Server, World, accept, bind, client, connect, echo, settled, tireless, until,
    within,
};

fn stock_server(identity: &Identity) -> Endpoint {
    stock_server_with(identity, quinn::TransportConfig::default())
}

fn stock_server_with(identity: &Identity, transport: quinn::TransportConfig) -> Endpoint {
    stock::stock_server(identity, transport, Arc::new(quinn::TokioRuntime))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_client_is_served_as_ever_and_never_sent_the_frame() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let (ours, theirs) = connect(&stock_client(&identity), &server, server.address(0)).await;
    assert!(!server.inner.supports(&theirs));
    let transfer = Transfer::start(&ours, &theirs).await;
    let refused = server
        .inner
        .advertise(&theirs, Alternate::from(server.address(1)))
        .await;
    assert!(
        matches!(refused, Err(AdvertiseError::NotNegotiated)),
        "{refused:?}"
    );
    transfer.check().await;
    assert_eq!(ours.close_reason(), None);
    // More when a packet with them was sent again.
    assert!(
        ours.stats().frame_rx.new_connection_id >= 4,
        "no connection ID is kept from a client like this"
    );
    assert_eq!(server.datagrams(1), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_client_may_start_on_any_of_the_addresses() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0", "[::1]:0"]);
    let (ours, theirs) = connect(&stock_client(&identity), &server, server.address(1)).await;
    assert_eq!(server.inner.client_of(&theirs).server, server.id(1));
    assert!(server.inner.client_of(&theirs).client.is_ipv4());
    echo(&ours, &theirs).await;
    assert_eq!(server.datagrams(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_server_is_used_as_ever() {
    let identity = Identity::new();
    let endpoint = stock_server(&identity);
    let client = client(&identity);
    let connecting = client
        .endpoint()
        .connect(endpoint.local_addr().unwrap(), "localhost")
        .unwrap();
    let (ours, theirs) = tokio::join!(connecting, accept(&endpoint));
    let (ours, theirs) = (ours.unwrap(), theirs);
    let migrator = client.attach(&ours, Policy::default()).unwrap();
    Transfer::start(&ours, &theirs).await.check().await;
    assert!(ours.stats().frame_rx.new_connection_id >= 4);
    assert_eq!(client.open_sockets(), 1);
    drop(migrator);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_migrator_stays_and_the_connection_goes_on() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let client = client(&identity);
    let (ours, theirs) = connect(client.endpoint(), &server, server.address(0)).await;
    server
        .inner
        .advertise(&theirs, Alternate::from(server.address(1)))
        .await
        .unwrap();
    Transfer::start(&ours, &theirs).await.check().await;
    assert_eq!(server.datagrams(1), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshake_data_is_what_quinn_gives() {
    let world = World::new().await;
    let data = |connection: &Connection| {
        connection
            .handshake_data()
            .unwrap()
            .downcast::<HandshakeData>()
            .unwrap()
    };
    assert_eq!(data(&world.ours).protocol.as_deref(), Some(ALPN));
    assert_eq!(data(&world.theirs).protocol.as_deref(), Some(ALPN));
    assert_eq!(
        data(&world.theirs).server_name.as_deref(),
        Some("localhost")
    );
    let (mut ours, mut theirs) = ([0; 32], [1; 32]);
    world
        .ours
        .export_keying_material(&mut ours, b"label", b"context")
        .unwrap();
    world
        .theirs
        .export_keying_material(&mut theirs, b"label", b"context")
        .unwrap();
    assert_eq!(ours, theirs);
    assert!(world.ours.peer_identity().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_made_after_a_retry_moves() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let client = client(&identity);
    let connecting = client
        .endpoint()
        .connect(server.address(0), "localhost")
        .unwrap();
    let accepting = async {
        let first = server.inner.endpoint().accept().await.unwrap();
        assert!(!first.remote_address_validated());
        first.retry().unwrap();
        let second = server.inner.endpoint().accept().await.unwrap();
        assert!(second.remote_address_validated());
        second.await.unwrap()
    };
    let (ours, theirs) = within(async { tokio::join!(connecting, accepting) }).await;
    let mut world = World::of(server, client, (ours.unwrap(), theirs), tireless());
    let to = world.server.address(1);
    world.move_to(to).await;
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_connection_sends_early_data_and_moves() {
    let mut world = World::new().await;
    let first = world.server.address(0);
    // Session tickets arrive with the echo.
    world.echo().await;
    let early = world
        .client
        .endpoint()
        .connect(first, "localhost")
        .unwrap()
        .into_0rtt();
    let (ours, accepted) = early.unwrap_or_else(|_| panic!("no ticket"));
    let mut stream = ours.open_uni().await.unwrap();
    stream.write_all(b"early").await.unwrap();
    stream.finish().unwrap();
    let accepting = world
        .server
        .inner
        .endpoint()
        .accept()
        .await
        .unwrap()
        .accept()
        .unwrap();
    let (theirs, _) = accepting
        .into_0rtt()
        .unwrap_or_else(|_| panic!("servers can always"));
    let mut received = within(theirs.accept_uni()).await.unwrap();
    assert_eq!(within(received.read_to_end(64)).await.unwrap(), b"early");
    assert!(within(accepted).await, "early data was rejected");
    let World { server, client, .. } = world;
    world = World::of(server, client, (ours, theirs), tireless());
    let to = world.server.address(1);
    world.move_to(to).await;
    world.echo().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn application_datagrams_arrive_unchanged_around_a_move() {
    let mut world = World::new().await;
    let to = world.server.address(1);
    for round in 0..2u8 {
        for (from, at) in [(&world.ours, &world.theirs), (&world.theirs, &world.ours)] {
            from.send_datagram(vec![round; 100].into()).unwrap();
            assert_eq!(within(at.read_datagram()).await.unwrap(), vec![round; 100]);
        }
        if round == 0 {
            world.move_to(to).await;
        }
    }
    // Nothing else arrived: no placeholder was taken for a datagram.
    world.ours.send_datagram(b"last"[..].into()).unwrap();
    assert_eq!(
        within(world.theirs.read_datagram()).await.unwrap(),
        &b"last"[..]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_no_datagrams_is_not_sent_any() {
    let identity = Identity::new();
    let mut transport = quinn::TransportConfig::default();
    transport.datagram_receive_buffer_size(None);
    let endpoint = stock_server_with(&identity, transport);
    let client = client(&identity);
    let connecting = client
        .endpoint()
        .connect(endpoint.local_addr().unwrap(), "localhost")
        .unwrap();
    let (ours, theirs) = tokio::join!(connecting, accept(&endpoint));
    let (ours, theirs) = (ours.unwrap(), theirs);
    // quinn thinks it may; a DATAGRAM frame on the wire would end the connection.
    ours.send_datagram(b"lost"[..].into()).unwrap();
    for _ in 0..3 {
        echo(&ours, &theirs).await;
    }
    assert_eq!(theirs.stats().frame_rx.datagram, 0);
    assert_eq!(theirs.close_reason(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_datagrams_are_off_says_so() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let mut config = server.inner.server_config();
    let mut transport = quinn::TransportConfig::default();
    transport.datagram_receive_buffer_size(None);
    config.transport_config(Arc::new(transport));
    server.inner.endpoint().set_server_config(Some(config));
    let client = client(&identity);
    let (ours, theirs) = connect(client.endpoint(), &server, server.address(0)).await;
    let refused = server
        .inner
        .advertise(&theirs, Alternate::from(server.address(1)))
        .await;
    assert!(
        matches!(refused, Err(AdvertiseError::DatagramsOff)),
        "{refused:?}"
    );
    echo(&ours, &theirs).await;
}

fn with_datagrams(buffer: Option<usize>) -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport.datagram_receive_buffer_size(buffer);
    Arc::new(transport)
}

/// quinn remembers what it was shown, and a later handshake must not show less (RFC 9221 section 3).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_data_survives_that_a_stock_server_begins_to_announce_datagrams() {
    let identity = Identity::new();
    let endpoint = stock_server_with(&identity, quinn::TransportConfig::default());
    let crypto = Arc::new(QuicServerConfig::try_from(identity.server_tls()).unwrap());
    let client = client(&identity);
    let mut resumed = false;
    for buffer in [None, Some(1200), Some(9000), None] {
        let mut config = quinn::ServerConfig::with_crypto(crypto.clone());
        config.transport_config(with_datagrams(buffer));
        endpoint.set_server_config(Some(config));
        let connecting = client
            .endpoint()
            .connect(endpoint.local_addr().unwrap(), "localhost")
            .unwrap();
        let accepting = accept(&endpoint);
        let (ours, theirs) = if resumed {
            let (ours, accepted) = connecting
                .into_0rtt()
                .unwrap_or_else(|_| panic!("no ticket"));
            let theirs = accepting.await;
            assert!(
                within(accepted).await,
                "early data was rejected: {buffer:?}"
            );
            (ours, theirs)
        } else {
            let (ours, theirs) = tokio::join!(connecting, accepting);
            (ours.unwrap(), theirs)
        };
        echo(&ours, &theirs).await;
        // Neither more nor larger ones than it takes.
        for size in [8, 1160, 1199] {
            ours.send_datagram(vec![1; size].into()).unwrap();
        }
        echo(&ours, &theirs).await;
        let expected = match buffer {
            None => 0,
            Some(1200) => 2,
            Some(_) => 3,
        };
        until("the datagrams arrive", || {
            theirs.stats().frame_rx.datagram == expected
        })
        .await;
        assert_eq!(theirs.close_reason(), None, "{buffer:?}");
        resumed = true;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_small_datagrams_only_is_followed() {
    for buffer in [100, 1000] {
        let identity = Identity::new();
        let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
        let mut config = server.inner.server_config();
        config.transport_config(with_datagrams(Some(buffer)));
        server.inner.endpoint().set_server_config(Some(config));
        let first = server.address(0);
        let mut world = World::between(server, client(&identity), first).await;
        let to = world.server.address(1);
        world.move_to(to).await;
        world.echo().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_need_not_offer_to_follow() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let client = MigrationClient::builder(Arc::new(identity.client_tls()), bind("0.0.0.0:0"))
        .offer(false)
        .bind()
        .unwrap();
    let (ours, theirs) = connect(client.endpoint(), &server, server.address(0)).await;
    assert!(!server.inner.supports(&theirs));
    let refused = server.inner.advertise(&theirs, server.id(1)).await;
    assert!(
        matches!(refused, Err(AdvertiseError::NotNegotiated)),
        "{refused:?}"
    );
    echo(&ours, &theirs).await;
}

/// RFC 9000 section 9.6: the frame of a stock server, so to speak.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_preferred_address_of_a_stock_server_is_followed_and_not_taken_from_a_ticket() {
    let identity = Identity::new();
    let endpoint = stock_server(&identity);
    let crypto = Arc::new(QuicServerConfig::try_from(identity.server_tls()).unwrap());
    let server = endpoint.local_addr().unwrap();
    let preferred = Relay::start("127.0.1.3:0", server, Duration::ZERO).await;
    let client = client(&identity);
    for (round, prefers) in [true, true, false].into_iter().enumerate() {
        let mut config = quinn::ServerConfig::with_crypto(crypto.clone());
        if let (SocketAddr::V4(v4), true) = (preferred.address, prefers) {
            config.preferred_address_v4(Some(v4));
        }
        endpoint.set_server_config(Some(config));
        let connecting = client.endpoint().connect(server, "localhost").unwrap();
        let accepting = accept(&endpoint);
        let (ours, theirs) = if round == 0 {
            let (ours, theirs) = tokio::join!(connecting, accepting);
            (ours.unwrap(), theirs)
        } else {
            let (ours, accepted) = connecting
                .into_0rtt()
                .unwrap_or_else(|_| panic!("no ticket"));
            let theirs = accepting.await;
            assert!(within(accepted).await, "early data was rejected");
            (ours, theirs)
        };
        let mut migrator = client.attach(&ours, tireless()).unwrap();
        if prefers {
            let event = settled(&mut migrator).await;
            assert!(
                matches!(event, Event::Migrated { to, .. } if to == preferred.address),
                "{event:?}"
            );
        }
        let before = preferred.up.passed.load(Ordering::SeqCst);
        Transfer::start(&ours, &theirs).await.check().await;
        let used = preferred.up.passed.load(Ordering::SeqCst) - before > 100;
        assert_eq!(used, prefers, "round {round}");
        ours.close(0u32.into(), b"");
        while let Some(event) = within(migrator.next()).await {
            assert!(!matches!(event, Event::FellBack { .. }), "{event:?}");
        }
    }
}

/// A client that does not want to go there gives its connection ID back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preferred_address_that_the_policy_refuses_is_not_contacted() {
    let identity = Identity::new();
    let endpoint = stock_server(&identity);
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(
        QuicServerConfig::try_from(identity.server_tls()).unwrap(),
    ));
    config.preferred_address_v4(Some("10.0.0.1:443".parse().unwrap()));
    endpoint.set_server_config(Some(config));
    let client = client(&identity);
    let connecting = client
        .endpoint()
        .connect(endpoint.local_addr().unwrap(), "localhost")
        .unwrap();
    let (ours, theirs) = tokio::join!(connecting, accept(&endpoint));
    let (ours, mut migrator) = {
        let ours = ours.unwrap();
        let migrator = client.attach(&ours, tireless()).unwrap();
        (ours, migrator)
    };
    let event = settled(&mut migrator).await;
    assert!(matches!(event, Event::Refused { .. }), "{event:?}");
    until("its connection ID is given back", || {
        theirs.stats().frame_rx.retire_connection_id > 0
    })
    .await;
    Transfer::start(&ours, &theirs).await.check().await;
    assert_eq!(client.open_sockets(), 1);
}
