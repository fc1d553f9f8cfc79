//! How an application uses a stream: when it reads and writes and when it does not, how fast, and in which messages. A seed
//! decides all of it.
//!
//! Whatever an application does or leaves for a while, in the end it does both.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{LazyLock, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use crate::session::{Content, Random};

/// How fast somebody is who is slow, in bytes in a second.
const SLOW: f64 = 200_000.0;

/// How much somebody who is slow reads or writes at once, in bytes.
const SLOW_PIECE: usize = 4096;

/// No direction has more than so many bytes.
pub const MOST: usize = 3 << 20;

/// What an application does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Reads,
    Writes,
    Both,
    Neither,
}

/// One application's habits.
#[derive(Clone, Debug)]
pub struct Habits {
    phases: Vec<(Duration, Activity)>,
    slow_reader: bool,
    slow_writer: bool,
    /// The most that it reads at once, in bytes.
    room: usize,
}

impl Habits {
    pub fn random(random: &mut Random) -> Self {
        let activities = [
            Activity::Reads,
            Activity::Writes,
            Activity::Both,
            Activity::Neither,
        ];
        let phases = (0..random.below(5)).map(|_| {
            let length = [3, 30, 300, 2000][random.below(4)];
            (millis(random, length), activities[random.below(4)])
        });
        let phases = phases.collect();
        Self {
            phases,
            slow_reader: random.once_in(2),
            slow_writer: random.once_in(2),
            room: [1, 100, 1500, 16_384, 100_000][random.below(5)],
        }
        .at_its_pace()
    }

    fn at_its_pace(mut self) -> Self {
        if self.slow_reader {
            self.room = self.room.min(SLOW_PIECE);
        }
        self
    }

    /// For a direction of so many bytes that single ones would take too long.
    #[must_use]
    pub fn with_room_for(mut self, len: usize) -> Self {
        self.room = self.room.max(len / 500);
        self.at_its_pace()
    }
}

/// Up to so many milliseconds.
pub fn millis(random: &mut Random, most: usize) -> Duration {
    Duration::from_millis(u64::try_from(random.below(most)).unwrap())
}

/// Where messages of one direction end. There are as many as fit, of one kind of size.
pub fn messages(random: &mut Random) -> Vec<usize> {
    let (smallest, largest, most) = [
        (1, 1, 600),
        (1, 100, 20_000),
        (1, 3000, 100_000),
        (16_000, 17_000, 400_000),
        (60_000, 70_000, 600_000),
        (1 << 20, 1 << 20, 1 << 20),
        (1, 1 << 20, MOST),
        (0, 0, 0),
    ][random.below(8)];
    let total = most / 2 + random.below(most / 2 + 1);
    let (mut ends, mut end) = (Vec::new(), 0);
    while largest > 0 && (end < total || ends.is_empty()) {
        end += smallest + random.below(largest - smallest + 1);
        ends.push(end);
    }
    ends.retain(|end| *end <= MOST);
    ends
}

static FROM_CLIENT: LazyLock<Vec<u8>> = LazyLock::new(|| Content::FromClient.piece(0, MOST));
static FROM_SERVER: LazyLock<Vec<u8>> = LazyLock::new(|| Content::FromServer.piece(0, MOST));

/// The bytes of one direction.
pub fn bytes(content: Content) -> &'static [u8] {
    match content {
        Content::FromClient => &FROM_CLIENT,
        Content::FromServer => &FROM_SERVER,
    }
}

/// What an application wants of its stream now.
#[derive(Debug, Default)]
pub struct Wish<'a> {
    pub read: bool,
    pub write: &'a [u8],
    pub flush: bool,
    pub shutdown: bool,
    /// When something else is to be done.
    pub until: Option<Instant>,
}

/// What came of it.
#[derive(Debug)]
pub enum Done {
    Read(io::Result<usize>),
    Wrote(io::Result<usize>),
    Flushed(io::Result<()>),
    ShutDown(io::Result<()>),
    /// It is time for something else.
    Time,
}

/// An application at its stream, according to its habits.
#[derive(Debug)]
pub struct Hand {
    habits: Habits,
    random: Random,
    /// When each phase ends.
    ends: Vec<Instant>,
    reads_again: Instant,
    writes_again: Instant,
    pub buf: Vec<u8>,
}

impl Hand {
    pub fn new(habits: &Habits, seed: u64) -> Self {
        let now = Instant::now();
        let mut end = now;
        let ends = habits.phases.iter().map(|(length, _)| {
            end += *length;
            end
        });
        Self {
            ends: ends.collect(),
            random: Random::new(seed),
            reads_again: now,
            writes_again: now,
            buf: vec![0; habits.room],
            habits: habits.clone(),
        }
    }

    /// Does one thing of `wish`, as soon as habit allows and it can be done.
    pub async fn step<S>(&mut self, stream: &Mutex<S>, wish: Wish<'_>) -> Done
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let now = Instant::now();
        let phase = self.ends.iter().position(|end| now < *end);
        let activity = phase.map_or(Activity::Both, |phase| self.habits.phases[phase].1);
        let may_read = matches!(activity, Activity::Reads | Activity::Both);
        let may_write = matches!(activity, Activity::Writes | Activity::Both);
        let reads = wish.read && may_read && now >= self.reads_again;
        let writes = may_write && now >= self.writes_again;
        let times = [
            wish.until,
            phase.map(|phase| self.ends[phase]),
            Some(self.reads_again),
            Some(self.writes_again),
        ];
        let later = times.into_iter().flatten().filter(|time| *time > now).min();
        let mut timer = pin!(later.map(sleep_until));
        let piece = match self.habits.slow_writer {
            true => &wish.write[..wish.write.len().min(SLOW_PIECE)],
            false => wish.write,
        };
        let reads_first = self.random.once_in(2);
        let buf = &mut self.buf;
        let done = std::future::poll_fn(|cx| {
            let mut stream = stream.lock().unwrap();
            let mut stream = Pin::new(&mut *stream);
            for reading in [reads_first, !reads_first] {
                if reading && reads {
                    let mut buf = ReadBuf::new(buf);
                    if let Poll::Ready(done) = stream.as_mut().poll_read(cx, &mut buf) {
                        let len = buf.filled().len();
                        return Poll::Ready(Done::Read(done.map(|()| len)));
                    }
                } else if !reading && writes {
                    if !piece.is_empty()
                        && let Poll::Ready(done) = stream.as_mut().poll_write(cx, piece)
                    {
                        return Poll::Ready(Done::Wrote(done));
                    }
                    if wish.flush
                        && let Poll::Ready(done) = stream.as_mut().poll_flush(cx)
                    {
                        return Poll::Ready(Done::Flushed(done));
                    }
                    if wish.shutdown
                        && let Poll::Ready(done) = stream.as_mut().poll_shutdown(cx)
                    {
                        return Poll::Ready(Done::ShutDown(done));
                    }
                }
            }
            match timer.as_mut().as_pin_mut() {
                Some(timer) => timer.poll(cx).map(|()| Done::Time),
                None => Poll::Pending,
            }
        });
        let done = done.await;
        let after = |slow: bool, len: usize| {
            let pace = if slow { SLOW } else { f64::INFINITY };
            let len = u32::try_from(len).unwrap();
            Instant::now() + Duration::from_secs_f64(f64::from(len) / pace)
        };
        match &done {
            Done::Read(Ok(len)) => self.reads_again = after(self.habits.slow_reader, *len),
            Done::Wrote(Ok(len)) => self.writes_again = after(self.habits.slow_writer, *len),
            _ => {}
        }
        done
    }
}
