//! Real redis servers, each in a directory of its own, which tests kill, stop, restart and promote.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use migration_token::RedisNonceStore;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::Pki;
use crate::ports::unused;

/// A redis-server, which dies with this value.
pub struct RedisServer {
    process: Child,
    address: SocketAddr,
    dir: TempDir,
    options: Vec<String>,
    /// Where a Sentinel has its file.
    sentinel: Option<TempDir>,
}

/// Stands before the file of a Sentinel among the options.
const SENTINEL: &str = "--sentinel";

impl RedisServer {
    /// Starts a server with nothing but `options`, as on its command line, and waits until it answers.
    pub async fn start(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        // Another program may take a free port before the server does.
        loop {
            let free = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let mut process = spawn(address, &dir, &options);
            if answers(address, &mut process).await {
                return Self {
                    process,
                    address,
                    dir,
                    options,
                    sentinel: None,
                };
            }
        }
    }

    /// A server with a certificate of `pki`, and its address with TLS. What it needs is put into `folder`; the authority is the
    /// file `ca` there.
    pub async fn with_tls(pki: &Pki, folder: &Path) -> (Self, String) {
        let (certificate, key) = pki.issue_pem("127.0.0.2");
        let write = |name: &str, content: String| {
            let path = folder.join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let files = [
            write("certificate", certificate),
            write("key", key),
            write("ca", pki.ca_pem()),
        ];
        let port = unused("127.0.0.2").port().to_string();
        let [certificate, key, ca] = &files;
        let tls = [
            ["--tls-port", &port],
            ["--tls-cert-file", certificate],
            ["--tls-key-file", key],
            ["--tls-ca-cert-file", ca],
            ["--tls-auth-clients", "no"],
        ];
        let server = Self::start(tls.as_flattened()).await;
        (server, format!("rediss://127.0.0.2:{port}"))
    }

    /// Starts a Sentinel that watches nothing yet.
    pub async fn sentinel() -> Self {
        // It writes what it learns into a file of its own.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        // Others learn where it is, and go there.
        std::fs::write(&file, "sentinel announce-ip 127.0.0.2\n").unwrap();
        let mut sentinel = Self::start(&[SENTINEL, file.to_str().unwrap()]).await;
        sentinel.sentinel = Some(folder);
        sentinel
    }

    /// Starts a replica of this server, and waits until it has all data.
    pub async fn replica(&self) -> Self {
        let replica = Self::start(&[]).await;
        let (ip, port) = (
            self.address.ip().to_string(),
            self.address.port().to_string(),
        );
        replica.ask(&["REPLICAOF", &ip, &port]);
        while !replica
            .ask(&["INFO", "replication"])
            .contains("master_link_status:up")
        {
            sleep(Duration::from_millis(20)).await;
        }
        replica
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A command's answer, by redis-cli.
    pub fn ask(&self, command: &[&str]) -> String {
        ask(self.address, command)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again where it was, with what its directory holds.
    pub async fn restart(&mut self) {
        loop {
            self.process = spawn(self.address, &self.dir, &self.options);
            if answers(self.address, &mut self.process).await {
                return;
            }
        }
    }

    /// Lets it hang (SIGSTOP).
    pub fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(address: SocketAddr, dir: &TempDir, options: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    if let [first, file] = options
        && first == SENTINEL
    {
        // The file comes first, and a Sentinel has no data.
        return command
            .args([file, "--port", &address.port().to_string()])
            .args(["--bind", &address.ip().to_string(), "--dir"])
            .arg(dir.path())
            .arg(SENTINEL)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server: {error}; run tools/setup-tests"));
    }
    command
        .args(["--bind", &address.ip().to_string()])
        // Sentinels learn where it is, and go there.
        .args(["--replica-announce-ip", &address.ip().to_string()])
        .args(["--port", &address.port().to_string()])
        .args(["--save", "", "--repl-diskless-sync-delay", "0", "--dir"])
        .arg(dir.path())
        .args(options)
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server: {error}; run tools/setup-tests"))
}

/// Whether `process` answers at `address`; false when it ended.
async fn answers(address: SocketAddr, process: &mut Child) -> bool {
    let itself = format!("process_id:{}\r", process.id());
    while process.try_wait().unwrap().is_none() {
        let server = ask(address, &["INFO", "server"]);
        if server.contains(&itself) && ask(address, &["PING"]).contains("PONG") {
            return true;
        }
        sleep(Duration::from_millis(20)).await;
    }
    false
}

fn ask(address: SocketAddr, command: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-h", &address.ip().to_string()])
        .args(["-p", &address.port().to_string()])
        .args(command)
        .output()
        .unwrap_or_else(|error| panic!("redis-cli: {error}; run tools/setup-tests"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Has a store's server begin to remember. The store's time is short for a busy machine, so it may ask again.
pub async fn begin(store: &RedisNonceStore) {
    let mut refused = None;
    for _ in 0..100 {
        match store.check(OffsetDateTime::now_utc()).await {
            Ok(()) => return,
            Err(error) => refused = Some(error),
        }
    }
    panic!("{refused:?}");
}
