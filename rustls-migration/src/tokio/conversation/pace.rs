//! When another checkpoint is due.
//!
//! It reads no clock: moments are given.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Bytes between two checkpoints, unless configured: a quarter of what a client keeps by default.
const BYTES: u64 = 64 * 1024;

/// Time between two checkpoints, unless configured.
const TIME: Duration = Duration::from_secs(5);

/// Where a stream goes on should this server die, and how often that is said.
///
/// The first checkpoint is made at once, also at a server that a stream arrives at. Where a stream begins, the second one follows as soon as the
/// client is heard: what it said before it had the first one was not kept. Another one follows after so many bytes in either direction, or after so much time in which at least one byte moved, whichever comes first. A stream on which nothing moves gets a new one when half
/// the life of the last one's token is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    target: Option<SocketAddr>,
    bytes: u64,
    time: Duration,
}

impl Checkpoints {
    /// The stream goes on at `target`, from a checkpoint that is made every 64 KiB or five seconds.
    pub fn to(target: SocketAddr) -> Self {
        Self {
            target: Some(target),
            bytes: BYTES,
            time: TIME,
        }
    }

    /// No checkpoints: the stream does not survive this server. It can still be handed over.
    pub fn none() -> Self {
        Self {
            target: None,
            bytes: BYTES,
            time: TIME,
        }
    }

    /// Makes one every `bytes` or after `time`. The client keeps what it writes in between: `bytes` should be much less than its
    /// [window](crate::tokio::MigrationConnector::recovery_window). With a `time` of zero each moment at which a byte has moved is
    /// one for a checkpoint.
    #[must_use]
    pub fn every(self, bytes: u64, time: Duration) -> Self {
        Self {
            bytes,
            time,
            ..self
        }
    }
}

/// When something is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    At(Instant),
    Never,
}

impl Due {
    pub(super) fn is_over(self, now: Instant) -> bool {
        match self {
            Self::Now => true,
            Self::At(moment) => moment <= now,
            Self::Never => false,
        }
    }
}

/// The checkpoints of one stream.
#[derive(Debug)]
pub(super) struct Schedule {
    checkpoints: Checkpoints,
    /// How long a checkpoint that nothing has moved since may stand.
    fresh: Duration,
    /// When the last one was made.
    made: Option<Instant>,
    /// How many bytes have moved since then.
    moved: u64,
    /// Whether the stream begins here, and no checkpoint accounts for what its client said first.
    begins: bool,
    /// Whether the client has said something since the last one was made.
    heard: bool,
    /// There can be none on this stream.
    ended: bool,
}

impl Schedule {
    /// `lifetime` is that of a checkpoint's token, and the stream `begins` unless it came from another server.
    pub(super) fn new(checkpoints: Checkpoints, lifetime: Duration, begins: bool) -> Self {
        Self {
            checkpoints,
            fresh: lifetime / 2,
            made: None,
            moved: 0,
            begins,
            heard: false,
            ended: false,
        }
    }

    /// Where the stream goes on, if there are checkpoints.
    pub(super) fn target(&self) -> Option<SocketAddr> {
        self.checkpoints.target.filter(|_| !self.ended)
    }

    pub(super) fn due(&self) -> Due {
        if self.target().is_none() {
            return Due::Never;
        }
        let Some(made) = self.made else {
            return Due::Now;
        };
        let enough = self.moved > 0 && self.moved >= self.checkpoints.bytes;
        if enough || self.begins && self.heard {
            return Due::Now;
        }
        let wait = match self.moved {
            0 => self.fresh,
            _ => self.fresh.min(self.checkpoints.time),
        };
        made.checked_add(wait).map_or(Due::Never, Due::At)
    }

    pub(super) fn note_moved(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.moved = self.moved.saturating_add(bytes);
    }

    pub(super) fn note_read(&mut self, bytes: usize) {
        self.heard |= bytes > 0;
        self.note_moved(bytes);
    }

    pub(super) fn note_made(&mut self, now: Instant) {
        self.begins &= self.made.is_none();
        self.made = Some(now);
        self.moved = 0;
        self.heard = false;
    }

    /// There can be no checkpoints on this stream.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    fn checkpoints() -> Checkpoints {
        Checkpoints::to(([192, 0, 2, 1], 443).into()).every(1000, 10 * SECOND)
    }

    fn schedule() -> (Schedule, Instant) {
        let mut schedule = Schedule::new(checkpoints(), LIFE, false);
        assert_eq!(schedule.due(), Due::Now);
        let now = Instant::now();
        schedule.note_made(now);
        (schedule, now)
    }

    #[test]
    fn bytes_or_time_make_another_one_whichever_comes_first() {
        let (mut schedule, made) = schedule();
        schedule.note_moved(999);
        let due = schedule.due();
        assert_eq!(due, Due::At(made + 10 * SECOND));
        assert!(!due.is_over(made + 9 * SECOND) && due.is_over(made + 10 * SECOND));
        schedule.note_moved(1);
        assert_eq!(schedule.due(), Due::Now);
        schedule.note_made(made + SECOND);
        schedule.note_moved(1);
        assert_eq!(schedule.due(), Due::At(made + 11 * SECOND));
    }

    #[test]
    fn where_a_stream_begins_the_second_one_is_made_when_the_client_is_heard() {
        let made = Instant::now();
        for (begins, due) in [(true, Due::Now), (false, Due::At(made + 10 * SECOND))] {
            let mut schedule = Schedule::new(checkpoints(), LIFE, begins);
            schedule.note_read(1);
            schedule.note_made(made);
            schedule.note_moved(1);
            assert_eq!(schedule.due(), Due::At(made + 10 * SECOND));
            schedule.note_read(1);
            assert_eq!(schedule.due(), due);
            schedule.note_made(made);
            schedule.note_read(1);
            assert_eq!(schedule.due(), Due::At(made + 10 * SECOND));
        }
    }

    #[test]
    fn where_nothing_moves_one_is_made_before_the_last_one_is_too_old() {
        let (schedule, made) = schedule();
        assert_eq!(schedule.due(), Due::At(made + LIFE / 2));
    }

    #[test]
    fn a_token_of_a_short_life_counts_before_the_time_between_checkpoints() {
        let mut schedule = Schedule::new(checkpoints(), 6 * SECOND, false);
        let made = Instant::now();
        schedule.note_made(made);
        schedule.note_moved(1);
        assert_eq!(schedule.due(), Due::At(made + 3 * SECOND));
    }

    #[test]
    fn without_a_target_or_a_client_that_takes_them_there_are_none() {
        let schedule = Schedule::new(Checkpoints::none().every(1, Duration::ZERO), LIFE, true);
        assert_eq!(schedule.due(), Due::Never);
        let mut schedule = self::schedule().0;
        schedule.end();
        schedule.note_moved(5000);
        assert_eq!((schedule.due(), schedule.target()), (Due::Never, None));
    }

    #[test]
    fn a_time_without_end_is_never_over() {
        let never = checkpoints().every(u64::MAX, Duration::MAX);
        let mut schedule = Schedule::new(never, Duration::MAX, false);
        schedule.note_made(Instant::now());
        schedule.note_moved(1 << 20);
        assert_eq!(schedule.due(), Due::Never);
    }
}
