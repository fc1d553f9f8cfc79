//! What a stream knows of its own bytes, and keeps of them, so that it can go on from a checkpoint (`docs/protocol.md` section 11).
//!
//! It keeps nothing before a first checkpoint has come, unless that is wanted. Positions are those of the present connection; what is held for the next
//! one stands behind them.

use std::collections::VecDeque;

use crate::client::Checkpoint;

/// The bytes of a stream, both ways.
#[derive(Debug, Default)]
pub(in crate::tokio::client) struct Account {
    /// How many bytes the present connection was given.
    written: u64,
    /// How many more were taken from the application, for the connection after it.
    carried: u64,
    /// How many bytes were read from the present connection.
    taken: u64,
    /// On the heap: most streams have none.
    kept: Option<Box<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// What was taken from the application last. With a checkpoint, it begins where that ends.
    bytes: VecDeque<u8>,
    checkpoint: Option<Checkpoint>,
    /// Whether the server makes checkpoints.
    announced: bool,
    /// Whether it has been told that writes wait.
    waits: bool,
}

/// What became of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// The stream can go on from it.
    Usable,
    /// Too little was kept when it came. From now on there is more.
    TooEarly,
    /// It accounts for more than was written.
    Invalid,
}

/// What was kept has outgrown the window, and the checkpoint is lost.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tokio::client) struct Outgrown(pub(super) bool);

/// How a stream goes on.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) checkpoint: Checkpoint,
    /// How many bytes were read since it came.
    pub(super) since: u64,
    /// What it does not account for.
    pub(super) resend: Vec<u8>,
}

impl Account {
    /// That of a stream whose connection was given so many bytes to send first. What is written from now on is kept before there
    /// is a checkpoint if `from_start`.
    pub(in crate::tokio::client) fn new(first: usize, from_start: bool) -> Self {
        Self {
            written: count(first),
            kept: from_start.then(Box::default),
            ..Self::default()
        }
    }

    /// The connection has been given these bytes.
    pub(super) fn give(&mut self, bytes: &[u8], window: usize) -> Outgrown {
        self.written = self.written.saturating_add(count(bytes.len()));
        self.keep(bytes, window)
    }

    /// These bytes are for the next connection.
    pub(super) fn carry(&mut self, bytes: &[u8], window: usize) -> Outgrown {
        self.carried = self.carried.saturating_add(count(bytes.len()));
        self.keep(bytes, window)
    }

    fn keep(&mut self, bytes: &[u8], window: usize) -> Outgrown {
        let Some(kept) = &mut self.kept else {
            return Outgrown(false);
        };
        kept.bytes.extend(bytes);
        let excess = kept.bytes.len().saturating_sub(window);
        if excess > 0 && !kept.announced {
            // A server that makes no checkpoints is to cost no more.
            self.kept = None;
            return Outgrown(false);
        }
        kept.bytes.drain(..excess);
        Outgrown(excess > 0 && kept.checkpoint.take().is_some())
    }

    /// How much may be written to a server that makes checkpoints without outgrowing the window; `None` for any amount.
    pub(super) fn room(&self, window: usize) -> Option<usize> {
        let kept = self.kept.as_ref().filter(|kept| kept.announced)?;
        Some(window.saturating_sub(kept.bytes.len()))
    }

    /// `true` when it is to be told that writes wait, once for each checkpoint.
    pub(super) fn begins_to_wait(&mut self) -> bool {
        let kept = self.kept.as_mut();
        kept.is_some_and(|kept| !std::mem::replace(&mut kept.waits, true))
    }

    /// So many bytes have been read.
    pub(in crate::tokio::client) fn take(&mut self, amount: usize) {
        self.taken = self.taken.saturating_add(count(amount));
    }

    /// How many bytes have been written to the present connection, and read from it.
    pub(super) fn moved(&self) -> (u64, u64) {
        (self.written, self.taken)
    }

    /// The position of the first byte that is kept.
    fn start(&self) -> u64 {
        let kept = self.kept.as_ref().map_or(0, |kept| kept.bytes.len());
        let end = self.written.saturating_add(self.carried);
        end.saturating_sub(count(kept))
    }

    /// A checkpoint has come. The newest one that is usable counts.
    pub(super) fn note(&mut self, checkpoint: Checkpoint) -> Noted {
        if checkpoint.written() > self.written {
            return Noted::Invalid;
        }
        let behind = checkpoint.written().checked_sub(self.start());
        let kept = self.kept.get_or_insert_default();
        kept.announced = true;
        let Some(behind) = behind.and_then(|behind| usize::try_from(behind).ok()) else {
            return Noted::TooEarly;
        };
        kept.bytes.drain(..behind.min(kept.bytes.len()));
        kept.checkpoint = Some(checkpoint);
        kept.waits = false;
        Noted::Usable
    }

    /// The server has taken its checkpoint back. Nobody is to wait for another one.
    pub(super) fn withdraw(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.checkpoint = None;
            kept.announced = false;
            kept.waits = false;
        }
    }

    /// The newest usable checkpoint.
    pub(super) fn checkpoint(&self) -> Option<&Checkpoint> {
        self.kept.as_ref()?.checkpoint.as_ref()
    }

    /// Uses the checkpoint up. All that is kept is for the next connection then.
    pub(super) fn plan(&mut self) -> Option<Plan> {
        let kept = self.kept.as_mut()?;
        let checkpoint = kept.checkpoint.take()?;
        let since = self.taken.checked_sub(checkpoint.received())?;
        self.carried = count(kept.bytes.len());
        Some(Plan {
            checkpoint,
            since,
            resend: kept.bytes.iter().copied().collect(),
        })
    }

    /// The stream goes on with another connection, which was given so many bytes when nothing was carried elsewhere.
    pub(in crate::tokio::client) fn arrive(&mut self, given: usize) {
        if let Some(kept) = &mut self.kept {
            let carried = usize::try_from(self.carried).unwrap_or(usize::MAX);
            let former = kept.bytes.len().saturating_sub(carried);
            kept.bytes.drain(..former);
            kept.checkpoint = None;
            kept.announced = false;
            kept.waits = false;
        }
        self.written = self.carried.max(count(given));
        self.carried = 0;
        self.taken = 0;
    }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
