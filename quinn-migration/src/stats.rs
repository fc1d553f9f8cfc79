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

/// One number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
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

#[derive(Debug, Default)]
pub(crate) struct ClientCounters {
    advertised: Counter,
    refused: Counter,
    moved: Counter,
    failed: Counter,
    fell_back: Counter,
    stranded: Counter,
}

impl ClientCounters {
    pub(crate) fn count(&self, event: &crate::Event) {
        use crate::Event;
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
