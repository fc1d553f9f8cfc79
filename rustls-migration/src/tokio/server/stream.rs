//! The server's stream. Early data can be read before the handshake is complete, and answered in the server's first
//! flight; a client can be told to move, and is handed over when it has closed its side.
//!
//! 1-RTT data never passes before the token's nonce has been committed, in either direction. The stream never says for
//! the application that it has ended.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection_handle::ConnectionHandle;
use super::duties::StreamCore;
use super::handle::{Control, Keep};
use crate::Lineage;
use crate::server::{Arrival, OfferError};
use crate::tokio::waker::{Party, Wakers};

/// A server's stream over a TLS connection that can be moved.
///
/// Reading yields accepted early data first. The handshake goes on by itself; an application that
/// answers early data should read to the end before it drops the stream, since a socket that is dropped with something
/// unread resets the connection and may destroy the answer on its way.
///
/// # What an end means
///
/// Reading ends cleanly, `Ok(0)`, when the client has closed its side: because it is done, or because it goes on elsewhere after it
/// was told to move ([`handle`](Self::handle) says which). Shutting down says that this application has ended the stream,
/// or hands it over when the client was told to go on elsewhere with it. A stream that is dropped, or whose client did
/// not leave in time, ends without `close_notify`, and the client sees an error.
pub struct TlsStream<IO> {
    shared: Arc<Shared<IO>>,
    control: Arc<Control>,
}

/// What the application and the stream's keeper share. The keeper never waits for the lock.
struct Shared<IO> {
    core: Mutex<StreamCore<IO>>,
    wakers: Wakers,
    /// The keeper has found the lock taken.
    keeper_waits: AtomicBool,
}

impl<IO> Shared<IO> {
    fn core(&self) -> CoreGuard<'_, IO> {
        CoreGuard {
            core: self.core.lock().unwrap_or_else(PoisonError::into_inner),
            _turn: KeepersTurn {
                keeper_waits: &self.keeper_waits,
                wakers: &self.wakers,
            },
        }
    }

    /// The connection, unless the application is at it.
    fn try_core(&self) -> Option<MutexGuard<'_, StreamCore<IO>>> {
        match self.core.try_lock() {
            Ok(core) => Some(core),
            Err(TryLockError::Poisoned(core)) => Some(core.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// As [`try_core`](Self::try_core), for the keeper. With `None` it is woken when the application has let go.
    fn keepers_core(&self) -> Option<MutexGuard<'_, StreamCore<IO>>> {
        self.try_core().or_else(|| {
            self.keeper_waits.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            // The application may have let go before it could see that.
            self.try_core()
        })
    }
}

/// The keeper learns that its stream is gone, and ends.
impl<IO> Drop for Shared<IO> {
    fn drop(&mut self) {
        self.wakers.wake();
    }
}

/// The connection in the hands of the application. Its fields are dropped in their order.
struct CoreGuard<'a, IO> {
    core: MutexGuard<'a, StreamCore<IO>>,
    _turn: KeepersTurn<'a>,
}

/// Wakes the keeper when it has found the lock taken.
struct KeepersTurn<'a> {
    keeper_waits: &'a AtomicBool,
    wakers: &'a Wakers,
}

impl Drop for KeepersTurn<'_> {
    fn drop(&mut self) {
        fence(Ordering::SeqCst);
        if self.keeper_waits.swap(false, Ordering::SeqCst) {
            self.wakers.wake();
        }
    }
}

