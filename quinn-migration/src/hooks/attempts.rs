//! When to send something again: a frame is queued, leaves in a packet, and is answered or not.
//!
//! Pure: time is an argument. Never counts an attempt that did not leave the host.

use std::time::{Duration, Instant};

/// A queue in quinn that does not move for this many retry intervals may have dropped what was in it; every time it takes
/// that much longer, because it may also be full.
const QUEUE_INTERVALS: u32 = 4;
/// An attempt that was lost in the queue is queued so often the next times: where the application pushes the oldest datagrams
/// out of a full buffer, some of what stands in a row leaves.
const MOST_COPIES: usize = 4;
/// Attempts that were lost before they left are repeated this often.
const WASTED_LIMIT: u32 = 20;
/// After this many of them in a row there is a pause of one retry interval: what wastes them may pass.
const WASTED_AT_ONCE: u32 = 4;

#[derive(Debug, Clone)]
pub(super) struct Attempts {
    limit: u32,
    /// Not given up before this while an answer may come.
    open_until: Option<Instant>,
    /// Given up after this time, whatever stands in the way; counted from the first look.
    time: Option<Duration>,
    deadline: Option<Instant>,
    sent: u32,
    wasted: u32,
    /// Of the next attempt, in the queue.
    copies: usize,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Due,
    Queued(Instant),
    JustSent,
    JustWasted,
    Waiting(Instant),
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
            open_until: None,
            time: None,
            deadline: None,
            sent: 0,
            wasted: 0,
            copies: 1,
            state: State::Due,
        }
    }

    /// Like [`Attempts::new`], and an answer to the last one may take until `end`.
    pub(super) fn open_until(limit: u32, end: Instant) -> Self {
        Self {
            open_until: Some(end),
            ..Self::new(limit)
        }
    }

    /// The same, and all of it may take so long.
    pub(super) fn within(self, time: Duration) -> Self {
        Self {
            time: Some(time),
            ..self
        }
    }

    /// Packets that carried it so far.
    pub(super) fn sent(&self) -> u32 {
        self.sent
    }

    /// How often to queue what is to be sent now.
    pub(super) fn copies(&self) -> usize {
        self.copies
    }

    /// It left in a packet.
    pub(super) fn on_sent(&mut self) {
        self.sent = self.sent.saturating_add(1);
        self.copies = 1;
        self.state = State::JustSent;
    }

    /// Its packet could not be used; try again, at once for the first few times.
    pub(super) fn on_wasted(&mut self) {
        self.wasted = self.wasted.saturating_add(1);
        self.copies = 1;
        self.state = if self.wasted.is_multiple_of(WASTED_AT_ONCE) {
            State::JustWasted
        } else {
            State::Due
        };
    }

    /// Whether one more is wanted, queued or not.
    pub(super) fn is_wanted(&self) -> bool {
        let open = matches!(
            self.state,
            State::Due | State::Queued(_) | State::JustWasted
        );
        open && self.sent < self.limit
    }

    /// Whether a queued placeholder belongs to this.
    pub(super) fn is_queued(&self) -> bool {
        matches!(self.state, State::Queued(_))
    }

    /// Whether the queue has not moved for two attempts in a row.
    pub(super) fn is_stuck(&self) -> bool {
        self.copies > 2
    }

    pub(super) fn poll(&mut self, now: Instant, retry_interval: Duration) -> Step {
        let until = self.time.map(|time| now + time);
        self.deadline = self.deadline.or(until);
        match (self.step(now, retry_interval), self.deadline) {
            (_, Some(deadline)) if now >= deadline => Step::GiveUp,
            (Step::Wait(until), Some(deadline)) => Step::Wait(until.min(deadline)),
            (step, _) => step,
        }
    }

    fn step(&mut self, now: Instant, retry_interval: Duration) -> Step {
        match self.state {
            State::Due => self.send_or_give_up(now),
            State::Queued(since) => {
                let times = self.wasted.saturating_add(1);
                let until =
                    since + retry_interval.saturating_mul(QUEUE_INTERVALS.saturating_mul(times));
                if now < until {
                    return Step::Wait(until);
                }
                self.wasted = self.wasted.saturating_add(1);
                self.copies = self.copies.saturating_add(1).min(MOST_COPIES);
                self.send_or_give_up(now)
            }
            State::JustSent => {
                // Linear back-off: the n-th attempt waits n times as long.
                let until = now + retry_interval.saturating_mul(self.sent);
                let last = self.sent >= self.limit;
                let end = self.open_until.filter(|end| last && *end > until);
                self.wait(end.unwrap_or(until))
            }
            State::JustWasted => self.wait(now + retry_interval),
            State::Waiting(until) if now < until => Step::Wait(until),
            State::Waiting(_) => self.send_or_give_up(now),
        }
    }

    fn wait(&mut self, until: Instant) -> Step {
        self.state = State::Waiting(until);
        Step::Wait(until)
    }

    fn send_or_give_up(&mut self, now: Instant) -> Step {
        if self.sent >= self.limit || self.wasted >= WASTED_LIMIT {
            return Step::GiveUp;
        }
        self.state = State::Queued(now);
        Step::Send
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY_INTERVAL: Duration = Duration::from_millis(100);

    #[test]
    fn attempts_back_off_linearly_and_end_at_the_limit() {
        let mut now = Instant::now();
        let mut attempts = Attempts::new(3);
        for n in 1..=3 {
            assert_eq!(attempts.poll(now, RETRY_INTERVAL), Step::Send);
            attempts.on_sent();
            let until = now + RETRY_INTERVAL * n;
            assert_eq!(attempts.poll(now, RETRY_INTERVAL), Step::Wait(until));
            now = until;
        }
        assert_eq!(attempts.poll(now, RETRY_INTERVAL), Step::GiveUp);
        assert_eq!(attempts.sent(), 3);
    }

    #[test]
    fn the_answer_to_the_last_attempt_may_take_until_the_end() {
        let mut now = Instant::now();
        let end = now + RETRY_INTERVAL * 10;
        let mut attempts = Attempts::open_until(2, end);
        for until in [now + RETRY_INTERVAL, end] {
            assert_eq!(attempts.poll(now, RETRY_INTERVAL), Step::Send);
            attempts.on_sent();
            assert_eq!(attempts.poll(now, RETRY_INTERVAL), Step::Wait(until));
            now = until;
        }
        assert_eq!(attempts.poll(now, RETRY_INTERVAL), Step::GiveUp);
    }

    #[test]
    fn wasted_attempts_are_repeated_four_at_a_time_and_do_not_count_as_sent() {
        let mut now = Instant::now();
        let mut attempts = Attempts::new(1);
        for _ in 0..WASTED_LIMIT / WASTED_AT_ONCE {
            for _ in 0..WASTED_AT_ONCE {
                assert_eq!(attempts.poll(now, RETRY_INTERVAL), Step::Send);
                attempts.on_wasted();
            }
            assert_eq!(
                attempts.poll(now, RETRY_INTERVAL),
                Step::Wait(now + RETRY_INTERVAL)
            );
            now += RETRY_INTERVAL;
        }
        assert_eq!(attempts.sent(), 0);
        assert_eq!(attempts.poll(now, RETRY_INTERVAL), Step::GiveUp);
    }

    #[test]
    fn what_never_leaves_the_queue_is_given_up_at_the_deadline() {
        let start = Instant::now();
        let mut now = start;
        let time = RETRY_INTERVAL * 100;
        let mut attempts = Attempts::new(8).within(time);
        loop {
            match attempts.poll(now, RETRY_INTERVAL) {
                Step::Send => {}
                Step::Wait(until) => now = until,
                Step::GiveUp => break,
            }
        }
        assert_eq!(now, start + time);
    }

    #[test]
    fn an_attempt_that_is_stuck_in_the_queue_is_queued_again() {
        let now = Instant::now();
        let mut attempts = Attempts::new(1);
        assert_eq!(attempts.poll(now, RETRY_INTERVAL), Step::Send);
        assert_eq!(
            attempts.poll(now, RETRY_INTERVAL),
            Step::Wait(now + RETRY_INTERVAL * 4)
        );
        let mut now = now + RETRY_INTERVAL * 4;
        assert_eq!(attempts.poll(now, RETRY_INTERVAL), Step::Send);
        assert_eq!(
            attempts.poll(now, RETRY_INTERVAL),
            Step::Wait(now + RETRY_INTERVAL * 8)
        );
        assert_eq!(attempts.copies(), 2);
        for times in 2..10 {
            now += RETRY_INTERVAL * 4 * times;
            assert_eq!(attempts.poll(now, RETRY_INTERVAL), Step::Send);
        }
        assert_eq!(attempts.copies(), MOST_COPIES);
        attempts.on_wasted();
        assert_eq!(attempts.copies(), 1);
    }
}
