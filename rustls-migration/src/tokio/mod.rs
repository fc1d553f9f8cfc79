//! Acceptor, connector and streams for tokio. The names mirror tokio-rustls.
//!
//! What may be done is decided elsewhere; here bytes move and time passes.

mod client;
mod driver;
mod server;
mod waker;

pub use self::client::{
    ConnectError, Cork, Dial, EarlyDataOutcome, Event, Events, FallBackReason, HandOff,
    HandOffError, MigrateError, MigrationConnector, MigrationOutcome, MigrationStream,
    Preconnected, StreamHandle, TcpDialer, Transport,
};
pub use self::server::{
    ConnectionHandle, DepartureOverdue, DepartureStatus, Drain, DrainOutcome, DrainPlan,
    DrainProgress, DrainSummary, DrainedConnection, HandshakeTimeout, MigrationAcceptor, Readiness,
    StartHandshake, StreamRef, TlsStream, TokenNotSpent,
};
