//! What an operator sees of a process: its metrics in Prometheus' text format, and its log.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::EnvFilter;

use crate::log::Log;

/// What is measured and said on this thread, from [`begin`](Self::begin) on.
pub struct Observed {
    handle: PrometheusHandle,
    log: Log,
    _measured: LocalRecorderGuard<'static>,
    _logged: DefaultGuard,
}

impl Observed {
    /// Begins to look, for a test whose tasks all run on its own thread.
    pub fn begin() -> Self {
        // Once for each test that looks.
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        let (handle, log) = (recorder.handle(), Log::default());
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("info,rustls_migration=debug"))
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self {
            handle,
            log,
            _measured: metrics::set_default_local_recorder(recorder),
            _logged: tracing::subscriber::set_default(subscriber),
        }
    }

    /// What Prometheus would get.
    pub fn metrics(&self) -> String {
        self.handle.render()
    }

    pub fn log(&self) -> String {
        self.log.text()
    }
}

/// The value of a sample in Prometheus' text format: `name` or `name{label="value"}`.
pub fn value(metrics: &str, sample: &str) -> Option<f64> {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    Some(line?.parse().unwrap())
}

/// What the operator's address of a node has at `path`: the status line, and the body.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<(String, String)> {
    let mut tcp = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    tcp.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}

/// The metrics of a node, at its operator's address.
pub async fn scrape(address: SocketAddr) -> io::Result<String> {
    Ok(get(address, "/metrics").await?.1)
}

/// As [`scrape`], when the node has no connection any more.
pub async fn scrape_at_rest(address: SocketAddr) -> io::Result<String> {
    loop {
        let metrics = scrape(address).await?;
        if value(&metrics, "rustls_migration_connections") == Some(0.0) {
            return Ok(metrics);
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// The sum of all samples of a metric, whatever their labels.
pub fn sum(metrics: &str, name: &str) -> f64 {
    let samples = metrics.lines().filter_map(|line| line.strip_prefix(name));
    let samples = samples.filter(|rest| rest.starts_with(['{', ' ']));
    let values = samples.filter_map(|sample| sample.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.sum()
}
