//! What can be said to a connection, and asked of it, from outside of its stream: by its handles (`connection_handle.rs`), and by a
//! drain.
//!
//! Its lock is held for moments only, and never while the user's code runs.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tracing::Span;
use tracing::field::{Empty, display};
use zeroize::Zeroizing;

use super::ledger::{DrainedConnection, Ledger, Standing};
use super::registry::Registry;
use crate::measure::count;
use crate::server::{Arrival, MAX_STATE_LEN, OfferError, Positions};
use crate::trace::{self, CONNECTION};
use crate::{Lineage, MoveKind};

/// How a connection's departure stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DepartureStatus {
    /// Nobody has asked the client to move.
    #[default]
    Staying,
    /// The client has been told to move, and has not closed its side. The application finishes what it does, or reads to
    /// the client's end if it has [consented](super::ConnectionHandle::set_state).
    Told,
    /// The client should move and cannot be told: it does not support migration, no offer could be made, or there is nowhere to
    /// move to. The application finishes what it does.
    NotMovable,
    /// The client has closed its side after it was told.
    Left,
    /// The client has closed its side, and got the stream's last state for the target.
    HandedOver,
    /// The client did not leave in time. The application's calls fail.
    Overdue,
}

impl DepartureStatus {
    /// What logs and metrics call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Staying => "staying",
            Self::Told => "told",
            Self::NotMovable => "not_movable",
            Self::Left => "left",
            Self::HandedOver => "handed_over",
            Self::Overdue => "overdue",
        }
    }
}

/// The state that a stream can go on from at a target.
pub(super) type StreamState = Zeroizing<Vec<u8>>;

/// What somebody outside of a stream wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Tell the client to move there.
    MoveTo {
        /// Where to.
        target: SocketAddr,
        /// Whether who says it sees to the deadline too.
        governed: bool,
    },
    /// There is nowhere to move to: let the application finish.
    Finish,
    /// Give the client up if it has not left.
    CloseOverdue,
}

