//! A peer that reads nothing for a while and then all at once: what waited in the connection's buffer leaves in one go, and
//! whoever writes must go on.

use std::sync::Arc;
use std::time::Duration;

use migration_tests::{Service, server_name};
use rustls_migration::tokio::MigrationAcceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const LEN: usize = 4 << 20;

#[tokio::test(start_paused = true)]
async fn a_writer_goes_on_when_all_that_waited_has_left_at_once() {
    let service = Service::default();
    let acceptor = MigrationAcceptor::from(service.node().build().unwrap());
    // Room for several times of what the connection buffers.
    let (near, far) = tokio::io::duplex(256 << 10);
    let writing = tokio::spawn(async move {
        let mut stream = acceptor.accept(far).await.unwrap();
        stream.write_all(&vec![7; LEN]).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let connector = TlsConnector::from(Arc::new(service.client_config()));
    let mut stream = connector.connect(server_name(), near).await.unwrap();
    let mut read = Vec::new();
    let all = timeout(Duration::from_secs(60), stream.read_to_end(&mut read));
    all.await.expect("the writer goes on").unwrap();
    assert_eq!(read.len(), LEN);
    writing.await.unwrap();
}
