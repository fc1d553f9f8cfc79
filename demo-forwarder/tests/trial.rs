//! Two fronts, two nodes and a client as processes: the short form of
//! `cargo run --release -p demo-forwarder -- trial`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code fails by panicking"
)]

use std::process::Command;

#[test]
fn a_download_moves_between_fronts_and_outlives_the_one_that_it_is_on() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo-forwarder"))
        .args(["trial", "--mib", "20", "--moves", "4", "--json"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let hops = report["hops"].as_array().unwrap();
    assert_eq!(hops.len(), 4, "{report}");
    for hop in hops.iter().chain([&report["after_the_kill"]]) {
        assert_eq!(hop["client"], hop["client_as_node_sees_it"], "{report}");
    }
    assert!(report["received"]["bytes"].as_u64() >= Some(20 << 20));
    assert_eq!(report["sent"], report["received"]);
    let others = report["other_connections_by_node"].as_array().unwrap();
    let others: u64 = others.iter().filter_map(serde_json::Value::as_u64).sum();
    assert_eq!(others, 8);
}
