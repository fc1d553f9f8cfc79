//! When to send something again: a frame is queued, leaves in a packet, and is answered or not.
//!
//! Pure: time is an argument. Never counts an attempt that did not leave the host.

use std::time::{Duration, Instant};

/// A queue in quinn that does not move for this many patiences has dropped what was in it.
const QUEUE_PATIENCE: u32 = 4;
/// Attempts that were lost before they left are repeated this often.
const SPOILED_LIMIT: u32 = 20;

#[derive(Debug)]
pub(super) struct Attempts {
    limit: u32,
    sent: u32,
    spoiled: u32,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Due,
    Queued(Instant),
    JustSent,
    InFlight(Instant),
}

/// What the driving task does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Send,
    Wait(Instant),
    GiveUp,
}

impl Attempts {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit,
            sent: 0,
            spoiled: 0,
            state: State::Due,
        }
    }

    /// Packets that carried it so far.
    pub(super) fn sent(&self) -> u32 {
        self.sent
    }

    /// It left in a packet.
    pub(super) fn on_sent(&mut self) {
        self.sent = self.sent.saturating_add(1);
        self.state = State::JustSent;
    }

    /// Its packet could not be used; try again at once.
    pub(super) fn on_spoiled(&mut self) {
        self.spoiled = self.spoiled.saturating_add(1);
        self.state = State::Due;
    }

    /// Whether a queued carrier belongs to this.
    pub(super) fn is_queued(&self) -> bool {
        matches!(self.state, State::Queued(_))
    }

    pub(super) fn poll(&mut self, now: Instant, patience: Duration) -> Step {
        match self.state {
            State::Due => self.send_or_give_up(now),
            State::Queued(since) => {
                let until = since + patience.saturating_mul(QUEUE_PATIENCE);
                if now < until {
                    return Step::Wait(until);
                }
                self.spoiled = self.spoiled.saturating_add(1);
                self.send_or_give_up(now)
            }
            State::JustSent => {
                // Linear back-off: the n-th attempt waits n times as long.
                let until = now + patience.saturating_mul(self.sent);
                self.state = State::InFlight(until);
                Step::Wait(until)
            }
            State::InFlight(until) if now < until => Step::Wait(until),
            State::InFlight(_) => self.send_or_give_up(now),
        }
    }

    fn send_or_give_up(&mut self, now: Instant) -> Step {
        if self.sent >= self.limit || self.spoiled >= SPOILED_LIMIT {
            return Step::GiveUp;
        }
        self.state = State::Queued(now);
        Step::Send
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    #[test]
    fn attempts_back_off_linearly_and_end_at_the_limit() {
        let mut now = Instant::now();
        let mut attempts = Attempts::new(3);
        for n in 1..=3 {
            assert_eq!(attempts.poll(now, PATIENCE), Step::Send);
            attempts.on_sent();
            let until = now + PATIENCE * n;
            assert_eq!(attempts.poll(now, PATIENCE), Step::Wait(until));
            now = until;
        }
        assert_eq!(attempts.poll(now, PATIENCE), Step::GiveUp);
        assert_eq!(attempts.sent(), 3);
    }

    #[test]
    fn a_spoiled_attempt_is_repeated_at_once_and_does_not_count_as_sent() {
        let now = Instant::now();
        let mut attempts = Attempts::new(1);
        for _ in 1..SPOILED_LIMIT {
            assert_eq!(attempts.poll(now, PATIENCE), Step::Send);
            attempts.on_spoiled();
        }
        assert_eq!(attempts.sent(), 0);
        assert_eq!(attempts.poll(now, PATIENCE), Step::Send);
        attempts.on_spoiled();
        assert_eq!(attempts.poll(now, PATIENCE), Step::GiveUp);
    }

    #[test]
    fn an_attempt_that_is_stuck_in_the_queue_is_queued_again() {
        let now = Instant::now();
        let mut attempts = Attempts::new(1);
        assert_eq!(attempts.poll(now, PATIENCE), Step::Send);
        assert_eq!(attempts.poll(now, PATIENCE), Step::Wait(now + PATIENCE * 4));
        assert_eq!(attempts.poll(now + PATIENCE * 4, PATIENCE), Step::Send);
    }
}
