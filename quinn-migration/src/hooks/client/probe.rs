//! Validating a new path: PATH_CHALLENGE out, PATH_RESPONSE in (RFC 9000 sections 8.2 and 9.1).
//!
//! Never lets anything but a challenge and PADDING go to a new address, nor application data to an earlier one.

use std::time::{Duration, Instant};

use quinn_proto::ConnectionId;

use super::super::attempts::{Attempts, Step};
use super::super::placeholder::PacketBudget;
use super::super::{LONGEST_EXCHANGE, Outgoing, retry_interval};
use super::{PacketContents, Path};
use crate::wire::{Frame, NewConnectionId, kind, overwrite};

/// Smallest datagram that may carry a challenge (RFC 9000 section 8.2.1), in bytes.
pub(super) const SMALLEST_DATAGRAM: usize = 1200;
/// How long a new path has at least: three times the probe timeout of a path whose RTT is not known (RFC 9000 section
/// 8.2.4; RFC 9002 section 6.2.2: RTT 333 ms).
const NEW_PATH_TIME: Duration = Duration::from_secs(3);
/// The same for a path that was in use before.
const KNOWN_PATH_TIME: Duration = Duration::from_secs(1);
const CHALLENGE_LENGTH: usize = 8;
/// PING and IMMEDIATE_ACK, in bytes.
const MOST_DISPENSABLE: usize = 2;
/// Packets on the path in use that may arrive before a challenge: less than what makes quinn take it for a duplicate (128).
const HARMLESS: u32 = 96;
/// Packets of two timeouts: when so many leave without a challenge, something else keeps it back than that nothing leaves.
const PASSED_BY: u32 = 4;
/// How much longer a new path may be, one way, for each challenge after the first.
const SLOWER: Duration = Duration::from_millis(100);
/// Control frames that a challenge makes room for, in bytes.
const MOST_CONTROL: usize = 512;

#[derive(Debug, Clone)]
pub(super) struct Probe {
    /// The connection ID to use there. Its frame makes quinn switch to it.
    pub(super) new: NewConnectionId,
    pub(super) path: Path,
    known: Known,
    pub(super) started: Instant,
    challenges: Vec<[u8; CHALLENGE_LENGTH]>,
    attempts: Attempts,
    /// Placeholders of this attempt that have not come by.
    placeholders: usize,
    /// Packets that left on the path in use since the last challenge.
    overtaking: u32,
    /// The last attempt was of the smallest size.
    small: bool,
    /// The path in use is silent.
    silent: bool,
    /// Bytes of other frames that quinn puts before the placeholders: what came last.
    before: usize,
    /// The next attempt expects them in its second packet too.
    in_both: bool,
}

/// What is known of the path that is validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// The server has advertised it, and nothing has been sent there.
    Advertised,
    /// It was in use before.
    Earlier,
}

/// What became of a placeholder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FillOutcome {
    /// The path in use waits for it for so long.
    Challenge(Option<Duration>),
    /// It was meant for a challenge, but its packet cannot be a probe. There is another try.
    Wasted,
    /// It was not meant for a challenge.
    NotDue,
}

impl Probe {
    pub(super) fn new(
        id: NewConnectionId,
        path: Path,
        known: Known,
        challenges: u32,
        now: Instant,
    ) -> Self {
        let time = match known {
            Known::Advertised => NEW_PATH_TIME,
            Known::Earlier => KNOWN_PATH_TIME,
        };
        Self {
            new: NewConnectionId {
                retire_prior_to: id.sequence,
                ..id
            },
            path,
            known,
            started: now,
            challenges: Vec::new(),
            attempts: Attempts::open_until(challenges, now + time).within(LONGEST_EXCHANGE),
            placeholders: 0,
            overtaking: 0,
            small: false,
            silent: false,
            before: 0,
            in_both: false,
        }
    }

    /// The path in use is silent: what quinn sends on it then is of the smallest size.
    pub(super) fn on_silence(mut self) -> Self {
        self.silent = true;
        self
    }

    /// Leaves room for so many bytes of control frames in the first packet.
    pub(super) fn expecting(mut self, control: usize) -> Self {
        self.before = control.min(MOST_CONTROL);
        self
    }

    /// A packet leaves on the path in use.
    pub(super) fn on_other_packet(&mut self) {
        self.overtaking = self.overtaking.saturating_add(1);
    }

    /// How long the path in use is to wait for the challenge that leaves now: not at all for the first one, nor when so few
    /// packets followed the last one that they cannot be why it was not answered.
    fn hold(&mut self) -> Option<Duration> {
        let overtaken = std::mem::take(&mut self.overtaking) > HARMLESS;
        let slower = SLOWER.saturating_mul(self.sent().saturating_sub(1));
        (overtaken && self.known == Known::Advertised && !slower.is_zero()).then_some(slower)
    }

