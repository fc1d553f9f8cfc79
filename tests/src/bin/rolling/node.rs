//! A node of a rolling deploy: a process, with its metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::metrics::{scrape, scrape_at_rest, value};
use migration_tests::place::{Place, text};
use migration_tests::programs::Server;
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;

/// How often a drain is looked at.
const EVERY: Duration = Duration::from_millis(50);

/// How long a node may take to have no connection any more. Only a broken one takes it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running node.
pub(crate) struct Node {
    server: Server,
    operator: SocketAddr,
}

impl Node {
    /// Starts one at `address`, with a new certificate.
    pub(crate) async fn start(place: &Place, address: &str, over: &str) -> Self {
        let (root, state) = (place.path("root"), place.path("state"));
        let keys = place.path("ticket.keys");
        let mut arguments = vec!["--root", text(&root), "--state-dir", text(&state)];
        arguments.extend(["--ticket-keys", text(&keys), "--watch-ticket-keys"]);
        arguments.extend(["--drain-over", over, "--drain-deadline", "60"]);
        // Until its last numbers have been read.
        arguments.extend(["--operator", "127.0.0.1:0", "--operator-linger", "600"]);
        let mut server = Server::start_at(address, arguments).await;
        let operator = server.operator().await;
        Self { server, operator }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Waits until it has read the ticket keys again.
    pub(crate) async fn reloaded_keys(&mut self) {
        self.server.logged("ticket keys reloaded").await;
    }

    /// The certificate that it shows.
    pub(crate) async fn certificate(&self, place: &Place) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(place.roots())
            .with_no_client_auth();
        let tcp = TcpStream::connect(self.address()).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector
            .connect("localhost".try_into().unwrap(), tcp)
            .await;
        let stream = stream.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        chain[0].to_vec()
    }

    /// Drains it onto `targets`, or lets its clients finish when there are none, and stops it.
    pub(crate) async fn drain(mut self, targets: impl IntoIterator<Item = SocketAddr>) -> Drained {
        let began = Instant::now();
        let targets: Vec<_> = targets
            .into_iter()
            .map(|target| target.to_string())
            .collect();
        match targets.is_empty() {
            true => self.server.signal("TERM").await,
            false => {
                self.server
                    .enter(&format!("drain {}", targets.join(" ")))
                    .await
            }
        }
        let mut progress = Vec::new();
        let watching = async {
            let mut look = interval(EVERY);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                look.tick().await;
                let metrics = scrape(self.operator).await.unwrap();
                progress.push(at(began.elapsed(), &metrics));
            }
        };
        tokio::select! {
            () = watching => {}
            () = self.server.logged("drained total=") => {}
        }
        let at_rest = timeout(PATIENCE, scrape_at_rest(self.operator)).await;
        let metrics = at_rest.expect("it comes to rest").unwrap();
        progress.push(at(began.elapsed(), &metrics));
        self.server.signal("INT").await;
        let address = self.address();
        assert_eq!(self.server.ended().await, Some(0));
        Drained {
            address,
            progress,
            metrics,
        }
    }
}

/// What the metrics say of a drain at this moment.
fn at(elapsed: Duration, metrics: &str) -> Value {
    let outcome = |name: &str| {
        let sample = format!("rustls_migration_drain_connections{{outcome=\"{name}\"}}");
        value(metrics, &sample).unwrap_or(0.0)
    };
    json!({
        "seconds": elapsed.as_secs_f64(),
        "untold": outcome("untold"),
        "pending": outcome("pending"),
        "moved": outcome("moved") + outcome("handed_over"),
    })
}

/// A node that has been drained.
pub(crate) struct Drained {
    address: SocketAddr,
    /// How the drain went.
    progress: Vec<Value>,
    /// The last ones.
    pub(crate) metrics: String,
}

impl Drained {
    pub(crate) fn to_json(&self) -> Value {
        json!({"node": self.address.to_string(), "progress": self.progress})
    }
}
