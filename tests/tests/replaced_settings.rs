//! A node whose certificates, ALPN and targets change while it runs: new connections get the new ones, live ones go on, and
//! it stays one node, with its connections, its places and its spent tokens.

use std::sync::Arc;

use migration_tests::client::echoed;
use migration_tests::node::echo;
use migration_tests::peer::{Setting, acceptor};
use migration_tests::{Node, Service, server_name};
use migration_token::MemoryNonceStore;
use rustls_migration::server::{Arrival, MigrationServer, Verdict};
use rustls_migration::tokio::{DrainPlan, HandOff};

fn with_alpn(service: &Service, node: &Node) -> MigrationServer {
    let mut config = service.server_config();
    config.alpn_protocols = vec![b"new".to_vec()];
    let settings = service.node_with(config);
    settings.own_addresses([node.address()]).build().unwrap()
}

#[tokio::test]
async fn new_connections_get_new_settings_and_one_drain_reaches_all() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let acceptor = a.serve(service.node(), |mut stream| async move {
        stream.set_state(b"")?;
        echo(stream).await
    });
    b.serve_echo(service.node());
    let connector = service.connector().hand_off(HandOff::Drain);
    let mut old = connector.connect(server_name(), a.address()).await.unwrap();
    echoed(&mut old, b"old").await;

    acceptor.replace(with_alpn(&service, &a));
    let mut config = service.client_config();
    config.alpn_protocols = vec![b"new".to_vec()];
    let stock = rustls::ClientConfig::clone(&config);
    let mut new = tokio_rustls::TlsConnector::from(Arc::new(stock))
        .connect(
            server_name(),
            tokio::net::TcpStream::connect(a.address()).await.unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(new.get_ref().1.alpn_protocol(), Some(b"new".as_slice()));
    echoed(&mut old, b"goes on").await;
    assert_eq!(acceptor.connections(), 2);
    assert_eq!(acceptor.stats().fresh(), 2);

    let plan = DrainPlan::to([(b.address(), 1)]).spread_over(std::time::Duration::ZERO);
    let drain = acceptor.drain(plan);
    while old.peer_addr() != b.address() {
        echoed(&mut old, b"word").await;
    }
    tokio::io::AsyncWriteExt::shutdown(&mut new).await.unwrap();
    drop(new);
    let progress = drain.finished().await.progress;
    assert_eq!(
        (progress.total, progress.handed_over),
        (2, 1),
        "{progress:?}"
    );
}

#[tokio::test]
async fn a_token_that_was_spent_before_is_spent_after() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (mut peer, io) = setting.moved(b"early").await;
    let (copy, copied_io) = tokio::io::duplex(1 << 16);
    let hello = peer.send().await;
    let mut stream = at_b.accept(io).await.unwrap();
    let (done, ()) = tokio::join!(stream.handshake(), peer.say(b"later"));
    done.unwrap();

    // Its own store knows nothing of it.
    let started = rustls_migration::Clock::now(&setting.service.clock) - time::Duration::DAY;
    let empty = Arc::new(MemoryNonceStore::new(10, started));
    at_b.replace(setting.node().nonce_store(empty).build().unwrap());
    let mut copy = copy;
    tokio::io::AsyncWriteExt::write_all(&mut copy, &hello)
        .await
        .unwrap();
    let start = at_b.start(copied_io, None, None).await.unwrap();
    assert_eq!(*start.arrival(), Arrival::Declined(Verdict::Replayed));
    let counts = at_b.stats();
    assert_eq!(
        (counts.committed(), counts.declined(Verdict::Replayed)),
        (1, 1)
    );
}
