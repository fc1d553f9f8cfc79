//! Giving advertised connection IDs back: RETIRE_CONNECTION_ID until acknowledged (RFC 9000 sections 13.3 and 19.16), however long
//! the path is silent: a server that never hears of it has no connection ID left for the next advertisement.
//!
//! Never queues more than a few: a server that floods must not make this client talk more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quinn_proto::VarInt;

use super::super::attempts::{Attempts, Step};
use super::super::{Outgoing, retry_interval};
use crate::wire::{Frame, PING_FRAME, ack_covers, overwrite, retire_connection_id};

const LIMIT: usize = 8;

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

/// Ends with the connection; ever longer waits are between them.
fn attempts() -> Attempts {
    Attempts::new(u32::MAX)
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
                attempts: attempts(),
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

    /// What to do for the frame at the head of the queue; `None` when there is none. It is not given up.
    pub(super) fn poll(&mut self, now: Instant, rtt: Duration) -> Option<Step> {
        let step = self.poll_first(now, rtt)?;
        if step != Step::GiveUp {
            return Some(step);
        }
        // Nothing leaves quinn's queue: another one may be luckier, and this one begins anew behind it.
        let mut first = self.queue.pop_front()?;
        first.attempts = attempts();
        self.queue.push_back(first);
        self.poll_first(now, rtt)
    }

    fn poll_first(&mut self, now: Instant, rtt: Duration) -> Option<Step> {
        let first = self.queue.front_mut()?;
        Some(first.attempts.poll(now, retry_interval(rtt)))
    }
}
