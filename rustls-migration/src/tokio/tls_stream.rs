//! The server's stream. Early data can be read before the handshake is complete, and answered in the server's first
//! flight; a client can be told to move, and is handed over when it has closed its side.
//!
//! 1-RTT data never passes before the token's nonce has been committed, in either direction.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use migration_token::{CommitOutcome, StoreError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use zeroize::Zeroizing;

use super::connections::{Order, Registration, Standing};
use super::driver::Driver;
use super::handshaking::{HandshakeTimeout, Handshaking};
use super::questions::Questions;
use super::wakers::Wakers;
use crate::connection::Connection as _;
use crate::server::{Arrival, OfferFailure, ServerConnection};

type Committing = Pin<Box<dyn Future<Output = Option<Result<CommitOutcome, StoreError>>> + Send>>;

/// A server's stream over a TLS connection that can be moved.
///
/// Reading yields accepted early data first. The handshake goes on while the application reads; an application that
/// answers early data should read to the end before it drops the stream, since a socket that is dropped with something
/// unread resets the connection and may destroy the answer on its way.
pub struct TlsStream<IO> {
    driver: Driver<IO, ServerConnection>,
    questions: Arc<Questions>,
    /// Until the handshake is complete and the token spent.
    handshaking: Option<Handshaking>,
    committing: Option<Committing>,
    /// When a client that was notified must have gone.
    departure: Option<Pin<Box<Sleep>>>,
    /// Where the client is to be handed over to, once it has closed its side.
    hand_over_to: Option<SocketAddr>,
    /// What is handed over with it.
    state: Zeroizing<Vec<u8>>,
    client_closed: bool,
    registration: Registration,
    wakers: Wakers,
}

