//! Acceptor, connector and streams for tokio. The names mirror tokio-rustls.
//!
//! What may be done is decided elsewhere; here bytes move and time passes.

mod acceptor;
mod connections;
mod connector;
mod drain;
mod driver;
mod event;
mod handshaking;
mod questions;
mod silence;
mod stream;
mod tls_stream;
mod transport;
mod wakers;

pub use acceptor::{MigrationAcceptor, StartHandshake};
pub use connector::{ConnectFailure, HandOff, MigrationConnector, Opened};
pub use drain::{Drain, DrainPlan, DrainProgress, DrainSummary};
pub use event::{EarlyDataOutcome, Event, Events, FallBackReason, Landing};
pub use handshaking::HandshakeTimeout;
pub use stream::{HandOffError, MigrateError, MigrationStream};
pub use tls_stream::TlsStream;
pub use transport::{Dial, TcpDialer, Transport};
