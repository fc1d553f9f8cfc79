//! A server that first wants the stream to go on elsewhere, and then the connection: its client does not leave with the stream.

use std::sync::Arc;
use std::time::Duration;

use migration_tests::memory::sent;
use migration_tests::node::echo;
use migration_tests::server_name;
use migration_tests::simulated::{Pair, run};
use rustls_migration::server::{HelloAcceptor, MigrationServer, ServerConnection};
use rustls_migration::tokio::HandOff;
use rustls_migration::{Connection as _, MoveKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::sleep;

/// A server's connection that a test drives by hand.
struct ByHand {
    connection: ServerConnection,
    io: DuplexStream,
}

impl ByHand {
    async fn accept(server: Arc<MigrationServer>, mut io: DuplexStream) -> Self {
        let mut accepting = HelloAcceptor::new(server, None, None);
        let mut buf = [0; 4096];
        loop {
            let len = io.read(&mut buf).await.unwrap();
            if accepting.push(&buf[..len]) {
                break;
            }
        }
        let connection = accepting.examine().unwrap().accept(None).unwrap();
        let mut accepted = Self { connection, io };
        while accepted.connection.is_handshaking() {
            accepted.say().await;
            accepted.hear().await;
        }
        accepted.say().await;
        accepted
    }

    async fn say(&mut self) {
        let said = sent(&mut self.connection);
        self.io.write_all(&said).await.unwrap();
    }

    async fn hear(&mut self) {
        let mut buf = [0; 4096];
        let len = self.io.read(&mut buf).await.unwrap();
        let mut rest = &buf[..len];
        while !rest.is_empty() {
            self.connection.read_tls(&mut rest).unwrap();
            self.connection.process_new_packets().unwrap();
        }
    }
}

/// The client has begun to dial the stream's target, which answers before it is told otherwise or after that.
async fn told_otherwise(mode: HandOff, answered: bool) {
    let pair = Pair::new(65_536);
    let b = pair.b;
    pair.network.set_away(b, !answered);
    pair.serve(b, pair.service.node(), echo);
    let settings = pair.service.node().own_addresses([pair.a]);
    let (io, server) = duplex(65_536);
    let accepting = ByHand::accept(Arc::new(settings.build().unwrap()), server);
    let connector = pair.connector(mode);
    let connecting = connector.connect_over(server_name(), pair.a, io);
    let (mut a, stream) = tokio::join!(accepting, connecting);
    let stream = stream.unwrap();
    // What has begun cannot go on.
    let (cork, handle) = (stream.cork(), stream.handle());
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.map(|_| read)
    });
    for state in [Some(&b"state"[..]), None] {
        a.connection.offer(b, state).unwrap();
        a.connection.notify().unwrap();
        a.say().await;
        sleep(Duration::from_secs(2)).await;
    }
    pair.network.set_away(b, false);
    drop(cork);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(handle.peer_addr(), pair.a);
    writer.write_all(b"word").await.unwrap();
    writer.flush().await.unwrap();
    a.hear().await;
    assert_eq!(a.connection.fill_buf().unwrap(), b"word", "{mode:?}");
    a.connection.write(b"the rest").unwrap();
    a.connection.send_close_notify();
    a.say().await;
    assert_eq!(reading.await.unwrap().unwrap(), b"the rest");
    // Its next connection goes there.
    assert_eq!(handle.take_offer().unwrap().kind(), MoveKind::Connection);
}

#[test]
fn a_client_that_was_told_to_go_with_its_next_connection_after_all_stays_with_the_stream() {
    for mode in [HandOff::Drain, HandOff::Overlap] {
        for answered in [true, false] {
            run(told_otherwise(mode, answered));
        }
    }
}
