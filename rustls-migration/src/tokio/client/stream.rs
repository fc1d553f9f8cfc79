//! The client's stream: it moves when the application says so, or by itself (`docs/protocol.md` section 4).
//!
//! It never sends twice what a server may have acted upon, and never reports an end that is not the stream's.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use migration_token::MigrationToken;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connector::HandOff;
use super::dialer::{ClientConn, Dialer};
use super::error::{ConnectError, MigrateError};
use super::event::Events;
use super::handle::{Control, Cork, StreamHandle};
use super::outcome::handshake_name;
use super::phase::{Next, Phase};
use super::recovery::{Account, Ahead, Probe};
use super::relocation::Resolving;
use crate::client::{LoopGuard, Offer};
use crate::connection::Connection as _;
use crate::measure::count;
use crate::tokio::waker::Party;

/// How much the application may write between the two servers, in bytes; past that its writes wait.
const MAX_HELD: usize = 16_384;

/// How much is read ahead of the application while it writes, so that it learns what the server says, in bytes.
const READ_AHEAD: usize = 64 * 1024;

/// How much is read from the old server ahead of the application while a hand-off waits for its end, in bytes.
const READ_OUT: usize = 1 << 20;

/// A client's stream over a TLS connection that can be moved.
///
/// It reads and writes like `tokio_rustls::client::TlsStream`. How it moves, [`HandOff`] says: by
/// [`migrate`](Self::migrate) alone, or by itself while it is read or written. Every future of it may be dropped at any time.
///
/// # What an end means
///
/// Reading ends cleanly, `Ok(0)`, only when the server's application has ended the stream. A hand-over that is followed is not
/// seen at all. Everything else is an error: a server that was given up, a hand-over that could not be made or followed, a
/// transport that ended.
pub struct MigrationStream {
    pub(super) control: Arc<Control>,
    /// Where the stream was first connected to.
    pub(super) origin: SocketAddr,
    pub(super) phase: Phase,
    /// A target of draft -03 that is being resolved. On the heap, since there is seldom one.
    pub(super) resolving: Option<Box<Resolving>>,
    /// What was read from the server ahead of the application.
    pub(super) inbox: VecDeque<u8>,
    /// The application has closed its side.
    pub(super) shutdown: bool,
    /// What was written and read at the present server.
    pub(super) account: Account,
    /// The connection that is dialled ahead for a recovery. On the heap, and only where that is wanted.
    pub(super) ahead: Option<Box<Ahead>>,
    /// Asks a silent server whether it lives. On the heap, and only where that is wanted.
    pub(super) probe: Option<Box<Probe>>,
    /// What went wrong while the application was not reading.
    pub(super) read_error: Option<io::Error>,
    guard: LoopGuard,
}

impl MigrationStream {
    pub(super) fn new(
        dialer: Dialer,
        hand_off: HandOff,
        name: ServerName<'static>,
        address: SocketAddr,
        conn: ClientConn,
    ) -> Self {
        let first = conn.connection().first_data_len();
        let account = dialer.window.account(hand_off, first);
        let mut stream = Self {
            account,
            ahead: dialer.dials_ahead.then(Box::default),
            probe: dialer.probe.map(|times| Box::new(Probe::new(times))),
            control: Arc::new(Control::new(dialer, hand_off, name, address)),
            origin: address,
            phase: Phase::Connected {
                conn: Box::new(conn),
                next: Next::Nothing,
            },
            resolving: None,
            inbox: VecDeque::new(),
            shutdown: false,
            read_error: None,
            guard: LoopGuard::default(),
        };
        stream.take_updates();
        stream
    }

    /// The client's next connection, by an offer of another one.
    pub(super) async fn succeed(
        dialer: Dialer,
        hand_off: HandOff,
        name: ServerName<'static>,
        offer: Offer,
        early_data: &[u8],
    ) -> Result<Self, ConnectError> {
        let address = offer.target();
        let resumed = dialer.succeed(&name, offer, early_data).await;
        let kind = resumed
            .as_ref()
            .map(|conn| conn.connection().tls().handshake_kind());
        let outcome = kind.map_or("failed", handshake_name);
        count!(CLIENT_SUCCESSORS, "outcome" => outcome);
        let conn = resumed?;
        Ok(Self::new(dialer, hand_off, name, address, conn))
    }

    /// Speaks to this stream while something else owns it.
    pub fn handle(&self) -> StreamHandle {
        StreamHandle::new(&self.control)
    }

    /// The address at which the stream is now.
    pub fn peer_addr(&self) -> SocketAddr {
        self.control.address()
    }

    /// rustls' present connection; `None` between two servers, and when the stream was lost.
    pub fn get_ref(&self) -> Option<&rustls::ClientConnection> {
        Some(self.phase.source()?.connection().tls())
    }

    /// Where the newest offer leads.
    pub fn offered_target(&self) -> Option<SocketAddr> {
        self.control.with_offer(Offer::target)
    }

    /// The newest offer's token; draft -03 has none.
    pub fn offer(&self) -> Option<MigrationToken> {
        self.control.token()
    }

