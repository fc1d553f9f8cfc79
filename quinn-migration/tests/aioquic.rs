//! An independent QUIC implementation on the other side: aioquic, in Python. `tools/setup-tests` installs it.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::wildcard_enum_match_arm,
    reason = "test code fails by panicking"
)]

#[path = "loopback/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use quinn::Connection;
use quinn_migration::{MigrationClient, Policy};
use support::{Identity, Server, bind, client, within};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

fn peer() -> Command {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let python = target.join("python/bin/python");
    assert!(
        python.exists(),
        "{python:?} is missing: run tools/setup-tests"
    );
    let mut command = Command::new(python);
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aioquic/peer.py"))
        .kill_on_drop(true);
    command
}

struct Files {
    _directory: TempDir,
    certificate: PathBuf,
    key: PathBuf,
}

fn files(identity: &Identity) -> Files {
    let directory = TempDir::new().unwrap();
    let [certificate, key] = identity.write_to(directory.path());
    Files {
        _directory: directory,
        certificate,
        key,
    }
}

/// Answers every stream with what came on it.
async fn answer(connection: Connection) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        tokio::spawn(async move {
            let bytes = receive.read_to_end(1 << 20).await.unwrap();
            send.write_all(&bytes).await.unwrap();
            send.finish().unwrap();
        });
    }
}

/// Runs the client against an address of ours; answers with what it has seen.
async fn run_client(scenario: &str, index: usize, retry: bool) -> String {
    let identity = Identity::new();
    let files = files(&identity);
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let to = server.address(index);
    let endpoint = server.inner.endpoint().clone();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            if retry && !incoming.remote_address_validated() {
                incoming.retry().unwrap();
            } else {
                tokio::spawn(async { answer(incoming.await.unwrap()).await });
            }
        }
    });
    let mut command = peer();
    command
        .args([
            "client",
            "--host",
            &to.ip().to_string(),
            "--port",
            &to.port().to_string(),
        ])
        .arg("--authority")
        .arg(&files.certificate)
        .arg(scenario);
    let output = within(command.stderr(Stdio::piped()).output())
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{scenario}: {errors}");
    assert_eq!(server.datagrams(1 - index), 0, "another address answered");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// At the first address and at an added one.
async fn client_sees(scenario: &str, retry: bool, expected: &str) {
    for index in [0, 1] {
        assert_eq!(
            run_client(scenario, index, retry).await,
            expected,
            "address {index}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aioquic_client_is_served_at_every_address() {
    client_sees("plain", false, r#"{"echo": true}"#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aioquic_client_is_served_after_a_retry() {
    client_sees("plain", true, r#"{"echo": true}"#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aioquic_client_updates_keys() {
    client_sees("key-update", false, r#"{"echo": true, "after": true}"#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aioquic_client_changes_its_port() {
    client_sees("rebind", false, r#"{"echo": true, "after": true}"#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aioquic_client_sends_early_data() {
    let expected = r#"{"echo": true, "after": true, "resumed": true, "early": true}"#;
    client_sees("0-rtt", false, expected).await;
}

/// An aioquic server and what it says.
struct Aioquic {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
    client: MigrationClient,
    _files: Files,
}

impl Aioquic {
    async fn start(retry: bool) -> Self {
        let identity = Identity::new();
        let files = files(&identity);
        let mut command = peer();
        command
            .arg("server")
            .arg("--certificate")
            .arg(&files.certificate);
        command.arg("--key").arg(&files.key);
        if retry {
            command.arg("--retry");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = within(lines.next_line())
            .await
            .unwrap()
            .expect("the server ended");
        Self {
            child,
            lines,
            address: SocketAddr::from(([127, 0, 0, 2], port.parse().unwrap())),
            client: client(&identity),
            _files: files,
        }
    }

    async fn connect(&self) -> Connection {
        let connecting = self
            .client
            .endpoint()
            .connect(self.address, "localhost")
            .unwrap();
        within(connecting).await.unwrap()
    }

    async fn update_keys(&mut self) {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"u")
            .await
            .unwrap();
        let said = within(self.lines.next_line()).await.unwrap();
        assert_eq!(said.as_deref(), Some("updated"));
    }
}

async fn echoed(connection: &Connection) {
    let data: Vec<u8> = (0..200_000u32).map(|byte| byte as u8).collect();
    let (mut send, mut receive) = within(connection.open_bi()).await.unwrap();
    let sending = async {
        send.write_all(&data).await.unwrap();
        send.finish().unwrap();
    };
    let receiving = async { receive.read_to_end(1 << 20).await.unwrap() };
    let ((), back) = within(async { tokio::join!(sending, receiving) }).await;
    assert_eq!(back, data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aioquic_server_is_used_plainly_and_after_a_retry() {
    for retry in [false, true] {
        let server = Aioquic::start(retry).await;
        let connection = server.connect().await;
        let migrator = server
            .client
            .attach(&connection, Policy::default())
            .unwrap();
        echoed(&connection).await;
        drop(migrator);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_updated_on_both_sides_of_a_connection_to_an_aioquic_server() {
    let mut server = Aioquic::start(false).await;
    let connection = server.connect().await;
    echoed(&connection).await;
    connection.force_key_update();
    echoed(&connection).await;
    server.update_keys().await;
    echoed(&connection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_an_aioquic_server_survives_rebinds() {
    let server = Aioquic::start(false).await;
    let connection = server.connect().await;
    for _ in 0..3 {
        echoed(&connection).await;
        server.client.rebind(bind("0.0.0.0:0")).unwrap();
    }
    echoed(&connection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_data_reaches_an_aioquic_server() {
    let server = Aioquic::start(false).await;
    let connection = server.connect().await;
    echoed(&connection).await;
    let connecting = server
        .client
        .endpoint()
        .connect(server.address, "localhost");
    let early = connecting.unwrap().into_0rtt();
    let (connection, accepted) = early.unwrap_or_else(|_| panic!("no ticket"));
    echoed(&connection).await;
    assert!(within(accepted).await, "early data was rejected");
}
