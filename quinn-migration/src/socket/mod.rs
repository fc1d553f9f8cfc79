//! UDP below quinn: several sockets that look like one (`quinn::AsyncUdpSocket`).
//!
//! Never reads a packet beyond its destination connection ID, and never blocks.

mod batch;
mod came_by;
mod client;
mod hold;
mod home;
mod opener;
mod path_socket;
mod path_tag;
mod pool;
mod router;
mod server;
mod set;
mod shared;

pub(crate) use came_by::Tag;
pub(crate) use client::ClientSocket;
pub(crate) use home::{Homes, Resident};
pub(crate) use opener::Opener;
pub use path_socket::NewPath;
pub use pool::{AddressRange, AddressRangeError};

pub(crate) use path_socket::PathSockets;
pub(crate) use pool::Pool;
pub(crate) use router::{Router, Routes};
pub(crate) use server::ServerSocket;

/// One socket of a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PathId(u32);

impl PathId {
    /// The socket that the endpoint was created with.
    pub(crate) const FIRST: Self = Self(0);

    #[cfg(any(test, fuzzing))]
    pub(crate) fn numbered(number: u32) -> Self {
        Self(number)
    }
}

/// Datagrams that went through one socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
}

/// Datagrams in a buffer of `length` bytes that holds segments of `segment` bytes.
fn datagrams(length: usize, segment: usize) -> u64 {
    u64::try_from(length.div_ceil(segment.max(1))).unwrap_or_default()
}
