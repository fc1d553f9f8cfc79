//! One advertisement on its way, and what can be said of it.
//!
//! Never holds more than one connection ID.

use std::mem;
use std::time::Instant;

use bytes::Bytes;

use super::super::attempts::Attempts;
use crate::stats::ServerCounters;
use crate::wire::NewConnectionId;

#[derive(Debug)]
pub(super) struct Advert {
    pub(super) cid: NewConnectionId,
    pub(super) frame: Vec<u8>,
    pub(super) attempts: Attempts,
    pub(super) numbers: Vec<u64>,
    pub(super) state: AdvertState,
    /// A packet with the advertised connection ID has arrived.
    pub(super) probed: bool,
}

impl Advert {
    /// Goes on to `state`, and counts what that says: each thing once, however often the client repeats itself.
    pub(super) fn enter(&mut self, state: AdvertState, counters: &ServerCounters) {
        let before = mem::replace(&mut self.state, state);
        // What was in the frame is known to who has it, whose acknowledgement may come later.
        if before == AdvertState::Sending && state != AdvertState::Expired {
            counters.acknowledged.add_one();
        }
        if state.is_declined() && !before.is_declined() {
            counters.declined.add_one();
        }
        if state == AdvertState::Moved && before != AdvertState::Moved {
            counters.moved.add_one();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdvertState {
    Sending,
    Acknowledged,
    Moved,
    Declined,
    /// quinn retired the connection ID before the client acknowledged the frame.
    Expired,
}

impl AdvertState {
    fn is_declined(self) -> bool {
        match self {
            Self::Declined | Self::Expired => true,
            Self::Sending | Self::Acknowledged | Self::Moved => false,
        }
    }
}

/// Why no advertisement could begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CannotBegin {
    NotNegotiated,
    /// There will never be a spare connection ID: the server's have no length, or the client has no room for one.
    Never,
    /// There is no spare connection ID; one may follow.
    NoSpareCid,
    /// The last one is not acknowledged yet.
    Busy,
}

/// What the advertising task does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AdvertStep {
    /// Queue these placeholders.
    Send(Vec<Bytes>),
    Wait(Instant),
    /// Acknowledged, in a packet of these many.
    Acknowledged(u32),
    /// Not acknowledged, or replaced.
    Lost,
}

/// What the client made of an advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The client uses the new address.
    Moved,
    /// The client gave the connection ID back: its policy refused, or the address did not answer.
    Declined,
    /// The server has advertised another address since.
    Superseded,
}
