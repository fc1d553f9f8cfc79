//! A stateless UDP front for QUIC servers: it owns an address and carries each datagram to the node that holds the
//! connection.
//!
//! With it a server's alternate address (draft-saa-ali-quic) may be another machine's: the server advertises a front's
//! address, the client moves there, and the front carries its packets to the node where the connection began. Fronts keep
//! no table of connections, so there may be many, and one may vanish at any time.
//!
//! - [`Front`]: owns one address. It finds the node in the connection ID, or chooses one for a new connection.
//! - [`FrontSocket`]: the other end, a socket for the node's endpoint. quinn sees the client's own address, so that access
//!   control, Retry and the limit before validation (RFC 9000 section 8) work as without a front.
//! - [`RoutableIds`]: connection IDs that fronts can read and nobody else.
//! - [`SharedKeys`]: what fronts and nodes have in common.
//!
//! The format, and what is promised against whom, is in `docs/forwarding.md` of the repository;
//! `cargo run --release -p quic-forwarder -- trial` shows it with processes.
//!
//! What fronts and nodes read has fuzz targets, with seeds, in the repository's `fuzz/`:
//! `tools/fuzz 600 envelope front_datagram`.
//!
//! Never answers a client itself, never reads a protected byte, and never carries what a node or a front with the shared key
//! has not sealed.
#![forbid(unsafe_code)]

mod address;
mod batch;
mod connection_id;
mod envelope;
mod front;
mod front_socket;
#[cfg(fuzzing)]
pub mod fuzzing;
mod keys;
mod place;
mod replay;

pub use connection_id::{RoutableIds, ServerId};
pub use envelope::ENVELOPE_OVERHEAD;
pub use front::{Front, FrontError, FrontStats};
pub use front_socket::{FrontAddress, FrontSocket, FrontSocketStats};
pub use keys::{KeyError, SharedKey, SharedKeys};
pub use place::Node;

use std::time::{SystemTime, UNIX_EPOCH};

fn random() -> Result<u64, KeyError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|_| KeyError::Random)?;
    Ok(u64::from_be_bytes(bytes))
}

/// The time for envelopes. A clock that stands before 1970 has no envelopes taken.
fn now() -> replay::Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
