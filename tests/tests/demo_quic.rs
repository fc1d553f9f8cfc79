//! `demo-client quic-handoff` as a person runs it.

use migration_tests::programs::{demo_client, report};
use serde_json::json;

#[tokio::test]
async fn a_quic_connection_that_moves_three_times_delivers_every_byte() {
    let arguments = ["quic-handoff", "--hops", "3", "--mib", "4", "--json"];
    let output = demo_client(arguments).output().await.unwrap();
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(report["bytes"].as_u64().unwrap() >= 2 * (4 << 20));
    assert_eq!(report["sha256"], report["sha256_expected"]);
    assert_eq!(report["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(report["hops"], 3);
    assert_eq!(report["old_path_datagrams_after_move"], 0);
    assert!(report["advertisements"].as_u64().unwrap() >= 3);
    for time in ["validation_us", "stall_us", "stall_without_move_us"] {
        assert!(report[time].as_u64().unwrap() > 0, "{time}: {report}");
    }
    assert_eq!(report["problems"], json!([]));
}

#[tokio::test]
async fn the_moves_can_be_read_as_text() {
    let output = demo_client(["quic-handoff", "--mib", "1"])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains(" to 127.0.0.3:"), "{text}");
    assert!(text.contains("as expected"), "{text}");
}

#[tokio::test]
async fn the_key_log_has_the_secrets_of_the_quic_connection() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("keys");
    let output = demo_client(["quic-handoff", "--mib", "1", "--key-log"])
        .arg(&path)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let log = std::fs::read_to_string(path).unwrap();
    assert!(log.contains("SERVER_TRAFFIC_SECRET_0 "), "{log}");
}

#[tokio::test]
async fn a_hand_off_without_a_move_is_a_mistake_of_the_user() {
    for arguments in [
        ["quic-handoff", "--hops", "0"],
        ["quic-handoff", "--hops", "x"],
        ["quic-handoff", "--mib", "0"],
    ] {
        let output = demo_client(arguments).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
}
