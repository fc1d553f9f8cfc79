//! Servers that accept connections: a slow client keeps nobody waiting, a node that stops accepts who waits, and what arrives in the middle
//! of a stream is never taken for HTTP.

use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use hyper_migration::server::{ConnectionInfo, MigrationListener, serve};
use migration_tests::node::echo;
use migration_tests::{Node, server_name};
use rustls_migration::tokio::{DrainPlan, HandOff, MigrationStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::cluster::{Protocol, tls_connector, two_nodes};

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
async fn http_sees_no_byte_of_a_stream_that_arrives_in_its_middle() {
    let (service, _, _, mut b) = two_nodes(Some(Protocol::H1)).await;
    b.serve(Router::new().route("/", get("taken for HTTP")));
    let mut a = Node::bind("127.0.0.4").await;
    let target = b.address;
    let mut config = service.server_config();
    config.alpn_protocols = Protocol::H1.alpn();
    a.serve(service.node_with(config), move |mut stream| async move {
        stream.migrate_to(target, Some(b"state")).await?;
        echo(stream).await
    });
    let connector = tls_connector(&service, Protocol::H1).hand_off(HandOff::Drain);
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
    assert_eq!(b.acceptor.counts().migrated(), 1);
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
