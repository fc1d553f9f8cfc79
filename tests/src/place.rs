//! A folder for the demo programs, and a download that stays in the middle for as long as a test wants.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_migration::client::{MigrationClient, NoWider};
use rustls_migration::provider;
use rustls_migration::tokio::MigrationConnector;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use crate::programs::{Server, demo_client, report};

/// More than all the buffers between a server and a client that does not read.
pub const LONG: usize = 48 << 20;
pub const SHORT: usize = 300_000;

/// A folder with a state, files to serve, and room.
pub struct Place(TempDir);

impl Place {
    /// With `file` of `len` bytes that differ from each other.
    pub fn with_file(len: usize) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.path("root")).unwrap();
        std::fs::write(place.path("secret"), "secret").unwrap();
        let content: Vec<u8> = (0..len.div_ceil(8) as u64)
            .flat_map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())
            .take(len)
            .collect();
        std::fs::write(place.path("root/file"), content).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn content(&self) -> Vec<u8> {
        std::fs::read(self.path("root/file")).unwrap()
    }

    pub fn sha256(&self) -> String {
        base16ct::lower::encode_string(&Sha256::digest(self.content()))
    }

    /// Starts a node of the place's service.
    pub async fn node(&self, ip: &str, more: &[&str]) -> Server {
        let (root, state) = (self.path("root"), self.path("state"));
        let mut arguments = vec!["--root", text(&root), "--state-dir", text(&state)];
        arguments.extend(more);
        Server::start(ip, arguments).await
    }

    /// A node at B, and one at A that moves its clients there.
    pub async fn nodes(&self, more: &[&str]) -> (Server, Server) {
        let b = self.node("127.0.0.3", &[]).await;
        let to_b = b.address().to_string();
        let mut arguments = vec!["--migrate-to", &to_b];
        arguments.extend(more);
        (self.node("127.0.0.2", &arguments).await, b)
    }

    /// Connects to the place's nodes, from this process.
    pub fn connector(&self) -> MigrationConnector {
        let config = ClientConfig::builder_with_provider(Arc::new(provider::ring()));
        let config = config
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        let client = MigrationClient::builder(config).target_policy(NoWider::any_port());
        client.build().unwrap().into()
    }

    /// The authority of the place's nodes, which the first of them has made.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(self.path("state/ca.pem")).unwrap();
        roots.add(authority).unwrap();
        roots
    }

    /// A client that downloads the file from `server`, not yet started.
    pub fn get(&self, server: SocketAddr, more: &[&str]) -> tokio::process::Command {
        self.get_path("file", server, more)
    }

    pub fn get_path(
        &self,
        path: &str,
        server: SocketAddr,
        more: &[&str],
    ) -> tokio::process::Command {
        let (server, state) = (server.to_string(), self.path("state"));
        let mut arguments = vec!["get", path, "--connect", &server, "--json"];
        arguments.extend(["--state-dir", text(&state)]);
        arguments.extend(more);
        demo_client(arguments)
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A download whose output the test reads, so that it is in the middle for as long as the test wants.
pub struct Held {
    client: tokio::process::Child,
    output: pipe::Receiver,
    read: Vec<u8>,
}

impl Held {
    pub async fn start(place: &Place, server: SocketAddr, more: &[&str]) -> Self {
        let fifo = place.path("fifo");
        let made = std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap();
        assert!(made.success());
        let output = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
        let client = place
            .get(server, &[&["--output", text(&fifo)], more].concat())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut held = Self {
            client,
            output,
            read: Vec::new(),
        };
        // Until the client opens its end, a read finds nobody there.
        while held.read.is_empty() {
            held.output.readable().await.unwrap();
            match held.output.try_read_buf(&mut held.read) {
                Ok(0) => tokio::task::yield_now().await,
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        held
    }

    /// Lets the download go on, to its end.
    pub async fn release(mut self) -> (Output, Vec<u8>) {
        self.output.read_to_end(&mut self.read).await.unwrap();
        (self.client.wait_with_output().await.unwrap(), self.read)
    }
}

/// Checks that the download is whole, and went from A to B by itself.
pub fn assert_followed(output: &Output, copy: &[u8], place: &Place) {
    let report = report(output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(copy == place.content());
    assert_eq!(report["sha256"], place.sha256());
    let [a, b] = report["legs"].as_array().unwrap().as_slice() else {
        panic!("two legs: {report}");
    };
    assert_eq!(a["handshake"], "full");
    assert_eq!(b["handshake"], "resumed");
    assert!(b["bytes"].as_u64().unwrap() > 0, "{report}");
}
