//! The examples: short, true to what the README says of them, and at work as programs.

use std::path::{Path, PathBuf};

use hyper_migration::client::HttpsConnector;
use migration_tests::Pki;
use migration_tests::ports::unused;
use migration_tests::program::Program;
use rustls::ClientConfig;
use rustls::crypto::SecureRandom;
use rustls_migration::client::MigrationClient;
use rustls_migration::{TicketKeys, provider};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

const README: &str = include_str!("../../../README.md");

fn examples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let files = files.filter(|path| path.is_file());
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    files.map(read).collect()
}

/// The lines of `text` that `other` does not have, without the header comment.
fn changed<'a>(text: &'a str, other: &str) -> Vec<&'a str> {
    let lines = text.lines().filter(|line| !line.starts_with("//!"));
    lines
        .filter(|line| !other.lines().any(|found| found == *line))
        .collect()
}

#[test]
fn every_example_has_at_most_sixty_lines() {
    let examples = examples();
    assert!(examples.len() >= 7);
    for (name, text) in examples {
        assert!(text.lines().count() <= 60, "{name}");
    }
}

#[test]
fn a_service_and_a_client_change_by_less_than_ten_lines_and_the_readme_shows_them() {
    let examples = examples();
    let example = |name| &examples.iter().find(|(found, _)| found == name).unwrap().1;
    for (stock, moving) in [
        ("stock_axum", "axum_service"),
        ("stock_hyper_client", "hyper_client"),
    ] {
        let (removed, added) = (
            changed(example(stock), example(moving)),
            changed(example(moving), example(stock)),
        );
        assert!(removed.len() < 10 && added.len() < 10, "{moving}");
        for (sign, lines) in [('-', removed), ('+', added)] {
            for line in lines {
                assert!(
                    README.contains(&format!("\n{sign}{line}\n")),
                    "{sign}{line}"
                );
            }
        }
    }
}

/// What the examples find in their folder.
struct Folder {
    folder: TempDir,
    pki: Pki,
}

impl Folder {
    fn new() -> Self {
        let (folder, pki) = (tempfile::tempdir().unwrap(), Pki::new());
        let (certificate, key) = pki.issue_pem("localhost");
        let path = |name| folder.path().join(name);
        std::fs::write(path("ca.pem"), pki.ca_pem()).unwrap();
        std::fs::write(path("server.pem"), certificate).unwrap();
        std::fs::write(path("server.key"), key).unwrap();
        let random: &dyn SecureRandom = provider::ring().secure_random;
        TicketKeys::create(&path("ticket-keys"), random).unwrap();
        Self { folder, pki }
    }

    /// Starts a node, and waits until it listens.
    async fn node(&self, name: &str, listen: &str, target: &str) -> Child {
        let mut command = Command::new(built(name));
        command
            .args([listen, target])
            .current_dir(&self.folder)
            .kill_on_drop(true);
        let node = command.spawn().unwrap();
        while TcpStream::connect(listen).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        node
    }

    fn client(&self, name: &str, uri: &str, count: &str) -> Program {
        let (folder, example) = (self.folder.path(), built(name));
        let arguments = [
            folder.as_os_str(),
            example.as_os_str(),
            uri.as_ref(),
            count.as_ref(),
        ];
        Program::start(
            "env",
            [&[std::ffi::OsStr::new("-C")], &arguments[..]].concat(),
        )
    }
}

/// The program that cargo has made of an example, with this test.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        example.exists(),
        "cargo build -p hyper-migration --examples --all-features"
    );
    example
}

/// Two addresses with one port, which nobody else has. `localhost` leads to the first.
fn addresses() -> [String; 2] {
    let port = unused("127.0.0.1").port();
    ["127.0.0.1", "127.0.0.92"].map(|ip| format!("{ip}:{port}"))
}

#[tokio::test]
async fn a_node_empties_itself_to_another_and_the_clients_follow() {
    let folder = Folder::new();
    let [a, b] = addresses();
    let mut draining = folder.node("drain", &a, &b).await;
    let _target = folder.node("axum_service", &b, &a).await;
    let uri = format!("https://localhost:{}/", a.split(':').nth(1).unwrap());
    let mut client = folder.client("hyper_client", &uri, "2");
    client.say("\n").await;
    client.until(&format!("hello from {a}")).await;
    let pid = draining.id().unwrap().to_string();
    Command::new("kill")
        .args(["-TERM", &pid])
        .status()
        .await
        .unwrap();
    assert!(draining.wait().await.unwrap().success());
    client.say("\n").await;
    client.until(&format!("hello from {b}")).await;
    client.finish().await;
}

#[tokio::test]
async fn the_stock_client_and_the_stock_service_are_what_the_others_are_compared_with() {
    let folder = Folder::new();
    let [a, b] = addresses();
    let _node = folder.node("stock_axum", &a, &b).await;
    let uri = format!("https://localhost:{}/", a.split(':').nth(1).unwrap());
    for name in ["stock_hyper_client", "hyper_client"] {
        let mut client = folder.client(name, &uri, "1");
        client.say("\n").await;
        assert!(client.finish().await.contains(&format!("hello from {a}")));
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(uint64, tag = "1")]
    value: u64,
}

#[tokio::test]
async fn the_grpc_service_answers() {
    let folder = Folder::new();
    let [a, b] = addresses();
    let _node = folder.node("tonic_service", &a, &b).await;
    let builder = ClientConfig::builder_with_provider(provider::ring().into());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder
        .with_root_certificates(folder.pki.roots())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = HttpsConnector::new(MigrationClient::builder(config).build().unwrap().into());
    let uri = format!("https://localhost:{}", a.split(':').nth(1).unwrap());
    let endpoint = Endpoint::from_shared(uri).unwrap();
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let path = hyper::http::uri::PathAndQuery::from_static("/migration.Adder/One");
    let request = tonic::Request::new(Number { value: 41 });
    let codec = ProstCodec::<Number, Number>::default();
    let answer = client.unary(request, path, codec).await.unwrap();
    assert_eq!(answer.into_inner().value, 42);
}