impl<IO> Keep for Shared<IO>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin,
{
    fn poll_keep(&self, cx: &mut Context<'_>) -> Poll<()> {
        let waker = self.wakers.register(Party::Keeper, cx);
        let Some(mut core) = self.keepers_core() else {
            return Poll::Pending;
        };
        let moved_on = core.attend(&mut Context::from_waker(&waker));
        let at_rest = core.is_at_rest();
        drop(core);
        if moved_on {
            self.wakers.wake();
        }
        match at_rest {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn is_at_rest(&self) -> bool {
        self.try_core().is_some_and(|core| core.is_at_rest())
    }

    fn wake(&self) {
        self.wakers.wake();
    }
}

impl<IO> TlsStream<IO>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    /// The application can begin.
    pub(super) fn new(mut core: StreamCore<IO>) -> Self {
        core.await_application();
        let control = Arc::clone(core.registration().control());
        let arrival = core.connection().arrival().clone();
        // That of a stream which goes on here is known before its handshake is complete.
        control.set_lineage(core.connection().lineage());
        let at_rest = core.is_at_rest() && !control.has_command();
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            wakers: Wakers::new(),
            keeper_waits: AtomicBool::new(false),
        });
        let keep: Weak<Shared<IO>> = Arc::downgrade(&shared);
        control.begin(arrival, keep);
        if !at_rest || control.has_command() {
            control.ensure_kept();
        }
        Self { shared, control }
    }
}

