//! Hellos that never end: what they take of a node's memory is bounded as a sum, and others are served.
//!
//! This is a process of its own, since it measures its own memory.

use std::time::Duration;

use migration_tests::client::echoed;
use migration_tests::node::echo;
use migration_tests::{Node, Service, server_name};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How many clients stop in the middle of the largest hello. With `HELLOS` in the environment, as many as that.
const HELLOS: usize = 400;

/// What unfinished hellos may take besides 16 KiB each, in bytes.
const BOUND: usize = 4 << 20;

/// Only a broken test waits for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What this process has in memory, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<usize>().unwrap() << 10
}

/// A hello of 64 KiB without its last byte, in records of the largest size.
fn unfinished_hello() -> Vec<u8> {
    let len = (1 << 16) - 4;
    let mut message = vec![1, 0, (len >> 8) as u8, len as u8];
    message.resize(4 + len - 1, 0);
    let mut records = Vec::new();
    for fragment in message.chunks(1 << 14) {
        records.extend([22, 3, 1]);
        records.extend((fragment.len() as u16).to_be_bytes());
        records.extend(fragment);
    }
    records
}

#[tokio::test]
async fn hellos_that_never_end_take_no_more_than_they_may_and_others_are_served() {
    let hellos = std::env::var("HELLOS").map_or(HELLOS, |hellos| hellos.parse().unwrap());
    let service = Service::default();
    let mut node = Node::bind("127.0.0.2").await;
    let settings = service
        .node()
        .max_hello_memory(BOUND)
        .handshake_timeout(PATIENCE);
    let acceptor = node.serve(settings, echo);
    let connector = service.connector();
    // What a first connection needs is there.
    let mut stream = connector
        .connect(server_name(), node.address())
        .await
        .unwrap();
    echoed(&mut stream, b"word").await;
    let hello = unfinished_hello();
    let before = resident();
    let mut held = Vec::new();
    for _ in 0..hellos {
        let mut tcp = TcpStream::connect(node.address()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        // What the node does not read stays in the system's buffers.
        let _ = timeout(Duration::from_millis(20), tcp.write_all(&hello)).await;
        held.push(tcp);
    }
    let accepted = async {
        while acceptor.connections() < hellos + 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, accepted).await.unwrap();
    let grown = resident().saturating_sub(before);
    let per_hello = grown / hellos;
    println!("{hellos} unfinished hellos of 64 KiB: {grown} bytes, {per_hello} for each");
    let bound = BOUND + hellos * (16 << 10);
    // Both ends of the connections, their tasks and the allocator are here too.
    let around = hellos * (8 << 10) + (2 << 20);
    assert!(
        grown < bound + around,
        "{grown} is more than {bound} and {around}"
    );

    let began = Instant::now();
    let mut stream = connector
        .connect(server_name(), node.address())
        .await
        .unwrap();
    echoed(&mut stream, b"word").await;
    println!("another client was served in {:?}", began.elapsed());
    drop(held);
}
