//! Which connection ID the client uses: a new one may mean that it is elsewhere, and an advertised one that it followed.
//!
//! Never looks at probes: a client that asks whether a path works is not there yet (RFC 9000 section 9.1).

use std::collections::VecDeque;

use quinn_proto::ConnectionId;

/// Advertisements that a client may keep for later at most; older ones are forgotten.
const LIMIT: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Arrivals {
    current: Option<ConnectionId>,
    /// Advertised and not used yet.
    advertised: VecDeque<ConnectionId>,
    /// The client has followed an advertisement since somebody asked.
    moved: bool,
}

impl Arrivals {
    pub(super) fn on_advertised(&mut self, id: ConnectionId) {
        self.advertised.push_back(id);
        if self.advertised.len() > LIMIT {
            self.advertised.pop_front();
        }
    }

    /// The newest packet so far is no probe. Answers whether the client may be elsewhere now.
    pub(super) fn on_packet(&mut self, id: Option<&[u8]>) -> bool {
        let Some(id) = id.filter(|id| self.current.as_deref() != Some(*id)) else {
            return false;
        };
        self.current = Some(ConnectionId::new(id));
        let before = self.advertised.len();
        self.advertised.retain(|advertised| **advertised != *id);
        self.moved |= self.advertised.len() < before;
        true
    }

    pub(super) fn take_move(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_moved_when_it_first_uses_an_advertised_connection_id() {
        let mut arrivals = Arrivals::default();
        let ids = [[1; 8], [2; 8], [3; 8]];
        let ids = ids.each_ref().map(|id| Some(id.as_slice()));
        assert!(arrivals.on_packet(ids[0]) && !arrivals.take_move());
        arrivals.on_advertised(ConnectionId::new(ids[1].unwrap()));
        assert!(!arrivals.on_packet(ids[0]));
        assert!(arrivals.on_packet(ids[1]) && arrivals.take_move());
        // Elsewhere, with a connection ID that was not advertised; and back again.
        assert!(arrivals.on_packet(ids[2]) && !arrivals.take_move());
        assert!(arrivals.on_packet(ids[1]) && !arrivals.take_move());
    }
}
