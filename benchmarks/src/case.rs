//! The comparisons: what is done on both sides, and what the result should be.
//!
//! A comparison's two sides never differ in anything but migration.

use clap::ValueEnum;
use serde::Serialize;

/// Plaintext of one record of bulk data, in bytes.
pub(crate) const RECORD_LEN: usize = 16 * 1024;

/// Plaintext of one unit of work of streams, in bytes: a checkpoint's distance.
pub(crate) const STREAM_LEN: usize = 64 * 1024;

/// One comparison. A handshake is both peers' work, from the hello to the last ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// Full handshake; with migration the client supports it and is issued a token.
    Full,
    /// Full handshake; a migrating server serves a stock client.
    FullStockClient,
    /// Full handshake; a migrating client dials a stock server.
    FullStockServer,
    /// Resumed handshake from rustls' session storage, against a migration.
    Resumed,
    /// Resumed handshake with rustls' sealed tickets, which any node can open too, against a migration.
    ResumedTicketer,
    /// As `Resumed`, with 0-RTT.
    ResumedEarlyData,
    /// Resumed handshake of a stock client: rustls' sealed tickets, against this project's.
    ResumedStockClient,
    /// Resumed handshake of a stock client with 0-RTT: rustls' session storage, against this project's sealed tickets.
    ResumedEarlyDataStockClient,
    /// One record of 16 KiB from the client to the server.
    BulkToServer,
    /// One record of 16 KiB from the server to the client.
    BulkToClient,
    /// 64 KiB from the client to the server over tokio streams, tokio-rustls' against this project's; no checkpoints are made.
    StreamToServer,
    /// As `StreamToServer`, from the server to the client.
    StreamToClient,
    /// 64 KiB from the client to the server over this project's tokio streams: without a checkpoint, against one after them. The side
    /// that is called stock is the one without.
    CheckpointToServer,
    /// As `CheckpointToServer`, from the server to the client.
    CheckpointToClient,
}

/// What a comparison is between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    /// Stock rustls.
    Stock,
    /// This project, on the wrapped provider.
    Migrating,
}

impl Case {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    pub(crate) fn is_resumed(self) -> bool {
        matches!(
            self,
            Self::Resumed
                | Self::ResumedTicketer
                | Self::ResumedEarlyData
                | Self::ResumedStockClient
                | Self::ResumedEarlyDataStockClient
        )
    }

    pub(crate) fn has_early_data(self) -> bool {
        matches!(
            self,
            Self::ResumedEarlyData | Self::ResumedEarlyDataStockClient
        )
    }

    /// Whether stock rustls seals its tickets, rather than to keep the sessions.
    pub(crate) fn has_ticketer(self) -> bool {
        matches!(self, Self::ResumedTicketer | Self::ResumedStockClient)
    }

    pub(crate) fn has_stock_client(self) -> bool {
        matches!(
            self,
            Self::FullStockClient | Self::ResumedStockClient | Self::ResumedEarlyDataStockClient
        )
    }

    pub(crate) fn is_bulk(self) -> bool {
        matches!(self, Self::BulkToServer | Self::BulkToClient)
    }

    /// Whether tokio streams are compared.
    pub(crate) fn is_of_streams(self) -> bool {
        matches!(self, Self::StreamToServer | Self::StreamToClient) || self.has_checkpoints()
    }

    /// Whether a side makes checkpoints.
    pub(crate) fn has_checkpoints(self) -> bool {
        matches!(self, Self::CheckpointToServer | Self::CheckpointToClient)
    }

    /// Which way bulk data goes.
    pub(crate) fn is_to_client(self) -> bool {
        matches!(
            self,
            Self::BulkToClient | Self::StreamToClient | Self::CheckpointToClient
        )
    }

    /// How much plaintext a unit of work moves, in bytes, when it is no handshake.
    pub(crate) fn plaintext(self) -> Option<usize> {
        match (self.is_bulk(), self.is_of_streams()) {
            (true, _) => Some(RECORD_LEN),
            (false, true) => Some(STREAM_LEN),
            (false, false) => None,
        }
    }

    /// The largest ratio to stock rustls that the project wants.
    pub(crate) fn target(self) -> f64 {
        match self.plaintext() {
            Some(_) if self.has_checkpoints() => 1.01,
            Some(_) => 1.02,
            None => 1.10,
        }
    }
}

/// The name by which it is chosen on the command line.
pub(crate) fn name(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}
