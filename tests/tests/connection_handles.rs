//! What can be said to a connection, and asked of it, while something else owns its stream: through a whole move, by whoever
//! asks before, during or after, and with consent that is given, taken back, or late.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::client::{echoed, expect};
use migration_tests::node::echo;
use migration_tests::peer::{Setting, acceptor};
use migration_tests::watched::Watched;
use migration_tests::{Node, Service, server_name};
use rustls_migration::server::Arrival;
use rustls_migration::tokio::{ConnectionHandle, DepartureStatus, HandOff, MigrationStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

fn elsewhere() -> SocketAddr {
    "127.0.0.4:443".parse().unwrap()
}

/// A node at A, whose application knows nothing of moves: it echoes, and gives its stream's handle away.
fn serve_knowing_nothing(a: &mut Node, service: &Service) -> mpsc::Receiver<ConnectionHandle> {
    let (sender, handles) = mpsc::channel(10);
    a.serve(service.node(), move |stream| {
        let sender = sender.clone();
        async move {
            sender.send(stream.handle()).await.unwrap();
            echo(stream).await
        }
    });
    handles
}

async fn connect(service: &Service, node: &Node) -> MigrationStream {
    let connector = service.connector().hand_off(HandOff::Drain);
    connector
        .connect(server_name(), node.address())
        .await
        .unwrap()
}

/// Talks until the stream is at `address`.
async fn until_at(stream: &mut MigrationStream, address: SocketAddr) {
    while stream.peer_addr() != address {
        echoed(stream, b"word").await;
    }
}

fn is_shared<T: Send + Sync + Clone + std::fmt::Debug + 'static>(_: &T) {}

#[tokio::test]
async fn a_handle_follows_a_whole_move_whoever_asks_and_whenever() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let mut handles = serve_knowing_nothing(&mut a, &service);
    b.serve_echo(service.node());
    let mut stream = connect(&service, &a).await;
    let handle = handles.recv().await.unwrap();
    is_shared(&handle);
    assert_eq!(handle.status(), DepartureStatus::Staying);
    assert_eq!(*handle.arrival(), Arrival::Fresh);
    assert!(handle.peer().unwrap().ip().is_loopback());
    let ask = |handle: ConnectionHandle| {
        let ended = handle.clone();
        (
            tokio::spawn(async move { handle.told().await }),
            tokio::spawn(async move { ended.ended().await }),
        )
    };
    let (told_before, ended_before) = ask(handle.clone());
    echoed(&mut stream, b"hello").await;
    assert!(!told_before.is_finished() && !ended_before.is_finished());

    handle.set_state(b"state").unwrap();
    handle.migrate_to(b.address());
    let told = told_before.await.unwrap();
    assert!(!matches!(
        told,
        DepartureStatus::Staying | DepartureStatus::NotMovable
    ));
    let (told_meanwhile, ended_meanwhile) = ask(handle.clone());
    until_at(&mut stream, b.address()).await;
    let Arrival::Migrated { state, .. } = b.arrival().await else {
        panic!("no stream arrived");
    };
    assert_eq!(state.as_deref().map(Vec::as_slice), Some(&b"state"[..]));
    let (told_after, ended_after) = ask(handle.clone());
    told_meanwhile.await.unwrap();
    for answer in [ended_before, ended_meanwhile, ended_after, told_after] {
        assert_eq!(answer.await.unwrap(), DepartureStatus::HandedOver);
    }
    assert_eq!(handle.status(), DepartureStatus::HandedOver);

    // The stream is gone, and nothing that is said to it does anything.
    handle.migrate_to(elsewhere());
    handle.set_state(b"late").unwrap();
    handle.withdraw_state();
    assert_eq!(handle.status(), DepartureStatus::HandedOver);
    echoed(&mut stream, b"at B").await;
}

#[tokio::test]
async fn without_consent_a_drain_client_is_told_and_keeps_its_side_open() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let b = Node::bind("127.0.0.3").await;
    let mut handles = serve_knowing_nothing(&mut a, &service);
    let mut stream = connect(&service, &a).await;
    let handle = handles.recv().await.unwrap();
    handle.migrate_to(b.address());
    while !stream.is_notified() {
        echoed(&mut stream, b"word").await;
    }
    // Had it closed its side, the echo would end.
    for _ in 0..20 {
        echoed(&mut stream, b"word").await;
    }
    assert_eq!(handle.status(), DepartureStatus::Told);
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(handle.ended().await, DepartureStatus::Left);
    assert_eq!(stream.peer_addr(), a.address());
}

