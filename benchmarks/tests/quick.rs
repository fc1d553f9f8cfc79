//! The benchmark program runs every comparison and prints its figures. How good they are is not judged here.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what fails here fails its test"
)]

use std::process::Command;

use serde_json::Value;

const CASES: [&str; 14] = [
    "full",
    "full-stock-client",
    "full-stock-server",
    "resumed",
    "resumed-ticketer",
    "resumed-early-data",
    "resumed-stock-client",
    "resumed-early-data-stock-client",
    "bulk-to-server",
    "bulk-to-client",
    "stream-to-server",
    "stream-to-client",
    "checkpoint-to-server",
    "checkpoint-to-client",
];

fn bench(args: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_migration-bench"))
        .args(args)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn json(args: &[&str]) -> Value {
    let (success, stdout, stderr) = bench(args);
    assert!(success, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn check_comparisons(report: &Value, expected: &[&str]) {
    let comparisons = report["comparisons"].as_array().unwrap();
    let cases: Vec<_> = comparisons.iter().map(|one| &one["case"]).collect();
    assert_eq!(cases, expected);
    for one in comparisons {
        for figure in [&one["stock"], &one["migrating"], &one["ratio"]["median"]] {
            assert!(figure.as_f64().unwrap() > 0.0, "{one}");
        }
    }
}

#[test]
fn every_comparison_runs_with_every_suite() {
    for suite in ["aes128", "aes256", "chacha20"] {
        let report = json(&["--quick", "--json", "--suite", suite]);
        assert_eq!(report["suite"], suite);
        assert_eq!(report["unit"], "ns");
        check_comparisons(&report, &CASES);
        let steps = report["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 6);
        for step in steps {
            assert!(step["ns"]["median"].as_f64().unwrap() > 0.0, "{step}");
        }
    }
}

#[test]
fn instructions_are_counted() {
    let only = "resumed-early-data,bulk-to-client";
    let report = json(&["instructions", "--quick", "--json", "--only", only]);
    assert_eq!(report["unit"], "instructions");
    check_comparisons(&report, &["resumed-early-data", "bulk-to-client"]);
    assert!(report["checkpoint_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn the_other_dialect_is_measured_too() {
    let only = [
        "--only",
        "full,resumed,resumed-early-data,checkpoint-to-client",
    ];
    let arguments = ["instructions", "--quick", "--json", "--dialect", "03"];
    let report = json(&[&arguments[..], &only].concat());
    assert_eq!(report["dialect"], "draft03");
    check_comparisons(
        &report,
        &[
            "full",
            "resumed",
            "resumed-early-data",
            "checkpoint-to-client",
        ],
    );
}

#[test]
fn the_table_names_every_comparison() {
    let (success, stdout, stderr) = bench(&["--quick"]);
    assert!(success, "{stderr}");
    for case in CASES {
        let line = stdout
            .lines()
            .find(|line| line.split(' ').next() == Some(case));
        assert!(line.is_some(), "{case} is missing in:\n{stdout}");
    }
}

#[test]
fn without_valgrind_the_way_to_install_it_is_told() {
    let output = Command::new(env!("CARGO_BIN_EXE_migration-bench"))
        .args(["instructions", "--quick"])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("apt-get install valgrind"), "{stderr}");
}

#[test]
fn a_change_of_servers_stalls_for_as_many_round_trips_as_it_should() {
    // Computation takes no time here, so what is left is round trips, and a period of the conversation.
    let report = json(&["stall", "--virtual-time", "--repetitions", "1", "--json"]);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 14);
    let expected = [
        ("nothing", 0.0),
        ("overlap", 0.0),
        ("drain", 1.0),
        ("immediate-opened", 1.0),
        ("immediate", 2.0),
        ("reconnect-resumed", 3.0),
        ("reconnect-full", 3.0),
    ];
    for (row, (change, round_trips)) in rows.iter().zip(expected.iter().cycle()) {
        assert_eq!(row["change"], *change);
        let round_trip = row["round_trip_ms"].as_f64().unwrap();
        let beyond = row["stall_ms"]["median"].as_f64().unwrap() - round_trips * round_trip;
        assert!((0.0..10.0).contains(&beyond), "{row}");
        assert_ne!(row["within"], false, "{row}");
    }
}

#[test]
fn bulk_goes_over_tcp_both_ways_with_checkpoints_and_without() {
    for dialect in ["01", "03"] {
        let report = json(&["throughput", "--quick", "--json", "--dialect", dialect]);
        let rows = report["rows"].as_array().unwrap();
        let ways: Vec<_> = rows.iter().map(|row| &row["way"]).collect();
        assert_eq!(ways, ["to-client", "to-server"]);
        for row in rows {
            for figure in ["migrating", "checkpoints"] {
                assert!(row[figure]["median"].as_f64().unwrap() > 0.0, "{row}");
            }
        }
    }
}

#[test]
fn clients_of_both_sides_go_elsewhere_over_real_sockets() {
    for moves in ["stream", "connection"] {
        let report = json(&["sockets", "--quick", "--json", "--moves", moves]);
        assert_eq!(report["load"]["moves"], moves);
        for side in ["stock", "migrating"] {
            let rate = report[side]["storm_per_second"].as_f64();
            assert!(rate.unwrap() > 0.0, "{report}");
        }
    }
}
