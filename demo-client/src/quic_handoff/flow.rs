//! An upload and a download of the same bytes at the same time, for as long as the moves take.
//!
//! Nothing is kept but counts, checksums and the longest gap.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use demo_server::program::Failure;
use quinn::{Connection, RecvStream, SendStream};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const CHUNK: usize = 64 * 1024;

/// Bytes and their SHA-256.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// What was sent and what arrived.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) sent: [Sum; 2],
    pub(super) received: [Sum; 2],
}

pub(super) struct Flow {
    goal: Arc<Mutex<Goal>>,
    gap: Arc<Mutex<Gap>>,
    counts: [watch::Receiver<u64>; 2],
    senders: [JoinHandle<Result<Sum, Failure>>; 2],
    receivers: [JoinHandle<Result<Sum, Failure>>; 2],
}

impl Flow {
    pub(super) async fn start(client: &Connection, server: &Connection) -> Result<Self, Failure> {
        let lost = |error| Failure::wrong("a stream", &error);
        let up = client.open_uni().await.map_err(lost)?;
        let down = server.open_uni().await.map_err(lost)?;
        let goal = Arc::new(Mutex::new(Goal::default()));
        let senders = [
            tokio::spawn(send(up, Arc::clone(&goal), 0)),
            tokio::spawn(send(down, Arc::clone(&goal), 1)),
        ];
        // A peer learns of a stream with its first bytes.
        let up = server.accept_uni().await.map_err(lost)?;
        let down = client.accept_uni().await.map_err(lost)?;
        let gap = Arc::new(Mutex::new(Gap::new()));
        let (count_up, received_up) = watch::channel(0);
        let (count_down, received_down) = watch::channel(0);
        let receivers = [
            tokio::spawn(receive(up, count_up, None)),
            tokio::spawn(receive(down, count_down, Some(Arc::clone(&gap)))),
        ];
        Ok(Self {
            goal,
            gap,
            counts: [received_up, received_down],
            senders,
            receivers,
        })
    }

    /// Waits until so many bytes more have arrived in each direction.
    pub(super) async fn progress(&self, bytes: u64) -> Result<(), Failure> {
        let counts = self.counts.each_ref().map(|count| {
            let goal = count.borrow().saturating_add(bytes);
            (count.clone(), goal)
        });
        for (mut count, goal) in counts {
            count
                .wait_for(|count| *count >= goal)
                .await
                .map_err(|_| Failure::Wrong("the transfer ended early".to_owned()))?;
        }
        Ok(())
    }

    /// The longest time without data at the client since the last call.
    pub(super) fn longest_gap(&self) -> Duration {
        lock(&self.gap).take(Instant::now())
    }

    /// Ends the transfer when each direction has carried `least` bytes, and the same number of them.
    pub(super) async fn finish(self, least: u64) -> Result<Transfer, Failure> {
        lock(&self.goal).close(least);
        let [up, down] = self.receivers;
        let received = [ended(up).await?, ended(down).await?];
        let [up, down] = self.senders;
        Ok(Transfer {
            sent: [ended(up).await?, ended(down).await?],
            received,
        })
    }
}

async fn ended(task: JoinHandle<Result<Sum, Failure>>) -> Result<Sum, Failure> {
    task.await
        .map_err(|error| Failure::wrong("the transfer", &error))?
}

/// How much is sent in each direction: no end until it is closed, then the same for both.
#[derive(Debug, Default)]
struct Goal {
    sent: [u64; 2],
    total: Option<u64>,
}

impl Goal {
    /// Bytes that this direction sends next, at most `most`; 0 at the end.
    fn claim(&mut self, direction: usize, most: u64) -> u64 {
        let Some(sent) = self.sent.get_mut(direction) else {
            return 0;
        };
        let left = self
            .total
            .map_or(most, |total| total.saturating_sub(*sent).min(most));
        *sent = sent.saturating_add(left);
        left
    }

    fn close(&mut self, least: u64) {
        let [up, down] = self.sent;
        self.total = Some(up.max(down).max(least));
    }
}

