//! The client's stream: it moves when the application says so, or by itself (`docs/protocol.md` section 4).
//!
//! It never sends twice what a server may have acted upon, and never reports an end that is not the stream's.

mod hand_off;
mod migrate;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use migration_token::MigrationToken;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use self::hand_off::HandOffError;
use self::hand_off::{MAX_HELD, Phase};
pub use self::migrate::MigrateError;
use super::connector::{HandOff, Leg, MigrationConnector};
use super::event::{EarlyDataOutcome, Event, EventSource, Events, FallBackReason, Landing};
use super::wakers::Wakers;
use crate::client::{LoopGuard, Offer, Update};
use crate::connection::Connection as _;

/// How much is read from the old server ahead of the application while a hand-off waits for its end, in bytes.
const MAX_INBOX: usize = 1 << 20;

/// A client's stream over a TLS connection that can be moved.
///
/// It reads and writes like `tokio_rustls::client::TlsStream`. How it moves, [`HandOff`] says: by
/// [`migrate`](Self::migrate) alone, or by itself while it is read and written. Every future of it but that of `migrate`
/// may be dropped at any time.
pub struct MigrationStream {
    connector: MigrationConnector,
    name: ServerName<'static>,
    /// Where the stream was first connected to, and where it is now.
    origin: SocketAddr,
    address: SocketAddr,
    /// `None` when the stream was lost in a migration.
    leg: Option<Leg>,
    phase: Phase,
    /// What was read from the old server ahead of the application.
    inbox: VecDeque<u8>,
    /// What was written for the target.
    held: Vec<u8>,
    /// The application has closed its side.
    shutdown: bool,
    /// The server has ended the stream.
    ended: bool,
    /// The server ended the stream when there was something held.
    undelivered: bool,
    /// What went wrong while the application was not reading.
    read_error: Option<io::Error>,
    notified: bool,
    guard: LoopGuard,
    events: EventSource,
    wakers: Wakers,
}

impl MigrationStream {
    pub(super) fn new(
        connector: MigrationConnector,
        name: ServerName<'static>,
        address: SocketAddr,
        leg: Leg,
    ) -> Self {
        let mut stream = Self {
            connector,
            name,
            origin: address,
            address,
            leg: Some(leg),
            phase: Phase::Settled,
            inbox: VecDeque::new(),
            held: Vec::new(),
            shutdown: false,
            ended: false,
            undelivered: false,
            read_error: None,
            notified: false,
            guard: LoopGuard::default(),
            events: EventSource::new(),
            wakers: Wakers::new(),
        };
        stream.take_updates();
        stream
    }

    /// The address at which the stream is now.
    pub fn peer_addr(&self) -> SocketAddr {
        self.address
    }

    /// rustls' present connection; `None` when the stream was lost in a migration.
    pub fn get_ref(&self) -> Option<&rustls::ClientConnection> {
        Some(self.leg.as_ref()?.connection().tls())
    }

    /// The newest offer's token.
    pub fn offer(&self) -> Option<&MigrationToken> {
        Some(self.leg.as_ref()?.connection().offer()?.token())
    }

    /// Whether the present server has asked the client to move.
    pub fn is_notified(&self) -> bool {
        self.notified
    }

    /// What happens to the stream from now on.
    pub fn events(&self) -> Events {
        self.events.subscribe()
    }

    /// Asks for new traffic keys; they are used from the next write on.
    ///
    /// # Errors
    ///
    /// rustls' own: this is not TLS 1.3.
    pub fn refresh_traffic_keys(&mut self) -> Result<(), rustls::Error> {
        match &mut self.leg {
            Some(leg) => leg.connection_mut().refresh_traffic_keys(),
            None => Err(rustls::Error::HandshakeNotComplete),
        }
    }

    fn take_offer(&mut self) -> Option<Offer> {
        self.leg.as_mut()?.connection_mut().take_offer()
    }