/// A stream's duties, for when nobody polls it.
pub(super) trait Keep: Send + Sync {
    /// Goes on with them. Ready when there is nothing left to see to.
    fn poll_keep(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether there is nothing to see to.
    fn is_at_rest(&self) -> bool;

    /// Wakes whoever drives the stream.
    fn wake(&self);
}

/// One connection, as others see it.
pub(super) struct Control {
    peer: Option<SocketAddr>,
    span: Span,
    state: Mutex<State>,
    /// The status has changed, or the stream is gone.
    changed: Notify,
    /// What was there when the stream began.
    stream: OnceLock<Begun>,
    /// Which stream it is, once that is known.
    lineage: OnceLock<Lineage>,
    /// Whether the keeper runs.
    keeping: AtomicBool,
    /// Whether a command waits: what every poll asks, without the lock.
    commanded: AtomicBool,
    /// Whether a checkpoint is wanted, as above.
    checkpoint_wanted: AtomicBool,
    /// Where it is counted.
    registry: Arc<Registry>,
}

/// A stream that has begun.
struct Begun {
    arrival: Arrival,
    keep: Weak<dyn Keep>,
    /// Where its keeper runs, whoever calls for it.
    runtime: Handle,
}

/// A checkpoint that somebody outside wants.
pub(super) struct WantedCheckpoint {
    pub(super) target: SocketAddr,
    pub(super) positions: Positions,
    pub(super) state: StreamState,
    /// What came of it.
    pub(super) made: oneshot::Sender<io::Result<()>>,
}

struct State {
    command: Option<Command>,
    /// Those that have not been made, the oldest first.
    checkpoints: VecDeque<WantedCheckpoint>,
    consent: Option<StreamState>,
    standing: Standing,
    /// Since when it has this status.
    since: Instant,
    /// What the client was told to move.
    told: Option<MoveKind>,
}

impl Control {
    pub(super) fn new(peer: Option<SocketAddr>, registry: Arc<Registry>) -> Self {
        Self {
            peer,
            span: tracing::debug_span!(
                target: CONNECTION,
                "connection",
                peer = peer.map(display),
                id = Empty,
                epoch = Empty,
                from = Empty,
            ),
            state: Mutex::new(State {
                command: None,
                checkpoints: VecDeque::new(),
                consent: None,
                standing: Standing::default(),
                since: Instant::now(),
                told: None,
            }),
            changed: Notify::new(),
            stream: OnceLock::new(),
            lineage: OnceLock::new(),
            keeping: AtomicBool::new(false),
            commanded: AtomicBool::new(false),
            checkpoint_wanted: AtomicBool::new(false),
            registry,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What traces tell of this connection.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// The stream is there, on a runtime of tokio.
    pub(super) fn begin(&self, arrival: Arrival, keep: Weak<dyn Keep>) {
        let runtime = Handle::current();
        // A connection begins once.
        let _ = self.stream.set(Begun {
            arrival,
            keep,
            runtime,
        });
    }

    pub(super) fn arrival(&self) -> Option<&Arrival> {
        self.stream.get().map(|stream| &stream.arrival)
    }

    /// Which stream it is turns out, once.
    pub(super) fn set_lineage(&self, lineage: Option<Lineage>) {
        if let Some(lineage) = lineage
            && self.lineage.set(lineage).is_ok()
        {
            trace::is_of(&self.span, lineage);
        }
    }

    pub(super) fn lineage(&self) -> Option<Lineage> {
        self.lineage.get().copied()
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// What the client was told to move.
    pub(super) fn told(&self) -> Option<MoveKind> {
        self.state().told
    }

    /// Gives a command, which replaces an older one that was not carried out. A stream whose handshake is not complete
    /// carries it out later.
    pub(super) fn command(self: &Arc<Self>, command: Command) {
        {
            let mut state = self.state();
            // Who is to be closed is told nothing else.
            if state.command != Some(Command::CloseOverdue) {
                state.command = Some(command);
            }
            self.commanded.store(true, Ordering::SeqCst);
        }
        self.changed.notify_waiters();
        self.keep();
    }

    /// Wants a checkpoint. A stream whose handshake is not complete makes it later, and one that is gone never.
    pub(super) fn want_checkpoint(self: &Arc<Self>, wanted: WantedCheckpoint) {
        {
            let mut state = self.state();
            if state.standing.gone {
                return;
            }
            state.checkpoints.push_back(wanted);
            self.checkpoint_wanted.store(true, Ordering::SeqCst);
        }
        self.keep();
    }

    pub(super) fn has_checkpoint(&self) -> bool {
        self.checkpoint_wanted.load(Ordering::SeqCst)
    }

    /// Takes the oldest checkpoint that is wanted.
    pub(super) fn take_checkpoint(&self) -> Option<WantedCheckpoint> {
        if !self.has_checkpoint() {
            return None;
        }
        let mut state = self.state();
        let wanted = state.checkpoints.pop_front();
        let more = !state.checkpoints.is_empty();
        self.checkpoint_wanted.store(more, Ordering::SeqCst);
        wanted
    }

    /// What became of a former checkpoint.
    pub(super) fn tell_superseded(&self, outcome: &'static str) {
        tracing::debug!(target: CONNECTION, parent: &self.span, outcome, "a checkpoint is superseded");
    }

    /// Takes the command that waits. A connection whose handshake is under way can only be closed, and so can one whose
    /// application has not taken it up.
    pub(super) fn take_command(&self, only_close: bool) -> Option<Command> {
        if !self.has_command() {
            return None;
        }
        let mut state = self.state();
        let taken = state
            .command
            .take_if(|command| !only_close || *command == Command::CloseOverdue);
        self.commanded
            .store(state.command.is_some(), Ordering::SeqCst);
        taken
    }

    /// Resolves when the connection is to be closed. Only for one whose stream has not begun.
    pub(super) async fn close_ordered(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.has_command() && self.take_command(true).is_some() {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn has_command(&self) -> bool {
        self.commanded.load(Ordering::SeqCst)
    }

    /// The state that the application has consented to go on from elsewhere.
    pub(super) fn consent(&self) -> Option<StreamState> {
        self.state().consent.clone()
    }

    pub(super) fn set_consent(&self, state: Option<&[u8]>) -> Result<(), OfferError> {
        if let Some(len) = state.map(<[u8]>::len).filter(|len| *len > MAX_STATE_LEN) {
            return Err(OfferError::StateTooLong { len });
        }
        self.state().consent = state.map(|state| Zeroizing::new(state.to_vec()));
        Ok(())
    }

    pub(super) fn withdraw_consent(&self) {
        self.state().consent = None;
    }

    /// How the departure stands, and whether the stream is gone.
    pub(super) fn status(&self) -> (DepartureStatus, bool) {
        let standing = self.state().standing;
        (standing.status, standing.gone)
    }

    /// The one place where what others count of this connection changes.
    fn stand(&self, drain: Option<&Arc<Ledger>>, change: impl FnOnce(&mut Standing)) -> bool {
        let mut state = self.state();
        let before = state.standing;
        change(&mut state.standing);
        let after = state.standing;
        if before.outcome() != after.outcome() {
            state.since = Instant::now();
        }
        // Still locked, so that changes are counted in their order.
        if let Some(drain) = drain {
            drain.update(before, after);
        }
        before != after
    }

    pub(super) fn set_status(&self, status: DepartureStatus) {
        let live = self.registry.live();
        let changed = self.stand(live.drain(), |standing| {
            standing.status = status;
            standing.notified |= match status {
                DepartureStatus::Told | DepartureStatus::Left | DepartureStatus::HandedOver => true,
                DepartureStatus::Staying
                | DepartureStatus::NotMovable
                | DepartureStatus::Overdue => false,
            };
        });
        drop(live);
        if changed {
            let departure = status.name();
            tracing::debug!(target: CONNECTION, parent: &self.span, departure, "on its way");
            self.changed.notify_waiters();
        }
    }

    /// The client is being told to move.
    pub(super) fn set_told(&self, kind: MoveKind, target: Option<SocketAddr>) {
        let before = self.state().told.replace(kind);
        if before.is_none() {
            count!(NOTICES, "kind" => kind.name());
        }
        let (kind, target) = (kind.name(), target.map(display));
        tracing::debug!(target: CONNECTION, parent: &self.span, kind, to = target, "told to move");
    }

    /// The client should move and cannot be told, for this reason.
    pub(super) fn set_not_told(&self, reason: &'static str) {
        count!(NOT_MOVABLE, "reason" => reason);
        tracing::debug!(target: CONNECTION, parent: &self.span, reason, "cannot be told to move");
    }

    /// A drain begins, which has asked nothing of this connection yet. For the registry, which holds its lock.
    pub(super) fn enter_drain(&self) -> Standing {
        let mut state = self.state();
        state.standing.wanted = false;
        state.standing.asked = false;
        state.standing.stalled = false;
        state.standing
    }

    /// The drain wants the client to move.
    pub(super) fn want(&self) {
        let live = self.registry.live();
        self.stand(live.drain(), |standing| standing.wanted = true);
    }

    /// What was wanted has been carried out, as far as it went.
    pub(super) fn set_asked(&self) {
        let live = self.registry.live();
        self.stand(live.drain(), |standing| standing.asked = true);
    }

    /// The drain does not wait for it any more before it tells others.
    pub(super) fn set_stalled(&self) {
        let live = self.registry.live();
        self.stand(live.drain(), |standing| standing.stalled = true);
    }

    /// The stream is gone. For the registry, which holds its lock.
    pub(super) fn leave(&self, drain: Option<&Arc<Ledger>>) {
        self.stand(drain, |standing| standing.gone = true);
        if let Some(drain) = drain {
            drain.record(self.drained());
        }
    }

    /// How it stands in a drain.
    pub(super) fn drained(&self) -> DrainedConnection {
        let state = self.state();
        DrainedConnection {
            peer: self.peer,
            outcome: state.standing.outcome(),
            since: state.since,
            gone: state.standing.gone,
        }
    }

    /// Tells everybody that the stream is gone.
    pub(super) fn ended(&self) {
        // Whoever waits for one learns that there will be none, when the lock is free.
        let unmade = std::mem::take(&mut self.state().checkpoints);
        drop(unmade);
        if let Some(stream) = self.stream.get().and_then(|stream| stream.keep.upgrade()) {
            stream.wake();
        }
        self.changed.notify_waiters();
    }

    /// Resolves when `done` says so of the status and of whether the stream is gone.
    pub(super) async fn wait_for(
        &self,
        done: impl Fn(DepartureStatus, bool) -> bool + Send,
    ) -> DepartureStatus {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let (status, ended) = self.status();
            if done(status, ended) {
                return status;
            }
            changed.await;
        }
    }

    /// Has the stream's duties done although nobody may poll it.
    fn keep(self: &Arc<Self>) {
        if let Some(keep) = self.stream.get().and_then(|stream| stream.keep.upgrade()) {
            keep.wake();
        }
        self.ensure_kept();
    }

    /// Starts the keeper unless it runs, or there is no stream yet.
    pub(super) fn ensure_kept(self: &Arc<Self>) {
        if let Some(stream) = self.stream.get()
            && !self.keeping.swap(true, Ordering::SeqCst)
        {
            let (control, keep) = (Arc::clone(self), Weak::clone(&stream.keep));
            stream
                .runtime
                .spawn(async move { control.run_keeper(keep).await });
        }
    }

    async fn run_keeper(&self, keep: Weak<dyn Keep>) {
        loop {
            // The stream is held for each poll alone, so that dropping it closes the transport.
            poll_fn(|cx| match keep.upgrade() {
                Some(stream) => stream.poll_keep(cx),
                None => Poll::Ready(()),
            })
            .await;
            self.keeping.store(false, Ordering::SeqCst);
            // Somebody may have found the keeper running when it was about to end. They say what they want before they look
            // for the keeper, and it looks for that afterwards; all of it is in one order.
            let ends = keep.upgrade().is_none_or(|stream| {
                stream.is_at_rest() && !self.has_command() && !self.has_checkpoint()
            });
            if ends || self.keeping.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, ended) = self.status();
        f.debug_struct("Control")
            .field("peer", &self.peer)
            .field("status", &status)
            .field("ended", &ended)
            .finish_non_exhaustive()
    }
}
