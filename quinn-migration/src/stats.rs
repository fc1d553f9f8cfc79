//! Counters of a server and of a client, for metrics: what has happened since the start, and how many there are now.
//!
//! Never counts an address or a name: only numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a [`MigrationServer`](crate::MigrationServer) has done; see
/// [`MigrationServer::stats`](crate::MigrationServer::stats). Numbers ending in "now" go up and down, all others only up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections whose state is held now.
    pub connections_now: usize,
    /// Connections that are attached now.
    pub attached_now: usize,
    /// Addresses served now.
    pub addresses_now: usize,
    /// Addresses added or drawn, without the first one.
    pub addresses_added: u64,
    /// Addresses removed.
    pub addresses_removed: u64,
    /// Advertisements begun.
    pub advertised: u64,
    /// Advertisements that clients have acknowledged.
    pub acknowledged: u64,
    /// Clients that have moved to an advertised address.
    pub moved: u64,
    /// Advertisements that clients have given back, or whose connection ID quinn retired first.
    pub declined: u64,
    /// Attached clients that have gone back to an address that was not advertised to them anew.
    pub fell_back: u64,
    /// Attached connections that have ended.
    pub gone: u64,
    /// Datagrams to addresses of a pool that were not served.
    pub strays: u64,
}

/// What the migrators of a [`MigrationClient`](crate::MigrationClient) have done; see
/// [`MigrationClient::stats`](crate::MigrationClient::stats).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Connections whose state is held now.
    pub connections_now: usize,
    /// Sockets open now.
    pub sockets_now: usize,
    /// Advertisements that arrived.
    pub advertised: u64,
    /// Advertisements that were not followed.
    pub refused: u64,
    /// Moves to an advertised address.
    pub moved: u64,
    /// Validations of an advertised address that failed.
    pub failed: u64,
    /// Returns to an earlier address.
    pub fell_back: u64,
    /// Times that no address answered any more.
    pub stranded: u64,
}

/// One number that only grows. With the feature `metrics` it is measured too.
#[derive(Debug)]
pub(crate) struct Counter {
    count: AtomicU64,
    #[cfg(feature = "metrics")]
    metric: &'static str,
}

/// A counter that is this metric.
macro_rules! counter {
    ($metric:ident) => {
        Counter {
            count: AtomicU64::new(0),
            #[cfg(feature = "metrics")]
            metric: crate::metrics::$metric.name,
        }
    };
}