    pub(super) fn sent(&self) -> u32 {
        self.attempts.sent()
    }

    pub(super) fn poll(&mut self, now: Instant, rtt: Duration) -> Step {
        self.attempts.poll(now, retry_interval(rtt))
    }

    /// Bytes to fill with placeholders for a challenge, in packets with this overhead.
    ///
    /// quinn sends two packets at once because nothing is heard. Both begin with the same frames, unless the first has no
    /// room for more.
    pub(super) fn next_budget(&mut self, mtu: usize, overhead: usize) -> PacketBudget {
        let in_second = if self.in_both { self.before } else { 0 };
        self.in_both = !self.in_both;
        // The new path may take smaller datagrams only. quinn fills up what has room, so this works while it has nothing
        // else to send; when it has, the next one is full again.
        self.small = self.silent || (self.sent() > 0 && !self.small);
        let size = match self.known {
            Known::Advertised if self.small => SMALLEST_DATAGRAM.min(mtu),
            // Full, so that quinn puts nothing else into it.
            Known::Advertised => mtu,
            // The path in use is silent: what quinn sends then has this size, and is often all that it may send.
            Known::Earlier => SMALLEST_DATAGRAM,
        };
        let room = size.saturating_sub(overhead);
        PacketBudget {
            first: room.saturating_sub(self.before),
            second: room.saturating_sub(in_second),
        }
    }

    /// Whether the challenge to an earlier path does not leave. On a silent path quinn sends no packet of more than
    /// [`SMALLEST_DATAGRAM`] bytes, so that a larger DATAGRAM, the application's for example, holds back whatever is behind it.
    pub(super) fn is_stuck(&self) -> bool {
        let passed_by = self.overtaking >= PASSED_BY;
        self.known == Known::Earlier && self.attempts.is_stuck() && passed_by
    }

    /// How often to queue the placeholders of the next challenge.
    pub(super) fn copies(&self) -> usize {
        self.attempts.copies()
    }

    /// These many placeholders were queued for the next challenge.
    pub(super) fn on_queued(&mut self, placeholders: usize) {
        self.placeholders = placeholders;
    }

    /// Turns the packet into a probe, if its contents and its size allow it.
    pub(super) fn fill(
        &mut self,
        packet: &mut Outgoing<'_>,
        placeholder: &Frame,
        contents: &PacketContents,
    ) -> FillOutcome {
        let due = self.attempts.is_queued();
        self.placeholders = self.placeholders.saturating_sub(contents.placeholders);
        let mut data = [0; CHALLENGE_LENGTH];
        let large = packet.datagram_length() >= SMALLEST_DATAGRAM;
        let (fits, most_before) = match self.known {
            Known::Advertised => (contents.placeholders_alone, MOST_DISPENSABLE),
            // This path has been validated before, so it may take what quinn repeats with every packet of a silence.
            Known::Earlier => (contents.placeholders_last, MOST_CONTROL),
        };
        if placeholder.whole.start <= most_before {
            self.before = placeholder.whole.start;
        }
        if self.attempts.is_wanted()
            && fits
            && large
            && getrandom::fill(&mut data).is_ok()
            && self.write(packet, placeholder, contents, data)
        {
            self.challenges.push(data);
            self.attempts.on_sent();
            // The next one may be small again.
            self.small = false;
            return FillOutcome::Challenge(self.hold());
        }
        if !due {
            return FillOutcome::NotDue;
        }
        if self.placeholders == 0 {
            self.attempts.on_wasted();
        }
        FillOutcome::Wasted
    }

    fn write(
        &self,
        packet: &mut Outgoing<'_>,
        placeholder: &Frame,
        contents: &PacketContents,
        data: [u8; CHALLENGE_LENGTH],
    ) -> bool {
        let mut challenge = Vec::with_capacity(1 + CHALLENGE_LENGTH);
        challenge.extend(u8::try_from(kind::PATH_CHALLENGE));
        challenge.extend_from_slice(&data);
        write_alone(packet, placeholder, contents, &challenge, &self.new.id)
    }

    /// Whether the next placeholders belong to it.
    pub(super) fn is_queued(&self) -> bool {
        self.attempts.is_queued()
    }

    pub(super) fn is_answered_by(&self, body: &[u8]) -> bool {
        self.challenges.iter().any(|data| data == body)
    }
}

/// Puts a frame in the place of a placeholder, into a packet for the path of this connection ID.
pub(super) fn write_alone(
    packet: &mut Outgoing<'_>,
    placeholder: &Frame,
    contents: &PacketContents,
    frame: &[u8],
    id: &ConnectionId,
) -> bool {
    if contents.placeholders_alone {
        // Everything else in it makes the packet more than a probe, and can be dispensed with.
        packet.payload.fill(0);
    }
    // The header last: without the frame the packet must keep to its path.
    overwrite(packet.payload, placeholder.whole.clone(), frame) && packet.set_destination(id)
}
