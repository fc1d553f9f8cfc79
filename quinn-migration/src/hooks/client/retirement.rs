//! Giving advertised connection IDs back: RETIRE_CONNECTION_ID until acknowledged (RFC 9000 section 19.16).
//!
//! Never queues more than a few: a server that floods must not make this client talk more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quinn_proto::VarInt;

use super::super::attempts::{Attempts, Step};
use super::super::{Outgoing, retry_interval};
use crate::wire::{Frame, PING_FRAME, ack_covers, overwrite, retire_connection_id};

const LIMIT: usize = 8;
const SENDS: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Retirement {
    queue: VecDeque<Pending>,
}

#[derive(Debug)]
struct Pending {
    sequence: VarInt,
    attempts: Attempts,
    numbers: Vec<u64>,
}

impl Retirement {
    pub(super) fn add(&mut self, sequence: VarInt) {
        let known = self
            .queue
            .iter()
            .any(|pending| pending.sequence == sequence);
        if self.queue.len() < LIMIT && !known {
            self.queue.push_back(Pending {
                sequence,
                attempts: Attempts::new(SENDS),
                numbers: Vec::new(),
            });
        }
    }

    /// Puts the frame that is due in the place of a placeholder, or PING. Answers whether a frame was due.
    pub(super) fn fill(&mut self, packet: &mut Outgoing<'_>, placeholder: &Frame) -> bool {
        let Some(pending) = self.queue.front_mut() else {
            overwrite(packet.payload, placeholder.whole.clone(), PING_FRAME);
            return false;
        };
        let frame = retire_connection_id(pending.sequence);
        if overwrite(packet.payload, placeholder.whole.clone(), &frame) {
            pending.numbers.push(packet.number);
            pending.attempts.on_sent();
        }
        true
    }

    pub(super) fn on_acknowledgement(&mut self, body: &[u8]) -> bool {
        let Some(pending) = self.queue.front() else {
            return false;
        };
        let done = pending
            .numbers
            .iter()
            .any(|number| ack_covers(body, *number));
        if done {
            self.queue.pop_front();
        }
        done
    }

    /// What to do for the frame at the head of the queue; `None` when there is none.
    pub(super) fn poll(&mut self, now: Instant, rtt: Duration) -> Option<Step> {
        loop {
            match self
                .queue
                .front_mut()?
                .attempts
                .poll(now, retry_interval(rtt))
            {
                Step::GiveUp => drop(self.queue.pop_front()),
                step @ (Step::Send | Step::Wait(_)) => return Some(step),
            }
        }
    }
}
