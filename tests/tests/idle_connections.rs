//! What an idle connection keeps: its stream, and nothing of what it took to make it.

use std::mem::{size_of, size_of_val};

use migration_tests::{Service, server_name};
use rustls_migration::tokio::{MigrationAcceptor, MigrationStream, TlsStream};
use tokio::net::{TcpListener, TcpStream};

/// More than a stream and what drives it, in bytes, and less than a rustls connection.
const SMALL: usize = 1024;

#[tokio::test]
async fn a_task_that_accepts_or_connects_stays_small() {
    let service = Service::default();
    let acceptor = MigrationAcceptor::from(service.node().build().unwrap());
    let connector = service.connector();
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let io = TcpStream::connect(address).await.unwrap();
    // A task stays as large as the largest future that it ever awaited.
    let accepts = size_of_val(&acceptor.accept(io));
    let connects = size_of_val(&connector.connect(server_name(), address));
    assert!(accepts < SMALL, "accepting: {accepts}");
    assert!(connects < SMALL, "connecting: {connects}");
    assert!(size_of::<TlsStream<TcpStream>>() < 64);
    assert!(size_of::<MigrationStream>() < SMALL);
}