impl<IO> TlsStream<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(
        io: IO,
        connection: ServerConnection,
        questions: Arc<Questions>,
        registration: Registration,
        handshaking: Handshaking,
    ) -> Self {
        Self {
            driver: Driver::new(io, connection),
            questions,
            handshaking: Some(handshaking),
            committing: None,
            departure: None,
            hand_over_to: None,
            state: Zeroizing::default(),
            client_closed: false,
            registration,
            wakers: Wakers::new(),
        }
    }

    /// How the client came here.
    pub fn arrival(&self) -> &Arrival {
        self.driver.connection().arrival()
    }

    /// The transport and rustls' connection.
    pub fn get_ref(&self) -> (&IO, &rustls::ServerConnection) {
        (self.driver.io(), self.driver.connection().tls())
    }

    /// Completes the handshake, and spends the token if the client came with one.
    ///
    /// Only after early data is there something to wait for. What was read before it is early data, which somebody may have
    /// copied: the client sends it again on its own connection then. What is read after it, the rest of the early data
    /// too, has been sent by a client that is present, and comes once.
    ///
    /// # Errors
    ///
    /// Those of the transport and of the handshake; `ConnectionAborted` when another connection has spent the token.
    pub async fn handshake(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_handshake(cx, |_| false)).await
    }

    /// Tells the client to move to `target`, chosen now: an offer of its own, then the `migrate_notify` alert. Completes the
    /// handshake first.
    ///
    /// `state`, at most 8192 bytes, is sealed into the offer's ticket for the application at the target.
    ///
    /// Afterwards go on until the client closes its side, and then shut down. If the client finishes here before it goes
    /// ([`HandOff::Drain`](super::HandOff::Drain)), that hands it over: shutting down after the client's end makes a last
    /// offer, with what [`set_state`](Self::set_state) said last, and the target goes on from there.
    ///
    /// # Errors
    ///
    /// [`OfferFailure`] or [`NotifyError`](crate::server::NotifyError) inside an `InvalidInput` error when the client may
    /// not be told; the connection goes on then. Otherwise those of the transport.
    pub async fn migrate_to(&mut self, target: SocketAddr, state: &[u8]) -> io::Result<()> {
        self.handshake().await?;
        self.tell(target, state)?;
        std::future::poll_fn(|cx| self.driver.poll_flush(cx)).await
    }

    /// Puts an offer and the alert among what is written next: the client is told as a whole or not at all, also when the
    /// future that flushes it is dropped.
    fn tell(&mut self, target: SocketAddr, state: &[u8]) -> io::Result<()> {
        self.make_offer(target, state)?;
        self.make_notice()?;
        self.hand_over_to = Some(target);
        self.state = Zeroizing::new(state.to_vec());
        Ok(())
    }

    /// Offers the client a target, without telling it to move. Completes the handshake first. A client that has been told
    /// to move would take it for the hand-over, so it gets no more offers but by [`migrate_to`](Self::migrate_to).
    ///
    /// # Errors
    ///
    /// [`OfferFailure`] inside an `InvalidInput` error when there can be no offer; the connection goes on then. Otherwise
    /// those of the transport.
    pub async fn offer(&mut self, target: SocketAddr, state: &[u8]) -> io::Result<()> {
        self.handshake().await?;
        if self.hand_over_to.is_some() {
            return Err(invalid(OfferFailure::UnderWay));
        }
        self.make_offer(target, state)?;
        std::future::poll_fn(|cx| self.driver.poll_flush(cx)).await
    }

    fn make_offer(&mut self, target: SocketAddr, state: &[u8]) -> io::Result<()> {
        let connection = self.driver.connection_mut();
        connection.offer(target, Some(state)).map_err(invalid)
    }

    /// Sets the state that is handed over when the client has closed its side: see [`migrate_to`](Self::migrate_to).
    pub fn set_state(&mut self, state: &[u8]) {
        self.state = Zeroizing::new(state.to_vec());
    }

    /// How many offers can still be made on this connection.
    pub fn offers_left(&self) -> usize {
        self.driver.connection().offers_left()
    }

    /// Tells the client to move to its token's target: the `migrate_notify` alert. Completes the handshake first.
    ///
    /// Afterwards read to the end: the client closes when it goes. If it has not gone by the departure deadline (ten
    /// seconds unless configured), reads send `close_notify` and fail with `TimedOut`.
    ///
    /// # Errors
    ///
    /// [`NotifyError`](crate::server::NotifyError) inside an `InvalidInput` error when the client may not be sent the
    /// alert; nothing was sent then, and the connection goes on. Otherwise those of the transport.
    pub async fn notify(&mut self) -> io::Result<()> {
        self.handshake().await?;
        self.make_notice()?;
        std::future::poll_fn(|cx| self.driver.poll_flush(cx)).await
    }

    /// Puts the alert among what is written next, and sets the client its deadline.
    fn make_notice(&mut self) -> io::Result<()> {
        self.driver.connection_mut().notify().map_err(invalid)?;
        let deadline = Instant::now() + self.driver.connection().departure_deadline();
        self.departure = Some(Box::pin(sleep_until(deadline)));
        Ok(())
    }

    /// Carries out what a drain ordered. A stream whose handshake is not complete does so later.
    fn obey(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let connection = self.driver.connection();
        if connection.is_handshaking() || connection.commit().is_some() {
            return Ok(());
        }
        match self.registration.control().take_order(cx.waker()) {
            // A client that has closed its side is about to be gone, and one that moves already needs no order.
            Some(Order::MoveTo(_)) if self.client_closed || self.hand_over_to.is_some() => Ok(()),
            Some(Order::MoveTo(target)) => {
                let state = self.state.clone();
                let standing = match self.tell(target, &state) {
                    Ok(()) => Standing::Notified,
                    Err(_) => Standing::CannotMove,
                };
                self.registration.control().stands(standing);
                self.driver.write_in_passing(cx);
                Ok(())
            }
            Some(Order::Close) => Err(self.force(cx)),
            None => Ok(()),
        }
    }

    /// Closes the connection of a client that did not leave.
    fn force(&mut self, cx: &mut Context<'_>) -> io::Error {
        self.departure = None;
        self.registration.control().stands(Standing::Forced);
        self.driver.connection_mut().send_close_notify();
        self.driver.write_in_passing(cx);
        io::Error::new(
            io::ErrorKind::TimedOut,
            "the client did not leave after migrate_notify",
        )
    }

    /// Asks for new traffic keys; they are used from the next write on.
    ///
    /// # Errors
    ///
    /// rustls' own: the handshake is not complete, or this is not TLS 1.3.
    pub fn refresh_traffic_keys(&mut self) -> Result<(), rustls::Error> {
        self.driver.connection_mut().refresh_traffic_keys()
    }

    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_handshake(cx, ServerConnection::early_data_accepted)
    }

    /// Goes on with the handshake until `done`, or until it is complete and the token spent.
    fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        done: impl Fn(&mut ServerConnection) -> bool,
    ) -> Poll<io::Result<()>> {
        let polled = match self.driver.poll_handshake(cx, done)? {
            Poll::Ready(()) if self.driver.connection().is_handshaking() => Poll::Ready(Ok(())),
            Poll::Ready(()) => self.poll_commit(cx),
            Poll::Pending => Poll::Pending,
        };
        if polled.is_pending() {
            self.poll_handshake_time(cx)?;
        }
        polled
    }

    /// Fails when the handshake has taken too long. What has come counts first, so this is for when nothing has.
    fn poll_handshake_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(handshaking) = &mut self.handshaking else {
            return Ok(());
        };
        let Poll::Ready(first) = handshaking.poll_over(cx) else {
            return Ok(());
        };
        if first {
            self.driver.connection().timed_out();
        }
        Err(HandshakeTimeout.into())
    }

    /// Commits the token's nonce once the handshake is complete.
    fn poll_commit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(claim) = self.driver.connection().commit() {
            let questions = &self.questions;
            let committing = self.committing.get_or_insert_with(|| {
                let questions = Arc::clone(questions);
                Box::pin(async move { questions.commit(claim).await })
            });
            let answer = ready!(committing.as_mut().poll(cx));
            self.committing = None;
            if !self.driver.connection_mut().committed(&answer) {
                // Nothing may be said to a connection that has no right to its token.
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "the migration token could not be committed",
                )));
            }
            // The tickets have waited for this.
            self.driver.write_in_passing(cx);
        }
        if !self.driver.connection().is_handshaking() {
            self.handshaking = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes plaintext that has come; `None` when there is none yet.
    fn take_plaintext(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        let before = buf.filled().len();
        let result = self.driver.take_plaintext(buf)?;
        if result.is_ok() && buf.filled().len() == before && buf.remaining() > 0 {
            self.client_closed = true;
            if self.departure.take().is_some() {
                self.registration.control().stands(Standing::Moved);
            }
        }
        Some(result)
    }

    /// Makes the last offer to a client that was told to go and has closed its side.
    fn hand_over(&mut self) -> io::Result<()> {
        let Some(target) = self.hand_over_to.take_if(|_| self.client_closed) else {
            return Ok(());
        };
        let connection = self.driver.connection_mut();
        connection.offer(target, Some(&self.state)).map_err(invalid)
    }

    /// Fails when a notified client has stayed too long.
    fn poll_departure(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(departure) = &mut self.departure else {
            return Ok(());
        };
        if departure.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        Err(self.force(cx))
    }
}

