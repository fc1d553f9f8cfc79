//! What can be said to a connection, and asked of it, from outside of its stream: by whoever runs a stream that a
//! framework owns, and by a drain.
//!
//! Its lock is held for moments only, and never while the user's code runs.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::ledger::{DrainedConnection, Ledger, Standing};
use super::registry::Registry;
use crate::MoveKind;
use crate::server::{Arrival, MAX_STATE_LEN, OfferError};

/// How a connection's departure stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DepartureStatus {
    /// Nobody has asked the client to move.
    #[default]
    Staying,
    /// The client has been told to move, and has not closed its side. The application finishes what it does, or reads to
    /// the client's end if it has [consented](ConnectionHandle::set_state).
    Told,
    /// The client should move and cannot be told: it does not support migration, or no offer could be made. The application
    /// finishes what it does.
    NotMovable,
    /// The client has closed its side after it was told.
    Left,
    /// The client has closed its side, and got the stream's last state for the target.
    HandedOver,
    /// The client did not leave in time. The application's calls fail.
    Overdue,
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
    state: Mutex<State>,
    /// The status has changed, or the stream is gone.
    changed: Notify,
    /// What was there when the stream began.
    stream: OnceLock<Begun>,
    /// Whether the keeper runs.
    keeping: AtomicBool,
    /// Whether a command waits: what every poll asks, without the lock.
    commanded: AtomicBool,
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

struct State {
    command: Option<Command>,
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
            state: Mutex::new(State {
                command: None,
                consent: None,
                standing: Standing::default(),
                since: Instant::now(),
                told: None,
            }),
            changed: Notify::new(),
            stream: OnceLock::new(),
            keeping: AtomicBool::new(false),
            commanded: AtomicBool::new(false),
            registry,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.changed.notify_waiters();
        }
    }

    /// The client is being told to move.
    pub(super) fn set_told(&self, kind: MoveKind) {
        self.state().told = Some(kind);
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
        if let Some(stream) = self.stream.get().and_then(|stream| stream.keep.upgrade()) {
            stream.wake();
        }
        self.changed.notify_waiters();
    }

    /// Resolves when `done` says so of the status and of whether the stream is gone.
    async fn wait_for(
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
            let ends = keep
                .upgrade()
                .is_none_or(|stream| stream.is_at_rest() && !self.has_command());
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

/// Speaks to one connection of a server while something else owns its stream: a framework, or another task.
///
/// It can be cloned and shared, and lives as long as anyone holds it. When the stream is gone it does nothing.
#[derive(Clone)]
pub struct ConnectionHandle(Arc<Control>);

impl ConnectionHandle {
    pub(super) fn new(control: &Arc<Control>) -> Self {
        Self(Arc::clone(control))
    }

    /// How the client came here.
    pub fn arrival(&self) -> &Arrival {
        self.0.arrival().unwrap_or(&Arrival::Fresh)
    }

    /// The client's address, when the acceptor was told.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.peer
    }

    /// How the departure stands.
    pub fn status(&self) -> DepartureStatus {
        self.0.status().0
    }

    /// What the client was told to move; `None` while it has not been told. An application that consents now and then learns
    /// here what the client's end means: after [`MoveKind::Stream`] the client may go on elsewhere, and waits for the
    /// hand-over; after [`MoveKind::Connection`] it has said all, and waits for the rest of its answer.
    pub fn told_to_move(&self) -> Option<MoveKind> {
        self.0.state().told
    }

    /// Resolves when the client has been told to move, or should move and cannot be told: the application finishes what it
    /// does. It resolves too when the stream is gone. Safe to cancel.
    pub async fn told(&self) -> DepartureStatus {
        self.0
            .wait_for(|status, ended| ended || status != DepartureStatus::Staying)
            .await
    }

    /// Resolves when the stream is gone, with how its departure stood then. Safe to cancel.
    pub async fn ended(&self) -> DepartureStatus {
        self.0.wait_for(|_, ended| ended).await
    }

    /// The application's consent that the byte stream goes on at another server, from `state`, of at most 8192 bytes: what an
    /// application at a target needs to go on where this one stands (`docs/protocol.md` section 4). Say it again when the
    /// state changes; what was said last is handed over.
    ///
    /// A stream without consent is moved as a connection: this server finishes what it does, and the client's next
    /// connection goes elsewhere. Consent must be given before the client is told; what comes later is for the next time. From
    /// outside, a client is not told before its application has asked the new stream for something, or has left it alone
    /// for a second: so it can consent first.
    ///
    /// # Errors
    ///
    /// [`OfferError::StateTooLong`]; what was said before stays.
    pub fn set_state(&self, state: &[u8]) -> Result<(), OfferError> {
        self.0.set_consent(Some(state))
    }

    /// Takes the consent back: the conversation is finished, and the stream ends here.
    pub fn withdraw_state(&self) {
        self.0.withdraw_consent();
    }

    /// Tells the client to move to `target`, as a stream if the application has [consented](Self::set_state). What comes of
    /// it [`status`](Self::status) says. A client that has been told is not told again.
    pub fn migrate_to(&self, target: SocketAddr) {
        self.0.command(Command::MoveTo {
            target,
            governed: false,
        });
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionHandle").field(&self.0).finish()
    }
}
