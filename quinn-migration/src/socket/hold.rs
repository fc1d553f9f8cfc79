//! Keeping a connection's datagrams back for a moment, so that a challenge on a slower path is not overtaken.
//!
//! quinn takes a packet for a duplicate when more than 128 later ones came before it. Never keeps datagrams longer than it
//! was asked to, nor more than a congestion window's worth: what is beyond is lost, as in any full queue.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use quinn::udp::{EcnCodepoint, Transmit};

/// Datagram batches kept at most.
const LIMIT: usize = 2048;

#[derive(Debug)]
pub(super) struct Hold {
    pub(super) until: Instant,
    parcels: VecDeque<Parcel>,
}

/// A batch that waits.
#[derive(Debug)]
struct Parcel {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    contents: Vec<u8>,
    segment_size: Option<usize>,
}

impl Hold {
    pub(super) fn until(until: Instant) -> Self {
        Self {
            until,
            parcels: VecDeque::new(),
        }
    }

    pub(super) fn keep(&mut self, transmit: &Transmit<'_>) {
        if self.parcels.len() < LIMIT {
            self.parcels.push_back(Parcel {
                destination: transmit.destination,
                ecn: transmit.ecn,
                contents: transmit.contents.to_vec(),
                segment_size: transmit.segment_size,
            });
        }
    }

    /// Lets everything go, in order. Answers `false` when the socket is full before the end.
    pub(super) fn release(&mut self, send: impl Fn(&Transmit<'_>) -> io::Result<()>) -> bool {
        while let Some(parcel) = self.parcels.front() {
            let sent = send(&Transmit {
                destination: parcel.destination,
                ecn: parcel.ecn,
                contents: &parcel.contents,
                segment_size: parcel.segment_size,
                src_ip: None,
            });
            if sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return false;
            }
            self.parcels.pop_front();
        }
        true
    }
}