    /// Whether the present server has asked the client to move.
    pub fn is_notified(&self) -> bool {
        self.control.is_notified()
    }

    /// What happens to the stream from now on.
    pub fn events(&self) -> Events {
        self.control.subscribe()
    }

    /// Keeps a hand-off from beginning while what is returned lives: see [`StreamHandle::cork`].
    pub fn cork(&self) -> Cork {
        self.control.cork()
    }

    /// Asks for new traffic keys; they are used from the next write on.
    ///
    /// # Errors
    ///
    /// rustls' own: this is not TLS 1.3.
    pub fn refresh_traffic_keys(&mut self) -> Result<(), rustls::Error> {
        match self.phase.source_mut() {
            Some(conn) => conn.connection_mut().refresh_traffic_keys(),
            None => Err(rustls::Error::HandshakeNotComplete),
        }
    }

    /// Whether the offer may be followed now. Returns its target.
    pub(super) fn check_offer(&mut self) -> Result<SocketAddr, MigrateError> {
        let client = self.control.dialer.client();
        let now = client.clock().instant();
        let offer = |offer: &Offer| (offer.target(), offer.is_expired(now));
        match self.control.with_offer(offer) {
            None => Err(MigrateError::NoOffer),
            Some((_, true)) => Err(MigrateError::Expired),
            Some((target, false)) => match self.guard.allows(client.limit(), now) {
                true => Ok(target),
                false => Err(MigrateError::TooOften),
            },
        }
    }

    /// Whether the stream may follow a hand-over now, wherever that leads; if so, it counts as a migration.
    pub(super) fn admit_hand_over(&mut self) -> Result<(), MigrateError> {
        if self.control.with_offer(|_| ()).is_some() || self.control.newest_kind().is_none() {
            return self.admit_offer().map(|_| ());
        }
        self.admit_recovery()
    }

    /// Whether the stream may recover now; if so, it counts as a migration.
    pub(super) fn admit_recovery(&mut self) -> Result<(), MigrateError> {
        let client = self.control.dialer.client();
        match self.guard.admit(client.limit(), client.clock().instant()) {
            true => Ok(()),
            false => Err(MigrateError::TooOften),
        }
    }

    /// As [`check_offer`](Self::check_offer); if so, it counts as a migration.
    pub(super) fn admit_offer(&mut self) -> Result<SocketAddr, MigrateError> {
        let target = self.check_offer()?;
        let client = self.control.dialer.client();
        self.guard.admit(client.limit(), client.clock().instant());
        Ok(target)
    }
}

/// Reading and writing, whatever phase the stream is in.
impl MigrationStream {
    /// Reads from the present server into `buf`. `Ok(false)` when the stream goes on elsewhere.
    pub(super) fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        // A read into an empty buffer is not the end of the stream.
        let asked = buf.remaining() > 0;
        loop {
            let Some(conn) = self.phase.source_mut() else {
                return Poll::Ready(Ok(false));
            };
            conn.write_in_passing(cx);
            if let Some(result) = conn.take_plaintext(buf) {
                let ended = asked && result.is_ok() && buf.filled().len() == before;
                return Poll::Ready(match result {
                    Ok(()) => {
                        self.account.take(buf.filled().len() - before);
                        Ok(!(ended && self.on_close_notify()))
                    }
                    Err(error) => self.broken(error).map(|()| false),
                });
            }
            let read = conn.poll_read_tls(cx);
            self.take_updates();
            match read {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(self.broken(error).map(|()| false));
                }
                Poll::Pending => {
                    ready!(self.poll_silence(cx));
                    let silent = io::ErrorKind::TimedOut.into();
                    return Poll::Ready(self.broken(silent).map(|()| false));
                }
            }
            if let Some(silence) = self.phase.silence() {
                silence.reset();
            }
            if let Some(probe) = &mut self.probe {
                probe.reset();
            }
            if self.advance(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Ready when the old server, whose end is awaited, has been silent for too long, or when the present one is dead.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.phase.silence() {
            Some(silence) => silence.poll_elapsed(cx),
            None => self.poll_probe(cx),
        }
    }

    /// Takes a hand-off forward. `true` when writes begin to be held: whoever writes comes first then, so that what it has
    /// to say goes with the hello to the target. All are woken to go on.
    fn advance(&mut self, cx: &mut Context<'_>) -> bool {
        let held = self.phase.held().is_some();
        self.poll_phase(cx);
        let begun = !held && self.phase.held().is_some();
        if begun {
            self.control.wakers.wake();
        }
        begun
    }

