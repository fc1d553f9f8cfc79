//! The server's wing: a hello is read, judged and answered; the stream sees to its own duties; a drain moves them all.

mod acceptor;
mod connection_handle;
mod departure;
mod drain;
mod drainer;
mod duties;
mod error;
mod handle;
mod handshake;
mod ledger;
mod nonce_store;
mod registry;
mod stream;

pub use self::acceptor::{MigrationAcceptor, Readiness, StartHandshake};
pub use self::connection_handle::ConnectionHandle;
pub use self::drain::{Drain, DrainPlan, DrainSummary};
pub use self::error::{DepartureOverdue, EndsTooEarly, GoesOnElsewhere, TokenNotSpent};
pub use self::handle::DepartureStatus;
pub use self::handshake::HandshakeTimeout;
pub use self::ledger::{DrainOutcome, DrainProgress, DrainedConnection};
pub use self::stream::{StreamRef, TlsStream};
