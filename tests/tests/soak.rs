//! The long run, for a short time: hosts in network namespaces, a bad line between them, nodes that come and go.
//!
//! A machine that lacks what it needs fails it, with what to do.

use std::process::Command;

#[test]
fn random_services_lose_and_repeat_nothing_while_nodes_are_drained_over_a_bad_line() {
    let run = Command::new(env!("CARGO_BIN_EXE_soak"))
        .arg("20")
        .output()
        .unwrap();
    let (told, errors) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    println!("{told}");
    assert!(run.status.success(), "{told}\n{errors}");
}
