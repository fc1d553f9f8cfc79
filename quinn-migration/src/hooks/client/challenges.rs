//! The server's own challenges: each is answered on the path that it came by (RFC 9000 section 8.2.2).
//!
//! quinn answers on the path in use. A challenge that came by another one is taken out, and its answer leaves in a datagram of
//! its own, with that path's connection ID. Never answers one twice, and never holds more than a few: a server asks again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quinn_proto::ConnectionId;

use super::super::attempts::{Attempts, Step};
use super::super::carrier::Room;
use super::super::{LONGEST_EXCHANGE, Outgoing, patience};
use super::probe::{SMALLEST_DATAGRAM, write_alone};
use super::{ClientHook, Contents, Phase, Sizes};
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
    /// Carriers of this attempt that have not come by.
    carriers: usize,
}

impl Answers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the next carriers belong to one.
    pub(super) fn is_queued(&self) -> bool {
        let next = self.0.front();
        next.is_some_and(|answer| answer.attempts.is_queued())
    }

    pub(super) fn poll(&mut self, now: Instant, rtt: Duration) -> Option<Step> {
        while let Some(answer) = self.0.front_mut() {
            match answer.attempts.poll(now, patience(rtt)) {
                Step::GiveUp => drop(self.0.pop_front()),
                step @ (Step::Send | Step::Wait(_)) => return Some(step),
            }
        }
        None
    }

    pub(super) fn on_queued(&mut self, carriers: usize) {
        if let Some(answer) = self.0.front_mut() {
            answer.carriers = carriers;
        }
    }

    /// Bytes to fill with carriers for an answer: the smallest datagram that may have one (RFC 9000 section 8.2.2).
    pub(super) fn room(sizes: Sizes, overhead: usize) -> Room {
        let room = SMALLEST_DATAGRAM.min(sizes.mtu).saturating_sub(overhead);
        Room {
            first: room,
            second: room,
        }
    }

    /// Turns the packet into an answer, if its contents and its size allow it: where it goes.
    pub(super) fn fill(
        &mut self,
        packet: &mut Outgoing<'_>,
        carrier: &Frame,
        contents: &Contents,
    ) -> Option<(ConnectionId, PathId)> {
        let answer = self.0.front_mut()?;
        answer.carriers = answer.carriers.saturating_sub(contents.carriers);
        let mut frame = Vec::new();
        frame.extend(u8::try_from(kind::PATH_RESPONSE));
        frame.extend_from_slice(&answer.data);
        let large = packet.datagram_length() >= SMALLEST_DATAGRAM;
        if large
            && contents.carriers_alone
            && write_alone(packet, carrier, contents, &frame, &answer.id)
        {
            let to = (answer.id, answer.path);
            self.0.pop_front();
            return Some(to);
        }
        if answer.carriers == 0 {
            answer.attempts.on_spoiled();
        }
        None
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
            carriers: 0,
        });
        true
    }

    /// The connection ID for a path that is not in use.
    fn id_for(&self, path: PathId) -> Option<ConnectionId> {
        match &self.phase {
            Phase::Probing(probe) if probe.path.id == path => return Some(probe.new.id),
            Phase::Adopting(adoption) if adoption.path.id == path => return Some(adoption.new.id),
            Phase::Settled | Phase::Opening(..) | Phase::Probing(_) | Phase::Adopting(_) => {}
        }
        self.kept.as_ref().and_then(|kept| kept.id_on(path))
    }

    pub(super) fn paths_not_in_use(&self) -> Vec<PathId> {
        let new = match &self.phase {
            Phase::Probing(probe) => Some(probe.path.id),
            Phase::Adopting(adoption) => Some(adoption.path.id),
            Phase::Settled | Phase::Opening(..) => None,
        };
        let left = self.kept.as_ref().and_then(|kept| kept.left());
        let active = self.active_path();
        let both = new.into_iter().chain(left);
        both.filter(|path| Some(*path) != active).collect()
    }

    /// Gives quinn the challenges of the path that it goes to with this packet: it answers them there.
    pub(super) fn return_challenges(&mut self, frames: &mut Vec<u8>) {
        let Phase::Adopting(adoption) = &self.phase else {
            return;
        };
        let path = adoption.path.id;
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
