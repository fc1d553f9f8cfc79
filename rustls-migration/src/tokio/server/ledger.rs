//! What a drain knows of its connections. They keep the numbers themselves: whatever becomes of one, it is taken out of the
//! numbers as it stood and added as it stands, so the work does not grow with the number of the others.
//!
//! Whether a connection goes on being drained is decided elsewhere.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::handle::DepartureStatus;
use crate::measure::{gauge, number};

/// How far a drain has come, in connections.
///
/// Each connection is in one of `untold`, `pending`, `moved`, `left_by_itself`, `not_movable` and `forced`, so these six
/// make up `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainProgress {
    /// Seen so far: there at the start, or accepted since.
    pub total: usize,
    /// Still there, and not told yet: their turn has not come, or their handshake is under way.
    pub untold: usize,
    /// Told, still there, and not gone elsewhere yet.
    pub pending: usize,
    /// Told to move so far, by this drain or by the application, whatever became of them since.
    pub notified: usize,
    /// Left after they had been told: as a connection, or handed over.
    pub moved: usize,
    /// Those of `moved` whose stream was handed over.
    pub handed_over: usize,
    /// Gone without having been told.
    pub left_by_itself: usize,
    /// Of clients that cannot be told: they do not support migration, or no offer could be made.
    pub not_movable: usize,
    /// Given up by the drain, or by their own departure deadline.
    pub forced: usize,
    /// Still there, whatever they have been told.
    pub remaining: usize,
}

impl DrainProgress {
    /// Says how far it has come.
    pub(super) fn measure(&self) {
        let as_connections = self.moved.saturating_sub(self.handed_over);
        for (outcome, connections) in [
            ("untold", self.untold),
            ("pending", self.pending),
            ("moved", as_connections),
            ("handed_over", self.handed_over),
            ("left_by_itself", self.left_by_itself),
            ("not_movable", self.not_movable),
            ("forced", self.forced),
        ] {
            gauge!(DRAIN_CONNECTIONS, "outcome" => outcome, set number(connections));
        }
        gauge!(DRAIN_REMAINING, set number(self.remaining));
    }
}

/// What became of one connection in a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainOutcome {
    /// It is still there, and has not been told yet.
    Untold,
    /// It has been told, and is still there.
    Pending,
    /// Its stream was handed over to the target.
    HandedOver,
    /// It left after it had been told, and may have been resumed as a connection.
    Moved,
    /// It was gone before it was told.
    LeftByItself,
    /// Its client cannot be told: it does not support migration, no offer could be made, or the drain has no target. The
    /// application knows, by [`told`](super::ConnectionHandle::told).
    NotMovable,
    /// It was given up, by the drain or by its own departure deadline.
    Forced,
}

/// One connection in a drain.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DrainedConnection {
    /// The client's address, when the acceptor was told.
    pub peer: Option<SocketAddr>,
    /// What became of it.
    pub outcome: DrainOutcome,
    /// Since when it stands so.
    pub since: Instant,
    /// Whether its stream is gone.
    pub gone: bool,
}

/// How one connection stands, as far as a drain counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) status: DepartureStatus,
    /// The stream is gone.
    pub(super) gone: bool,
    /// The client has been told at some time.
    pub(super) notified: bool,
    /// The drain wants it to move.
    pub(super) wanted: bool,
    /// That has been carried out, as far as it went.
    pub(super) asked: bool,
    /// It takes so long that the drain does not wait for it any more before it tells others.
    pub(super) stalled: bool,
}

impl Standing {
    pub(super) fn outcome(self) -> DrainOutcome {
        match self.status {
            DepartureStatus::Staying if self.gone => DrainOutcome::LeftByItself,
            // The client has closed its side, so it is told nothing.
            DepartureStatus::Staying if self.asked => DrainOutcome::Pending,
            DepartureStatus::Staying => DrainOutcome::Untold,
            // An application may end its side first.
            DepartureStatus::Told if self.gone => DrainOutcome::Moved,
            DepartureStatus::Told => DrainOutcome::Pending,
            DepartureStatus::Left => DrainOutcome::Moved,
            DepartureStatus::HandedOver => DrainOutcome::HandedOver,
            DepartureStatus::NotMovable => DrainOutcome::NotMovable,
            DepartureStatus::Overdue => DrainOutcome::Forced,
        }
    }

