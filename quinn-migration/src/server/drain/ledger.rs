//! What a drain knows of its connections. Whatever becomes of one, it is taken out of the numbers as it stood and added as it
//! stands, so the work does not grow with the number of the others.
//!
//! Whether and when a connection is told is decided elsewhere.

use std::collections::HashMap;
use std::time::Instant;

use super::super::AttachmentId;
use super::super::advertise::MoveEnd;

/// How far a drain has come, in connections.
///
/// Each connection is in one of `untold`, `pending`, `moved`, `declined`, `left_by_itself`, `not_movable` and `forced`, so
/// these seven make up `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainProgress {
    /// Seen so far: there at the start, or come since.
    pub total: usize,
    /// Still there, and not told yet: their turn has not come, or the advertisement is on its way.
    pub untold: usize,
    /// Told, and neither moved nor refused yet.
    pub pending: usize,
    /// Told to move so far, whatever became of them since.
    pub notified: usize,
    /// Moved after they had been told.
    pub moved: usize,
    /// Did not follow: the client's policy refused, the address did not answer, or it took too long.
    pub declined: usize,
    /// Gone without having been moved: ended, or on another address for another reason.
    pub left_by_itself: usize,
    /// Of clients that cannot be told: they did not offer to be moved, or there is no connection ID for it.
    pub not_movable: usize,
    /// Given up by the drain at its deadline.
    pub forced: usize,
    /// Still there, whatever they have been told.
    pub remaining: usize,
}

/// What became of one connection in a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainOutcome {
    /// It has not been told yet.
    Untold,
    /// It has been told, and has neither moved nor refused yet.
    Pending,
    /// It moved after it had been told.
    Moved,
    /// It did not follow: the client's policy refused, the address did not answer, or it took too long.
    Declined,
    /// It is gone without having been moved: ended, or on another address for another reason.
    LeftByItself,
    /// Its client cannot be told: it did not offer to be moved, or there is no connection ID for it.
    NotMovable,
    /// It was given up by the drain at its deadline.
    Forced,
}

/// One connection in a drain.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DrainedConnection {
    /// Its number.
    pub connection: AttachmentId,
    /// What became of it.
    pub outcome: DrainOutcome,
    /// Since when it stands so.
    pub since: Instant,
    /// Whether it is off the address.
    pub gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    outcome: DrainOutcome,
    notified: bool,
    gone: bool,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    progress: DrainProgress,
    connections: HashMap<AttachmentId, (Standing, Instant)>,
}

impl Ledger {
    pub(super) fn progress(&self) -> DrainProgress {
        self.progress
    }

    pub(super) fn connections(&self) -> Vec<DrainedConnection> {
        let all = self.connections.iter();
        all.map(|(connection, (standing, since))| DrainedConnection {
            connection: *connection,
            outcome: standing.outcome,
            since: *since,
            gone: standing.gone,
        })
        .collect()
    }

    /// A connection is on the address. Answers whether it is to be told: not while it is being told already.
    pub(super) fn on_came(&mut self, id: AttachmentId, now: Instant) -> bool {
        let fresh = Standing {
            outcome: DrainOutcome::Untold,
            notified: false,
            gone: false,
        };
        let Some((before, _)) = self.connections.get(&id) else {
            self.progress.reckon(fresh, |count| *count += 1);
            self.connections.insert(id, (fresh, now));
            return true;
        };
        let again = before.gone
            && matches!(
                before.outcome,
                DrainOutcome::Moved | DrainOutcome::LeftByItself
            );
        let notified = before.notified;
        self.change(id, now, |standing| {
            standing.gone = false;
            if again {
                *standing = Standing { notified, ..fresh };
            }
        });
        again
    }

    /// A connection is off the address, or has ended.
    pub(super) fn on_left(&mut self, id: AttachmentId, now: Instant) {
        self.change(id, now, |standing| {
            standing.gone = true;
            if standing.outcome == DrainOutcome::Untold {
                standing.outcome = DrainOutcome::LeftByItself;
            }
        });
    }

    /// Whether its turn is still to come.
    pub(super) fn is_untold(&self, id: AttachmentId) -> bool {
        let of = self.connections.get(&id);
        of.is_some_and(|(standing, _)| standing.outcome == DrainOutcome::Untold)
    }

    pub(super) fn on_told(&mut self, id: AttachmentId, now: Instant) {
        self.change(id, now, |standing| {
            standing.notified = true;
            standing.outcome = DrainOutcome::Pending;
        });
    }

