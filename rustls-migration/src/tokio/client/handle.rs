//! What can be said to a client's stream, and asked of it, from outside: by whoever runs a stream that a framework owns.
//!
//! Its lock is held for moments only, and never while the user's code runs.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migration_token::MigrationToken;
use rustls::pki_types::ServerName;
use tokio::time::Instant;
use tracing::Span;
use tracing::field::display;

use super::connector::HandOff;
use super::dialer::{ClientConn, Dialer};
use super::error::MigrateError;
use super::event::{Event, EventSource, Events};
use super::relocation::{Relocation, unresolved};
use super::stream::MigrationStream;
use crate::client::{InvalidOfferError, MarkedTicket, Offer};
use crate::measure::{count, time};
use crate::tokio::waker::Wakers;
use crate::trace::CONNECTION;
use crate::{Dialect, MoveKind};

/// What a stream and its handles share.
pub(super) struct Control {
    pub(super) dialer: Dialer,
    pub(super) hand_off: HandOff,
    pub(super) name: ServerName<'static>,
    events: EventSource,
    span: Span,
    pub(super) wakers: Wakers,
    corks: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    address: SocketAddr,
    /// On the heap: an idle stream has none.
    offer: Option<Box<Offer>>,
    /// In draft -03.
    relocation: Option<Box<Relocation>>,
    notified: bool,
    /// Since when a move holds back what the application writes.
    held_since: Option<Instant>,
    /// Whether a target is ready, and whether to go over to it.
    switch: Switch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Switch {
    NotReady,
    Ready,
    Requested,
}

/// What is to be followed.
enum Newest {
    Offer(Box<Offer>),
    /// A ticket of draft -03: this target is to be resolved by a client that is at this address.
    Unresolved(Vec<u8>, SocketAddr),
}

impl State {
    fn newest_kind(&self) -> Option<MoveKind> {
        let marked = || self.relocation.as_ref()?.kind();
        self.offer.as_deref().map(Offer::kind).or_else(marked)
    }

    /// Takes the newest offer. A ticket stays until its target is resolved.
    fn take_newest(&mut self, permits: impl Fn(MoveKind) -> bool) -> Result<Newest, MigrateError> {
        match self.newest_kind() {
            None => return Err(MigrateError::NoOffer),
            Some(kind) if !permits(kind) => return Err(MigrateError::StreamOffer),
            Some(_) => {}
        }
        if let Some(offer) = self.offer.take() {
            return Ok(Newest::Offer(offer));
        }
        let wanted = self.relocation.as_ref().and_then(|found| found.wanted());
        let target = wanted.ok_or(MigrateError::NoOffer)?;
        Ok(Newest::Unresolved(target, self.address))
    }

    /// Whether the newest ticket is still to lead to `target`.
    fn wants(&self, target: &[u8], permits: impl Fn(MoveKind) -> bool) -> bool {
        let wanted = self.relocation.as_ref().and_then(|found| found.wanted());
        self.offer.is_none()
            && self.newest_kind().is_some_and(permits)
            && wanted.is_some_and(|wanted| wanted == target)
    }