#[tokio::test]
async fn consent_that_comes_after_the_notice_is_for_the_next_time() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    b.serve_echo(service.node());
    let mut handles = serve_knowing_nothing(&mut a, &service);
    let mut stream = connect(&service, &a).await;
    let handle = handles.recv().await.unwrap();
    handle.migrate_to(b.address());
    handle.told().await;
    handle.set_state(b"late").unwrap();
    while !stream.is_notified() {
        echoed(&mut stream, b"word").await;
    }
    echoed(&mut stream, b"goes on here").await;
    assert_eq!(stream.peer_addr(), a.address());
    stream.shutdown().await.unwrap();
    // It was not told as a stream, so its end is the end.
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(handle.ended().await, DepartureStatus::Left);
}

#[tokio::test]
async fn consent_that_is_taken_back_ends_the_stream_here_cleanly() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    b.serve_echo(service.node());
    let at_b = b.address();
    let (sender, handle) = oneshot::channel();
    let sender = Arc::new(std::sync::Mutex::new(Some(sender)));
    a.serve(service.node(), move |mut stream| {
        let sender = sender.lock().unwrap().take().unwrap();
        async move {
            sender.send(stream.handle()).unwrap();
            stream.migrate_to(at_b, Some(b"state")).await?;
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await?;
            stream.write_all(b"the last word").await?;
            // The conversation is finished.
            stream.handle().withdraw_state();
            stream.shutdown().await
        }
    });
    let mut stream = connect(&service, &a).await;
    expect(&mut stream, b"the last word").await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(handle.await.unwrap().ended().await, DepartureStatus::Left);
    assert_eq!(stream.peer_addr(), a.address());
}

#[tokio::test]
async fn notify_with_consent_hands_over_the_last_state() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    b.serve_echo(service.node());
    let settings = service.node().target(b.address());
    a.serve(settings, |mut stream| async move {
        stream.set_state(&0u64.to_be_bytes())?;
        stream.notify().await?;
        let (mut read, mut buf) = (0u64, [0; 100]);
        loop {
            let len = stream.read(&mut buf).await?;
            if len == 0 {
                return stream.shutdown().await;
            }
            read += len as u64;
            stream.set_state(&read.to_be_bytes())?;
            stream.write_all(&buf[..len]).await?;
        }
    });
    let mut stream = connect(&service, &a).await;
    stream.write_all(b"seven b").await.unwrap();
    let mut echo = [0; 7];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"seven b");
    until_at(&mut stream, b.address()).await;
    let Arrival::Migrated {
        state: Some(state), ..
    } = b.arrival().await
    else {
        panic!("no stream arrived");
    };
    let read = u64::from_be_bytes(state.as_slice().try_into().unwrap());
    // What the client said to A before it closed its side there: a word at a time.
    assert!(read >= 7 && (read - 7).is_multiple_of(4), "{read}");
}

#[tokio::test]
async fn a_handle_of_a_stream_that_was_dropped_untold_says_so_and_does_nothing() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (peer, io) = setting.fresh();
    let client = Watched::start(peer, b"hello");
    let stream = at_b.accept(io).await.unwrap();
    let handle = stream.handle();
    let waiting = {
        let handle = handle.clone();
        tokio::spawn(async move { (handle.told().await, handle.ended().await) })
    };
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(stream);
    let staying = DepartureStatus::Staying;
    assert_eq!(waiting.await.unwrap(), (staying, staying));
    handle.migrate_to(elsewhere());
    assert_eq!(
        (handle.told().await, handle.ended().await),
        (staying, staying)
    );
    assert!(client.end().await.0.is_err());
    assert_eq!(at_b.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_for_whom_there_is_no_offer_cannot_be_told_and_its_application_learns_so() {
    let setting = Setting::new();
    let keys = setting.service.keys.clone().seal_limit(0);
    let config = setting.service.server_config();
    let node = setting.service.node_of(config, "files", keys);
    let at_b = acceptor(node.own_addresses([setting.b]));
    let (peer, io) = setting.fresh();
    let client = Watched::start(peer, b"hello");
    let stream = at_b.accept(io).await.unwrap();
    let handle = stream.handle();
    handle.migrate_to(elsewhere());
    assert_eq!(handle.told().await, DepartureStatus::NotMovable);
    sleep(Duration::from_secs(3600)).await;
    let seen = client.seen();
    assert!(seen.told.is_none() && seen.end.is_none(), "{seen:?}");
}
