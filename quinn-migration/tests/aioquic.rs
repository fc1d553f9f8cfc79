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
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quinn::Connection;
use quinn_migration::{Event, MigrationClient, Outcome, Policy};
use support::{Identity, Server, bind, client, settled, tireless, until, within};
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

fn client_command(files: &Files, to: SocketAddr) -> Command {
    let mut command = peer();
    command
        .args(["client", "--host", &to.ip().to_string()])
        .args(["--port", &to.port().to_string()])
        .arg("--authority")
        .arg(&files.certificate);
    command
}

/// Answers every stream with what came on it, and counts them.
async fn answer(connection: Connection, answered: Arc<AtomicUsize>) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let answered = Arc::clone(&answered);
        tokio::spawn(async move {
            let bytes = receive.read_to_end(1 << 20).await.unwrap();
            send.write_all(&bytes).await.unwrap();
            send.finish().unwrap();
            answered.fetch_add(1, Ordering::SeqCst);
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
                tokio::spawn(async { answer(incoming.await.unwrap(), Arc::default()).await });
            }
        }
    });
    let mut command = client_command(&files, to);
    command.arg(scenario).stderr(Stdio::piped());
    let output = within(command.output()).await.unwrap();
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

/// The client of `aioquic/draft.py`, which shares no code with the crate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_independent_client_of_the_draft_follows_our_server_from_address_to_address() {
    const MOVES: usize = 5;
    let identity = Identity::new();
    let files = files(&identity);
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let mut command = client_command(&files, server.address(0));
    command.args(["--moves", &MOVES.to_string(), "follow"]);
    let client = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let theirs = within(server.accept()).await;
    assert!(server.inner.supports(&theirs));
    let answered = Arc::new(AtomicUsize::new(0));
    let answering = tokio::spawn(answer(theirs.clone(), Arc::clone(&answered)));
    let mut expected = vec![server.address(0)];
    for hop in 1..=MOVES {
        let to = server.id(hop % 2);
        expected.push(server.address(hop % 2));
        let advertised = within(server.inner.advertise(&theirs, to)).await.unwrap();
        assert_eq!(within(advertised.outcome()).await.unwrap(), Outcome::Moved);
        // Until it has been everywhere, the client asks again and again. With the second answer, it has seen itself here.
        if hop == MOVES {
            break;
        }
        let before = answered.load(Ordering::SeqCst);
        until("the client asks on the new path", || {
            answered.load(Ordering::SeqCst) >= before + 2
        })
        .await;
        assert_eq!(server.inner.client_of(&theirs).server, to);
    }
    let output = within(client.wait_with_output()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let expected: Vec<String> = expected.iter().map(|a| format!("\"{a}\"")).collect();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().trim(),
        format!(
            "{{\"addresses\": [{}], \"echo\": true, \"frames\": {MOVES}}}",
            expected.join(", ")
        )
    );
    within(answering).await.unwrap();
}

/// An aioquic server and what it says.
struct Aioquic {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Where connections begin.
    address: SocketAddr,
    /// Where they may go.
    second: Option<SocketAddr>,
    client: MigrationClient,
    _files: Files,
}

impl Aioquic {
    async fn start(retry: bool) -> Self {
        Self::run("server", retry).await
    }

    async fn run(side: &str, retry: bool) -> Self {
        let identity = Identity::new();
        let files = files(&identity);
        let mut command = peer();
        command
            .arg(side)
            .arg("--certificate")
            .arg(&files.certificate);
        command.arg("--key").arg(&files.key);
        if retry {
            command.arg("--retry");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ports = within(lines.next_line())
            .await
            .unwrap()
            .expect("the server ended");
        let mut addresses = [2, 3]
            .into_iter()
            .zip(ports.split(' '))
            .map(|(host, port)| SocketAddr::from(([127, 0, 0, host], port.parse().unwrap())));
        Self {
            child,
            lines,
            address: addresses.next().unwrap(),
            second: addresses.next(),
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

    /// Gives an order; answers with what the server says.
    async fn order(&mut self, letter: u8) -> String {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(&[letter]).await.unwrap();
        within(self.lines.next_line()).await.unwrap().unwrap()
    }

    async fn update_keys(&mut self) {
        assert_eq!(self.order(b'u').await, "updated");
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

/// The server of `aioquic/draft.py`, which shares no code with the crate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_follows_an_independent_server_of_the_draft_from_address_to_address() {
    let mut server = Aioquic::run("moving-server", false).await;
    let addresses = [server.address, server.second.unwrap()];
    let connection = server.connect().await;
    let mut migrator = server.client.attach(&connection, tireless()).unwrap();
    for hop in 1..=5usize {
        echoed(&connection).await;
        let number: u64 = server.order(b'm').await.parse().unwrap();
        let to = addresses[hop % 2];
        let event = settled(&mut migrator).await;
        assert!(
            matches!(event, Event::Migrated { to: reached, sequence, .. } if reached == to && sequence.into_inner() == number),
            "{event:?}"
        );
        echoed(&connection).await;
        assert_eq!(server.order(b'w').await, (hop % 2).to_string());
        match hop {
            2 => server.update_keys().await,
            3 => connection.force_key_update(),
            4 => server.client.rebind(bind("0.0.0.0:0")).unwrap(),
            _ => {}
        }
    }
    echoed(&connection).await;
}

/// The same server, and a client that does not follow: it stays, and gives the connection ID back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_advertisement_of_an_independent_server_does_no_harm() {
    let mut server = Aioquic::run("moving-server", false).await;
    let connection = server.connect().await;
    let mut policy = tireless();
    policy.moves = 0;
    let mut migrator = server.client.attach(&connection, policy).unwrap();
    for _ in 0..3 {
        echoed(&connection).await;
        server.order(b'm').await;
        let event = settled(&mut migrator).await;
        assert!(matches!(event, Event::Refused { .. }), "{event:?}");
        echoed(&connection).await;
        assert_eq!(server.order(b'w').await, "0");
    }
}
