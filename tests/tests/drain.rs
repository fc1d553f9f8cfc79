//! Hand-offs that an application does not notice: the old server is drained, the new one goes on.

use std::cell::Cell;
use std::net::SocketAddr;

use migration_tests::client::{echoed, expect};
use migration_tests::node::ServerStream;
use migration_tests::{Node, Service, server_name};
use rustls_migration::client::MigrationLimit;
use rustls_migration::server::Arrival;
use rustls_migration::tokio::{
    EarlyDataOutcome, Event, HandOff, MigrationOutcome, MigrationStream,
};
use time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

/// Echoes, and after `limit` bytes tells the client to move. Hands over the number of bytes that it echoed.
async fn echo_some(
    mut stream: ServerStream,
    limit: usize,
    target: SocketAddr,
) -> std::io::Result<()> {
    let mut echoed = match stream.arrival() {
        Arrival::Migrated {
            state: Some(state), ..
        } => usize::from_be_bytes(state.as_slice().try_into().unwrap()),
        _ => 0,
    };
    let (mut here, mut told) = (0, false);
    let mut buf = vec![0; 8192];
    loop {
        let len = stream.read(&mut buf).await?;
        if len == 0 {
            stream.set_state(&echoed.to_be_bytes())?;
            return stream.shutdown().await;
        }
        stream.write_all(&buf[..len]).await?;
        stream.flush().await?;
        echoed += len;
        here += len;
        if here >= limit && !told {
            told = true;
            stream
                .migrate_to(target, Some(&echoed.to_be_bytes()))
                .await?;
        }
    }
}

fn landings(events: &mut rustls_migration::tokio::Events) -> Vec<MigrationOutcome> {
    std::iter::from_fn(|| events.try_next())
        .filter_map(|event| match event {
            Event::Migrated(landing) => Some(landing),
            _ => None,
        })
        .collect()
}

async fn connect(service: &Service, node: &Node) -> MigrationStream {
    let limit = MigrationLimit {
        count: 100,
        window: Duration::HOUR,
    };
    let client = service.client_with(service.client_config()).limit(limit);
    let connector: rustls_migration::tokio::MigrationConnector = client.build().unwrap().into();
    connector
        .hand_off(HandOff::Drain)
        .connect(server_name(), node.address())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_conversation_goes_on_at_the_target_with_the_last_state() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let (at_a, at_b) = (a.address(), b.address());
    a.serve(service.node(), move |stream| echo_some(stream, 5, at_b));
    b.serve(service.node(), move |stream| {
        echo_some(stream, usize::MAX, at_a)
    });
    let mut stream = connect(&service, &a).await;
    let mut events = stream.events();
    let words = ["first", "second", "third", "fourth", "fifth"];
    for word in words {
        echoed(&mut stream, word.as_bytes()).await;
    }
    // The client need not say anything for the hand-off to be completed.
    while stream.peer_addr() != at_b {
        tokio::select! {
            read = stream.read_u8() => panic!("unexpected: {read:?}"),
            _ = events.next() => {}
        }
    }
    for word in words {
        echoed(&mut stream, word.as_bytes()).await;
    }
    assert_eq!(a.arrival().await, Arrival::Fresh);
    let Arrival::Migrated {
        state: Some(state), ..
    } = b.arrival().await
    else {
        panic!("no stream arrived");
    };
    let at_a = usize::from_be_bytes(state.as_slice().try_into().unwrap());
    assert!((5..=words.concat().len()).contains(&at_a));
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

/// Numbered bytes, so that a gap or a repeat shows.
fn numbered(len: u32) -> Vec<u8> {
    (0..len).flat_map(u32::to_be_bytes).collect()
}

#[tokio::test]
async fn two_directions_at_once_lose_and_repeat_nothing_over_twenty_hops() {
    let service = Service::default();
    let mut nodes = Vec::new();
    for _ in 0..21 {
        nodes.push(Node::bind("127.0.0.2").await);
    }
    let addresses: Vec<_> = nodes.iter().map(Node::address).collect();
    for (i, node) in nodes.iter_mut().enumerate() {
        let next = addresses.get(i + 1).copied();
        node.serve(service.node(), move |stream| {
            let limit = next.map_or(usize::MAX, |_| 50_000);
            let target = next.unwrap_or(stream.get_ref().io().local_addr().unwrap());
            echo_some(stream, limit, target)
        });
    }
    let mut stream = connect(&service, &nodes[0]).await;
    let mut events = stream.events();
    let data = numbered(500_000);
    let sent = data.clone();
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    // No more than this is under way at a time, so that each node gets its share.
    let (window, window_seen) = (Semaphore::new(30_000), Cell::new(0));
    let send = async {
        for chunk in sent.chunks(10_007) {
            let permits = u32::try_from(chunk.len()).unwrap();
            window.acquire_many(permits).await.unwrap().forget();
            writer.write_all(chunk).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let receive = async {
        let (mut received, mut landed) = (Vec::new(), Vec::new());
        while reader.read_buf(&mut received).await.unwrap() > 0 {
            window.add_permits(received.len() - window_seen.replace(received.len()));
            landed.extend(landings(&mut events));
        }
        (received, landed)
    };
    let ((), (received, landings)) = tokio::join!(send, receive);
    assert!(
        received == data,
        "{} of {} bytes",
        received.len(),
        data.len()
    );
    assert_eq!(landings.len(), 20);
    assert_eq!(stream.peer_addr(), addresses[20]);
    assert!(
        landings
            .iter()
            .all(|landing| landing.early_data != EarlyDataOutcome::Unknown)
    );
}

#[tokio::test]
async fn one_task_that_writes_before_it_reads_is_moved_too() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let (at_a, at_b) = (a.address(), b.address());
    a.serve(service.node(), move |stream| {
        echo_some(stream, 50_000, at_b)
    });
    b.serve(service.node(), move |stream| {
        echo_some(stream, usize::MAX, at_a)
    });
    let mut stream = connect(&service, &a).await;
    let data = numbered(50_000);
    for chunk in data.chunks(20_000) {
        stream.write_all(chunk).await.unwrap();
    }
    stream.flush().await.unwrap();
    expect(&mut stream, &data).await;
    while stream.peer_addr() != at_b {
        echoed(&mut stream, b"more").await;
    }
    echoed(&mut stream, b"at B").await;
}
