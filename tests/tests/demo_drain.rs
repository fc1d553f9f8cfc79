//! The demo programs where a client follows without noticing: many hops, and a node that is drained.

use migration_tests::place::{Held, LONG, Place, SHORT, assert_followed, text};
use migration_tests::programs::{demo_client, report};
use rustls_migration::tokio::MigrationStream;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A hand-off of the place's file. Checks that both directions are whole.
async fn hand_off(place: &Place, arguments: &[&str]) -> Value {
    let file = place.path("root/file");
    let command = [&["handoff", "--json", "--file", text(&file)], arguments].concat();
    let output = demo_client(command).output().await.unwrap();
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["problems"], json!([]));
    assert_eq!(report["replay"], "refused");
    assert_eq!(report["trigger"], "migrate_notify");
    assert_eq!(report["sha256"], place.sha256());
    assert_eq!(report["sha256_expected"], place.sha256());
    let inverted: Vec<u8> = place.content().iter().map(|byte| !byte).collect();
    let upload = base16ct::lower::encode_string(&Sha256::digest(&inverted));
    assert_eq!(report["upload_sha256"], upload);
    assert_eq!(report["upload_sha256_expected"], upload);
    assert_eq!(report["uploaded"], inverted.len());
    assert_eq!(report["bytes"], inverted.len());
    report
}

/// Checks the legs: the first one full, all others resumed and with early data as said, each with a share of the file.
fn assert_walked(report: &Value, hops: usize, early_data: bool) {
    assert_eq!(report["hops"], hops);
    let legs = report["legs"].as_array().unwrap();
    assert_eq!(legs.len(), hops + 1, "{report}");
    for (index, leg) in legs.iter().enumerate() {
        let server = leg["server"].as_str().unwrap();
        assert!(server.starts_with(&format!("127.0.0.{}:", index + 2)));
        let resumed = index > 0;
        assert_eq!(leg["handshake"], if resumed { "resumed" } else { "full" });
        assert_eq!(leg["early_data"], resumed && early_data, "{report}");
        assert_eq!(leg["stall_us"].is_u64(), resumed);
        assert!(leg["bytes"].as_u64().unwrap() > 0, "{report}");
    }
}

#[tokio::test]
async fn twenty_hops_by_drain_lose_and_repeat_nothing_in_either_direction() {
    let place = Place::with_file(8 << 20);
    let report = hand_off(&place, &["--hops", "20", "--mode", "drain"]).await;
    assert_eq!(report["mode"], "drain");
    assert_walked(&report, 20, true);
}

#[tokio::test]
async fn twenty_hops_by_overlap_lose_and_repeat_nothing_in_either_direction() {
    let place = Place::with_file(8 << 20);
    let report = hand_off(&place, &["--hops", "20", "--mode", "overlap"]).await;
    assert_eq!(report["mode"], "overlap");
    assert_walked(&report, 20, false);
}

#[tokio::test]
async fn the_hand_off_is_a_drain_unless_told_otherwise_and_has_early_data() {
    // The shortest one too: a client always has something left to say.
    for len in [64, SHORT] {
        let place = Place::with_file(len);
        let report = hand_off(&place, &[]).await;
        assert_eq!(report["mode"], "drain");
        assert_walked(&report, 1, true);
    }
}

#[tokio::test]
async fn the_shortest_file_has_a_byte_for_each_of_many_hops() {
    for mode in ["drain", "overlap"] {
        let place = Place::with_file(21 * 32);
        let report = hand_off(&place, &["--hops", "20", "--mode", mode]).await;
        assert_walked(&report, 20, mode == "drain");
    }
}

#[tokio::test]
async fn a_terminated_node_hands_a_live_download_over_and_ends() {
    for mode in ["drain", "immediate"] {
        let place = Place::with_file(LONG);
        let b = place.node("127.0.0.3", &[]).await;
        let to_b = format!("{}=2", b.address());
        let more = ["--drain-to", &to_b, "--drain-over", "0"];
        let mut a = place.node("127.0.0.2", &more).await;
        let held = Held::start(&place, a.address(), &["--mode", mode]).await;
        a.signal("TERM").await;
        a.logged("draining live=1 targets=1").await;
        let (output, copy) = held.release().await;
        assert_followed(&output, &copy, &place);
        a.logged("drained total=1 moved=1 not_movable=0 forced=0 remaining=0")
            .await;
        assert_eq!(a.ended().await, Some(0));
    }
}

#[tokio::test]
async fn a_typed_word_drains_a_node() {
    let place = Place::with_file(LONG);
    let b = place.node("127.0.0.3", &[]).await;
    let mut a = place.node("127.0.0.2", &["--drain-over", "0"]).await;
    let held = Held::start(&place, a.address(), &["--mode", "drain"]).await;
    a.enter("drain nowhere").await;
    a.logged("not drained").await;
    a.enter(&format!("drain {}", b.address())).await;
    a.logged("draining live=1 targets=1").await;
    let (output, copy) = held.release().await;
    assert_followed(&output, &copy, &place);
    a.logged("drained total=1 moved=1").await;
    assert_eq!(a.ended().await, Some(0));
}

/// A client of the place's node that moves only when its application says so, with an echo.
async fn staying(place: &Place, address: std::net::SocketAddr) -> MigrationStream {
    let name = "localhost".try_into().unwrap();
    let mut stream = place.connector().connect(name, address).await.unwrap();
    let mut echo = [0; 4];
    stream.write_all(b"ECHO\nword").await.unwrap();
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"word");
    stream
}

#[tokio::test]
async fn a_client_that_ignores_the_notice_is_given_up_at_the_deadline() {
    let place = Place::with_file(SHORT);
    let b = place.node("127.0.0.3", &[]).await;
    let to_b = b.address().to_string();
    let more = [
        "--drain-to",
        &to_b,
        "--drain-over",
        "0",
        "--drain-deadline",
        "1",
    ];
    let mut a = place.node("127.0.0.2", &more).await;
    let mut stream = staying(&place, a.address()).await;
    a.signal("TERM").await;
    let mut rest = Vec::new();
    // The node gave the client up, which is no end of the stream.
    let error = stream.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(rest.is_empty() && stream.is_notified());
    a.logged("drained total=1 moved=0 not_movable=0 forced=1 remaining=0")
        .await;
    assert_eq!(a.ended().await, Some(0));
}

#[tokio::test]
async fn without_a_target_a_terminated_node_lets_its_clients_finish() {
    let place = Place::with_file(LONG);
    let mut a = place.node("127.0.0.2", &["--drain-deadline", "600"]).await;
    let address = a.address();
    let held = Held::start(&place, address, &[]).await;
    a.signal("TERM").await;
    a.logged("draining live=1 targets=0").await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let (output, copy) = held.release().await;
    assert!(copy == place.content());
    assert_eq!(report(&output)["legs"].as_array().unwrap().len(), 1);
    a.logged("drained total=1 moved=0").await;
    assert_eq!(a.ended().await, Some(0));
}