    /// Whether the offer may be followed now; if so, it counts as a migration. Returns its target.
    fn check_offer(&mut self) -> Result<SocketAddr, MigrateError> {
        let client = self.connector.client();
        let now = client.clock().instant();
        let limit = client.limit();
        let offer = self.leg.as_ref().and_then(|leg| leg.connection().offer());
        let offer = offer.ok_or(MigrateError::NoOffer)?;
        let target = offer.target();
        if offer.is_expired(now) {
            return Err(MigrateError::Expired);
        }
        if !self.guard.admit(limit, now) {
            return Err(MigrateError::TooOften);
        }
        Ok(target)
    }

    /// Passes on what the connection noticed.
    fn take_updates(&mut self) {
        let Some(leg) = &mut self.leg else { return };
        while let Some(update) = leg.connection_mut().next_update() {
            self.events.send(match update {
                Update::Offered { target, kind } => Event::Offered { target, kind },
                Update::OfferRefused(error) => Event::OfferRefused(error),
                Update::Notified => {
                    self.notified = true;
                    Event::Notified
                }
            });
        }
    }

    fn leg(&mut self) -> io::Result<&mut Leg> {
        self.leg
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// Reading and writing, whatever phase a hand-off is in.
impl MigrationStream {
    /// The present connection broke.
    fn broken(&mut self, error: io::Error) -> io::Error {
        if !self.phase.awaits_end() {
            // A hand-off that had only begun ends with its source.
            self.phase = Phase::Settled;
            self.ended = true;
            self.wakers.wake();
            return error;
        }
        let failed = Arc::new(HandOffError::SourceLost(error));
        let error = failed.to_io();
        self.phase = Phase::Failed(failed);
        self.wakers.wake();
        error
    }

    /// Reads from the present server into `buf`. `Ok(false)` when the stream goes on elsewhere.
    fn poll_leg(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        // Nothing read into no room is no end.
        let asked = buf.remaining() > 0;
        loop {
            let leg = self.leg()?;
            leg.write_in_passing(cx);
            if let Some(result) = leg.take_plaintext(buf) {
                let ended = asked && result.is_ok() && buf.filled().len() == before;
                return Poll::Ready(match result {
                    Ok(()) => Ok(!(ended && self.end_of_leg())),
                    Err(error) => Err(self.broken(error)),
                });
            }
            let read = leg.poll_read_tls(cx);
            self.take_updates();
            match read {
                Poll::Ready(read) => read.map_err(|error| self.broken(error))?,
                Poll::Pending => {
                    ready!(self.poll_silence(cx));
                    let silent = io::ErrorKind::TimedOut.into();
                    return Poll::Ready(Err(self.broken(silent)));
                }
            }
            if let Some(silence) = self.phase.silence() {
                silence.heard();
            }
            if self.advance(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Ready when the old server, whose end is awaited, has been silent for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.phase.silence() {
            Some(silence) => silence.poll_over(cx),
            None => Poll::Pending,
        }
    }

    /// Takes a hand-off forward. `true` when writes begin to be held: whoever writes comes first then, so that what it has
    /// to say goes with the hello to the target. All are woken to go on.
    fn advance(&mut self, cx: &mut Context<'_>) -> bool {
        let held = self.phase.holds_writes();
        self.poll_phase(cx);
        let begun = !held && self.phase.holds_writes();
        if begun {
            self.wakers.wake();
        }
        begun
    }

    /// On behalf of the writing side: notices what the server says about migration, and takes a hand-off forward, also
    /// when nobody reads. What is read meanwhile waits in the inbox, which is bounded.
    fn pull(&mut self, cx: &mut Context<'_>) {
        if self.advance(cx) || self.read_error.is_some() || matches!(self.phase, Phase::Failed(_)) {
            return;
        }
        let mut buf = [0; 4096];
        while self.inbox_has_room() {
            let mut buf = ReadBuf::new(&mut buf);
            match self.poll_leg(cx, &mut buf) {
                Poll::Pending => break,
                Poll::Ready(Ok(true)) if buf.filled().is_empty() => break,
                Poll::Ready(Ok(_)) => self.inbox.extend(buf.filled()),
                Poll::Ready(Err(error)) => self.read_error = Some(error),
            }
            self.wakers.wake();
            let begun = self.advance(cx);
            if begun || self.read_error.is_some() || matches!(self.phase, Phase::Failed(_)) {
                break;
            }
        }
    }

    /// Whether more may be read ahead: until the end of the old server's data in a hand-off, else until there is any.
    fn inbox_has_room(&self) -> bool {
        if self.phase.awaits_end() {
            return self.inbox.len() < MAX_INBOX;
        }
        self.inbox.is_empty() && !matches!(self.phase, Phase::Resuming { .. } | Phase::Failed(_))
    }

    /// Where writes go now; `None` when they are held.
    fn write_leg(&mut self) -> io::Result<Option<&mut Leg>> {
        if self.undelivered {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.phase.holds_writes() {
            return Ok(None);
        }
        if let Phase::Failed(error) = &self.phase {
            return Err(error.to_io());
        }
        let target = match &mut self.phase {
            Phase::Switching { leg, .. } => Some(&mut **leg),
            Phase::Settled
            | Phase::Dialling { .. }
            | Phase::Draining { .. }
            | Phase::Resuming { .. }
            | Phase::Overlapping { .. }
            | Phase::Ready { .. }
            | Phase::Failed(_) => self.leg.as_mut(),
        };
        match target {
            Some(leg) => Ok(Some(leg)),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Holds what there is room for, when writes are held and can be. Returns how much.
    fn hold(&mut self, buf: &[u8]) -> usize {
        if self.undelivered || !self.phase.holds_writes() {
            return 0;
        }
        let room = MAX_HELD.saturating_sub(self.held.len());
        let taken = buf.get(..room.min(buf.len())).unwrap_or_default();
        self.held.extend_from_slice(taken);
        taken.len()
    }

    /// Waits until a hand-off that holds writes is over, unless only the application's reading can end it.
    fn poll_held(&self) -> Poll<io::Result<()>> {
        match self.inbox.len() < MAX_INBOX {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for MigrationStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let waker = this.wakers.reading(cx);
        let cx = &mut Context::from_waker(&waker);
        loop {
            if this.advance(cx) {
                return Poll::Pending;
            }
            if !this.inbox.is_empty() {
                let (first, _) = this.inbox.as_slices();
                let amount = first.len().min(buf.remaining());
                buf.put_slice(first.get(..amount).unwrap_or_default());
                this.inbox.drain(..amount);
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = this.read_error.take() {
                return Poll::Ready(Err(error));
            }
            if let Phase::Failed(error) = &this.phase {
                return Poll::Ready(Err(error.to_io()));
            }
            if let Phase::Resuming { .. } = this.phase {
                return Poll::Pending;
            }
            if ready!(this.poll_leg(cx, buf))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for MigrationStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let waker = this.wakers.writing(cx);
        let cx = &mut Context::from_waker(&waker);
        if this.shutdown {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // What can be held is held before the old server's end is looked for, which sends it.
        let held = this.hold(buf);
        this.pull(cx);
        if held > 0 {
            return Poll::Ready(Ok(held));
        }
        if let Some(leg) = this.write_leg()? {
            return leg.poll_write(cx, buf);
        }
        match this.hold(buf) {
            0 if !buf.is_empty() => Poll::Pending,
            held => Poll::Ready(Ok(held)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let waker = this.wakers.writing(cx);
        let cx = &mut Context::from_waker(&waker);
        this.pull(cx);
        match this.write_leg()? {
            Some(leg) => leg.poll_flush(cx),
            None => this.poll_held(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let waker = this.wakers.writing(cx);
        let cx = &mut Context::from_waker(&waker);
        this.shutdown = true;
        this.pull(cx);
        match this.write_leg()? {
            Some(leg) => leg.poll_shutdown(cx),
            None => this.poll_held(),
        }
    }
}

impl fmt::Debug for MigrationStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigrationStream")
            .field("name", &self.name)
            .field("address", &self.address)
            .field("offer", &self.offer())
            .finish_non_exhaustive()
    }
}
