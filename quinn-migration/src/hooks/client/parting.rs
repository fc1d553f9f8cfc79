//! Connection IDs of the client that the server gives up when it changes paths (RFC 9000 section 9.5).
//!
//! quinn forgets a connection ID as soon as it reads RETIRE_CONNECTION_ID. What is still under way with it, on a path that is
//! slower than the new one or has a longer queue, would be dropped when it comes. So quinn hears of it a little later.
//! Never waits for long: the server needs the connection ID that quinn issues in its place.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quinn_proto::VarInt;

use super::super::retry_interval;
use crate::wire::{Frame, PING_FRAME, Reader, overwrite, retire_connection_id};

/// Frames that wait at most; further ones reach quinn at once.
const LIMIT: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Parting {
    waiting: VecDeque<Retired>,
}

#[derive(Debug)]
struct Retired {
    sequence: VarInt,
    /// Known since the task has looked at the clock.
    until: Option<Instant>,
    is_over: bool,
}

impl Parting {
    /// Takes a RETIRE_CONNECTION_ID frame out of a packet. Answers whether it did.
    pub(super) fn hold(&mut self, payload: &mut [u8], frame: &Frame) -> bool {
        let body = payload.get(frame.body.clone()).unwrap_or_default();
        let Some(sequence) = Reader::new(body).varint_checked() else {
            return false;
        };
        let known = self.waiting.iter().any(|one| one.sequence == sequence);
        if !known && self.waiting.len() >= LIMIT {
            return false;
        }
        if !overwrite(payload, frame.whole.clone(), PING_FRAME) {
            return false;
        }
        if !known {
            self.waiting.push_back(Retired {
                sequence,
                until: None,
                is_over: false,
            });
        }
        true
    }

    /// Looks at the clock; answers when to come again.
    pub(super) fn poll(&mut self, now: Instant, rtt: Duration) -> Option<Instant> {
        let mut next = None;
        for one in &mut self.waiting {
            let until = *one.until.get_or_insert_with(|| now + retry_interval(rtt));
            one.is_over = one.is_over || now >= until;
            if !one.is_over {
                next = next.into_iter().chain([until]).min();
            }
        }
        next
    }

    /// Nobody looks at the clock any more.
    pub(super) fn end(&mut self) {
        self.waiting.iter_mut().for_each(|one| one.is_over = true);
    }

    /// Appends the frames that have waited long enough.
    pub(super) fn pass_on(&mut self, out: &mut Vec<u8>) {
        let over = |one: &&Retired| one.is_over;
        while let Some(one) = self.waiting.front().filter(over) {
            out.extend(retire_connection_id(one.sequence));
            self.waiting.pop_front();
        }
    }
}
