//! The server's own challenges: each is answered on the path that it came by (RFC 9000 section 8.2.2).
//!
//! quinn answers on the path in use. A challenge that came by another one is taken out, and its answer leaves in a datagram of
//! its own, with that path's connection ID. Never answers one twice, and never holds more than a few: a server asks again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quinn_proto::ConnectionId;

use super::super::attempts::{Attempts, Step};
use super::super::placeholder::PacketBudget;
use super::super::{LONGEST_EXCHANGE, Outgoing, retry_interval};
use super::probe::{SMALLEST_DATAGRAM, write_alone};
use super::{ClientHook, PacketContents, Phase, Sizes};
use crate::socket::PathId;
use crate::wire::{Frame, PING_FRAME, Reader, kind, overwrite};

/// Challenges held at most.
const LIMIT: usize = 4;

/// Answers that have not left yet.
#[derive(Debug, Default)]
pub(super) struct Answers(VecDeque<Answer>);

#[derive(Debug)]
struct Answer {
    data: [u8; 8],
    path: PathId,
    id: ConnectionId,
    attempts: Attempts,
    /// Placeholders of this attempt that have not come by.
    placeholders: usize,
    /// The smallest datagram that may have an answer (RFC 9000 section 8.2.2) takes every path, but quinn fills it up while the
    /// client is busy. Then a full one is tried, to which quinn can add nothing, once there is a further sign of life than these:
    /// on a path that has just died what does not fit into a small datagram would block the way back.
    full: Option<u64>,
}

impl Answers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one is due on this path.
    pub(super) fn is_for(&self, path: PathId) -> bool {
        self.0.iter().any(|answer| answer.path == path)
    }

    /// Whether the next placeholders belong to one.
    pub(super) fn is_queued(&self) -> bool {
        let next = self.0.front();
        next.is_some_and(|answer| answer.attempts.is_queued())
    }

    /// `signs` counts the signs of life of the path in use.
    pub(super) fn poll(&mut self, now: Instant, rtt: Duration, signs: u64) -> Option<Step> {
        while let Some(answer) = self.0.front_mut() {
            if answer.full == Some(signs) && !answer.attempts.is_queued() {
                return Some(Step::Wait(now + retry_interval(rtt)));
            }
            match answer.attempts.poll(now, retry_interval(rtt)) {
                Step::GiveUp => drop(self.0.pop_front()),
                step @ (Step::Send | Step::Wait(_)) => return Some(step),
            }
        }
        None
    }

    /// How often to queue the placeholders of the next answer.
    pub(super) fn copies(&self) -> usize {
        self.0.front().map_or(1, |answer| answer.attempts.copies())
    }

    pub(super) fn on_queued(&mut self, placeholders: usize) {
        if let Some(answer) = self.0.front_mut() {
            answer.placeholders = placeholders;
        }
    }

    /// Bytes to fill with placeholders for the next answer.
    pub(super) fn next_budget(&self, sizes: Sizes, overhead: usize) -> PacketBudget {
        let full = self.0.front().is_some_and(|answer| answer.full.is_some());
        let size = if full {
            sizes.mtu
        } else {
            SMALLEST_DATAGRAM.min(sizes.mtu)
        };
        let room = size.saturating_sub(overhead);
        PacketBudget {
            first: room,
            second: room,
        }
    }

    /// Turns the packet into an answer, if its contents and its size allow it: where it goes.
    pub(super) fn fill(
        &mut self,
        packet: &mut Outgoing<'_>,
        placeholder: &Frame,
        contents: &PacketContents,
        signs: u64,
    ) -> Option<(ConnectionId, PathId)> {
        let answer = self.0.front_mut()?;
        answer.placeholders = answer.placeholders.saturating_sub(contents.placeholders);
        let mut frame = Vec::new();
        frame.extend(u8::try_from(kind::PATH_RESPONSE));
        frame.extend_from_slice(&answer.data);
        let large = packet.datagram_length() >= SMALLEST_DATAGRAM;
        if large
            && contents.placeholders_alone
            && write_alone(packet, placeholder, contents, &frame, &answer.id)
        {
            let to = (answer.id, answer.path);
            self.0.pop_front();
            return Some(to);
        }
        if answer.placeholders == 0 {
            answer.full.get_or_insert(signs);
            answer.attempts.on_wasted();
        }
        None
    }

    /// The path in use is silent: what quinn lets out is for the way back.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The path is no more.
    pub(super) fn forget(&mut self, path: PathId) {
        self.0.retain(|answer| answer.path != path);
    }
}

impl ClientHook {
    /// Takes the challenge out of the packet when it came by another path than the one in use. Answers whether there is
    /// something to send.
    pub(super) fn on_path_challenge(
        &mut self,
        payload: &mut [u8],
        frame: &Frame,
        came_by: Option<PathId>,
    ) -> bool {
        let Some(path) = came_by.filter(|path| Some(*path) != self.active_path()) else {
            return false;
        };
        let data = Reader::starting_at(payload, frame.body.start).array();
        let (Some(data), Some(id)) = (data, self.id_for(path)) else {
            return false;
        };
        if self.answers.0.len() >= LIMIT {
            return false;
        }
        overwrite(payload, frame.whole.clone(), PING_FRAME);
        self.answers.0.push_back(Answer {
            data,
            path,
            id,
            attempts: Attempts::new(1).within(LONGEST_EXCHANGE),
            placeholders: 0,
            full: None,
        });
        true
    }

    /// The connection ID for a path that is not in use.
    fn id_for(&self, path: PathId) -> Option<ConnectionId> {
        match &self.phase {
            Phase::Probing(probe) | Phase::Returning(probe, _) if probe.path.id == path => {
                return Some(probe.new.id);
            }
            Phase::Switching(switch) if switch.path.id == path => return Some(switch.new.id),
            Phase::Settled
            | Phase::Opening(..)
            | Phase::Probing(_)
            | Phase::Returning(..)
            | Phase::Trial(_)
            | Phase::Switching(_) => {}
        }
        self.kept.as_ref().and_then(|kept| kept.id_on(path))
    }

    pub(super) fn paths_not_in_use(&self) -> Vec<PathId> {
        let new = match &self.phase {
            Phase::Probing(probe) | Phase::Returning(probe, _) => Some(probe.path.id),
            Phase::Switching(switch) => Some(switch.path.id),
            Phase::Trial(_) => self.settled_path(),
            Phase::Settled | Phase::Opening(..) => None,
        };
        let left = self.kept.as_ref().and_then(|kept| kept.left());
        let active = self.active_path();
        let both = new.into_iter().chain(left);
        both.filter(|path| Some(*path) != active).collect()
    }

    /// Gives quinn the challenges of the path that it goes to with this packet: it answers them there.
    pub(super) fn return_challenges(&mut self, frames: &mut Vec<u8>) {
        let Phase::Switching(switch) = &self.phase else {
            return;
        };
        let path = switch.path.id;
        self.answers.0.retain(|answer| {
            let returned = answer.path == path && !answer.attempts.is_queued();
            if returned {
                frames.extend(u8::try_from(kind::PATH_CHALLENGE));
                frames.extend_from_slice(&answer.data);
            }
            !returned
        });
    }
}
