//! The server's side: HTTP/1 and HTTP/2 over connections that can be asked to move.

mod connection;
mod handshakes;
mod info;
mod io;
#[cfg(any(feature = "axum", feature = "tonic"))]
mod listener;
mod serve;
mod service;

pub use self::connection::ConnectionServer;
pub use self::info::ConnectionInfo;
pub use self::io::ServerIo;
#[cfg(any(feature = "axum", feature = "tonic"))]
pub use self::listener::MigrationListener;
pub use self::serve::{Serve, serve};
