//! What a client's stream tells its application about migration.
//!
//! Events inform. Nothing waits for them to be read.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;

use super::error::{ConnectError, MigrateError};
use super::outcome::{MigrationOutcome, RecoveryOutcome};
use crate::MoveKind;
use crate::client::InvalidOfferError;
use crate::measure::count;

/// Something that happened to a [`MigrationStream`](super::MigrationStream).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The server made an offer, which replaces an older one.
    Offered {
        /// Where the offer leads.
        target: SocketAddr,
        /// What would go on there.
        kind: MoveKind,
    },
    /// The server marked a ticket, in draft -03: the session may be resumed elsewhere. It replaces an older one, and becomes an
    /// offer when the target is known that the server asks for.
    Marked {
        /// What would go on there.
        kind: MoveKind,
    },
    /// The server sent what is no offer, or asks for a target that cannot be resolved. The connection goes on.
    OfferRefused(InvalidOfferError),
    /// The server asks the client to move now. In draft -03 this comes when the target has been resolved, or could not be.
    Notified {
        /// What is to move: the stream, which follows by itself unless its mode is [`HandOff::Manual`](super::HandOff::Manual),
        /// or the client's next connection ([`StreamHandle::successor`](super::StreamHandle::successor)), while this one is
        /// finished.
        kind: MoveKind,
    },
    /// The target could not be reached, of a hand-off or of a recovery that is [dialled
    /// ahead](super::MigrationConnector::dial_recovery_ahead). The old server serves, and the target is dialled again.
    TargetUnreachable {
        /// The target's address.
        target: SocketAddr,
        /// Why it could not be reached.
        why: Arc<ConnectError>,
        /// After how long it is dialled again.
        retry_in: Duration,
    },
    /// The target is resumed beside the old server: [`MigrationStream::switch`](super::MigrationStream::switch) goes over
    /// to it ([`HandOff::Overlap`](super::HandOff::Overlap)).
    Ready {
        /// The target's address.
        target: SocketAddr,
    },
    /// The stream does not follow an offer, although it was asked to.
    Refused {
        /// Where the offer leads.
        target: SocketAddr,
        /// Why it is not followed.
        why: Arc<MigrateError>,
    },
    /// The target failed while the old server was still there, so the stream stays with it.
    Stayed {
        /// The target's address.
        target: SocketAddr,
        /// Why it failed.
        why: Arc<ConnectError>,
    },
    /// The server has made a checkpoint: if it dies, the stream goes on elsewhere from there.
    Checkpoint {
        /// Where it would go on; `None` in draft -03, where that is resolved only then.
        target: Option<SocketAddr>,
        /// Whether the stream can recover by it. It cannot by a first one that does not account for all that was written by then: what
        /// was written before it was not kept.
        usable: bool,
    },
    /// What was written since the newest checkpoint fills the
    /// [window](super::MigrationConnector::recovery_window).
    RecoveryWindowFull {
        /// Whether writes wait for the next checkpoint. If not, the stream cannot recover until then.
        waits: bool,
    },
    /// The server is lost, and the stream is about to go on from its newest checkpoint.
    Recovering {
        /// How it was lost.
        lost: Arc<io::Error>,
    },
    /// The stream goes on at another server, since the last one was lost.
    Recovered(RecoveryOutcome),
    /// The stream has moved, or has fallen back.
    Migrated(MigrationOutcome),
}

impl Event {
    /// Counts what has happened.
    fn measure(&self) {
        match self {
            Self::Offered { .. } => count!(CLIENT_OFFERS, "outcome" => "accepted"),
            Self::OfferRefused(why) => count!(CLIENT_OFFERS, "outcome" => why.name()),
            Self::Notified { kind } => count!(CLIENT_NOTICES, "kind" => kind.name()),
            Self::TargetUnreachable { .. } => count!(CLIENT_UNREACHABLE_TARGETS),
            // It counts when it leads somewhere.
            Self::Marked { .. } | Self::Ready { .. } => {}
            Self::Checkpoint { usable, .. } => {
                let outcome = if *usable { "usable" } else { "not_usable" };
                count!(CLIENT_CHECKPOINTS, "outcome" => outcome);
            }
            // It counts when it is over.
            Self::RecoveryWindowFull { .. } | Self::Recovering { .. } => {}
            Self::Recovered(_) => count!(CLIENT_RECOVERIES, "outcome" => "recovered"),
            Self::Refused { why, .. } => count!(CLIENT_MOVES, "outcome" => why.name()),
            Self::Stayed { .. } => count!(CLIENT_MOVES, "outcome" => "stayed"),
            Self::Migrated(outcome) => count!(CLIENT_MOVES, "outcome" => outcome.name()),
        }
    }
}

/// The events of one stream, from the moment of [`MigrationStream::events`](super::MigrationStream::events) on.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

/// How many events wait to be read; past that the oldest are forgotten.
const CAPACITY: usize = 64;

impl Events {
    /// The next event; `None` when the stream is gone. Safe to cancel.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// The next event that has already happened.
    pub fn try_next(&mut self) -> Option<Event> {
        loop {
            match self.0.try_recv() {
                Ok(event) => return Some(event),
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Where a stream's events come from. It costs nothing before somebody listens, and ends with its stream.
#[derive(Debug, Default)]
pub(super) struct EventSource(Mutex<Source>);

#[derive(Debug, Default)]
enum Source {
    #[default]
    Unheard,
    Heard(broadcast::Sender<Event>),
    Ended,
}

impl EventSource {
    fn source(&self) -> MutexGuard<'_, Source> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribe(&self) -> Events {
        let mut source = self.source();
        Events(match &*source {
            Source::Heard(sender) => sender.subscribe(),
            Source::Ended => broadcast::channel(1).1,
            Source::Unheard => {
                let (sender, events) = broadcast::channel(CAPACITY);
                *source = Source::Heard(sender);
                events
            }
        })
    }

    pub(super) fn send(&self, event: Event) {
        event.measure();
        // Sending wakes whoever listens, and that is not our code: the lock is not held then.
        let sender = match &*self.source() {
            Source::Heard(sender) => Some(sender.clone()),
            Source::Unheard | Source::Ended => None,
        };
        if let Some(sender) = sender {
            // Nobody need be listening.
            let _ = sender.send(event);
        }
    }

    /// The stream is gone.
    pub(super) fn end(&self) {
        let former = std::mem::replace(&mut *self.source(), Source::Ended);
        // This wakes whoever listens, too.
        drop(former);
    }
}
