//! A node that is told to stop while clients wait in its listener's queue: it has accepted nobody of them yet, and serves
//! them all.

use std::time::Duration;

use migration_tests::place::{Place, SHORT};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How many clients wait.
const WAITING: usize = 12;

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
