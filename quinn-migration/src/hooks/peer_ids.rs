//! The connection IDs that the peer has issued, as this side may use them (RFC 9000 section 5.1).
//!
//! A copy of what quinn knows, kept by watching the same frames. Never holds more than a few.

use std::collections::BTreeMap;

use quinn_proto::{ConnectionId, VarInt};

use crate::wire::NewConnectionId;

/// More than quinn's own limit on active connection IDs (5); the oldest go first.
const LIMIT: usize = 16;

#[derive(Debug, Default)]
pub(super) struct PeerIds {
    known: BTreeMap<VarInt, NewConnectionId>,
    current: VarInt,
    retire_prior_to: VarInt,
}

impl PeerIds {
    /// A NEW_CONNECTION_ID frame arrived.
    pub(super) fn learn(&mut self, new: NewConnectionId) {
        self.retire_prior_to = self.retire_prior_to.max(new.retire_prior_to);
        if new.sequence >= self.retire_prior_to {
            self.known.insert(new.sequence, new);
        }
        let floor = self.retire_prior_to;
        self.known.retain(|sequence, _| *sequence >= floor);
        self.current = self.current.max(floor);
        while self.known.len() > LIMIT {
            self.known.pop_first();
        }
    }

    /// Like [`PeerIds::learn`], from a frame body; a malformed one teaches nothing.
    pub(super) fn learn_from(&mut self, body: &[u8]) {
        if let Some(new) = NewConnectionId::decode(body) {
            self.learn(new);
        }
    }

    /// quinn put `id` in a header.
    pub(super) fn on_used(&mut self, id: &ConnectionId) {
        let found = self
            .known
            .iter()
            .find(|(_, known)| known.id == *id)
            .map(|(sequence, _)| *sequence);
        if let Some(sequence) = found {
            self.current = sequence;
            self.known.retain(|known, _| *known >= sequence);
        }
    }

    /// Sequence number of the connection ID in use, or a lower bound of it.
    pub(super) fn current(&self) -> VarInt {
        self.current
    }

    /// Connection IDs below this were retired by the peer.
    pub(super) fn retire_prior_to(&self) -> VarInt {
        self.retire_prior_to
    }

    /// Whether `sequence` cannot be used any more: retired by the peer, or passed over. quinn takes the lowest
    /// connection ID that it knows, so it passes over those that it has not heard of yet, and never goes back.
    pub(super) fn is_past(&self, sequence: VarInt) -> bool {
        sequence < self.current.max(self.retire_prior_to)
    }

    /// The connection ID that quinn would switch to next.
    pub(super) fn next(&self) -> Option<&NewConnectionId> {
        self.unused().next()
    }

    /// The connection IDs that quinn may switch to, in its order.
    pub(super) fn unused(&self) -> impl Iterator<Item = &NewConnectionId> {
        let above = |(sequence, _): &(&VarInt, &NewConnectionId)| **sequence > self.current;
        self.known.iter().filter(above).map(|(_, new)| new)
    }

    /// The lowest one from `floor` on.
    pub(super) fn at_or_above(&self, floor: VarInt) -> Option<&NewConnectionId> {
        self.known.range(floor..).next().map(|(_, new)| new)
    }

    /// Whether the peer issued this sequence number or this connection ID in a NEW_CONNECTION_ID frame.
    pub(super) fn contains(&self, sequence: VarInt, id: &ConnectionId) -> bool {
        self.known
            .iter()
            .any(|(known, new)| *known == sequence || new.id == *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ResetToken;

    fn new_id(sequence: u32, retire_prior_to: u32) -> NewConnectionId {
        NewConnectionId {
            sequence: sequence.into(),
            retire_prior_to: retire_prior_to.into(),
            id: ConnectionId::new(&[u8::try_from(sequence).unwrap(); 8]),
            token: ResetToken::new([0; 16]),
        }
    }

    #[test]
    fn the_next_connection_id_is_the_lowest_above_the_current_one() {
        let mut ids = PeerIds::default();
        for sequence in [4, 2, 3] {
            ids.learn(new_id(sequence, 0));
        }
        assert_eq!(ids.next().map(|new| new.sequence), Some(2u32.into()));
        ids.on_used(&ConnectionId::new(&[3; 8]));
        assert_eq!(ids.next().map(|new| new.sequence), Some(4u32.into()));
    }

    #[test]
    fn retired_connection_ids_are_forgotten() {
        let mut ids = PeerIds::default();
        ids.learn(new_id(1, 0));
        ids.learn(new_id(6, 5));
        assert_eq!(ids.current(), 5u32.into());
        assert!(!ids.contains(1u32.into(), &ConnectionId::new(&[1; 8])));
        ids.learn(new_id(2, 0));
        assert_eq!(ids.next().map(|new| new.sequence), Some(6u32.into()));
    }

    #[test]
    fn a_flood_of_connection_ids_is_bounded() {
        let mut ids = PeerIds::default();
        for sequence in 1..200 {
            ids.learn(new_id(sequence, 0));
        }
        assert_eq!(ids.known.len(), LIMIT);
    }
}
