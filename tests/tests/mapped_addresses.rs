//! IPv4 addresses mapped into IPv6, as dual-stack sockets show them: to a client they are the IPv4 addresses.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use migration_tests::client::{Chosen, echoed};
use migration_tests::memory::{Joined, expect_offers};
use migration_tests::{Node, Service, server_name};
use rustls_migration::MoveKind;
use rustls_migration::client::{TargetPolicy, TargetRefused};
use rustls_migration::server::Arrival;
use rustls_migration::tokio::MigrationConnector;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Allows all, and keeps what it was asked.
#[derive(Clone, Debug, Default)]
struct Asked(Arc<Mutex<Vec<(SocketAddr, SocketAddr)>>>);

impl TargetPolicy for Asked {
    fn allow(&self, current: SocketAddr, target: SocketAddr) -> Result<(), TargetRefused> {
        self.0.lock().unwrap().push((current, target));
        Ok(())
    }
}

#[test]
fn a_policy_an_update_and_an_offer_have_the_one_form() {
    let service = Service::default();
    let (at_a, at_b) = (
        address("[::ffff:127.0.0.2]:443"),
        address("[::ffff:127.0.0.3]:443"),
    );
    let [a, b] = [at_a, at_b].map(|here| {
        let node = service.node().own_addresses([here]).target(at_b);
        Arc::new(node.build().unwrap())
    });
    let asked = Asked::default();
    let client = service.client_with(service.client_config());
    let client = Arc::new(client.target_policy(asked.clone()).build().unwrap());
    let mut here = Joined::new(&client, &a, at_a);
    let (canonical_a, canonical_b) = (address("127.0.0.2:443"), address("127.0.0.3:443"));
    let offered = [here.client.next_update().unwrap()];
    expect_offers(&offered, canonical_b, MoveKind::Connection);
    let offer = here.take_offer(at_b);
    assert_eq!(*asked.0.lock().unwrap(), [(canonical_a, canonical_b)]);
    assert_eq!(offer.target(), canonical_b);
    let there = Joined::resume(&client, &b, offer);
    assert!(matches!(there.server.arrival(), Arrival::Migrated { .. }));
}

#[tokio::test]
async fn a_stream_is_where_its_server_is() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let mut b = Node::bind("127.0.0.3").await;
    let mapped = |node: &Node| {
        let (at, port) = (node.address().ip(), node.address().port());
        address(&format!("[::ffff:{at}]:{port}"))
    };
    let target = mapped(&b);
    a.serve_echo(service.node().target(target));
    b.serve_echo(service.node().own_addresses([target]));
    let connector: MigrationConnector = service.connector();
    let connector = connector.target_resolver(Chosen(vec![target]));
    let mut stream = connector.connect(server_name(), mapped(&a)).await.unwrap();
    assert_eq!(stream.peer_addr(), a.address());
    echoed(&mut stream, b"hello").await;
    let landing = stream.migrate(&[]).await.unwrap();
    assert_eq!((landing.from, landing.at), (a.address(), b.address()));
    echoed(&mut stream, b"and on").await;
}
