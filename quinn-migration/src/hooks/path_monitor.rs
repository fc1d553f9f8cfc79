//! Noticing that the path moved to has stopped answering.
//!
//! Pure: time is an argument. Costs nothing while the connection is quiet, and never counts packets that need no answer.

use std::time::{Duration, Instant};

/// Packets that must have gone unanswered, each of them ack-eliciting.
const UNANSWERED: u64 = 2;
/// Patiences of silence before the path counts as dead.
const SILENCE: u32 = 3;
/// Shortest time between two looks, so that a fast path costs few wake-ups.
const SHORTEST_LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(super) struct PathMonitor {
    /// One packet that goes unanswered is enough.
    doubtful: bool,
    sent: u64,
    /// Signs of life.
    received: u64,
    /// Packets that were opened. Other connections may use the same socket, so its datagrams tell nothing of them.
    packets: u64,
    /// A packet was opened since the last sign of life. It may have come on another path.
    opened: bool,
    /// Datagrams that had arrived on this path at the last sign of life, or when the monitor began.
    datagrams: Option<u64>,
    /// Both counters at the last look that found life.
    alive: Option<(u64, u64)>,
    /// When the last poll was; `None` after a quiet one, because silence counts from the next packet on.
    polled: Option<Instant>,
    /// Silence so far. A look adds no more than the time it was to wait: a process that was stopped itself has not
    /// read yet what arrived meanwhile.
    silence: Duration,
    /// The task sleeps without a timer and wants to know of the next packet.
    idle: bool,
    /// Silences in a row.
    silences: u32,
    /// The application knows of them.
    reported: bool,
    /// An earlier path's answer was passed over in this silence.
    doubted: bool,
    /// Packets when the peer was last asked whether it is there.
    asked_at: u64,
    /// Packets at the last quiet look, and when to ask unless there are more by then.
    listening: Option<(u64, Instant)>,
}

/// A quiet client that has received so many packets since it asked last expects more. The answer to the question and what
/// goes with it are fewer.
const FLOW: u64 = 4;
/// How long a client that expects packets does without them before it asks, at the least.
const SHORTEST_LISTENING: Duration = Duration::from_secs(1);

/// What a client that sends nothing itself does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listening {
    /// Nothing has come for a while that was to be expected: send something that needs an answer.
    Ask,
    /// Listen again then.
    Again(Instant),
    /// Nothing is expected.
    Idle,
}

/// What a look at the path says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PathState {
    /// Nothing was sent since the last answer: no timer needed.
    Quiet,
    /// PathState again then.
    Again(Instant),
    /// Nothing came back for this long.
    Dead(Duration),
}

impl PathMonitor {
    /// For a path that may well be dead.
    pub(super) fn of_doubtful_path() -> Self {
        Self {
            doubtful: true,
            ..Self::default()
        }
    }

    /// An ack-eliciting packet was sent; answers whether to wake the task.
    pub(super) fn on_sent(&mut self) -> bool {
        self.sent = self.sent.saturating_add(1);
        std::mem::take(&mut self.idle)
    }

    /// A packet was opened that is no copy, so its sender is the peer.
    pub(super) fn on_received(&mut self) {
        self.opened = true;
        self.packets = self.packets.saturating_add(1);
    }

    /// So many datagrams have arrived on this path so far. With a packet that was opened, a new one is a sign of life.
    pub(super) fn on_datagrams(&mut self, datagrams: u64) {
        let before = *self.datagrams.get_or_insert(datagrams);
        if self.opened && datagrams != before {
            self.opened = false;
            self.datagrams = Some(datagrams);
            self.received = self.received.saturating_add(1);
            self.silences = 0;
            self.reported = false;
            self.doubted = false;
        }
    }

    /// A look found the path dead. Answers how many did so in a row, and begins to watch anew.
    pub(super) fn on_silence(&mut self) -> u32 {
        self.alive = None;
        self.polled = None;
        self.silence = Duration::ZERO;
        self.silences = self.silences.saturating_add(1);
        self.silences
    }

    /// Signs of life so far.
    pub(super) fn signs(&self) -> u64 {
        self.received
    }

    /// Whether something was received since [`PathMonitor::on_silence`].
    pub(super) fn is_alive(&self) -> bool {
        self.silences == 0
    }

