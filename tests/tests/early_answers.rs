//! Ordinary requests in early data, of clients that know nothing of this project, answered before the handshake is complete:
//! however long the answer is, it arrives whole, and others are served meanwhile. rustls holds such an answer back until
//! the client's Finished has come.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use migration_tests::node::{ServerStream, echo};
use migration_tests::openssl::Openssl;
use migration_tests::stock::{self, ClientStream, bytes, exchange};
use migration_tests::{Node, RecordingDialer, Service};
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// Only a broken server takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

const LONG: usize = 5_000_000;

/// Lines that are all different.
fn long_answer() -> Vec<u8> {
    let lines = (0..LONG / 10).map(|number| format!("{number:09}\n"));
    lines.collect::<String>().into_bytes()
}

/// How many requests have been read before the handshake was complete.
type Early = Arc<AtomicUsize>;

/// Answers `get` and `small`, and echoes everything else.
async fn serve(mut stream: ServerStream, early: Early) -> io::Result<()> {
    let mut request = [0; 64];
    let len = stream.read(&mut request).await?;
    let request = &request[..len];
    let handshaking = stream.get_ref().tls().is_handshaking();
    match request {
        b"get\n" => stream.write_all(&long_answer()).await?,
        b"small\n" => stream.write_all(b"a small answer").await?,
        _ => {
            stream.write_all(request).await?;
            return echo(stream).await;
        }
    }
    stream.flush().await?;
    stream.shutdown().await?;
    // The client may have been fast, and its Finished come in the same moment.
    early.fetch_add(usize::from(handshaking), Ordering::SeqCst);
    // A socket that is dropped with something unread resets the connection.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.map(|_| ())
}

/// A node in a thread of its own: should it never come to rest, the test still ends.
fn node_apart(service: &Service) -> (SocketAddr, Early) {
    let early = Early::default();
    let seen = Arc::clone(&early);
    let (sender, address) = mpsc::channel();
    let settings = service.node();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(async {
            let mut node = Node::bind("127.0.0.2").await;
            let _acceptor = node.serve(settings, move |stream| serve(stream, Arc::clone(&seen)));
            sender.send(node.address()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    (address.recv().unwrap(), early)
}

fn stock_client(service: &Service) -> Arc<ClientConfig> {
    Arc::new(service.client_config_with(Arc::new(stock::provider())))
}

async fn connect(config: &Arc<ClientConfig>, address: SocketAddr) -> ClientStream {
    let dialer = RecordingDialer::default();
    stock::connect(config, address, &dialer).await.unwrap()
}

/// The answer of a resumed connection to a request that was its early data, to the clean end.
async fn answer_to_early(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    request: &[u8],
) -> Vec<u8> {
    let mut stream = connect(config, address).await;
    stream.write_all(request).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let tls = stream.get_ref().1;
    assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Resumed));
    assert!(tls.is_early_data_accepted());
    answer
}

#[tokio::test]
async fn a_long_answer_to_a_stock_clients_early_data_arrives_whole_beside_another_client() {
    let service = Service::default();
    let (address, early) = node_apart(&service);
    let (config, other) = (stock_client(&service), stock_client(&service));
    exchange(connect(&config, address).await, b"hello").await;
    while early.load(Ordering::SeqCst) == 0 {
        let both = async {
            let beside = async {
                exchange(connect(&other, address).await, &bytes(100_000)).await;
            };
            tokio::join!(answer_to_early(&config, address, b"get\n"), beside)
        };
        let (answer, ()) = timeout(PATIENCE, both).await.expect("the node is stuck");
        assert!(answer == long_answer(), "{} bytes", answer.len());
    }
    // And it still serves.
    let later = exchange(connect(&other, address).await, b"later");
    timeout(PATIENCE, later).await.expect("the node is stuck");
}

#[tokio::test]
async fn openssl_gets_a_long_answer_to_its_early_data_whole_beside_another_client() {
    let service = Service::default();
    let (address, early) = node_apart(&service);
    let openssl = Openssl::new(&service);
    openssl.write("request", "get\n");
    let mut client = openssl.s_client(address, "-sess_out @session");
    client.say("hello\n").await;
    client.until("hello").await;
    client.finish().await;
    let (other, options) = (
        stock_client(&service),
        "-sess_in @session -sess_out @session -early_data @request -quiet",
    );
    while early.load(Ordering::SeqCst) == 0 {
        let client = openssl.s_client(address, options);
        let both = async {
            let beside = async {
                exchange(connect(&other, address).await, &bytes(100_000)).await;
            };
            tokio::join!(client.finish(), beside)
        };
        let (said, ()) = timeout(PATIENCE, both).await.expect("the node is stuck");
        let answer = String::from_utf8(long_answer()).unwrap();
        assert!(said.contains(&answer), "{} bytes", said.len());
    }
}

#[tokio::test]
async fn what_was_written_flushed_and_shut_down_during_the_handshake_arrives_before_the_end() {
    let service = Service::default();
    let (address, early) = node_apart(&service);
    let config = stock_client(&service);
    exchange(connect(&config, address).await, b"hello").await;
    while early.load(Ordering::SeqCst) == 0 {
        let answer = answer_to_early(&config, address, b"small\n");
        let answer = timeout(PATIENCE, answer).await.expect("the node is stuck");
        assert_eq!(answer, b"a small answer");
    }
}
