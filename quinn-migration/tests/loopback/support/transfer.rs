//! Streams of reproducible bytes with a SHA-256 at both ends, in both directions at once, for as long as a test likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quinn::{Connection, RecvStream, SendStream};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const CHUNK: usize = 16 * 1024;
/// Bytes under way at most in one direction: about 45 packets. On loopback a challenge may wait in one socket of the
/// server while it reads another; quinn drops it when 128 packets have overtaken it (see the crate's limits).
const WINDOW: usize = 64 * 1024;

/// Bytes and their SHA-256.
type Sum = (usize, [u8; 32]);

/// Deterministic bytes from a seed (xorshift64).
struct Bytes(u64);

impl Bytes {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

async fn send(
    mut stream: SendStream,
    seed: u64,
    stop: Arc<AtomicBool>,
    mut arrived: watch::Receiver<usize>,
    window: usize,
) -> Sum {
    let (mut bytes, mut sum, mut count) = (Bytes(seed), Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK];
    while !stop.load(Ordering::SeqCst) {
        arrived
            .wait_for(|arrived| count - arrived < window)
            .await
            .unwrap();
        bytes.fill(&mut chunk);
        sum.update(&chunk);
        stream.write_all(&chunk).await.unwrap();
        count += chunk.len();
    }
    stream.finish().unwrap();
    stream.stopped().await.unwrap();
    (count, sum.finalize().into())
}

async fn receive(mut stream: RecvStream, progress: watch::Sender<usize>) -> Sum {
    let (mut count, mut sum) = (0, Sha256::new());
    while let Some(chunk) = stream.read_chunk(CHUNK, true).await.unwrap() {
        count += chunk.bytes.len();
        progress.send_replace(count);
        sum.update(&chunk.bytes);
    }
    (count, sum.finalize().into())
}

/// One direction.
struct Way {
    received: watch::Receiver<usize>,
    sender: JoinHandle<Sum>,
    receiver: JoinHandle<Sum>,
}

impl Way {
    fn begin(
        (send_to, receive_from): (SendStream, RecvStream),
        seed: u64,
        stop: &Arc<AtomicBool>,
        window: usize,
    ) -> Self {
        let arrived = watch::Sender::new(0);
        let received = arrived.subscribe();
        let sending = send(send_to, seed, stop.clone(), arrived.subscribe(), window);
        Self {
            received,
            sender: tokio::spawn(sending),
            receiver: tokio::spawn(receive(receive_from, arrived)),
        }
    }
}

/// An upload and a download at the same time, on one bidirectional stream; or one of them alone.
pub struct Transfer {
    stop: Arc<AtomicBool>,
    ways: Vec<Way>,
}

impl Transfer {
    pub async fn start(ours: &Connection, theirs: &Connection) -> Self {
        Self::with_window(ours, theirs, WINDOW).await
    }

    /// As fast as both ends can.
    pub async fn at_full_speed(ours: &Connection, theirs: &Connection) -> Self {
        Self::with_window(ours, theirs, usize::MAX).await
    }

    async fn with_window(ours: &Connection, theirs: &Connection, window: usize) -> Self {
        let (mut up, down) = ours.open_bi().await.unwrap();
        // The peer learns of a stream with its first byte.
        up.write_all(b"x").await.unwrap();
        let (their_up, mut their_down) = theirs.accept_bi().await.unwrap();
        their_down.read_exact(&mut [0]).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ways = vec![
            Way::begin((up, their_down), 11, &stop, window),
            Way::begin((their_up, down), 22, &stop, window),
        ];
        Self { stop, ways }
    }

    /// In one direction only, with so many bytes under way at most.
    pub async fn one_way(from: &Connection, to: &Connection, window: usize) -> Self {
        let mut up = from.open_uni().await.unwrap();
        up.write_all(b"x").await.unwrap();
        let mut down = to.accept_uni().await.unwrap();
        down.read_exact(&mut [0]).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ways = vec![Way::begin((up, down), 33, &stop, window)];
        Self { stop, ways }
    }

    /// Waits until `bytes` more have arrived in each direction.
    pub async fn progress(&self, bytes: usize) {
        for way in &self.ways {
            let mut received = way.received.clone();
            let goal = *received.borrow() + bytes;
            let arrived = received.wait_for(|count| *count >= goal);
            super::within(arrived).await.expect("the transfer ended");
        }
    }

    /// Ends the transfer: every byte arrived, once and in order, in both directions.
    pub async fn check(self) {
        self.progress(1 << 20).await;
        self.finish().await;
    }

    /// As [`Transfer::check`], with what is under way.
    pub async fn finish(self) {
        self.stop.store(true, Ordering::SeqCst);
        for way in self.ways {
            let received = super::within(way.receiver).await.unwrap();
            assert_eq!(received, super::within(way.sender).await.unwrap());
        }
    }
}