/// The longest time between two arrivals.
#[derive(Debug)]
struct Gap {
    last: Instant,
    longest: Duration,
}

impl Gap {
    fn new() -> Self {
        Self {
            last: Instant::now(),
            longest: Duration::ZERO,
        }
    }

    fn on_arrival(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.last);
        self.longest = self.longest.max(gap);
        self.last = now;
    }

    fn take(&mut self, now: Instant) -> Duration {
        let open = now.saturating_duration_since(self.last);
        std::mem::take(&mut self.longest).max(open)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reproducible bytes that differ from each other (xorshift64).
struct Bytes(u64);

impl Bytes {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(size_of::<u64>()) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let bytes = self.0.to_le_bytes();
            chunk
                .iter_mut()
                .zip(bytes)
                .for_each(|(byte, new)| *byte = new);
        }
    }
}

async fn send(
    mut stream: SendStream,
    goal: Arc<Mutex<Goal>>,
    direction: usize,
) -> Result<Sum, Failure> {
    let (mut bytes, mut sum, mut count) = (Bytes(0x9e37_79b9_7f4a_7c15), Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        let claimed = lock(&goal).claim(direction, u64::try_from(CHUNK).unwrap_or(u64::MAX));
        if claimed == 0 {
            break;
        }
        chunk.truncate(usize::try_from(claimed).unwrap_or(CHUNK));
        bytes.fill(&mut chunk);
        sum.update(&chunk);
        stream
            .write_all(&chunk)
            .await
            .map_err(|error| Failure::wrong("sending", &error))?;
        count += claimed;
    }
    // Only a reset stream cannot be finished, and `stopped` tells of that.
    let _ = stream.finish();
    stream
        .stopped()
        .await
        .map_err(|error| Failure::wrong("sending", &error))?;
    Ok(Sum {
        bytes: count,
        sha256: base16ct::lower::encode_string(&sum.finalize()),
    })
}

async fn receive(
    mut stream: RecvStream,
    count: watch::Sender<u64>,
    gap: Option<Arc<Mutex<Gap>>>,
) -> Result<Sum, Failure> {
    let (mut bytes, mut sum) = (0, Sha256::new());
    let mut chunk = vec![0; CHUNK];
    while let Some(length) = stream
        .read(&mut chunk)
        .await
        .map_err(|error| Failure::wrong("receiving", &error))?
    {
        if let Some(gap) = &gap {
            lock(gap).on_arrival(Instant::now());
        }
        sum.update(chunk.get(..length).unwrap_or_default());
        bytes += u64::try_from(length).unwrap_or_default();
        count.send_replace(bytes);
    }
    Ok(Sum {
        bytes,
        sha256: base16ct::lower::encode_string(&sum.finalize()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_end_at_the_same_count() {
        let mut goal = Goal::default();
        assert_eq!(goal.claim(0, 10), 10);
        assert_eq!(goal.claim(0, 10), 10);
        assert_eq!(goal.claim(1, 10), 10);
        goal.close(5);
        assert_eq!(goal.claim(0, 10), 0);
        assert_eq!(goal.claim(1, 10), 10);
        assert_eq!(goal.claim(1, 10), 0);
    }

    #[test]
    fn a_transfer_is_as_long_as_was_asked_for() {
        let mut goal = Goal::default();
        goal.close(15);
        for direction in [0, 1] {
            assert_eq!(goal.claim(direction, 10), 10);
            assert_eq!(goal.claim(direction, 10), 5);
            assert_eq!(goal.claim(direction, 10), 0);
        }
    }

    #[test]
    fn a_gap_that_has_not_ended_counts() {
        let start = Instant::now();
        let mut gap = Gap {
            last: start,
            longest: Duration::ZERO,
        };
        let after = |millis| start + Duration::from_millis(millis);
        gap.on_arrival(after(30));
        gap.on_arrival(after(40));
        assert_eq!(gap.take(after(45)), Duration::from_millis(30));
        assert_eq!(gap.take(after(65)), Duration::from_millis(25));
    }
}
