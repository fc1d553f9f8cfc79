//! The example of a service whose conversations survive it: totals go on at another node when the first one dies, and no number
//! counts twice.

#[allow(dead_code, reason = "its main is not run")]
#[path = "../../rustls-migration/examples/recovering_service.rs"]
mod example;

use std::sync::Arc;

use migration_tests::client::expect;
use migration_tests::{Node, Service, server_name};
use rustls_migration::server::Arrival;
use rustls_migration::tokio::HandOff;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

#[tokio::test]
async fn totals_go_on_at_another_node_when_the_first_one_dies_in_the_middle_of_a_line() {
    let service = Service::default();
    let [mut a, mut b] = [Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await];
    let at_b = b.address();
    let death = Arc::new(Notify::new());
    let dies = Arc::clone(&death);
    a.serve(service.node(), move |stream| {
        let dies = Arc::clone(&dies);
        async move {
            tokio::select! {
                ended = example::serve(stream, at_b) => ended,
                () = dies.notified() => Ok(()),
            }
        }
    });
    b.serve(service.node(), move |stream| example::serve(stream, at_b));
    let connector = service.connector().hand_off(HandOff::Drain);
    let connector = connector.recover_from_start();
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    stream.write_all(b"1\n20\n3").await.unwrap();
    expect(&mut stream, b"1\n21\n").await;
    death.notify_one();
    stream.write_all(b"00\n4000\n").await.unwrap();
    expect(&mut stream, b"321\n4321\n").await;
    assert!(matches!(b.arrival().await, Arrival::Recovered { .. }));
    assert_eq!(stream.peer_addr(), at_b);
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}
