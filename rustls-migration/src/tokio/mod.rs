//! Acceptor, connector and streams for tokio. The names mirror tokio-rustls.
//!
//! What may be done is decided elsewhere; here bytes move and time passes. [`conversation`] stands on top, for applications.

mod client;
pub mod conversation;
mod driver;
mod listen;
mod server;
mod waker;

pub use self::client::{
    ConnectError, Cork, Dial, EarlyDataOutcome, Event, Events, FallBackReason, HandOff,
    HandOffError, MigrateError, MigrationConnector, MigrationOutcome, MigrationStream, PastWindow,
    Preconnected, RecoveryOutcome, ResolveTarget, StreamHandle, TcpDialer, TextTargets, Transport,
};
pub use self::listen::listen;
pub use self::server::{
    ConnectionHandle, DepartureOverdue, DepartureStatus, Drain, DrainOutcome, DrainPlan,
    DrainProgress, DrainSummary, DrainedConnection, EndsTooEarly, GoesOnElsewhere,
    HandshakeTimeout, MigrationAcceptor, Readiness, StartHandshake, StreamRef, TlsStream,
    TokenNotSpent,
};