impl Counter {
    pub(crate) fn add_one(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        ::metrics::counter!(self.metric).increment(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(crate) struct ServerCounters {
    pub(crate) added: Counter,
    pub(crate) removed: Counter,
    pub(crate) advertised: Counter,
    pub(crate) acknowledged: Counter,
    pub(crate) moved: Counter,
    pub(crate) declined: Counter,
    pub(crate) fell_back: Counter,
    pub(crate) gone: Counter,
}

impl Default for ServerCounters {
    fn default() -> Self {
        Self {
            added: counter!(ADDRESSES_ADDED),
            removed: counter!(ADDRESSES_REMOVED),
            advertised: counter!(ADVERTISED),
            acknowledged: counter!(ACKNOWLEDGED),
            moved: counter!(MOVED),
            declined: counter!(DECLINED),
            fell_back: counter!(FELL_BACK),
            gone: counter!(GONE),
        }
    }
}

impl ServerCounters {
    pub(crate) fn stats(&self) -> ServerStats {
        ServerStats {
            addresses_added: self.added.get(),
            addresses_removed: self.removed.get(),
            advertised: self.advertised.get(),
            acknowledged: self.acknowledged.get(),
            moved: self.moved.get(),
            declined: self.declined.get(),
            fell_back: self.fell_back.get(),
            gone: self.gone.get(),
            ..ServerStats::default()
        }
    }
}

#[derive(Debug)]
pub(crate) struct ClientCounters {
    advertised: Counter,
    refused: Counter,
    moved: Counter,
    failed: Counter,
    fell_back: Counter,
    stranded: Counter,
}

impl Default for ClientCounters {
    fn default() -> Self {
        Self {
            advertised: counter!(CLIENT_ADVERTISED),
            refused: counter!(CLIENT_REFUSED),
            moved: counter!(CLIENT_MOVED),
            failed: counter!(CLIENT_FAILED),
            fell_back: counter!(CLIENT_FELL_BACK),
            stranded: counter!(CLIENT_STRANDED),
        }
    }
}

impl ClientCounters {
    pub(crate) fn count(&self, event: &crate::Event) {
        use crate::Event;
        #[cfg(feature = "metrics")]
        match event {
            Event::Migrated { validation, .. } => {
                let metric = crate::metrics::CLIENT_VALIDATION_SECONDS;
                ::metrics::histogram!(metric.name).record(*validation);
            }
            Event::FellBack { silence, .. } => {
                let metric = crate::metrics::CLIENT_SILENCE_SECONDS;
                ::metrics::histogram!(metric.name).record(*silence);
            }
            Event::Advertised { .. }
            | Event::Kept { .. }
            | Event::Refused { .. }
            | Event::Validating { .. }
            | Event::Failed { .. }
            | Event::Stranded { .. }
            | Event::Missed(_) => {}
        }
        match event {
            Event::Advertised { .. } => self.advertised.add_one(),
            Event::Refused { .. } => self.refused.add_one(),
            Event::Migrated { .. } => self.moved.add_one(),
            Event::Failed { .. } => self.failed.add_one(),
            Event::FellBack { .. } => self.fell_back.add_one(),
            Event::Stranded { .. } => self.stranded.add_one(),
            Event::Kept { .. } | Event::Validating { .. } | Event::Missed(_) => {}
        }
    }

    pub(crate) fn stats(&self) -> ClientStats {
        ClientStats {
            advertised: self.advertised.get(),
            refused: self.refused.get(),
            moved: self.moved.get(),
            failed: self.failed.get(),
            fell_back: self.fell_back.get(),
            stranded: self.stranded.get(),
            ..ClientStats::default()
        }
    }
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use std::time::Duration;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::Event;

    #[test]
    fn each_counter_is_measured_as_its_metric_and_each_time_too() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let (from, to) = (
            "192.0.2.1:1".parse().unwrap(),
            "192.0.2.2:1".parse().unwrap(),
        );
        metrics::with_local_recorder(&recorder, || {
            let server = ServerCounters::default();
            for counter in [
                &server.added,
                &server.removed,
                &server.advertised,
                &server.acknowledged,
                &server.moved,
                &server.declined,
                &server.fell_back,
                &server.gone,
            ] {
                counter.add_one();
            }
            let client = ClientCounters::default();
            client.count(&Event::Migrated {
                sequence: 1u32.into(),
                from,
                to,
                challenges: 1,
                validation: Duration::from_millis(250),
            });
            client.count(&Event::FellBack {
                from: to,
                to: from,
                silence: Duration::from_secs(3),
            });
            client.count(&Event::Stranded { on: from });
        });
        let measured = recorder.handle().render();
        for (metric, number) in [
            ("addresses_added_total", "1"),
            ("addresses_removed_total", "1"),
            ("advertised_total", "1"),
            ("acknowledged_total", "1"),
            ("moved_total", "1"),
            ("declined_total", "1"),
            ("fell_back_total", "1"),
            ("gone_total", "1"),
            ("client_moved_total", "1"),
            ("client_fell_back_total", "1"),
            ("client_stranded_total", "1"),
            ("client_validation_seconds_sum", "0.25"),
            ("client_silence_seconds_sum", "3"),
        ] {
            let line = format!("quinn_migration_{metric} {number}");
            assert!(
                measured.lines().any(|found| found == line),
                "{line}: {measured}"
            );
        }
    }
}
