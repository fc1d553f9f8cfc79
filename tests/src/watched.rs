//! A client that stays where it is and notes what the server says, for tests whose time is tokio's.
//!
//! It closes its side only when a test says so.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls_migration::client::Update;
use rustls_migration::{Connection as _, MoveKind};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::peer::Peer;

/// What a client has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Plaintext, in bytes.
    pub plaintext: usize,
    /// When it was told to move.
    pub told: Option<Instant>,
    /// What was to move, as its newest offer said when it was told.
    pub kind: Option<MoveKind>,
    /// How the connection ended, and when: `Ok` with `close_notify`.
    pub end: Option<(Result<(), io::ErrorKind>, Instant)>,
}

/// A client whose connection is read by a task of its own.
pub struct Watched {
    seen: Arc<Mutex<Seen>>,
    changed: Arc<Notify>,
}

/// How a client reads.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// So many bytes at a time.
    pub bytes: usize,
    /// With so much time before each.
    pub pause: Duration,
}

/// What the client does when it has been told to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenTold {
    Stays,
    ClosesItsSide,
}

impl Watched {
    /// Completes the handshake, says `plaintext`, and reads as soon as something comes.
    pub fn start(peer: Peer, plaintext: &'static [u8]) -> Self {
        let pace = Pace {
            bytes: 16_384,
            pause: Duration::ZERO,
        };
        Self::paced(peer, plaintext, pace, WhenTold::Stays)
    }

    /// As [`start`](Self::start), at this pace once the handshake is complete.
    pub fn paced(mut peer: Peer, plaintext: &'static [u8], pace: Pace, then: WhenTold) -> Self {
        let watched = Self {
            seen: Arc::default(),
            changed: Arc::default(),
        };
        let (seen, changed) = (Arc::clone(&watched.seen), Arc::clone(&watched.changed));
        tokio::spawn(async move {
            peer.say(plaintext).await;
            loop {
                let end = take(&mut peer, &seen, then);
                peer.send().await;
                if let Some(end) = end {
                    seen.lock().unwrap().end = Some((end, Instant::now()));
                }
                changed.notify_waiters();
                if end.is_some() {
                    return;
                }
                if !pace.pause.is_zero() {
                    sleep(pace.pause).await;
                }
                // An end of the transport shows in what can be taken.
                let _ = peer.receive_some(pace.bytes).await;
            }
        });
        watched
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Resolves when it has seen enough.
    pub async fn until(&self, enough: impl Fn(&Seen) -> bool) -> Seen {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let seen = self.seen();
            if enough(&seen) {
                return seen;
            }
            changed.await;
        }
    }

    /// Resolves when the connection has ended.
    pub async fn end(&self) -> (Result<(), io::ErrorKind>, Instant) {
        self.until(|seen| seen.end.is_some()).await.end.unwrap()
    }
}

/// Takes what has come; `Some` when the connection has ended.
fn take(peer: &mut Peer, seen: &Mutex<Seen>, then: WhenTold) -> Option<Result<(), io::ErrorKind>> {
    let mut seen = seen.lock().unwrap();
    while let Some(update) = peer.connection.next_update() {
        match update {
            Update::Offered { kind, .. } | Update::Marked { kind } if seen.told.is_none() => {
                seen.kind = Some(kind);
            }
            Update::Notified if seen.told.is_none() => {
                seen.told = Some(Instant::now());
                if then == WhenTold::ClosesItsSide {
                    peer.connection.send_close_notify();
                }
            }
            _ => {}
        }
    }
    loop {
        match peer.connection.fill_buf() {
            Ok([]) => return Some(Ok(())),
            Ok(plaintext) => {
                let len = plaintext.len();
                seen.plaintext += len;
                peer.connection.consume(len);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => return Some(Err(error.kind())),
        }
    }
}
