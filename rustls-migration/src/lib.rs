//! x

pub mod client;
mod clock;
mod codepoints;
mod connection;
mod error;
pub mod provider;
mod schedule;
pub mod server;
mod ticket;
#[cfg(feature = "tokio")]
pub mod tokio;
mod wire;

pub use clock::{Clock, SystemClock};
pub use codepoints::Codepoints;
pub use connection::Connection;
pub use error::ConfigError;
pub use ticket::{TicketKeyError, TicketKeys};

pub use migration_token;
