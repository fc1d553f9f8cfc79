//! HTTP/3 by `h3` and `h3-quinn`, which know nothing of this crate: a download that moves while it goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf as _, Bytes};
use quinn::{Connection, EndpointConfig};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::support::{Identity, Server, World, client_with, within};

const PART: usize = 16 * 1024;
/// Bytes under way at most; see `support/transfer.rs`.
const WINDOW: usize = 64 * 1024;

/// Bytes and their SHA-256.
type Sum = (usize, [u8; 32]);

/// Answers one request, until it is told that this is enough.
async fn serve(
    connection: Connection,
    enough: Arc<AtomicBool>,
    mut received: watch::Receiver<usize>,
) -> Sum {
    let mut http = h3::server::Connection::new(h3_quinn::Connection::new(connection))
        .await
        .unwrap();
    let request = http.accept().await.unwrap().unwrap();
    let (request, mut stream) = request.resolve_request().await.unwrap();
    assert_eq!(request.uri().path(), "/large");
    let response = http::Response::new(());
    stream.send_response(response).await.unwrap();
    let (mut sum, mut bytes) = (Sha256::new(), 0);
    while !enough.load(Ordering::SeqCst) {
        let room = received.wait_for(|received| bytes - received < WINDOW);
        room.await.unwrap();
        let part = vec![(bytes / PART) as u8; PART];
        sum.update(&part);
        bytes += part.len();
        stream.send_data(Bytes::from(part)).await.unwrap();
    }
    stream.finish().await.unwrap();
    // Until the client has closed the connection.
    let _ = http.accept().await;
    (bytes, sum.finalize().into())
}

async fn download(connection: Connection, received: watch::Sender<usize>) -> Sum {
    let (mut http, mut requests) = h3::client::new(h3_quinn::Connection::new(connection))
        .await
        .unwrap();
    let driving = tokio::spawn(async move { http.wait_idle().await });
    let request = http::Request::get("https://localhost/large").body(());
    let mut stream = requests.send_request(request.unwrap()).await.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(stream.recv_response().await.unwrap().status(), 200);
    let (mut sum, mut bytes) = (Sha256::new(), 0);
    while let Some(mut part) = stream.recv_data().await.unwrap() {
        let part = part.copy_to_bytes(part.remaining());
        sum.update(&part);
        bytes += part.len();
        received.send_replace(bytes);
    }
    drop(requests);
    driving.await.unwrap();
    (bytes, sum.finalize().into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_over_http3_moves_three_times() {
    let identity = Identity::new();
    let (mut server_tls, mut client_tls) = (identity.server_tls(), identity.client_tls());
    server_tls.alpn_protocols = vec![b"h3".to_vec()];
    client_tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = EndpointConfig::default;
    let server = Server::with(server_tls, config(), &["127.0.0.2:0", "127.0.0.3:0"]);
    let client = client_with(client_tls, config(), "0.0.0.0:0");
    let first = server.address(0);
    let mut world = World::between(server, client, first).await;
    let enough = Arc::new(AtomicBool::new(false));
    let (received, mut progress) = watch::channel(0);
    let serving = serve(world.theirs.clone(), Arc::clone(&enough), progress.clone());
    let serving = tokio::spawn(serving);
    let downloading = tokio::spawn(download(world.ours.clone(), received));
    let addresses: [SocketAddr; 2] = [0, 1].map(|index| world.server.address(index));
    for hop in 1..=3 {
        let goal = *progress.borrow() + (1 << 20);
        within(progress.wait_for(|bytes| *bytes >= goal))
            .await
            .unwrap();
        world.move_to(addresses[hop % 2]).await;
    }
    let goal = *progress.borrow() + (1 << 20);
    within(progress.wait_for(|bytes| *bytes >= goal))
        .await
        .unwrap();
    enough.store(true, Ordering::SeqCst);
    let received = within(downloading).await.unwrap();
    assert!(world.server.datagrams(1) > 1000);
    world.ours.close(0u32.into(), b"");
    assert_eq!(within(serving).await.unwrap(), received);
}