/// The caller asked for what cannot be done; the connection goes on.
fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
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
        let this = self.get_mut();
        let waker = this.wakers.reading(cx);
        let cx = &mut Context::from_waker(&waker);
        loop {
            this.driver.write_in_passing(cx);
            if let Some(result) = this.take_plaintext(buf) {
                return Poll::Ready(result);
            }
            if this.poll_commit(cx)?.is_pending() {
                this.poll_handshake_time(cx)?;
                return Poll::Pending;
            }
            this.obey(cx)?;
            if let Some(result) = this.take_plaintext(buf) {
                return Poll::Ready(result);
            }
            // What has come counts before the deadline: a client that left in time has left.
            if this.driver.poll_read_tls(cx)?.is_pending() {
                this.poll_handshake_time(cx)?;
                this.poll_departure(cx)?;
                return Poll::Pending;
            }
        }
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
        let this = self.get_mut();
        let waker = this.wakers.writing(cx);
        let cx = &mut Context::from_waker(&waker);
        ready!(this.poll_commit(cx))?;
        this.obey(cx)?;
        this.driver.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let waker = this.wakers.writing(cx);
        let cx = &mut Context::from_waker(&waker);
        ready!(this.poll_commit(cx))?;
        this.driver.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let waker = this.wakers.writing(cx);
        let cx = &mut Context::from_waker(&waker);
        ready!(this.poll_commit(cx))?;
        this.hand_over()?;
        this.driver.poll_shutdown(cx)
    }
}

impl<IO> fmt::Debug for TlsStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}
