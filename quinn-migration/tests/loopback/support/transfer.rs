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

/// An upload and a download at the same time, on one bidirectional stream.
pub struct Transfer {
    stop: Arc<AtomicBool>,
    received: [watch::Receiver<usize>; 2],
    senders: [JoinHandle<Sum>; 2],
    receivers: [JoinHandle<Sum>; 2],
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
        let (there, here) = (watch::Sender::new(0), watch::Sender::new(0));
        let received = [there.subscribe(), here.subscribe()];
        let sender = |stream, seed, arrived: &watch::Sender<usize>| {
            tokio::spawn(send(
                stream,
                seed,
                stop.clone(),
                arrived.subscribe(),
                window,
            ))
        };
        let senders = [sender(up, 11, &there), sender(their_up, 22, &here)];
        let receivers = [
            tokio::spawn(receive(their_down, there)),
            tokio::spawn(receive(down, here)),
        ];
        Self {
            stop,
            received,
            senders,
            receivers,
        }
    }

    /// Waits until `bytes` more have arrived in each direction.
    pub async fn progress(&self, bytes: usize) {
        for received in &self.received {
            let goal = *received.borrow() + bytes;
            let mut received = received.clone();
            let arrived = received.wait_for(|count| *count >= goal);
            super::within(arrived).await.expect("the transfer ended");
        }
    }

    /// Ends the transfer: every byte arrived, once and in order, in both directions.
    pub async fn check(self) {
        self.progress(1 << 20).await;
        self.stop.store(true, Ordering::SeqCst);
        for (sender, receiver) in self.senders.into_iter().zip(self.receivers) {
            let received = super::within(receiver).await.unwrap();
            assert_eq!(received, super::within(sender).await.unwrap());
        }
    }
}
