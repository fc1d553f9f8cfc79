//! What a client's hook is about at the moment: one thing at a time.

use std::net::SocketAddr;
use std::time::Duration;

use super::path_switch::PathSwitch;
use super::probe::Probe;
use super::trial::Trial;
use crate::wire::AlternateAddress;

#[derive(Debug)]
pub(super) enum Phase {
    Settled,
    /// The task opens a socket for this.
    Opening(AlternateAddress, SocketAddr),
    /// An advertised path is validated.
    Probing(Probe),
    /// Nothing has come on the path in use for so long: an earlier one is asked whether it still answers.
    Returning(Probe, Duration),
    /// It cannot be asked, and gets what is sent instead.
    Trial(Trial),
    Switching(PathSwitch),
}

impl Phase {
    /// The challenges under way.
    pub(super) fn probe(&self) -> Option<&Probe> {
        match self {
            Self::Probing(probe) | Self::Returning(probe, _) => Some(probe),
            Self::Settled | Self::Opening(..) | Self::Trial(_) | Self::Switching(_) => None,
        }
    }

    pub(super) fn probe_mut(&mut self) -> Option<&mut Probe> {
        match self {
            Self::Probing(probe) | Self::Returning(probe, _) => Some(probe),
            Self::Settled | Self::Opening(..) | Self::Trial(_) | Self::Switching(_) => None,
        }
    }

    pub(super) fn trial(&self) -> Option<&Trial> {
        match self {
            Self::Trial(trial) => Some(trial),
            Self::Settled
            | Self::Opening(..)
            | Self::Probing(_)
            | Self::Returning(..)
            | Self::Switching(_) => None,
        }
    }

    pub(super) fn trial_mut(&mut self) -> Option<&mut Trial> {
        match self {
            Self::Trial(trial) => Some(trial),
            Self::Settled
            | Self::Opening(..)
            | Self::Probing(_)
            | Self::Returning(..)
            | Self::Switching(_) => None,
        }
    }
}
