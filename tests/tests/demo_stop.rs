//! A node that is told to stop while clients wait in its listener's queue: it has accepted nobody of them yet, and serves
//! them all. And one whose log nobody reads.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use migration_tests::place::{Place, SHORT};
use migration_tests::programs::{demo_server, signal};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How many clients wait.
const WAITING: usize = 6;

#[tokio::test]
async fn a_terminated_node_serves_who_has_been_waiting_for_it() {
    let place = Place::with_file(SHORT);
    let b = place.node("127.0.0.3", &[]).await;
    let to_b = b.address().to_string();
    let more = [
        "--drain-to",
        &to_b,
        "--drain-over",
        "0",
        "--drain-deadline",
        "60",
    ];
    let mut a = place.node("127.0.0.2", &more).await;
    let address = a.address();
    // While it stands still, the system completes TCP handshakes for it.
    a.signal("STOP").await;
    let mut clients = Vec::new();
    for _ in 0..WAITING {
        let piped = std::process::Stdio::piped;
        let mut client = place.get(address, &[]);
        clients.push(client.stdout(piped()).stderr(piped()).spawn().unwrap());
    }
    let waiting = async {
        while connections_to(address) < WAITING {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), waiting).await.unwrap();
    a.signal("TERM").await;
    a.signal("CONT").await;
    a.logged(&format!("draining live={WAITING} targets=1"))
        .await;
    for client in clients {
        let output = client.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    a.logged(&format!("drained total={WAITING}")).await;
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(a.ended().await, Some(0));
}

/// How many connections to `address` the system has established, on the clients' side.
fn connections_to(address: std::net::SocketAddr) -> usize {
    let std::net::IpAddr::V4(ip) = address.ip() else {
        panic!("{address}");
    };
    let remote = format!(
        "{:08X}:{:04X}",
        u32::from_le_bytes(ip.octets()),
        address.port()
    );
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let established = table.lines().filter(|line| {
        let mut words = line.split_whitespace().skip(2);
        words.next() == Some(&remote) && words.next() == Some("01")
    });
    established.count()
}

/// A pipe that nobody reads, and that takes nothing more: who writes to it waits for ever.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    let nonblocking = flags | rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&writer, nonblocking).unwrap();
    while writer.write(&[b'.'; 4096]).is_ok() {}
    while writer.write(b".").is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

#[tokio::test]
async fn a_node_whose_log_nobody_reads_serves_and_ends_when_it_is_told_to() {
    let place = Place::with_file(SHORT);
    let (_reader, writer) = full_pipe();
    let (root, state) = (place.path("root"), place.path("state"));
    let mut node = demo_server(["--listen", "127.0.0.2:0"]);
    node.arg("--root").arg(root).arg("--state-dir").arg(state);
    node.env("RUST_LOG", "trace");
    let mut node = node.stdout(Stdio::piped()).stderr(writer).spawn().unwrap();
    let life = async {
        let mut said = BufReader::new(node.stdout.take().unwrap()).lines();
        let line = said.next_line().await.unwrap().unwrap();
        let address = line.strip_prefix("listening ").unwrap().parse().unwrap();
        for _ in 0..3 {
            let output = place.get(address, &[]).output().await.unwrap();
            assert_eq!(output.status.code(), Some(0), "{output:?}");
        }
        signal(&node, "TERM").await;
        assert_eq!(node.wait().await.unwrap().code(), Some(0));
    };
    let lived = timeout(Duration::from_secs(60), life).await;
    lived.expect("it serves and ends");
}
