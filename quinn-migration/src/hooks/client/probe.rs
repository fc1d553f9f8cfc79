//! Validating a new path: PATH_CHALLENGE out, PATH_RESPONSE in (RFC 9000 sections 8.2 and 9.1).
//!
//! Never lets anything but a challenge and PADDING go to the new address.

use std::time::Instant;

use super::super::attempts::{Attempts, Step};
use super::super::{Outgoing, patience};
use super::Path;
use crate::wire::{AlternateAddress, Frame, NewConnectionId, kind, overwrite};

/// Smallest datagram that may carry a challenge (RFC 9000 section 8.2.1), in bytes.
const SMALLEST_DATAGRAM: usize = 1200;
const CHALLENGE_LENGTH: usize = 8;

#[derive(Debug)]
pub(super) struct Probe {
    pub(super) offer: AlternateAddress,
    pub(super) path: Path,
    pub(super) started: Instant,
    challenges: Vec<[u8; CHALLENGE_LENGTH]>,
    attempts: Attempts,
}

/// What became of a carrier.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filling {
    Challenge,
    /// It was meant for a challenge, but its packet cannot be a probe.
    Spoiled,
    /// It was not meant for a challenge.
    NotDue,
}

impl Probe {
    pub(super) fn new(offer: AlternateAddress, path: Path, challenges: u32, now: Instant) -> Self {
        Self {
            offer,
            path,
            started: now,
            challenges: Vec::new(),
            attempts: Attempts::new(challenges),
        }
    }

    pub(super) fn sent(&self) -> u32 {
        self.attempts.sent()
    }

    pub(super) fn poll(&mut self, now: Instant, rtt: std::time::Duration) -> Step {
        self.attempts.poll(now, patience(rtt))
    }

    /// Turns the packet into a probe, if its contents and its size allow it.
    pub(super) fn fill(
        &mut self,
        packet: &mut Outgoing<'_>,
        carrier: &Frame,
        alone: bool,
    ) -> Filling {
        if !self.attempts.is_queued() {
            return Filling::NotDue;
        }
        let mut data = [0; CHALLENGE_LENGTH];
        let large = packet.datagram_length() >= SMALLEST_DATAGRAM;
        if !alone
            || !large
            || getrandom::fill(&mut data).is_err()
            || !self.write(packet, carrier, data)
        {
            self.attempts.on_spoiled();
            return Filling::Spoiled;
        }
        self.challenges.push(data);
        self.attempts.on_sent();
        Filling::Challenge
    }

    fn write(
        &self,
        packet: &mut Outgoing<'_>,
        carrier: &Frame,
        data: [u8; CHALLENGE_LENGTH],
    ) -> bool {
        let mut challenge = Vec::with_capacity(1 + CHALLENGE_LENGTH);
        challenge.extend(u8::try_from(kind::PATH_CHALLENGE));
        challenge.extend_from_slice(&data);
        // The header last: without the challenge the packet must keep to its path.
        overwrite(packet.payload, carrier.whole.clone(), &challenge)
            && packet.set_destination(&self.offer.id)
    }

    pub(super) fn is_answered_by(&self, body: &[u8]) -> bool {
        self.challenges.iter().any(|data| data == body)
    }

    /// The NEW_CONNECTION_ID frame that makes quinn switch to the advertised connection ID.
    pub(super) fn adopted_id(&self) -> NewConnectionId {
        NewConnectionId {
            sequence: self.offer.sequence,
            retire_prior_to: self.offer.sequence,
            id: self.offer.id,
            token: self.offer.token.clone(),
        }
    }
}
