//! What the extension does to decrypted packets: pure state machines, one for each side.
//!
//! A hook runs under quinn's connection lock, so it never calls quinn, never blocks, never reads a clock and never
//! does I/O. What it cannot act on it passes through unchanged.

mod attempts;
pub(crate) mod client;
mod packet;
mod path_monitor;
mod peer_ids;
mod placeholder;
pub(crate) mod server;

use std::time::Duration;

use quinn_proto::ConnectionId;

pub(crate) use packet::{Arrival, Incoming, Outgoing, widen_packet_number};

use crate::socket::PathId;
use crate::wire::ParametersError;

/// One side's state machine for one connection.
pub(crate) trait Hook: Send + 'static {
    /// A 1-RTT or 0-RTT packet is about to be sealed.
    fn on_send(&mut self, packet: Outgoing<'_>, effects: &mut Effects);

    /// A 1-RTT packet was opened; quinn reads it next.
    fn on_receive(&mut self, packet: Incoming<'_>, effects: &mut Effects);

    /// Paths that are not in use, by which something may come that belongs there.
    fn other_paths(&self) -> Vec<PathId> {
        Vec::new()
    }

    /// The path that the connection is on, when the hook knows.
    fn path_in_use(&self) -> Option<PathId> {
        None
    }

    /// So many datagrams have come by the path in use so far.
    fn on_traffic(&mut self, _received: u64) {}

    /// The peer's transport parameters arrived, or those that were `remembered` with a session ticket (RFC 9000 section
    /// 7.4.1). Answers with the list that quinn is to read.
    fn on_peer_parameters(
        &mut self,
        list: &[u8],
        remembered: bool,
    ) -> Result<Vec<u8>, ParameterFault>;
}

/// What has to happen outside of a hook. A hook adds to it: for almost every packet it stays as it is, and moving it about would
/// cost more than all the rest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// The task that drives this hook has something to do.
    pub(crate) wake: bool,
    /// Datagrams with this connection ID belong on this path.
    pub(crate) route: Option<(ConnectionId, PathId)>,
    /// The same, when this packet became a probe.
    pub(crate) probe_route: Option<(ConnectionId, PathId)>,
    /// Datagrams with this connection ID are to wait for so long.
    pub(crate) hold: Option<(ConnectionId, Duration)>,
    /// They wait no longer.
    pub(crate) release: bool,
    /// The packet leaves the path that quinn chose its packet number's length for: see [`widen_packet_number`].
    pub(crate) force_4_byte_pn: bool,
}

impl Effects {
    /// Almost every packet: nothing has to happen.
    pub(crate) fn is_nothing(&self) -> bool {
        let routed = self.route.is_some() || self.probe_route.is_some();
        !(self.wake || routed || self.hold.is_some() || self.release)
    }
}

/// The peer's transport parameters break a rule of the extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParameterFault {
    #[error("enable_server_migration must be empty")]
    NotEmpty,
    #[error(transparent)]
    Malformed(#[from] ParametersError),
}

/// How long an advertisement or a validation may take in all, also when quinn lets nothing out.
const LONGEST_EXCHANGE: Duration = Duration::from_secs(30);

/// How long to wait for an answer before trying again: three round trips and the peer's usual delays.
pub(crate) fn retry_interval(rtt: Duration) -> Duration {
    const DELAYS: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(3);
    rtt.saturating_mul(3).saturating_add(DELAYS).min(LONGEST)
}
