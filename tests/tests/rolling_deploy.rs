//! A rolling deploy of three demo nodes, in short: `tools/rolling-deploy` is the long form.

use std::process::Command;

#[test]
fn a_rolling_deploy_loses_no_byte_and_the_metrics_tell_what_the_clients_tell() {
    let rolling = Command::new(env!("CARGO_BIN_EXE_rolling"))
        .args(["--clients", "12", "--over", "1"])
        .output()
        .unwrap();
    let (told, errors) = (
        String::from_utf8_lossy(&rolling.stdout),
        String::from_utf8_lossy(&rolling.stderr),
    );
    assert!(rolling.status.success(), "{told}\n{errors}");
}
