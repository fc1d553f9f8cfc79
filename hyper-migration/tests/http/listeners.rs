//! Servers that accept connections: a slow client keeps nobody waiting, a node that stops accepts who waits, and what arrives in the middle
//! of a stream is never taken for HTTP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use hyper_migration::server::{ConnectionInfo, MigrationListener, Serve, serve};
use migration_tests::client::{Chosen, echoed};
use migration_tests::node::echo;
use migration_tests::{Node, server_name};
use rustls_migration::migration_token::BoxFuture;
use rustls_migration::tokio::{
    Dial, DrainPlan, EarlyDataOutcome, HandOff, MigrationStream, Transport,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cluster::{Protocol, plan, tls_connector, two_nodes};

/// What is answered to a request on a connection of its own.
async fn answer(stream: &mut MigrationStream) -> String {
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_client_that_says_nothing_keeps_nobody_waiting() {
    let (service, _, mut a, mut b) = two_nodes(Some(Protocol::H1)).await;
    let say_peer = async |ConnectInfo(info): ConnectInfo<ConnectionInfo>| {
        format!("you are {}", info.peer_addr().unwrap())
    };
    let listener = MigrationListener::new(a.take_listener(), a.acceptor.clone()).unwrap();
    assert_eq!(listener.local_addr(), a.address);
    let router = Router::new().route("/", get(say_peer));
    let router = router.into_make_service_with_connect_info::<ConnectionInfo>();
    let mut serving = JoinSet::new();
    serving.spawn(async { axum::serve(listener, router).await.unwrap() });
    b.serve(Router::new().route("/", get("you are somebody")));
    for node in [&a, &b] {
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(node.address).await.unwrap());
        }
        let connector = tls_connector(&service, Protocol::H1);
        let mut stream = connector
            .connect(server_name(), node.address)
            .await
            .unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.contains("you are"), "{answer}");
    }
}

#[tokio::test]
async fn a_node_that_stops_accepts_who_waits_and_ends_with_its_last_connection() {
    let (service, _, mut a, b) = two_nodes(Some(Protocol::H1)).await;
    let (stop, stopped) = oneshot::channel::<()>();
    let router = Router::new().route("/", get("hello"));
    let server = serve(a.take_listener(), a.acceptor.clone(), router);
    let server = server.accept_until(async { drop(stopped.await) });
    // Nobody is accepted before the node is to stop.
    let waiting = TcpStream::connect(a.address).await.unwrap();
    stop.send(()).unwrap();
    let serving = tokio::spawn(server.into_future());
    while a.acceptor.connections() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(TcpStream::connect(a.address).await.is_err());
    let connector = tls_connector(&service, Protocol::H1);
    let stream = connector.connect_over(server_name(), a.address, waiting);
    let mut stream = stream.await.unwrap();
    assert!(answer(&mut stream).await.ends_with("hello"));
    drop(stream);
    let plan = DrainPlan::to([(b.address, 1)]).deadline(Duration::from_secs(60));
    a.acceptor.drain(plan).finished().await;
    serving.await.unwrap();
}

#[tokio::test]
async fn a_node_that_stops_resets_nobody_in_a_long_queue() {
    const WAITING: usize = 300;
    let (_, _, a, _) = two_nodes(Some(Protocol::H1)).await;
    let listener = rustls_migration::tokio::listen("127.0.0.8:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", get("hello"));
    let server = serve(listener, a.acceptor.clone(), router);
    let server = server.accept_until(std::future::ready(()));
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        waiting.push(TcpStream::connect(address).await.unwrap());
    }
    let serving = tokio::spawn(server.into_future());
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    // A client whose connection was reset would hear of it here.
    let mut ended = JoinSet::new();
    for mut tcp in waiting {
        tcp.write_all(b"no hello").await.unwrap();
        ended.spawn(async move {
            let mut said = Vec::new();
            tcp.read_to_end(&mut said).await.map(|_| said)
        });
    }
    while let Some(said) = ended.join_next().await {
        // An alert.
        assert_eq!(said.unwrap().unwrap().first(), Some(&21));
    }
    serving.await.unwrap();
}

#[tokio::test]
async fn a_connection_on_which_nothing_has_been_asked_ends_cleanly_when_it_is_told() {
    let (service, _, mut a, b) = two_nodes(None).await;
    a.serve(Router::new().route("/", get("hello")));
    let connector = tls_connector(&service, Protocol::H2);
    let mut stream = connector.connect(server_name(), a.address).await.unwrap();
    let drain = a.acceptor.drain(plan(b.address));
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    assert!(stream.is_notified() && said.is_empty());
    drop(stream);
    let drained = drain.finished().await.progress;
    assert_eq!((drained.forced, drained.moved), (0, 1));
}

#[tokio::test]
async fn http_sees_no_byte_of_a_stream_that_arrives_in_its_middle() {
    for recovers in [false, true] {
        arrives_in_its_middle(recovers).await;
    }
}

