//! `demo-client handoff --kill` as a person runs it: nodes that are processes die by SIGKILL in the middle of a download and an upload.

use migration_tests::programs::{demo_client, report};
use serde_json::json;

async fn survives_three_deaths(dialect: &str) {
    let output = demo_client(["handoff", "--kill", "--hops", "3", "--json"])
        .args(["--dialect", dialect])
        .output()
        .await
        .unwrap();
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["problems"], json!([]));
    assert_eq!(
        (&report["recovered"], &report["hops"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(report["sha256"], report["sha256_expected"]);
    assert_eq!(report["upload_sha256"], report["upload_sha256_expected"]);
    assert_eq!(report["uploaded"], report["bytes"]);
    assert_eq!(
        (&report["trigger"], &report["replay"]),
        (&json!("death"), &json!("refused"))
    );
    for number in ["resent", "discarded"] {
        assert!(report[number].is_u64(), "{report}");
    }
    let legs = report["legs"].as_array().unwrap();
    assert!(
        legs.iter().skip(1).all(|leg| leg["handshake"] == "resumed"),
        "{report}"
    );
}

#[tokio::test]
async fn a_download_and_an_upload_survive_three_nodes_that_are_killed_one_after_the_other() {
    survives_three_deaths("01").await;
}

#[tokio::test]
async fn they_survive_them_in_draft_03_too() {
    survives_three_deaths("03").await;
}

#[tokio::test]
async fn the_deaths_can_be_read_as_text() {
    let output = demo_client(["handoff", "--kill"]).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("bytes, then its death"), "{text}");
    assert!(text.contains("deaths  1 survived, "), "{text}");
}