    /// Whether its move is under way.
    fn is_moving(self) -> bool {
        let under_way = match self.status {
            DepartureStatus::Staying => !self.asked,
            DepartureStatus::Told | DepartureStatus::Left | DepartureStatus::HandedOver => true,
            DepartureStatus::NotMovable | DepartureStatus::Overdue => false,
        };
        self.wanted && !self.stalled && !self.gone && under_way
    }
}

/// The numbers of one drain, and who is to be told.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    book: Mutex<Book>,
    changed: Notify,
    /// Whether the drain waits for moves that are under way.
    paced: bool,
}

#[derive(Debug, Default)]
struct Book {
    progress: DrainProgress,
    moving: usize,
    /// Accepted since the drain has begun, and not looked at yet.
    new: VecDeque<u64>,
    gone: Vec<DrainedConnection>,
    replaced: bool,
}

impl Ledger {
    /// `paced` when the drain waits for moves that are under way before it tells others.
    pub(super) fn new(paced: bool) -> Self {
        Self {
            paced,
            ..Self::default()
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection that is there at the start.
    pub(super) fn add(&self, standing: Standing) {
        self.book().enter(standing);
    }

    /// Adds a connection that has just been accepted.
    pub(super) fn add_new(&self, id: u64) {
        let mut book = self.book();
        book.enter(Standing::default());
        book.new.push_back(id);
        drop(book);
        self.changed.notify_one();
    }

    /// A connection stands differently.
    pub(super) fn update(&self, before: Standing, after: Standing) {
        if before == after {
            return;
        }
        let mut book = self.book();
        let (untold, moving) = (book.progress.untold, book.moving);
        book.remove(before);
        book.enter(after);
        let all_told = untold > 0 && book.progress.untold == 0;
        let matters =
            all_told || book.progress.remaining == 0 || (self.paced && book.moving < moving);
        drop(book);
        if matters {
            self.changed.notify_one();
        }
    }

    /// A connection is gone.
    pub(super) fn record(&self, gone: DrainedConnection) {
        self.book().gone.push(gone);
    }

    /// Another drain has taken over.
    pub(super) fn replace(&self) {
        self.book().replaced = true;
        self.changed.notify_one();
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.book().replaced
    }

    pub(super) fn progress(&self) -> DrainProgress {
        self.book().progress
    }

    /// How many moves are under way.
    pub(super) fn moving(&self) -> usize {
        self.book().moving
    }

    /// The next connection that has been accepted since.
    pub(super) fn next_new(&self) -> Option<u64> {
        self.book().new.pop_front()
    }

    /// The connections that are gone.
    pub(super) fn gone(&self) -> Vec<DrainedConnection> {
        self.book().gone.clone()
    }

    /// Resolves when there may be something to do.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Book {
    fn enter(&mut self, standing: Standing) {
        self.reckon(standing, |count| *count = count.saturating_add(1));
    }

    fn remove(&mut self, standing: Standing) {
        self.reckon(standing, |count| *count = count.saturating_sub(1));
    }

    fn reckon(&mut self, standing: Standing, change: impl Fn(&mut usize)) {
        let progress = &mut self.progress;
        change(&mut progress.total);
        match standing.outcome() {
            DrainOutcome::Untold => change(&mut progress.untold),
            DrainOutcome::Pending => change(&mut progress.pending),
            DrainOutcome::Moved => change(&mut progress.moved),
            DrainOutcome::HandedOver => {
                change(&mut progress.moved);
                change(&mut progress.handed_over);
            }
            DrainOutcome::LeftByItself => change(&mut progress.left_by_itself),
            DrainOutcome::NotMovable => change(&mut progress.not_movable),
            DrainOutcome::Forced => change(&mut progress.forced),
        }
        if standing.notified {
            change(&mut progress.notified);
        }
        if !standing.gone {
            change(&mut progress.remaining);
        }
        if standing.is_moving() {
            change(&mut self.moving);
        }
    }
}