/// Since it was handed over, or since its server has died.
async fn arrives_in_its_middle(recovers: bool) {
    let (service, _, _, mut b) = two_nodes(Some(Protocol::H1)).await;
    b.serve(Router::new().route("/", get("taken for HTTP")));
    let mut a = Node::bind("127.0.0.4").await;
    let target = b.address;
    let mut config = service.server_config();
    config.alpn_protocols = Protocol::H1.alpn();
    a.serve(service.node_with(config), move |mut stream| async move {
        if recovers {
            return stream.checkpoint(target, b"state").await;
        }
        stream.migrate_to(target, Some(b"state")).await?;
        echo(stream).await
    });
    let connector = tls_connector(&service, Protocol::H1).hand_off(HandOff::Drain);
    let connector = connector.recover_from_start();
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    // What is written between the servers comes first at the target.
    let mut said = Vec::new();
    let talk = async {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        stream.read_to_end(&mut said).await
    };
    let ended = talk.await;
    let said = String::from_utf8(said).unwrap();
    assert!(!said.contains("taken for HTTP"), "{said}");
    assert!(ended.is_err(), "{ended:?}, {said}");
    let stats = b.acceptor.stats();
    let arrived = (u64::from(!recovers), u64::from(recovers));
    assert_eq!((stats.migrated(), stats.recovered()), arrived);
}

#[tokio::test]
async fn an_information_cannot_hand_over_a_stream_that_somebody_else_has() {
    let (service, _, mut a, _) = two_nodes(Some(Protocol::H1)).await;
    let try_it = async |ConnectInfo(info): ConnectInfo<ConnectionInfo>| {
        let error = info.hand_over("something else").await.unwrap_err();
        format!("{:?}", error.kind())
    };
    let listener = MigrationListener::new(a.take_listener(), a.acceptor.clone()).unwrap();
    let router = Router::new().route("/", get(try_it));
    let router = router.into_make_service_with_connect_info::<ConnectionInfo>();
    let mut serving = JoinSet::new();
    serving.spawn(async { axum::serve(listener, router).await.unwrap() });
    let connector = tls_connector(&service, Protocol::H1);
    let mut stream = connector.connect(server_name(), a.address).await.unwrap();
    assert!(answer(&mut stream).await.ends_with("NotConnected"));
}

/// Leads to `target` for the client's first flight alone: what the client says after it has heard something is lost.
#[derive(Debug)]
struct FirstFlight {
    target: SocketAddr,
}

struct Deaf {
    tcp: TcpStream,
    deaf: bool,
}

impl Dial for FirstFlight {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let tcp = TcpStream::connect(address).await?;
            let transport: Box<dyn Transport> = match address == self.target {
                true => Box::new(Deaf { tcp, deaf: false }),
                false => Box::new(tcp),
            };
            Ok(transport)
        })
    }
}

impl AsyncRead for Deaf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        self.deaf |= !buf.filled().is_empty();
        read
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.deaf {
            true => Poll::Ready(Ok(buf.len())),
            false => Pin::new(&mut self.tcp).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_request_in_early_data_waits_for_the_end_of_the_handshake_unless_the_server_says_otherwise()
 {
    for early in [false, true] {
        let (service, _, _, mut b) = two_nodes(Some(Protocol::H1)).await;
        let asked = Arc::new(AtomicBool::new(false));
        let was_asked = Arc::clone(&asked);
        let hello = async move || {
            was_asked.store(true, Ordering::SeqCst);
            "hello"
        };
        let router = Router::new().route("/", get(hello));
        let set: fn(Serve<Router>) -> Serve<Router> = match early {
            true => Serve::early_data,
            false => |server| server,
        };
        b.serve_with(router, set);
        let mut a = Node::bind("127.0.0.4").await;
        let target = b.address;
        let mut config = service.server_config();
        config.alpn_protocols = Protocol::H1.alpn();
        a.serve(service.node_with(config).target(target), echo);
        let connector = tls_connector(&service, Protocol::H1).dialer(FirstFlight { target });
        let connector = connector.target_resolver(Chosen(vec![target]));
        let stream = connector.connect(server_name(), a.address()).await;
        let mut stream = stream.unwrap();
        echoed(&mut stream, b"at A").await;
        let moved = stream.migrate(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        assert_eq!(
            (moved.at, moved.early_data),
            (target, EarlyDataOutcome::Accepted)
        );
        // The server never learns that the handshake is complete.
        let mut answer = [0; 12];
        let patience = Duration::from_millis(if early { 20_000 } else { 300 });
        let read = timeout(patience, stream.read_exact(&mut answer)).await;
        assert_eq!((read.is_ok(), asked.load(Ordering::SeqCst)), (early, early));
        assert!(!early || answer == *b"HTTP/1.0 200");
    }
}
