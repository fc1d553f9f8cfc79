//! A notice reaches a client whatever stands before it in the stream: a client that only uploads reads nothing until it is done,
//! and is moved all the same.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use migration_tests::node::ServerStream;
use migration_tests::session::Content;
use migration_tests::{Node, Service, server_name};
use rustls_migration::server::Arrival;
use rustls_migration::tokio::HandOff;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What the client uploads, in bytes: more than all the buffers on the way hold.
const UPLOAD: usize = 24 << 20;

/// Reads on from `received`, and returns how much it has at the client's end.
async fn receive(stream: &mut ServerStream, mut received: usize) -> io::Result<usize> {
    let mut buf = vec![0; 16_384];
    loop {
        match stream.read(&mut buf).await? {
            0 => return Ok(received),
            len => {
                assert!(
                    Content::FromClient.is_at(received, &buf[..len]),
                    "a gap or a repeat at {received}"
                );
                received += len;
            }
        }
    }
}

/// Says `said` bytes, reads some, tells the client to move, and hands over how far it was.
async fn source(
    mut stream: ServerStream,
    said: usize,
    target: SocketAddr,
    left: Arc<Mutex<usize>>,
) -> io::Result<()> {
    stream
        .write_all(&Content::FromServer.piece(0, said))
        .await?;
    let mut first = vec![0; 100_000];
    stream.read_exact(&mut first).await?;
    assert!(Content::FromClient.is_at(0, &first));
    stream
        .migrate_to(target, Some(&first.len().to_be_bytes()))
        .await?;
    let received = receive(&mut stream, first.len()).await?;
    *left.lock().unwrap() = received;
    stream.set_state(&received.to_be_bytes())?;
    stream.shutdown().await
}

/// Goes on, and says how much there was in all.
async fn target(mut stream: ServerStream) -> io::Result<()> {
    let Arrival::Migrated {
        state: Some(state), ..
    } = stream.arrival()
    else {
        panic!("{:?}", stream.arrival());
    };
    let received = usize::from_be_bytes(state.as_slice().try_into().unwrap());
    let received = receive(&mut stream, received).await?;
    stream.write_all(&received.to_be_bytes()).await?;
    stream.shutdown().await
}

#[tokio::test]
async fn an_uploader_that_never_reads_is_moved_although_the_server_has_said_something() {
    for said in [0, 6, 60_000] {
        let service = Service::default();
        let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
        let (to, left) = (b.address(), Arc::<Mutex<usize>>::default());
        let noted = Arc::clone(&left);
        a.serve(service.node(), move |stream| {
            source(stream, said, to, Arc::clone(&noted))
        });
        b.serve(service.node(), target);
        let connector = service.connector().hand_off(HandOff::Drain);
        let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
        // It writes all that it has, and has not read a byte by then.
        for start in (0..UPLOAD).step_by(1 << 20) {
            let piece = Content::FromClient.piece(start, 1 << 20);
            stream.write_all(&piece).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        let (from_a, receipt) = read.split_at(said);
        assert!(Content::FromServer.is_at(0, from_a));
        assert_eq!(receipt, UPLOAD.to_be_bytes());
        assert_eq!(stream.peer_addr(), b.address());
        // It learnt of it in the middle, not at its end.
        assert!(*left.lock().unwrap() < UPLOAD, "{said}");
    }
}
