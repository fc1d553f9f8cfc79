//! One advertisement on its way, and what can be said of it.
//!
//! Never holds more than one connection ID.

use std::time::Instant;

use bytes::Bytes;

use super::super::attempts::Attempts;
use crate::wire::NewConnectionId;

#[derive(Debug)]
pub(super) struct Advert {
    pub(super) reserved: NewConnectionId,
    pub(super) frame: Vec<u8>,
    pub(super) attempts: Attempts,
    pub(super) numbers: Vec<u64>,
    pub(super) state: AdvertState,
    /// A packet with the advertised connection ID has arrived.
    pub(super) probed: bool,
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

/// Why no advertisement could begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CannotBegin {
    NotNegotiated,
    /// No connection ID is in reserve; one may follow.
    NoReserve,
    /// The last one is not acknowledged yet.
    Busy,
}

/// What the advertising task does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AdvertStep {
    Send(Bytes),
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