    /// Takes the newest ticket, if it is.
    fn take_marked_for(
        &mut self,
        target: &[u8],
        permits: impl Fn(MoveKind) -> bool,
    ) -> Option<MarkedTicket> {
        match self.wants(target, permits) {
            true => self.relocation.as_mut()?.take(),
            false => None,
        }
    }
}

impl Control {
    pub(super) fn new(
        dialer: Dialer,
        hand_off: HandOff,
        name: ServerName<'static>,
        address: SocketAddr,
    ) -> Self {
        Self {
            dialer,
            hand_off,
            name,
            events: EventSource::default(),
            span: tracing::debug_span!(target: CONNECTION, "stream", server = %address),
            wakers: Wakers::new(),
            corks: AtomicUsize::new(0),
            state: Mutex::new(State {
                address,
                offer: None,
                relocation: None,
                notified: false,
                held_since: None,
                switch: Switch::NotReady,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody what has happened. `conn` is what the server has said it on, if it has.
    pub(super) fn tell(&self, event: Event, conn: Option<&ClientConn>) {
        let lineage = conn.and_then(|conn| conn.connection().lineage());
        let id = lineage.map(|lineage| display(lineage.shown()));
        tracing::debug!(target: CONNECTION, parent: &self.span, id, ?event, "migration");
        self.events.send(event);
    }

    /// A move has failed, or was not begun.
    pub(super) fn tell_failure(&self, outcome: &'static str, error: &dyn fmt::Debug) {
        count!(CLIENT_MOVES, "outcome" => outcome);
        tracing::debug!(target: CONNECTION, parent: &self.span, ?error, "a move has failed");
    }

    pub(super) fn subscribe(&self) -> Events {
        self.events.subscribe()
    }

    /// The stream is gone.
    pub(super) fn end(&self) {
        self.events.end();
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.state().address
    }

    /// The stream is at `address` from now on, where nobody has asked it to move yet.
    pub(super) fn arrived(&self, address: SocketAddr) -> SocketAddr {
        let mut state = self.state();
        state.notified = false;
        state.offer = None;
        state.relocation = None;
        let before = std::mem::replace(&mut state.address, address);
        let begun = state.held_since.take();
        drop(state);
        if let Some(begun) = begun {
            time!(CLIENT_STALL_SECONDS, since begun);
        }
        before
    }

    /// From now on a move holds back what the application writes.
    pub(super) fn begin_to_hold(&self) {
        self.state().held_since = Some(Instant::now());
    }

    pub(super) fn is_notified(&self) -> bool {
        self.state().notified
    }

    pub(super) fn set_notified(&self, notified: bool) {
        self.state().notified = notified;
    }

    pub(super) fn set_offer(&self, offer: Offer) {
        self.state().offer = Some(Box::new(offer));
    }

    /// A ticket of draft -03 has come, which takes the place of an older one.
    pub(super) fn note_marked(&self, ticket: MarkedTicket) {
        let mut state = self.state();
        state.offer = None;
        state.relocation.get_or_insert_default().note_marked(ticket);
    }

    /// The server asks for this target. It counts for the newest ticket, wherever that has led so far.
    pub(super) fn note_request(&self, target: &[u8]) {
        let mut state = self.state();
        let led = |offer: &mut Box<Offer>| offer.dialect() == Dialect::Draft03;
        let led = state.offer.take_if(led);
        let relocation = state.relocation.get_or_insert_default();
        relocation.note_request(target);
        if let Some(offer) = led {
            relocation.note_marked(offer.into_marked());
        }
    }

    pub(super) fn note_resolved(&self, target: Vec<u8>, address: SocketAddr) {
        let mut state = self.state();
        let relocation = state.relocation.get_or_insert_default();
        relocation.note_resolved(target, address);
    }

    /// The target that is to be resolved.
    pub(super) fn unresolved(&self) -> Option<Vec<u8>> {
        let state = self.state();
        state.relocation.as_ref()?.unresolved().map(<[u8]>::to_vec)
    }

    /// Makes the newest ticket of draft -03 the newest offer, once its target is known. Returns where it leads.
    pub(super) fn lead(&self) -> Option<Result<(SocketAddr, MoveKind), InvalidOfferError>> {
        let mut relocation = self.state().relocation.take()?;
        // The policy is the user's.
        let led = relocation.lead(self.address(), self.dialer.client().policy());
        self.state().relocation = Some(relocation);
        Some(led?.map(|offer| {
            let found = (offer.target(), offer.kind());
            self.set_offer(offer);
            found
        }))
    }

    /// What would move now.
    pub(super) fn newest_kind(&self) -> Option<MoveKind> {
        self.state().newest_kind()
    }

    /// Takes the newest offer, if it moves what `permits` says; in draft -03 it resolves where the newest ticket leads, or has the
    /// client choose. What comes meanwhile counts.
    pub(super) async fn resolve_offer(
        &self,
        permits: impl Fn(MoveKind) -> bool + Send,
    ) -> Result<Offer, MigrateError> {
        loop {
            let (target, address) = match self.state().take_newest(&permits)? {
                Newest::Offer(offer) => return Ok(*offer),
                Newest::Unresolved(target, address) => (target, address),
            };
            let resolved = match self.dialer.resolver.resolve(&target, address).await {
                Ok(resolved) => resolved,
                Err(error) if self.state().wants(&target, &permits) => {
                    return Err(unresolved(&error));
                }
                Err(_) => continue,
            };
            let Some(marked) = self.state().take_marked_for(&target, &permits) else {
                continue;
            };
            return marked
                .lead_to(resolved, address, self.dialer.client().policy())
                .map_err(MigrateError::OfferRefused);
        }
    }

    pub(super) fn take_offer(&self) -> Option<Offer> {
        self.state().offer.take().map(|offer| *offer)
    }

    /// Takes the newest offer, unless only the stream itself can follow it.
    fn take_offer_of_connection(&self) -> Result<Offer, MigrateError> {
        let mut state = self.state();
        match state.offer.as_deref().map(Offer::kind) {
            None => Err(MigrateError::NoOffer),
            Some(MoveKind::Stream) => Err(MigrateError::StreamOffer),
            Some(MoveKind::Connection) => {
                let offer = state.offer.take().map(|offer| *offer);
                offer.ok_or(MigrateError::NoOffer)
            }
        }
    }

    /// Asks something of the newest offer.
    pub(super) fn with_offer<R>(&self, ask: impl FnOnce(&Offer) -> R) -> Option<R> {
        self.state().offer.as_deref().map(ask)
    }

    pub(super) fn token(&self) -> Option<MigrationToken> {
        self.with_offer(|offer| offer.token().cloned()).flatten()
    }

    /// A target is ready, or no longer.
    pub(super) fn set_ready(&self, ready: bool) {
        self.state().switch = match ready {
            true => Switch::Ready,
            false => Switch::NotReady,
        };
    }

    pub(super) fn request_switch(&self) -> Result<(), MigrateError> {
        let switch = &mut self.state().switch;
        match switch {
            Switch::NotReady | Switch::Requested => Err(MigrateError::NotReady),
            Switch::Ready => {
                *switch = Switch::Requested;
                Ok(())
            }
        }
    }

    pub(super) fn switch_is_requested(&self) -> bool {
        self.state().switch == Switch::Requested
    }

    pub(super) fn is_corked(&self) -> bool {
        self.corks.load(Ordering::Acquire) > 0
    }

    pub(super) fn cork(self: &Arc<Self>) -> Cork {
        self.corks.fetch_add(1, Ordering::AcqRel);
        Cork(Arc::clone(self))
    }
}

/// Speaks to one stream of a client while something else owns it.
///
/// It can be cloned and shared, and lives as long as anyone holds it. When the stream is gone it does nothing, and its events
/// end; the newest offer can still be taken.
#[derive(Clone)]
pub struct StreamHandle(Arc<Control>);

impl StreamHandle {
    pub(super) fn new(control: &Arc<Control>) -> Self {
        Self(Arc::clone(control))
    }

    /// What happens to the stream from now on.
    pub fn events(&self) -> Events {
        self.0.subscribe()
    }

    /// The address at which the stream is now.
    pub fn peer_addr(&self) -> SocketAddr {
        self.0.address()
    }

    /// Where the newest offer leads.
    pub fn offered_target(&self) -> Option<SocketAddr> {
        self.0.with_offer(Offer::target)
    }

    /// The newest offer's token; draft -03 has none.
    pub fn offer(&self) -> Option<MigrationToken> {
        self.0.token()
    }

    /// Takes the newest offer, for [`MigrationConnector::resume`](super::MigrationConnector::resume). The stream cannot follow
    /// it any more.
    ///
    /// # Errors
    ///
    /// [`MigrateError::NoOffer`], and [`MigrateError::StreamOffer`] for one that only the stream itself can follow.
    pub fn take_offer(&self) -> Result<Offer, MigrateError> {
        self.0.take_offer_of_connection()
    }

    /// Whether the present server has asked the client to move.
    pub fn is_notified(&self) -> bool {
        self.0.is_notified()
    }

    /// Goes over to the target that is ready: see [`MigrationStream::switch`]. What is written after this returns goes to the
    /// target, or fails.
    ///
    /// # Errors
    ///
    /// [`MigrateError::NotReady`] when no target is ready; the stream goes on.
    pub fn switch(&self) -> Result<(), MigrateError> {
        self.0.request_switch()?;
        self.0.wakers.wake();
        Ok(())
    }

    /// Keeps a hand-off from beginning while what is returned lives: for the time in which a message is half written. A
    /// server that has asked the client to move waits meanwhile, until its deadline.
    pub fn cork(&self) -> Cork {
        self.0.cork()
    }

    /// Opens the client's next connection by the newest offer, while the stream finishes what it does. The session is
    /// resumed at the offer's target; if the target refuses it, the connection begins with a full handshake, but for draft -03,
    /// where it fails. A target of that dialect that is not resolved yet is resolved first; where none was asked for, the
    /// [resolver](super::MigrationConnector::target_resolver) may choose.
    ///
    /// Safe to cancel, but for the offer, which is used up.
    ///
    /// # Errors
    ///
    /// As for [`take_offer`](Self::take_offer); [`MigrateError::Unreachable`] when there is no connection, for the
    /// reason inside.
    pub async fn successor(&self) -> Result<MigrationStream, MigrateError> {
        let permits = |kind| kind == MoveKind::Connection;
        let offer = self.0.resolve_offer(permits).await?;
        let Control {
            dialer,
            hand_off,
            name,
            ..
        } = &*self.0;
        MigrationStream::succeed(dialer.clone(), *hand_off, name.clone(), offer, &[])
            .await
            .map_err(|error| MigrateError::Unreachable(Arc::new(error)))
    }
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHandle")
            .field("name", &self.0.name)
            .field("address", &self.0.address())
            .finish_non_exhaustive()
    }
}

/// Keeps a hand-off from beginning; see [`StreamHandle::cork`].
#[must_use = "a hand-off may begin as soon as this is dropped"]
pub struct Cork(Arc<Control>);

impl Drop for Cork {
    fn drop(&mut self) {
        if self.0.corks.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wakers.wake();
        }
    }
}

impl fmt::Debug for Cork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cork").finish_non_exhaustive()
    }
}