impl<IO> TlsStream<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Every way to the connection leads through here: what is due comes first, and then what `party` asks for.
    fn enter<R>(
        &self,
        party: Party,
        cx: &Context<'_>,
        ask: impl FnOnce(&mut StreamCore<IO>, &mut Context<'_>) -> R,
    ) -> R {
        let waker = self.shared.wakers.register(party, cx);
        let cx = &mut Context::from_waker(&waker);
        let mut guard = self.shared.core();
        guard.core.meet_application();
        let moved_on = guard.core.attend(cx);
        let answer = ask(&mut guard.core, cx);
        let at_rest = guard.core.is_at_rest();
        drop(guard);
        if moved_on {
            self.shared.wakers.wake();
        }
        if !at_rest {
            self.control.ensure_kept();
        }
        answer
    }

    /// As [`enter`](Self::enter), for what is ready at once.
    async fn ask<R>(&self, mut ask: impl FnMut(&mut StreamCore<IO>) -> R) -> R {
        poll_fn(|cx| Poll::Ready(self.enter(Party::Writer, cx, |core, _| ask(core)))).await
    }

    async fn flushed(&self) -> io::Result<()> {
        poll_fn(|cx| self.enter(Party::Writer, cx, StreamCore::poll_flush)).await
    }

    /// How the client came here.
    pub fn arrival(&self) -> &Arrival {
        self.control.arrival().unwrap_or(&Arrival::Fresh)
    }

    /// Which stream this is, and how many connections had it before. Who keeps that in a shared store keeps a server out that is cut
    /// off from its client and goes on: `docs/recovery.md` has an example.
    ///
    /// `None` for a client that does not support migration. That of a stream which goes on here is there at once, and that of one
    /// which begins here when the [handshake](Self::handshake) is complete.
    pub fn lineage(&self) -> Option<Lineage> {
        self.control.lineage()
    }

    /// Speaks to this connection while something else owns the stream.
    pub fn handle(&self) -> ConnectionHandle {
        ConnectionHandle::new(&self.control)
    }

    /// The transport and rustls' connection, as long as what is returned lives: nothing moves meanwhile, so keep it for
    /// moments only.
    pub fn get_ref(&self) -> StreamRef<'_, IO> {
        StreamRef(self.shared.core())
    }

    /// Completes the handshake, and spends the token if the client came with one.
    ///
    /// Only after early data is there something to wait for. What was read before it is early data, which somebody may have
    /// copied: the client sends it again on its own connection then. What is read after it, the rest of the early data
    /// too, has been sent by a client that is present, and comes once.
    ///
    /// # Errors
    ///
    /// Those of the transport and of the handshake; `ConnectionAborted` with a [`TokenNotSpent`](super::TokenNotSpent) when
    /// another connection has spent the token.
    pub async fn handshake(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.enter(Party::Writer, cx, |core, _| core.poll_established())).await
    }

    /// Tells the client to move to `target`, chosen now: an offer of its own, then the `migrate_notify` alert. Completes the
    /// handshake first.
    ///
    /// With a `state`, of at most 8192 bytes, the application [consents](Self::set_state) that the stream itself goes on at the
    /// target. Go on until the client closes its side, and then shut down: that hands the stream over, with what
    /// `set_state` said last. Without a state the connection moves, and earlier consent is taken back: finish what
    /// is under way, and shut down; the client's next connection goes to the target.
    ///
    /// A client that has left for another target of the stream already is sent nothing more: it goes to the newest. One that was
    /// told to go on with the stream may be on its way, so it cannot be told to go with its connection instead.
    ///
    /// Safe to cancel: the client is told as a whole or not at all.
    ///
    /// # Errors
    ///
    /// [`OfferError`] or [`NotifyError`](crate::server::NotifyError) inside an `InvalidInput` error when the client may
    /// not be told; the connection goes on then. Otherwise those of the transport.
    pub async fn migrate_to(&mut self, target: SocketAddr, state: Option<&[u8]>) -> io::Result<()> {
        self.handshake().await?;
        self.ask(|core| core.migrate_to(target, state)).await?;
        self.flushed().await
    }

    /// Offers the client a target, without telling it to move: the stream itself with a `state`, which is
    /// [consent](Self::set_state), and without one the client's next connection. Completes the handshake first.
    ///
    /// # Errors
    ///
    /// [`OfferError`] inside an `InvalidInput` error when there can be no offer, as to a client that has been told to move
    /// already: it would take it for the hand-over. The connection goes on then. Otherwise those of the transport.
    pub async fn offer(&mut self, target: SocketAddr, state: Option<&[u8]>) -> io::Result<()> {
        self.handshake().await?;
        self.ask(|core| core.offer(target, state)).await?;
        self.flushed().await
    }

    /// Says from where the stream can go on should this server die: at `target`, from `state`, of at most 8192 bytes, which accounts
    /// for all that the application has read from this stream so far and for all that it has written to it so far
    /// (`docs/recovery.md`). The newest checkpoint counts. The server keeps nothing of it.
    ///
    /// It is no [consent](Self::set_state) to a hand-over: a state that is right in the middle need not be right at the end. An
    /// [offer](Self::offer) without a state takes it back. Completes the handshake first.
    ///
    /// The first checkpoint of a stream has the client begin to keep what it writes, so make it at once; a client that has written
    /// more by then than it accounts for can go on from the second one.
    ///
    /// Safe to cancel: it is sent as a whole or not at all. A checkpoint is good as long as a token, so make another one before.
    ///
    /// # Errors
    ///
    /// [`OfferError`] inside an `InvalidInput` error when there can be no checkpoint; nothing was sent then, and the connection
    /// goes on. Otherwise those of the transport.
    pub async fn checkpoint(&mut self, target: SocketAddr, state: &[u8]) -> io::Result<()> {
        self.handshake().await?;
        self.ask(|core| core.queue_checkpoint(target, state))
            .await?;
        self.flushed().await
    }

    /// As [`checkpoint`](Self::checkpoint), without a write of its own: it leaves with what is written or flushed next, or when the
    /// stream is read. For a stream that goes on writing, where it saves a system call and a packet. Until it has left, the
    /// client goes on from the one before.
    ///
    /// # Errors
    ///
    /// [`OfferError`]; there is no new checkpoint then, and the connection goes on. [`OfferError::Handshaking`] before the
    /// [handshake](Self::handshake) is complete.
    pub fn queue_checkpoint(&mut self, target: SocketAddr, state: &[u8]) -> Result<(), OfferError> {
        let mut guard = self.shared.core();
        guard.core.meet_application();
        guard.core.queue_checkpoint(target, state)
    }

    /// Takes the number of bytes that the client has already of what the application writes next
    /// ([`Arrival::Recovered`]): the application goes on behind them. Unless it is called, the application writes again from its
    /// checkpoint on, and so many bytes of that are discarded. 0 when there is none left.
    pub fn take_received(&mut self) -> u64 {
        let mut guard = self.shared.core();
        guard.core.meet_application();
        guard.core.take_received()
    }

    /// How long a checkpoint is good.
    pub(in crate::tokio) fn token_lifetime(&self) -> Duration {
        self.shared.core().core.connection().token_lifetime()
    }

    /// The application's consent that the stream goes on at another server, from `state`: see
    /// [`ConnectionHandle::set_state`].
    ///
    /// A half-close of the client falls anywhere in its bytes, so what was read of a message that is not complete belongs into
    /// the state: `examples/partial_message.rs` shows it.
    ///
    /// # Errors
    ///
    /// [`OfferError::StateTooLong`]; what was said before stays.
    pub fn set_state(&mut self, state: &[u8]) -> Result<(), OfferError> {
        self.control.set_consent(Some(state))
    }

    /// Takes the consent back: the conversation is finished, and the stream ends here.
    pub fn withdraw_state(&mut self) {
        self.control.withdraw_consent();
    }

    /// Tells the client to move by its newest offer: the `migrate_notify` alert. Completes the handshake first. A client that
    /// has been told is not told again.
    ///
    /// With [consent](Self::set_state) the stream itself moves, so go on as after [`migrate_to`](Self::migrate_to) with a
    /// state; else as after one without. If the newest offer was not of that kind, the client gets another one first. A client that has not gone by the departure deadline (ten seconds after the notice has left, unless
    /// configured) is given up: calls fail with `TimedOut` and a [`DepartureOverdue`](super::DepartureOverdue).
    ///
    /// # Errors
    ///
    /// [`NotifyError`](crate::server::NotifyError) or [`OfferError`] inside an `InvalidInput` error when the client may not be
    /// told; nothing was sent then, and the connection goes on. Otherwise those of the transport.
    pub async fn notify(&mut self) -> io::Result<()> {
        self.handshake().await?;
        self.ask(StreamCore::notify).await?;
        self.flushed().await
    }

    /// Asks for new traffic keys; they are used from the next write on.
    ///
    /// # Errors
    ///
    /// rustls' own: the handshake is not complete, or this is not TLS 1.3.
    pub fn refresh_traffic_keys(&mut self) -> Result<(), rustls::Error> {
        let mut guard = self.shared.core();
        guard.core.meet_application();
        guard.core.refresh_traffic_keys()
    }
}

