//! What a node knows of the life of a server's data: its name, and how old it is by a clock that is never set.
//!
//! The server has no such clock. If its wall clock and the node's were slow when the life began and are set later, the node
//! can tell it so. The node never tells more than it has measured.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;

use super::script::Asking;
use crate::nonce::birth::{Birth, from_unix_milliseconds, span, unix_milliseconds};
use crate::nonce::{MemoryId, Monotonic};

/// From this difference on, in milliseconds, a clock was set. What is less is the time that questions wait.
const STEP_MS: i64 = 1_000;

/// The life that answered last, if any has.
#[derive(Debug)]
pub(super) struct KnownLife {
    life: Mutex<Option<Life>>,
    /// How far the wall clock is ahead of the other, in milliseconds: the most that it ever was, as far as questions told. A question
    /// may have waited before it was put, and then its moment is an old one.
    ahead: AtomicI64,
    /// The moment that [`KnownLife::present`] told last.
    last_present: AtomicI64,
    monotonic: Arc<dyn Monotonic>,
}

#[derive(Debug)]
struct Life {
    name: String,
    /// As the server told it first, or later when it told an earlier moment: whoever begins a life settles it soon after.
    told: i64,
    /// As the server told it last.
    latest: i64,
    /// By own measure.
    birth: Birth,
}

impl KnownLife {
    pub(super) fn new(monotonic: Arc<dyn Monotonic>) -> Self {
        Self {
            life: Mutex::default(),
            ahead: AtomicI64::new(i64::MIN),
            last_present: AtomicI64::new(i64::MIN),
            monotonic,
        }
    }

    /// The time by the clock that is never set.
    pub(super) fn elapsed(&self) -> time::Duration {
        span(self.monotonic.elapsed())
    }

    /// What to tell the server at the moment `now`.
    pub(super) fn asking(&self, now: OffsetDateTime) -> Asking {
        let elapsed = self.elapsed();
        let ahead = unix_milliseconds(now.saturating_sub(elapsed));
        self.ahead.fetch_max(ahead, Ordering::AcqRel);
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        Asking {
            now,
            life: life.as_ref().and_then(|life| {
                life.birth.note(now, elapsed);
                let measured = life.birth.since_ms();
                // Who was told before the life was settled must not undo that.
                let was_set = measured.saturating_sub(life.told) > STEP_MS;
                was_set.then(|| (life.name.clone(), measured))
            }),
        }
    }

    /// The life `name` has answered a question of the moment `now`, and remembers since `since` (Unix milliseconds).
    pub(super) fn heard(&self, name: &str, since: i64, now: OffsetDateTime) {
        let elapsed = self.elapsed();
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        match life.as_mut() {
            Some(life) if life.name == name && life.told <= since => life.latest = since,
            _ => {
                let age = now - from_unix_milliseconds(since);
                *life = Some(Life {
                    name: name.to_owned(),
                    told: since,
                    latest: since,
                    birth: Birth::new(from_unix_milliseconds(since), elapsed.saturating_sub(age)),
                });
            }
        }
    }

    /// Since when the server remembers, as far as is known by now.
    pub(super) fn since(&self) -> Option<OffsetDateTime> {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        life.as_ref()
            .map(|life| from_unix_milliseconds(life.latest.max(life.birth.since_ms())))
    }

    /// Which life it is, as far as is known by now. Each has a name of its own, and so has each history of the data.
    pub(super) fn id(&self) -> Option<MemoryId> {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        life.as_ref()
            .map(|life| MemoryId::digest(life.name.as_bytes()))
    }

    /// A moment (Unix milliseconds) that is later than any that a wall clock like this node's has told by now, and than any that
    /// this told before: of two lives that begin in one millisecond, the second remembers nothing of the first.
    pub(super) fn present(&self) -> i64 {
        let ahead = from_unix_milliseconds(self.ahead.load(Ordering::Acquire));
        // Both are rounded down.
        let now = unix_milliseconds(ahead.saturating_add(self.elapsed()));
        let later = |last: i64| now.saturating_add(2).max(last.saturating_add(1));
        let last = self
            .last_present
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
                Some(later(last))
            });
        later(last.unwrap_or_else(|last| last))
    }
}
