//! Two servers of one process that answer for one address, with nothing said about a nonce store: a token is spent once.

use migration_tests::node::echo;
use migration_tests::{Node, RecordingDialer, Service, server_name};
use rustls_migration::server::{Arrival, MigrationServer, MigrationServerBuilder, Verdict};
use rustls_migration::tokio::MigrationAcceptor;
use tokio::io::AsyncWriteExt as _;

/// Settings with the system's clock and the store that is there by default.
fn settings(service: &Service) -> MigrationServerBuilder {
    let keys = service.keys.clone();
    MigrationServer::builder(service.server_config(), "files", keys)
        .clock_skew(std::time::Duration::ZERO)
}

#[tokio::test]
async fn a_token_that_one_server_accepted_the_other_one_refuses() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let at_b = b.address();
    let beside = settings(&service).own_addresses([at_b]).build().unwrap();
    let beside = MigrationAcceptor::from(beside);
    b.serve(settings(&service), echo);
    a.serve(settings(&service).target(at_b), echo);
    let dialer = RecordingDialer::default();
    let connector = service.connector().dialer(dialer.clone());
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    // The tickets come with the answer.
    migration_tests::client::echoed(&mut stream, b"hello").await;
    stream.migrate(b"early").await.unwrap();
    migration_tests::client::expect(&mut stream, b"early").await;
    assert!(matches!(b.arrival().await, Arrival::Migrated { .. }));
    // Nothing but early data is answered before the token is spent.
    migration_tests::client::echoed(&mut stream, b"later").await;

    let (mut copy, io) = tokio::io::duplex(1 << 16);
    copy.write_all(&dialer.last().sent).await.unwrap();
    let start = beside.start(io, None, None).await.unwrap();
    assert_eq!(*start.arrival(), Arrival::Declined(Verdict::Replayed));
}
