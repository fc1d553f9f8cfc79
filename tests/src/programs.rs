//! The demo programs as processes.
//!
//! They are built here, so that no test runs yesterday's.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// `demo-client` with these arguments, not yet started.
pub fn demo_client<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    program("demo-client", arguments)
}

/// `demo-server` with these arguments, not yet started.
pub fn demo_server<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    program("demo-server", arguments)
}

fn program<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(built(name));
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

fn built(name: &str) -> &'static Path {
    static BUILT: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| match std::env::var_os("DEMO_PROGRAMS") {
        // A tool has built them already, in this folder.
        Some(folder) => ["demo-client", "demo-server"]
            .map(|name| (name.to_owned(), PathBuf::from(&folder).join(name)))
            .into(),
        None => build(),
    });
    built.get(name).expect("cargo builds every demo program")
}

/// Builds the programs with the profile of this test and returns where they are.
///
/// It asks for what `cargo test --workspace` has built, so that there is little left to do.
fn build() -> HashMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut build = std::process::Command::new(cargo);
    build
        .args(["build", "--message-format=json"])
        .args(["--workspace", "--bins", "--tests"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    // Cargo tells a test of which package it is. ring's build script would take that for a change, and all that needs ring would be built
    // again.
    for (name, _) in std::env::vars_os() {
        let name_of_package = name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        });
        if name_of_package {
            build.env_remove(name);
        }
    }
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let output = build.output().expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo build: {errors}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message.pointer("/profile/test") == Some(&Value::Bool(false)))
        .filter_map(|message| {
            let name = message.pointer("/target/name")?.as_str()?.to_owned();
            Some((name, message.get("executable")?.as_str()?.into()))
        })
        .collect()
}

/// What `demo-client` printed with `--json`; fails the test when it is not exactly one object.
pub fn report(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

/// A running `demo-server`, which ends with its test.
pub struct Server {
    child: Child,
    address: SocketAddr,
    input: ChildStdin,
    log: Lines<BufReader<ChildStderr>>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Starts one that listens on a port of its own at `ip`, and waits until it does.
    pub async fn start<S: AsRef<OsStr>>(ip: &str, arguments: impl IntoIterator<Item = S>) -> Self {
        Self::start_at(&format!("{ip}:0"), arguments).await
    }

    /// Starts one that listens at `address`, and waits until it does.
    pub async fn start_at<S: AsRef<OsStr>>(
        address: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut command = demo_server(["--listen", address]);
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let Some(line) = output.next_line().await.unwrap() else {
            panic!("the server ended: {:?}", log.next_line().await);
        };
        let address = line.strip_prefix("listening ").unwrap().parse().unwrap();
        Self {
            address,
            input: child.stdin.take().unwrap(),
            child,
            log,
            output,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its operator's pages, which it says once. It was started with `--operator`.
    pub async fn operator_url(&mut self) -> String {
        let line = self.output.next_line().await.unwrap();
        let line = line.expect("it has an operator's address");
        line.strip_prefix("operator ").unwrap().to_owned()
    }

    /// Its operator's address. It was started with `--operator`.
    pub async fn operator(&mut self) -> SocketAddr {
        let url = self.operator_url().await;
        let address = url.strip_prefix("http://").unwrap();
        address.split('/').next().unwrap().parse().unwrap()
    }

    /// Types a line into its terminal.
    pub async fn enter(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.input.write_all(line.as_bytes()).await.unwrap();
    }

    /// Sends a signal, named as in `kill -USR1`.
    pub async fn signal(&self, name: &str) {
        signal(&self.child, name).await;
    }

    /// Waits for a line with `text` in its log, and fails the test when there is none for a minute.
    pub async fn logged(&mut self, text: &str) {
        let mut seen = Vec::new();
        loop {
            match timeout(Duration::from_secs(60), self.log.next_line()).await {
                Ok(Ok(Some(line))) if line.contains(text) => return,
                Ok(Ok(Some(line))) => seen.push(line),
                ended => panic!("no {text:?} in the log, {ended:?}: {seen:#?}"),
            }
        }
    }

    /// Waits for its end and returns the status.
    pub async fn ended(mut self) -> Option<i32> {
        self.child.wait().await.unwrap().code()
    }
}

/// Sends a signal to a process that this test started.
pub async fn signal(child: &Child, name: &str) {
    let id = child.id().expect("the process is running");
    let kill = format!("kill -{name} {id}");
    let status = Command::new("sh").args(["-c", &kill]).status().await;
    assert!(status.unwrap().success());
}