    /// On behalf of the writing side: notices what the server says, and takes a hand-off forward, also when nobody reads.
    /// What is read meanwhile waits in the inbox, which is bounded.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        // Each write comes here, and there is seldom anything to read.
        let mut buf = [MaybeUninit::uninit(); 4096];
        let mut begun = self.advance(cx);
        while !begun && self.read_error.is_none() && self.inbox.len() < self.read_ahead_limit() {
            let mut buf = ReadBuf::uninit(&mut buf);
            match self.poll_source(cx, &mut buf) {
                Poll::Pending => break,
                Poll::Ready(Ok(true)) if buf.filled().is_empty() => break,
                Poll::Ready(Ok(_)) => self.inbox.extend(buf.filled()),
                Poll::Ready(Err(error)) => self.read_error = Some(error),
            }
            self.control.wakers.wake();
            begun = self.advance(cx);
        }
    }

    /// Reads what was read ahead.
    fn read_inbox(&mut self, buf: &mut ReadBuf<'_>) {
        let limit = self.read_ahead_limit();
        let full = self.inbox.len() >= limit;
        let (first, _) = self.inbox.as_slices();
        let amount = first.len().min(buf.remaining());
        buf.put_slice(first.get(..amount).unwrap_or_default());
        self.inbox.drain(..amount);
        if full && self.inbox.len() < limit {
            // A writer may wait for a server that is not read from.
            self.control.wakers.wake();
        }
    }

    /// How much may wait in the inbox before no more is read ahead.
    fn read_ahead_limit(&self) -> usize {
        match self.phase {
            Phase::Connected { .. } => READ_AHEAD,
            Phase::ReadingOut { .. } | Phase::Switching { .. } => READ_OUT,
            Phase::Resuming { .. }
            | Phase::Recovering { .. }
            | Phase::Outlived { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_) => 0,
        }
    }

    /// Holds what there is room for, when writes are held, and what need not wait for a checkpoint. Returns how much.
    fn hold(&mut self, buf: &[u8]) -> usize {
        let Some(held) = self.phase.held() else {
            return 0;
        };
        let room = MAX_HELD.saturating_sub(held.len()).min(buf.len());
        let taken = buf.get(..room).unwrap_or_default();
        let taken = self.writable(taken).unwrap_or_default();
        if let Some(held) = self.phase.held() {
            held.extend_from_slice(taken);
        }
        self.note_held(taken);
        taken.len()
    }

    /// Asks something of the connection that is written to. `None` when writes are held, or begin to be since the server is lost.
    fn poll_sink<T>(
        &mut self,
        cx: &mut Context<'_>,
        ask: impl FnOnce(&mut ClientConn, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<Option<T>>> {
        let Some(conn) = self.phase.sink()? else {
            return Poll::Ready(Ok(None));
        };
        Poll::Ready(match ready!(ask(conn, cx)) {
            Ok(done) => Ok(Some(done)),
            Err(error) => self.write_failed(cx, error).map(|()| None),
        })
    }

    /// Waits until a hand-off that holds writes is over, unless only the application's reading can end it.
    fn poll_held(&self) -> Poll<io::Result<()>> {
        match self.inbox.len() < READ_OUT {
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
        let waker = this.control.wakers.register(Party::Reader, cx);
        let cx = &mut Context::from_waker(&waker);
        loop {
            if this.advance(cx) {
                return Poll::Pending;
            }
            if !this.inbox.is_empty() {
                this.read_inbox(buf);
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = this.read_error.take() {
                return Poll::Ready(Err(error));
            }
            match this.phase {
                Phase::Failed(_) | Phase::Lost(_) => return Poll::Ready(Err(this.phase.failure())),
                Phase::Resuming { .. } | Phase::Recovering { .. } => return Poll::Pending,
                Phase::Connected { .. }
                | Phase::ReadingOut { .. }
                | Phase::Switching { .. }
                | Phase::Outlived { .. }
                | Phase::Ended { .. } => {}
            }
            if ready!(this.poll_source(cx, buf))? {
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
        let waker = this.control.wakers.register(Party::Writer, cx);
        let cx = &mut Context::from_waker(&waker);
        if this.shutdown {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // What can be held is held before the old server's end is looked for, which sends it.
        let held = this.hold(buf);
        this.read_ahead(cx);
        if held > 0 {
            return Poll::Ready(Ok(held));
        }
        let Some(piece) = this.writable(buf) else {
            return Poll::Pending;
        };
        let written = this.poll_sink(cx, |conn, cx| conn.poll_write(cx, piece));
        if let Some(written) = ready!(written)? {
            this.note_written(piece.get(..written).unwrap_or_default());
            return Poll::Ready(Ok(written));
        }
        match this.hold(buf) {
            0 if !buf.is_empty() => Poll::Pending,
            held => Poll::Ready(Ok(held)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let waker = this.control.wakers.register(Party::Writer, cx);
        let cx = &mut Context::from_waker(&waker);
        this.read_ahead(cx);
        match ready!(this.poll_sink(cx, |conn, cx| conn.poll_flush(cx)))? {
            Some(()) => Poll::Ready(Ok(())),
            None => this.poll_held(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let waker = this.control.wakers.register(Party::Writer, cx);
        let cx = &mut Context::from_waker(&waker);
        this.shutdown = true;
        this.read_ahead(cx);
        match ready!(this.poll_sink(cx, |conn, cx| conn.poll_shutdown(cx)))? {
            Some(()) => Poll::Ready(Ok(())),
            None => this.poll_held(),
        }
    }
}

impl Drop for MigrationStream {
    fn drop(&mut self) {
        self.control.end();
    }
}

impl fmt::Debug for MigrationStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigrationStream")
            .field("name", &self.control.name)
            .field("address", &self.control.address())
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
