//! What became of arrivals, as numbers and as `tracing` events (`docs/protocol.md` section 7).
//!
//! Nothing here names a token, nonce, session, key or ticket.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use migration_token::{CommitOutcome, StoreError};

use super::{Arrival, Verdict};
use crate::measure::count;

/// The target of arrivals' events. [`Stats`] documents them.
const ARRIVAL: &str = "rustls_migration::arrival";

/// What became of arrivals at a [`MigrationServer`](super::MigrationServer) since it was built: a snapshot, whose numbers
/// are read one after the other.
///
/// Each arrival is also a `tracing` event with the target `rustls_migration::arrival`, at level DEBUG, with the fields
/// `verdict` (`Fresh`, `Migrated`, `Recovered`, `BadBinder` or the name of a [`Verdict`]) and, if the acceptor
/// was told, `peer`. `EarlyData` is a second one, for the first early data of a client that migrated, and `TimedOut` one for a
/// handshake that took too long, perhaps after another for its hello. A commit that was not won is an event at level WARN with that target. No event of this crate has a
/// token, nonce, session, key, ticket or application state in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats(Tally<u64>);

/// The counters that a [`Stats`] is a snapshot of.
#[derive(Debug, Default)]
pub(super) struct Counters(Tally<AtomicU64>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally<T> {
    fresh: T,
    resumed: T,
    resumed_with_early_data: T,
    migrated: T,
    migrated_with_early_data: T,
    declined: [T; Verdict::ALL.len()],
    bad_binders: T,
    committed: T,
    commits_lost: T,
    commits_failed: T,
    offers: T,
    checkpoints: T,
    recovered: T,
    handshakes_timed_out: T,
    silent: T,
}

impl Stats {
    /// Arrivals without a token whose hello was answered.
    pub fn fresh(&self) -> u64 {
        self.0.fresh
    }

    /// Ordinary resumptions, without a token, whose handshake was completed.
    pub fn resumed(&self) -> u64 {
        self.0.resumed
    }

    /// Those of [`resumed`](Self::resumed) whose early data was accepted. A client may announce early data and send none.
    pub fn resumed_with_early_data(&self) -> u64 {
        self.0.resumed_with_early_data
    }

    /// Arrivals whose token was accepted and whose session was resumed, with early data or without. Copies of a hello
    /// are among them until the nonce is committed, so [`committed`](Self::committed) tells how many clients came.
    pub fn migrated(&self) -> u64 {
        self.0.migrated
    }

    /// Those of [`migrated`](Self::migrated) that sent early data, which was accepted. A client may announce early data
    /// and send none.
    pub fn migrated_with_early_data(&self) -> u64 {
        self.0.migrated_with_early_data
    }

    /// Arrivals whose token was refused for this reason, and whose hello was answered all the same.
    pub fn declined(&self, verdict: Verdict) -> u64 {
        let count = self.0.declined.get(verdict.index());
        count.copied().unwrap_or_default()
    }

    /// Handshakes that were aborted because the client did not have the pre-shared key of its token's session.
    pub fn bad_binders(&self) -> u64 {
        self.0.bad_binders
    }

    /// Tokens that were spent here.
    pub fn committed(&self) -> u64 {
        self.0.committed
    }

    /// Connections that were closed because another one had spent their token.
    pub fn commits_lost(&self) -> u64 {
        self.0.commits_lost
    }

    /// Connections that were closed because the nonce store failed, or did not answer in time, when their token was to be
    /// spent.
    pub fn commits_failed(&self) -> u64 {
        self.0.commits_failed
    }

    /// Offers that were made to clients, at the handshake or later. Each is a sealed ticket with a token.
    pub fn offers(&self) -> u64 {
        self.0.offers
    }

    /// Checkpoints that were made. They are no [`offers`](Self::offers).
    pub fn checkpoints(&self) -> u64 {
        self.0.checkpoints
    }

    /// Arrivals that took up a checkpoint since their server had died. They are not among [`migrated`](Self::migrated), and as for
    /// those, [`committed`](Self::committed) tells how many came.
    pub fn recovered(&self) -> u64 {
        self.0.recovered
    }

    /// Connections that were dropped because their handshake took too long, whether or not their hello had been answered:
    /// see [`handshake_timeout`](super::MigrationServerBuilder::handshake_timeout).
    pub fn handshakes_timed_out(&self) -> u64 {
        self.0.handshakes_timed_out
    }

    /// Connections that were dropped because their client said nothing: see
    /// [`hello_timeout`](super::MigrationServerBuilder::hello_timeout). They are no arrivals, and have no event.
    pub fn silent(&self) -> u64 {
        self.0.silent
    }
}

impl Counters {
    pub(super) fn snapshot(&self) -> Stats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Tally {
            fresh,
            resumed,
            resumed_with_early_data,
            migrated,
            migrated_with_early_data,
            declined,
            bad_binders,
            committed,
            commits_lost,
            commits_failed,
            offers,
            checkpoints,
            recovered,
            handshakes_timed_out,
            silent,
        } = &self.0;
        Stats(Tally {
            fresh: load(fresh),
            resumed: load(resumed),
            resumed_with_early_data: load(resumed_with_early_data),
            migrated: load(migrated),
            migrated_with_early_data: load(migrated_with_early_data),
            declined: declined.each_ref().map(load),
            bad_binders: load(bad_binders),
            committed: load(committed),
            commits_lost: load(commits_lost),
            commits_failed: load(commits_failed),
            offers: load(offers),
            checkpoints: load(checkpoints),
            recovered: load(recovered),
            handshakes_timed_out: load(handshakes_timed_out),
            silent: load(silent),
        })
    }

    /// A hello has been answered.
    pub(super) fn arrived(&self, arrival: &Arrival, peer: Option<SocketAddr>) {
        match arrival {
            Arrival::Fresh => {
                add_one(&self.0.fresh);
                tell_arrival("Fresh", peer);
            }
            Arrival::Migrated { .. } => {
                add_one(&self.0.migrated);
                tell_arrival("Migrated", peer);
            }
            Arrival::Recovered { .. } => {
                add_one(&self.0.recovered);
                tell_arrival("Recovered", peer);
            }
            Arrival::Declined(verdict) => {
                self.0.declined.get(verdict.index()).map(add_one);
                tell_arrival(verdict.name(), peer);
            }
        }
    }

    /// A client has resumed an ordinary session.
    pub(super) fn resumed(&self, early_data: bool) {
        add_one(&self.0.resumed);
        if early_data {
            add_one(&self.0.resumed_with_early_data);
        }
        let early_data = if early_data { "accepted" } else { "none" };
        count!(RESUMPTIONS, "early_data" => early_data);
    }

    /// The first early data of a client that migrated has come.
    pub(super) fn early_data(&self, peer: Option<SocketAddr>) {
        add_one(&self.0.migrated_with_early_data);
        count!(EARLY_DATA);
        tell("EarlyData", peer);
    }

    /// A handshake was aborted.
    pub(super) fn bad_binder(&self, peer: Option<SocketAddr>) {
        add_one(&self.0.bad_binders);
        tell_arrival("BadBinder", peer);
    }

    /// The nonce store was asked to spend a token, and has answered or not.
    pub(super) fn commit(
        &self,
        answer: &Option<Result<CommitOutcome, StoreError>>,
        peer: Option<SocketAddr>,
    ) {
        let (outcome, counter) = match answer {
            Some(Ok(CommitOutcome::Won)) => ("won", &self.0.committed),
            Some(Ok(CommitOutcome::Lost)) => ("lost", &self.0.commits_lost),
            Some(Err(_)) | None => ("failed", &self.0.commits_failed),
        };
        add_one(counter);
        count!(COMMITS, "outcome" => outcome);
        if outcome == "won" {
            return;
        }
        let peer = peer.map(tracing::field::display);
        tracing::warn!(target: ARRIVAL, ?answer, peer, "the token could not be committed; closing");
    }

    /// A handshake took too long.
    #[cfg(feature = "tokio")]
    pub(super) fn timed_out(&self, peer: Option<SocketAddr>) {
        add_one(&self.0.handshakes_timed_out);
        count!(HANDSHAKES_TIMED_OUT);
        tell("TimedOut", peer);
    }

    /// A client said nothing.
    #[cfg(feature = "tokio")]
    pub(super) fn silent(&self) {
        add_one(&self.0.silent);
        count!(SILENT_CONNECTIONS);
    }

    /// A checkpoint was made.
    pub(super) fn checkpoint(&self) {
        add_one(&self.0.checkpoints);
        count!(CHECKPOINTS);
    }

    /// An offer was made.
    pub(super) fn offer(&self) {
        add_one(&self.0.offers);
        count!(OFFERS);
    }
}

fn add_one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// What became of a hello, of which one thing does.
fn tell_arrival(verdict: &'static str, peer: Option<SocketAddr>) {
    count!(ARRIVALS, "verdict" => verdict);
    tell(verdict, peer);
}

fn tell(verdict: &str, peer: Option<SocketAddr>) {
    let peer = peer.map(tracing::field::display);
    tracing::debug!(target: ARRIVAL, verdict, peer, "arrived");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_has_a_counter_of_its_own() {
        for (index, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict.index(), index);
            assert_eq!(verdict.name(), format!("{verdict:?}"));
            let counters = Counters::default();
            counters.arrived(&Arrival::Declined(verdict), None);
            let counts = counters.snapshot();
            for other in Verdict::ALL {
                assert_eq!(counts.declined(other), u64::from(other == verdict));
            }
        }
    }
}
