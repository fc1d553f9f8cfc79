//! Validating a new path: PATH_CHALLENGE out, PATH_RESPONSE in (RFC 9000 sections 8.2 and 9.1).
//!
//! Never lets anything but a challenge and PADDING go to the new address.

use std::time::{Duration, Instant};

use super::super::attempts::{Attempts, Step};
use super::super::carrier::Room;
use super::super::{Outgoing, patience};
use super::{Contents, Path};
use crate::wire::{Frame, NewConnectionId, kind, overwrite};

/// Smallest datagram that may carry a challenge (RFC 9000 section 8.2.1), in bytes.
const SMALLEST_DATAGRAM: usize = 1200;
/// How long a new path has at least: three times the probe timeout of a path whose RTT is not known (RFC 9000 section
/// 8.2.4; RFC 9002 section 6.2.2: RTT 333 ms).
const NEW_PATH_TIME: Duration = Duration::from_secs(3);
/// The same for a path that was in use before.
const KNOWN_PATH_TIME: Duration = Duration::from_secs(1);
const CHALLENGE_LENGTH: usize = 8;

#[derive(Debug)]
pub(super) struct Probe {
    /// The connection ID to use there. Its frame makes quinn switch to it.
    pub(super) new: NewConnectionId,
    pub(super) path: Path,
    pub(super) purpose: Purpose,
    pub(super) started: Instant,
    challenges: Vec<[u8; CHALLENGE_LENGTH]>,
    attempts: Attempts,
    /// Carriers of this attempt that have not come by.
    carriers: usize,
    /// The next attempt's place in [`SPARE`].
    turn: usize,
}

/// Bytes that an attempt leaves in a first and in a second packet to PING and IMMEDIATE_ACK, which quinn puts first in a
/// packet that it sends because nothing is heard. Attempts take turns.
///
/// On a silent path that is mostly IMMEDIATE_ACK alone, so a return begins with the second pair. Two packets go out at
/// once, and the second has neither when control frames and stream data fill the first.
const SPARE: [(usize, usize); 4] = [(0, 0), (1, 0), (1, 1), (2, 2)];

/// Why a path is validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The server advertised it.
    Advertised,
    /// Nothing has come on the path in use for this long, and this one was in use before.
    Return(Duration),
}

/// What became of a carrier.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filling {
    Challenge,
    /// It was meant for a challenge, but its packet cannot be a probe. There is another try.
    Spoiled,
    /// It was not meant for a challenge.
    NotDue,
}

impl Probe {
    pub(super) fn new(
        id: NewConnectionId,
        path: Path,
        purpose: Purpose,
        challenges: u32,
        now: Instant,
    ) -> Self {
        let (time, turn) = match purpose {
            Purpose::Advertised => (NEW_PATH_TIME, 0),
            Purpose::Return(_) => (KNOWN_PATH_TIME, 1),
        };
        Self {
            new: NewConnectionId {
                retire_prior_to: id.sequence,
                ..id
            },
            path,
            purpose,
            started: now,
            challenges: Vec::new(),
            attempts: Attempts::open_until(challenges, now + time),
            carriers: 0,
            turn,
        }
    }

    pub(super) fn sent(&self) -> u32 {
        self.attempts.sent()
    }

    pub(super) fn poll(&mut self, now: Instant, rtt: Duration) -> Step {
        self.attempts.poll(now, patience(rtt))
    }

    /// Bytes to fill with carriers for a challenge, in packets with this overhead.
    pub(super) fn next_room(&mut self, mtu: usize, overhead: usize) -> Room {
        let (first, second) = SPARE.get(self.turn).copied().unwrap_or_default();
        self.turn = (self.turn + 1) % SPARE.len();
        let size = match self.purpose {
            // Full, so that quinn puts nothing else into it.
            Purpose::Advertised => mtu,
            // The path in use is silent: what quinn sends then has this size, and is often all that it may send.
            Purpose::Return(_) => SMALLEST_DATAGRAM,
        };
        let room = size.saturating_sub(overhead);
        Room {
            first: room.saturating_sub(first),
            second: room.saturating_sub(second),
        }
    }

    /// These many carriers were queued for the next challenge.
    pub(super) fn on_queued(&mut self, carriers: usize) {
        self.carriers = carriers;
    }

    /// Turns the packet into a probe, if its contents and its size allow it.
    pub(super) fn fill(
        &mut self,
        packet: &mut Outgoing<'_>,
        carrier: &Frame,
        contents: &Contents,
    ) -> Filling {
        let due = self.attempts.is_queued();
        self.carriers = self.carriers.saturating_sub(contents.carriers);
        let mut data = [0; CHALLENGE_LENGTH];
        let large = packet.datagram_length() >= SMALLEST_DATAGRAM;
        if self.attempts.is_wanted()
            && contents.carriers_alone
            && large
            && getrandom::fill(&mut data).is_ok()
            && self.write(packet, carrier, data)
        {
            self.challenges.push(data);
            self.attempts.on_sent();
            return Filling::Challenge;
        }
        if !due {
            return Filling::NotDue;
        }
        if self.carriers == 0 {
            self.attempts.on_spoiled();
        }
        Filling::Spoiled
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
        // Everything else in it makes the packet more than a probe, and can be dispensed with.
        packet.payload.fill(0);
        // The header last: without the challenge the packet must keep to its path.
        overwrite(packet.payload, carrier.whole.clone(), &challenge)
            && packet.set_destination(&self.new.id)
    }

    pub(super) fn is_answered_by(&self, body: &[u8]) -> bool {
        self.challenges.iter().any(|data| data == body)
    }
}
