//! Streams of reproducible bytes with a SHA-256 at both ends, in both directions at once, for as long as a test likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use quinn::{Connection, RecvStream, SendStream};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

const CHUNK: usize = 16 * 1024;

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

async fn send(mut stream: SendStream, seed: u64, stop: Arc<AtomicBool>) -> Sum {
    let (mut bytes, mut sum, mut count) = (Bytes(seed), Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK];
    while !stop.load(Ordering::SeqCst) {
        bytes.fill(&mut chunk);
        sum.update(&chunk);
        stream.write_all(&chunk).await.unwrap();
        count += chunk.len();
    }
    stream.finish().unwrap();
    stream.stopped().await.unwrap();
    (count, sum.finalize().into())
}

async fn receive(mut stream: RecvStream, progress: Arc<AtomicUsize>) -> Sum {
    let (mut count, mut sum) = (0, Sha256::new());
    while let Some(chunk) = stream.read_chunk(CHUNK, true).await.unwrap() {
        count += chunk.bytes.len();
        progress.store(count, Ordering::SeqCst);
        sum.update(&chunk.bytes);
    }
    (count, sum.finalize().into())
}

/// An upload and a download at the same time, on one bidirectional stream.
pub struct Transfer {
    stop: Arc<AtomicBool>,
    received: [Arc<AtomicUsize>; 2],
    senders: [JoinHandle<Sum>; 2],
    receivers: [JoinHandle<Sum>; 2],
}

impl Transfer {
    pub async fn start(ours: &Connection, theirs: &Connection) -> Self {
        let (mut up, down) = ours.open_bi().await.unwrap();
        // The peer learns of a stream with its first byte.
        up.write_all(b"x").await.unwrap();
        let (their_up, mut their_down) = theirs.accept_bi().await.unwrap();
        their_down.read_exact(&mut [0]).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let received: [Arc<AtomicUsize>; 2] = Default::default();
        let senders = [
            tokio::spawn(send(up, 11, stop.clone())),
            tokio::spawn(send(their_up, 22, stop.clone())),
        ];
        let receivers = [
            tokio::spawn(receive(their_down, received[0].clone())),
            tokio::spawn(receive(down, received[1].clone())),
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
        let goals = self
            .received
            .each_ref()
            .map(|count| count.load(Ordering::SeqCst) + bytes);
        super::until("the transfer goes on", || {
            self.received
                .iter()
                .zip(goals)
                .all(|(count, goal)| count.load(Ordering::SeqCst) >= goal)
        })
        .await;
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
