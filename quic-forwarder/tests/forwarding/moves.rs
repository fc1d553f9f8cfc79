//! Connections that move between fronts, and what fronts drop.

use std::net::SocketAddr;

use quinn_migration::Event;

use crate::group::{Client, Group};
use crate::support::silence::{follow, returned};
use crate::support::transfer::Transfer;
use crate::support::{Identity, bind, echo, settled, tireless, until, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_moves_between_fronts_and_its_node_sees_the_clients_address() {
    let identity = Identity::new();
    let group = Group::new(&identity);
    let client = Client::new(&identity);
    let (ours, theirs, node) = group.connect(&client.inner, 0).await;
    let server = &group.nodes[node].inner;
    assert_eq!(theirs.remote_address(), client.address());
    assert_eq!(
        theirs.local_ip(),
        Some(group.fronts[0].address().ip()),
        "to the node, it is at the front"
    );
    let mut migrator = client.inner.attach(&ours, tireless()).unwrap();
    let transfer = Transfer::start(&ours, &theirs).await;
    for hop in 1..=6 {
        let (id, to) = (group.ids[node][hop % 2], group.fronts[hop % 2].address());
        follow(server, &theirs, &mut migrator, id, to).await;
        transfer.progress(64 << 10).await;
        let seen = server.client_of(&theirs);
        assert_eq!((seen.client, seen.server), (client.address(), id));
    }
    transfer.check().await;
    for front in &group.fronts {
        let stats = front.stats();
        assert!(stats.to_nodes > 100 && stats.to_clients > 100, "{stats:?}");
        assert_eq!(stats.refused, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_spread_over_the_nodes_and_each_keeps_its_own() {
    let identity = Identity::new();
    let group = Group::new(&identity);
    let client = Client::new(&identity);
    let mut all = Vec::new();
    while all.len() < 40 {
        let (ours, theirs, node) = group.connect(&client.inner, all.len() % 2).await;
        all.push((ours, theirs, node));
    }
    for (ours, theirs, node) in &all {
        let on = all.iter().filter(|(_, _, other)| other == node).count();
        assert!((1..40).contains(&on), "all on one node");
        echo(ours, theirs).await;
        let mut migrator = client.inner.attach(ours, tireless()).unwrap();
        for id in &group.ids[*node] {
            let server = &group.nodes[*node].inner;
            if server.client_of(theirs).server == *id {
                continue;
            }
            server.advertise(theirs, *id).await.unwrap();
            let event = settled(&mut migrator).await;
            assert!(matches!(event, Event::Migrated { .. }), "{event:?}");
            echo(ours, theirs).await;
            assert_eq!(server.client_of(theirs).server, *id);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_outlives_the_front_that_it_is_on() {
    let identity = Identity::new();
    let group = Group::new(&identity);
    let client = Client::new(&identity);
    let (ours, theirs, node) = group.connect(&client.inner, 0).await;
    let mut migrator = client.inner.attach(&ours, tireless()).unwrap();
    let transfer = Transfer::start(&ours, &theirs).await;
    let server = &group.nodes[node].inner;
    server.advertise(&theirs, group.ids[node][1]).await.unwrap();
    let event = settled(&mut migrator).await;
    assert!(matches!(event, Event::Migrated { .. }), "{event:?}");
    transfer.progress(64 << 10).await;
    group.running[1].abort();
    let event = returned(&mut migrator).await;
    let back = group.fronts[0].address();
    assert!(
        matches!(event, Event::FellBack { to, .. } if to == back),
        "{event:?}"
    );
    transfer.check().await;
    assert_eq!(server.client_of(&theirs).server, group.ids[node][0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_and_a_refusal_reach_the_client_through_a_front() {
    let identity = Identity::new();
    let group = Group::new(&identity);
    let client = Client::new(&identity);
    for refuse in [false, true] {
        let to = group.fronts[0].address();
        let connecting = client.inner.endpoint().connect(to, "localhost").unwrap();
        let accepting = async {
            let endpoints = [0, 1].map(|node| group.nodes[node].inner.endpoint());
            let (incoming, endpoint) = tokio::select! {
                incoming = endpoints[0].accept() => (incoming.unwrap(), endpoints[0]),
                incoming = endpoints[1].accept() => (incoming.unwrap(), endpoints[1]),
            };
            assert_eq!(incoming.remote_address(), client.address());
            if refuse {
                incoming.refuse();
                return;
            }
            incoming.retry().unwrap();
            // The same node: a token of another one would mean nothing to it.
            let again = endpoint.accept().await.unwrap();
            assert!(again.remote_address_validated());
            again.await.unwrap();
        };
        let (connected, ()) = within(async { tokio::join!(connecting, accepting) }).await;
        assert_eq!(connected.is_err(), refuse, "{connected:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_front_sends_nothing_that_no_node_has_sealed_and_carries_nothing_that_names_no_node() {
    let identity = Identity::new();
    let group = Group::new(&identity);
    let stranger = bind("127.0.0.1:0");
    let address = stranger.local_addr().unwrap();
    let front = &group.fronts[0];
    let unsealed = |to: SocketAddr| {
        let mut envelope = vec![0x10, 3];
        envelope.extend_from_slice(&[0; 22]);
        envelope.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1]);
        envelope.extend_from_slice(&to.port().to_be_bytes());
        envelope.extend_from_slice(&[0; 100]);
        envelope
    };
    stranger
        .send_to(&unsealed(address), group.inside[0])
        .unwrap();
    until("the envelope is refused", || front.stats().refused == 1).await;
    let mut short = vec![0x40];
    short.extend_from_slice(&[7; 60]);
    stranger.send_to(&short, front.address()).unwrap();
    until("the packet is dropped", || front.stats().unroutable == 1).await;
    let stats = front.stats();
    assert_eq!((stats.to_clients, stats.to_nodes), (0, 0));
}