impl<IO> AsyncRead for TlsStream<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.enter(Party::Reader, cx, |core, cx| core.poll_read(cx, buf))
    }
}

impl<IO> AsyncWrite for TlsStream<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.enter(Party::Writer, cx, |core, cx| core.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.enter(Party::Writer, cx, StreamCore::poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.enter(Party::Writer, cx, StreamCore::poll_shutdown)
    }
}

/// The transport's descriptor, for options of the socket. It is the stream's: nothing is to be read, written or closed by it.
#[cfg(unix)]
impl<IO> AsRawFd for TlsStream<IO>
where
    IO: AsyncRead + AsyncWrite + AsRawFd + Unpin,
{
    fn as_raw_fd(&self) -> RawFd {
        self.get_ref().io().as_raw_fd()
    }
}

impl<IO> fmt::Debug for TlsStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

/// A look at a [`TlsStream`]'s parts, as from [`TlsStream::get_ref`].
pub struct StreamRef<'a, IO>(CoreGuard<'a, IO>);

impl<IO> StreamRef<'_, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// The transport.
    pub fn io(&self) -> &IO {
        self.0.core.io()
    }

    /// rustls' connection: certificates, ALPN, cipher suite, exporter.
    pub fn tls(&self) -> &rustls::ServerConnection {
        self.0.core.connection().tls()
    }
}

impl<IO> fmt::Debug for StreamRef<'_, IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamRef").finish_non_exhaustive()
    }
}