    /// Nothing was sent that needs an answer, so silence tells nothing: is it time to ask?
    pub(super) fn listen(&mut self, now: Instant, retry_interval: Duration) -> Listening {
        let packets = self.packets;
        if packets < self.asked_at.saturating_add(FLOW) {
            self.listening = None;
            return Listening::Idle;
        }
        let fresh = (
            packets,
            now + retry_interval
                .saturating_mul(SILENCE)
                .max(SHORTEST_LISTENING),
        );
        match self.listening {
            Some((before, until)) if before == packets && now >= until => {
                self.listening = None;
                self.asked_at = packets;
                Listening::Ask
            }
            Some((before, until)) if before == packets => Listening::Again(until),
            _ => {
                self.listening = Some(fresh);
                Listening::Again(fresh.1)
            }
        }
    }

    /// Whether an earlier path's answer may be passed over, because of what was not read yet on this one; once in a silence, since
    /// that may be forged.
    pub(super) fn may_doubt(&mut self) -> bool {
        !std::mem::replace(&mut self.doubted, true)
    }

    /// Whether the application has not been told of this silence; it is told now.
    pub(super) fn is_news(&mut self) -> bool {
        !std::mem::replace(&mut self.reported, true)
    }

    pub(super) fn poll(&mut self, now: Instant, retry_interval: Duration) -> PathState {
        let step = retry_interval.max(SHORTEST_LOOK);
        let since = |before| now.saturating_duration_since(before).min(step);
        let passed = self.polled.replace(now).map_or(Duration::ZERO, since);
        let fresh = (self.sent, self.received);
        let (sent, received) = *self.alive.get_or_insert(fresh);
        if sent == self.sent {
            self.alive = Some(fresh);
            self.polled = None;
            self.silence = Duration::ZERO;
            self.idle = true;
            return PathState::Quiet;
        }
        if received != self.received {
            self.alive = Some(fresh);
            self.silence = Duration::ZERO;
            return PathState::Again(now + step);
        }
        self.silence = self.silence.saturating_add(passed);
        let enough = if self.doubtful { 1 } else { UNANSWERED };
        if self.sent.saturating_sub(sent) >= enough
            && self.silence >= retry_interval.saturating_mul(SILENCE)
        {
            return PathState::Dead(self.silence);
        }
        PathState::Again(now + step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY_INTERVAL: Duration = Duration::from_millis(100);

    fn answer(monitor: &mut PathMonitor) {
        monitor.on_received();
        let before = monitor.datagrams.unwrap_or_default();
        monitor.on_datagrams(before);
        monitor.on_datagrams(before + 1);
    }

    #[test]
    fn a_flow_that_ends_is_asked_for_once() {
        let mut now = Instant::now();
        let mut monitor = PathMonitor::default();
        assert_eq!(monitor.listen(now, RETRY_INTERVAL), Listening::Idle);
        monitor.on_datagrams(0);
        for n in 1..10 {
            (0..10).for_each(|_| monitor.on_received());
            monitor.on_datagrams(n * 10);
            let until = now + Duration::from_secs(1);
            assert_eq!(monitor.listen(now, RETRY_INTERVAL), Listening::Again(until));
            now = until;
        }
        assert_eq!(monitor.listen(now, RETRY_INTERVAL), Listening::Ask);
        // The answer is no flow.
        monitor.on_received();
        monitor.on_datagrams(92);
        assert_eq!(monitor.listen(now, RETRY_INTERVAL), Listening::Idle);
    }

    /// All connections of an endpoint that have not moved share its own socket.
    #[test]
    fn datagrams_of_other_connections_are_no_flow() {
        let mut now = Instant::now();
        let mut monitor = PathMonitor::default();
        monitor.on_received();
        for n in 0..20 {
            monitor.on_datagrams(n * 100);
            assert_eq!(monitor.listen(now, RETRY_INTERVAL), Listening::Idle);
            now += Duration::from_secs(1);
        }
    }

    #[test]
    fn a_quiet_path_needs_no_timer_and_wakes_the_task_once_on_the_next_packet() {
        let mut monitor = PathMonitor::default();
        assert_eq!(
            monitor.poll(Instant::now(), RETRY_INTERVAL),
            PathState::Quiet
        );
        assert!(monitor.on_sent());
        assert!(!monitor.on_sent());
    }

    /// Looks when it was told to; answers with the last look of `count`.
    fn look_on(monitor: &mut PathMonitor, mut now: Instant, count: u32) -> PathState {
        for _ in 1..count {
            let PathState::Again(at) = monitor.poll(now, RETRY_INTERVAL) else {
                panic!("too early")
            };
            assert_eq!(at, now + RETRY_INTERVAL);
            now = at;
        }
        monitor.poll(now, RETRY_INTERVAL)
    }

    #[test]
    fn a_long_quiet_time_does_not_count_as_silence() {
        let start = Instant::now();
        let mut monitor = PathMonitor::default();
        monitor.poll(start, RETRY_INTERVAL);
        monitor.on_sent();
        monitor.on_sent();
        let later = start + RETRY_INTERVAL * 1000;
        assert_eq!(
            look_on(&mut monitor, later, 4),
            PathState::Dead(RETRY_INTERVAL * 3)
        );
    }

    #[test]
    fn a_path_that_never_answers_is_dead_after_three_retry_intervals() {
        let start = Instant::now();
        let mut monitor = PathMonitor::default();
        monitor.poll(start, RETRY_INTERVAL);
        monitor.on_sent();
        monitor.on_sent();
        assert_eq!(
            look_on(&mut monitor, start, 4),
            PathState::Dead(RETRY_INTERVAL * 3)
        );
    }

    #[test]
    fn a_process_that_was_stopped_looks_again_before_it_calls_the_path_dead() {
        let start = Instant::now();
        let mut monitor = PathMonitor::default();
        monitor.poll(start, RETRY_INTERVAL);
        monitor.on_sent();
        monitor.on_sent();
        monitor.poll(start, RETRY_INTERVAL);
        let later = start + RETRY_INTERVAL * 1000;
        assert_eq!(
            monitor.poll(later, RETRY_INTERVAL),
            PathState::Again(later + RETRY_INTERVAL)
        );
        answer(&mut monitor);
        let later = later + RETRY_INTERVAL;
        assert_eq!(
            monitor.poll(later, RETRY_INTERVAL),
            PathState::Again(later + RETRY_INTERVAL)
        );
    }

    #[test]
    fn early_looks_do_not_hasten_the_end() {
        let start = Instant::now();
        let mut monitor = PathMonitor::default();
        monitor.poll(start, RETRY_INTERVAL);
        monitor.on_sent();
        monitor.on_sent();
        for n in 0..30 {
            let now = start + RETRY_INTERVAL * n / 10;
            assert!(matches!(
                monitor.poll(now, RETRY_INTERVAL),
                PathState::Again(_)
            ));
        }
        let now = start + RETRY_INTERVAL * 3;
        assert_eq!(
            monitor.poll(now, RETRY_INTERVAL),
            PathState::Dead(RETRY_INTERVAL * 3)
        );
    }

    #[test]
    fn any_answer_starts_the_silence_anew() {
        let start = Instant::now();
        let mut monitor = PathMonitor::default();
        monitor.poll(start, RETRY_INTERVAL);
        for n in 1..20 {
            monitor.on_sent();
            monitor.on_sent();
            answer(&mut monitor);
            assert!(matches!(
                monitor.poll(start + RETRY_INTERVAL * n, RETRY_INTERVAL),
                PathState::Again(_)
            ));
        }
    }

    #[test]
    fn packets_on_another_path_and_forged_datagrams_on_this_one_are_no_signs_of_life() {
        let start = Instant::now();
        for forged in [false, true] {
            let mut monitor = PathMonitor::default();
            monitor.poll(start, RETRY_INTERVAL);
            monitor.on_sent();
            monitor.on_sent();
            for n in 0..3 {
                if forged {
                    monitor.on_datagrams(n);
                } else {
                    monitor.on_received();
                    monitor.on_datagrams(0);
                }
                let now = start + RETRY_INTERVAL * u32::try_from(n).unwrap();
                assert!(matches!(
                    monitor.poll(now, RETRY_INTERVAL),
                    PathState::Again(_)
                ));
            }
            let now = start + RETRY_INTERVAL * 3;
            assert_eq!(
                monitor.poll(now, RETRY_INTERVAL),
                PathState::Dead(RETRY_INTERVAL * 3)
            );
        }
    }

    #[test]
    fn one_unanswered_packet_is_not_enough() {
        let start = Instant::now();
        let mut monitor = PathMonitor::default();
        monitor.poll(start, RETRY_INTERVAL);
        monitor.on_sent();
        assert!(matches!(
            monitor.poll(start + RETRY_INTERVAL * 9, RETRY_INTERVAL),
            PathState::Again(_)
        ));
    }
}