    pub(super) fn on_end(&mut self, id: AttachmentId, end: MoveEnd, now: Instant) {
        self.change(id, now, |standing| {
            standing.outcome = match end {
                MoveEnd::Moved => DrainOutcome::Moved,
                MoveEnd::Gone => DrainOutcome::LeftByItself,
                MoveEnd::Declined | MoveEnd::NotMovable if standing.gone => {
                    DrainOutcome::LeftByItself
                }
                MoveEnd::Declined => DrainOutcome::Declined,
                MoveEnd::NotMovable => DrainOutcome::NotMovable,
            };
        });
    }

    /// The drain gives up those that are on their way.
    pub(super) fn force_rest(&mut self, now: Instant) {
        let open = |standing: &Standing| {
            !standing.gone
                && matches!(
                    standing.outcome,
                    DrainOutcome::Untold | DrainOutcome::Pending
                )
        };
        let all = self.connections.iter();
        let rest: Vec<_> = all
            .filter(|(_, (standing, _))| open(standing))
            .map(|(id, _)| *id)
            .collect();
        for id in rest {
            self.change(id, now, |standing| standing.outcome = DrainOutcome::Forced);
        }
    }

    fn change(&mut self, id: AttachmentId, now: Instant, change: impl FnOnce(&mut Standing)) {
        let Some((standing, since)) = self.connections.get_mut(&id) else {
            return;
        };
        let before = *standing;
        change(standing);
        let after = *standing;
        if before != after {
            *since = now;
            self.progress
                .reckon(before, |count| *count = count.saturating_sub(1));
            self.progress.reckon(after, |count| *count += 1);
        }
    }
}

impl DrainProgress {
    fn reckon(&mut self, standing: Standing, change: impl Fn(&mut usize)) {
        change(&mut self.total);
        change(match standing.outcome {
            DrainOutcome::Untold => &mut self.untold,
            DrainOutcome::Pending => &mut self.pending,
            DrainOutcome::Moved => &mut self.moved,
            DrainOutcome::Declined => &mut self.declined,
            DrainOutcome::LeftByItself => &mut self.left_by_itself,
            DrainOutcome::NotMovable => &mut self.not_movable,
            DrainOutcome::Forced => &mut self.forced,
        });
        if standing.notified {
            change(&mut self.notified);
        }
        if !standing.gone {
            change(&mut self.remaining);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(progress: DrainProgress) -> usize {
        let DrainProgress {
            untold,
            pending,
            moved,
            declined,
            left_by_itself,
            not_movable,
            forced,
            ..
        } = progress;
        untold + pending + moved + declined + left_by_itself + not_movable + forced
    }

    #[test]
    fn each_connection_is_counted_once_whatever_becomes_of_it() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        let ids: Vec<_> = (0..6).map(AttachmentId::numbered).collect();
        for id in &ids {
            assert!(ledger.on_came(*id, now));
        }
        // In the order of the two reports about one move, either way.
        ledger.on_told(ids[0], now);
        ledger.on_left(ids[0], now);
        ledger.on_end(ids[0], MoveEnd::Moved, now);
        ledger.on_told(ids[1], now);
        ledger.on_end(ids[1], MoveEnd::Moved, now);
        ledger.on_left(ids[1], now);
        ledger.on_end(ids[2], MoveEnd::NotMovable, now);
        ledger.on_left(ids[3], now);
        ledger.on_told(ids[4], now);
        ledger.on_end(ids[4], MoveEnd::Declined, now);
        let progress = ledger.progress();
        assert_eq!((progress.total, sum(progress)), (6, 6));
        assert_eq!(
            (progress.moved, progress.notified, progress.remaining),
            (2, 3, 3)
        );
        assert_eq!((progress.declined, progress.not_movable), (1, 1));
        assert_eq!((progress.left_by_itself, progress.untold), (1, 1));
        ledger.force_rest(now);
        assert_eq!(
            (ledger.progress().forced, ledger.progress().remaining),
            (1, 3)
        );
    }

    #[test]
    fn a_connection_that_comes_back_is_told_again() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        let id = AttachmentId::numbered(1);
        assert!(ledger.on_came(id, now));
        ledger.on_told(id, now);
        ledger.on_end(id, MoveEnd::Moved, now);
        ledger.on_left(id, now);
        assert!(ledger.on_came(id, now) && ledger.is_untold(id));
        let progress = ledger.progress();
        assert_eq!(
            (progress.total, progress.untold, progress.remaining),
            (1, 1, 1)
        );
        assert_eq!(sum(progress), 1);
    }
}
