//! What the crates measure, in Prometheus' text format.
//!
//! `docs/operating.md` tells what each metric means.

use std::error::Error;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Upper bounds of what is measured in seconds: moves and stores take from less than a millisecond to the deadlines.
const BUCKETS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// What has been measured in this process since [`install`](Self::install).
#[derive(Clone, Debug)]
pub(super) struct Metrics(PrometheusHandle);

impl Metrics {
    /// Begins to measure, once in a process.
    pub(super) fn install() -> Result<Self, Box<dyn Error + Send + Sync>> {
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS)?;
        let recorder = builder.install_recorder()?;
        rustls_migration::metrics::describe();
        Ok(Self(recorder))
    }

    /// All of it in Prometheus' text format.
    pub(super) fn render(&self) -> String {
        self.0.render()
    }

    /// Frees what single measurements take, which would grow for as long as nobody asks.
    pub(super) fn condense(&self) {
        self.0.run_upkeep();
    }
}
