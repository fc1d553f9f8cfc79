//! Clients that know nothing of migration, at a node that is drained: they see what the graceful shutdown of `axum::serve` gives.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use axum::serve::Listener;
use hyper_migration::server::serve;
use migration_tests::browser::Browser;
use migration_tests::{NAME, Service, stock};
use rustls_migration::tokio::{DrainPlan, MigrationAcceptor};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::cluster::Protocol;

/// What the tests hold in their hands of a node.
struct Drained {
    address: SocketAddr,
    /// A slow answer has been asked for.
    begun: Arc<Notify>,
    /// Slow answers may come.
    go: Arc<Semaphore>,
    /// Begins the node's end.
    end: Arc<Notify>,
    node: JoinHandle<()>,
}

fn router(begun: &Arc<Notify>, go: &Arc<Semaphore>) -> Router {
    let (begun, go) = (Arc::clone(begun), Arc::clone(go));
    let slow = async move || {
        begun.notify_one();
        let _go = go.acquire().await.unwrap();
        "slow but complete"
    };
    Router::new()
        .route("/slow", get(slow))
        .route("/quick", get("quick"))
}

/// tokio-rustls under `axum::serve`, as axum's documentation has it.
struct StockListener(TcpListener, TlsAcceptor);

impl Listener for StockListener {
    type Io = tokio_rustls::server::TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (tcp, peer) = self.0.accept().await.unwrap();
            if let Ok(stream) = self.1.accept(tcp).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Drained {
    async fn new(service: &Service, migrates: bool) -> Self {
        let (begun, go, end) = (
            Arc::default(),
            Arc::new(Semaphore::new(0)),
            Arc::new(Notify::new()),
        );
        let router = router(&begun, &go);
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let provider = match migrates {
            true => Arc::clone(&service.provider),
            false => Arc::new(stock::provider()),
        };
        let mut config = service.server_config_with(provider);
        config.alpn_protocols = [Protocol::H2.alpn(), Protocol::H1.alpn()].concat();
        let ending = Arc::clone(&end);
        let node = match migrates {
            true => {
                let settings = service.node_with(config).own_addresses([address]);
                let acceptor = MigrationAcceptor::from(settings.build().unwrap());
                tokio::spawn(drain(listener, acceptor, router, ending))
            }
            false => {
                let listener = StockListener(listener, TlsAcceptor::from(Arc::new(config)));
                let serving = axum::serve(listener, router);
                let serving =
                    serving.with_graceful_shutdown(async move { ending.notified().await });
                tokio::spawn(async { serving.await.unwrap() })
            }
        };
        Self {
            address,
            begun,
            go,
            end,
            node,
        }
    }

    /// Begins the node's end, and waits until its port is closed and its connections know.
    async fn begin_to_end(&self) {
        self.end.notify_one();
        while TcpStream::connect(self.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

async fn drain(
    listener: TcpListener,
    acceptor: MigrationAcceptor,
    router: Router,
    end: Arc<Notify>,
) {
    let elsewhere = "127.0.0.3:443".parse().unwrap();
    let draining = acceptor.clone();
    let (closed, closes) = tokio::sync::oneshot::channel();
    let serving = serve(listener, acceptor, router).accept_until(async move {
        end.notified().await;
        let _ = closed.send(());
    });
    let draining = async {
        closes.await.unwrap();
        let plan = DrainPlan::to([(elsewhere, 1)]).spread_over(Duration::ZERO);
        let drained = draining.drain(plan).finished().await;
        assert_eq!((drained.progress.forced, drained.progress.notified), (0, 0));
    };
    tokio::join!(serving.into_future(), draining);
}

/// curl asks for a slow answer, in whose middle the node begins to end, and then for another one.
async fn curl(
    service: &Service,
    folder: &Path,
    migrates: bool,
    version: &str,
) -> (Option<i32>, String) {
    let node = Drained::new(service, migrates).await;
    let port = node.address.port();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-i", version, "--noproxy", "*", "--cacert"])
        .arg(folder.join("ca.pem"))
        .args(["--resolve", &format!("{NAME}:{port}:127.0.0.2")])
        .args([
            "-w",
            "\n%{http_code} %{http_version} %{size_download} %{num_connects}\n",
        ])
        .args(["slow", "quick"].map(|path| format!("https://{NAME}:{port}/{path}")))
        .kill_on_drop(true);
    let running = tokio::spawn(async move { curl.output().await });
    node.begun.notified().await;
    node.begin_to_end().await;
    node.go.add_permits(1);
    let output = running.await.unwrap();
    let output = output.expect("curl runs: tools/setup-tests installs it");
    node.node.await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    let said = said.lines().filter(|line| !line.starts_with("date: "));
    let said: Vec<_> = said
        .map(|line| line.replace(&port.to_string(), "PORT"))
        .collect();
    (output.status.code(), said.join("\n"))
}

#[tokio::test]
async fn curl_sees_what_a_graceful_shutdown_of_axum_gives() {
    let service = Service::default();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), service.pki.ca_pem()).unwrap();
    for version in ["--http1.1", "--http2"] {
        let (stock_code, stock_said) = curl(&service, folder.path(), false, version).await;
        let (code, said) = curl(&service, folder.path(), true, version).await;
        assert!(said.contains("slow but complete"), "{said}");
        if version == "--http1.1" {
            assert!(said.contains("connection: close"), "{said}");
        }
        // The other request finds the port closed.
        assert_eq!(code, Some(7), "{said}");
        // How long it took to be refused is curl's own.
        let without_time = |said: &str| said.split(" after ").next().unwrap().to_owned();
        assert_eq!(
            (code, without_time(&said)),
            (stock_code, without_time(&stock_said))
        );
    }
}

/// What reqwest got: of an answer in whose middle the node began to end, and of a request afterwards.
async fn reqwest(service: &Service, migrates: bool, protocol: Protocol) -> (String, String, bool) {
    let node = Drained::new(service, migrates).await;
    let mut config = service.client_config_with(Arc::new(stock::provider()));
    config.enable_early_data = false;
    config.alpn_protocols = protocol.alpn();
    let client = reqwest::Client::builder().tls_backend_preconfigured(config);
    let client = client
        .no_proxy()
        .resolve(NAME, node.address)
        .build()
        .unwrap();
    let uri = |path: &str| format!("https://{NAME}:{}/{path}", node.address.port());
    let quick = client.get(uri("quick")).send().await.unwrap();
    assert_eq!(quick.text().await.unwrap(), "quick");
    let slow = tokio::spawn(client.get(uri("slow")).send());
    node.begun.notified().await;
    node.begin_to_end().await;
    node.go.add_permits(1);
    let slow = slow.await.unwrap().unwrap();
    let version = format!("{:?}", slow.version());
    let slow = slow.text().await.unwrap();
    node.node.await.unwrap();
    let after = client.get(uri("quick")).send().await.unwrap_err();
    (version, slow, after.is_connect())
}

#[tokio::test]
async fn reqwest_sees_what_a_graceful_shutdown_of_axum_gives() {
    let service = Service::default();
    for (protocol, version) in [(Protocol::H1, "HTTP/1.1"), (Protocol::H2, "HTTP/2.0")] {
        let seen = reqwest(&service, true, protocol).await;
        assert_eq!(
            seen,
            (version.to_owned(), "slow but complete".to_owned(), true)
        );
        assert_eq!(seen, reqwest(&service, false, protocol).await);
    }
}

/// What a page sees: of an answer in whose middle the node began to end, and of a request afterwards.
async fn browser(service: &Service, migrates: bool) -> (Value, Value) {
    let node = Drained::new(service, migrates).await;
    let browser = Browser::start(NAME, node.address).await;
    let origin = format!("https://{NAME}:{}", node.address.port());
    browser.goto(&format!("{origin}/quick")).await;
    browser
        .run("window.slow = fetch('/slow').then(answer => answer.text()); return true")
        .await;
    node.begun.notified().await;
    node.begin_to_end().await;
    node.go.add_permits(1);
    let slow = browser.run("return await window.slow").await;
    node.node.await.unwrap();
    let after = browser
        .run("return await (await fetch('/quick')).text()")
        .await;
    browser.quit().await;
    (slow, after)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_sees_what_a_graceful_shutdown_of_axum_gives() {
    let service = Service::default();
    let seen = browser(&service, true).await;
    assert_eq!(seen.0, "slow but complete");
    assert_eq!(seen.1, "TypeError: Failed to fetch");
    assert_eq!(seen, browser(&service, false).await);
}
