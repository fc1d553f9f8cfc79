//! The server's acceptor and stream. Early data can be read before the handshake is complete, and answered in the
//! server's first flight.
//!
//! 1-RTT data never passes before the token's nonce has been committed.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use migration_token::{Claim, CommitOutcome, StoreError};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use zeroize::Zeroizing;

use super::driver::Driver;
use super::wakers::Wakers;
use crate::connection::Connection as _;
use crate::server::{
    AcceptError, Accepting, Arrival, MigrationServer, NotifyError, OfferFailure, ServerConnection,
};

/// How much is read from a client at a time until its hello is complete, in bytes.
const READ_LEN: usize = 4096;

/// Accepts TLS connections, and clients that come with a token. It takes the place of `tokio_rustls::TlsAcceptor`.
#[derive(Clone, Debug)]
pub struct MigrationAcceptor {
    server: Arc<MigrationServer>,
}

impl From<MigrationServer> for MigrationAcceptor {
    fn from(server: MigrationServer) -> Self {
        Arc::new(server).into()
    }
}

impl From<Arc<MigrationServer>> for MigrationAcceptor {
    fn from(server: Arc<MigrationServer>) -> Self {
        Self { server }
    }
}

impl MigrationAcceptor {
    /// Accepts a connection over `io`.
    ///
    /// Resolves when the handshake is complete or, if the client's early data is accepted, as soon as it can be read.
    /// Dropping the future drops the connection.
    ///
    /// # Errors
    ///
    /// Those of `io`; [`AcceptError`] or [`rustls::Error`] inside an `InvalidData` error when the client is at fault;
    /// `ConnectionAborted` when another connection has spent the client's token.
    pub async fn accept<IO>(&self, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_from(io, None, None).await
    }

    /// As [`accept`](Self::accept), with the addresses that the choice of a target may want to know: the client's, and
    /// the one that it connected to.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub async fn accept_from<IO>(
        &self,
        io: IO,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.start(io, peer, local).await?.into_stream().await
    }

    /// The first half of [`accept_from`](Self::accept_from): resolves when the client's hello has been judged, so that
    /// the verdict on its token is known even of a client that never completes its handshake. One that sends a copy of
    /// somebody else's hello never does.
    ///
    /// # Errors
    ///
    /// Those of `io`; [`AcceptError`] inside an `InvalidData` error when the client is at fault.
    pub async fn start<IO>(
        &self,
        mut io: IO,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> io::Result<StartHandshake<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut accepting = Accepting::new(Arc::clone(&self.server), peer, local);
        read_hello(&mut io, &mut accepting).await?;
        let connection = match self.admit(accepting).await {
            Ok(connection) => connection,
            Err(error) => {
                // The client learns why if it still listens; the error counts more.
                let _ = io.write_all(&error.alert()).await;
                let _ = io.shutdown().await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        };
        tracing::debug!(arrival = ?connection.arrival(), "judged");
        Ok(StartHandshake(TlsStream {
            driver: Driver::new(io, connection),
            server: Arc::clone(&self.server),
            committing: None,
            departure: None,
            hand_over_to: None,
            state: Zeroizing::default(),
            client_closed: false,
            wakers: Wakers::new(),
        }))
    }

    /// Judges the hello, with the nonce store's answer where one is needed.
    async fn admit(&self, accepting: Accepting) -> Result<ServerConnection, AcceptError> {
        let claimed = accepting.examine()?;
        let answer = match claimed.claim() {
            Some(claim) => {
                let store = self.server.nonce_store();
                timeout(self.server.nonce_store_timeout(), store.claim(claim))
                    .await
                    .ok()
            }
            None => None,
        };
        claimed.accept(answer)
    }
}

/// A connection whose hello has been judged and not yet answered, as from [`MigrationAcceptor::start`].
#[derive(Debug)]
#[must_use = "the client waits for an answer"]
pub struct StartHandshake<IO>(TlsStream<IO>);

impl<IO> StartHandshake<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// How the client came here. A refusal is final; who is admitted has yet to complete the handshake.
    pub fn arrival(&self) -> &Arrival {
        self.0.arrival()
    }

    /// The second half of [`MigrationAcceptor::accept_from`].
    ///
    /// # Errors
    ///
    /// As [`MigrationAcceptor::accept`].
    pub async fn into_stream(self) -> io::Result<TlsStream<IO>> {
        let mut stream = self.0;
        std::future::poll_fn(|cx| stream.poll_accept(cx)).await?;
        tracing::debug!(arrival = ?stream.arrival(), "accepted");
        Ok(stream)
    }
}

async fn read_hello<IO>(io: &mut IO, accepting: &mut Accepting) -> io::Result<()>
where
    IO: AsyncRead + Unpin,
{
    let mut buf = [0; READ_LEN];
    loop {
        let len = io.read(&mut buf).await?;
        let received = buf.get(..len).unwrap_or_default();
        if received.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if accepting.push(received) {
            return Ok(());
        }
    }
}

type Committing = Pin<Box<dyn Future<Output = Option<Result<CommitOutcome, StoreError>>> + Send>>;

/// A server's stream over a TLS connection that can be moved.
///
/// Reading yields accepted early data first. The handshake goes on while the application reads; an application that
/// answers early data should read to the end before it drops the stream, since a socket that is dropped with something
/// unread resets the connection and may destroy the answer on its way.
pub struct TlsStream<IO> {
    driver: Driver<IO, ServerConnection>,
    server: Arc<MigrationServer>,
    committing: Option<Committing>,
    /// When a client that was notified must have gone.
    departure: Option<Pin<Box<Sleep>>>,
    /// Where the client is to be handed over to, once it has closed its side.
    hand_over_to: Option<SocketAddr>,
    /// What is handed over with it.
    state: Zeroizing<Vec<u8>>,
    client_closed: bool,
    wakers: Wakers,
}

impl<IO> TlsStream<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
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
    /// Only after early data is there something to wait for. What was read before it is early data; what is read
    /// after it has been sent by a client that is present.
    ///
    /// # Errors
    ///
    /// Those of the transport and of the handshake; `ConnectionAborted` when another connection has spent the token.
    pub async fn handshake(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            ready!(self.driver.poll_handshake(cx, |_| false))?;
            self.poll_commit(cx)
        })
        .await
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
    /// [`OfferFailure`] or [`NotifyError`] inside an `InvalidInput` error when the client may not be told; the connection
    /// goes on then. Otherwise those of the transport.
    pub async fn migrate_to(&mut self, target: SocketAddr, state: &[u8]) -> io::Result<()> {
        self.handshake().await?;
        self.driver
            .connection_mut()
            .offer(target, state)
            .map_err(|error: OfferFailure| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        // All of it at once: the client is told as a whole or not at all, also when this future is dropped while it waits.
        self.queue_notice()?;
        self.hand_over_to = Some(target);
        self.state = Zeroizing::new(state.to_vec());
        std::future::poll_fn(|cx| self.driver.poll_flush(cx)).await
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
    /// [`NotifyError`] inside an `InvalidInput` error when the client may not be sent the alert; nothing was sent then,
    /// and the connection goes on. Otherwise those of the transport.
    pub async fn notify(&mut self) -> io::Result<()> {
        self.handshake().await?;
        self.queue_notice()?;
        std::future::poll_fn(|cx| self.driver.poll_flush(cx)).await
    }

    /// Makes the alert the next thing to be sent; from now on the client is expected to leave.
    fn queue_notice(&mut self) -> io::Result<()> {
        self.driver
            .connection_mut()
            .notify()
            .map_err(|error: NotifyError| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let deadline = Instant::now() + self.server.departure_deadline();
        self.departure = Some(Box::pin(sleep_until(deadline)));
        Ok(())
    }

    /// Asks for new traffic keys; they are used from the next write on.
    ///
    /// # Errors
    ///
    /// rustls' own: the handshake is not complete, or this is not TLS 1.3.
    pub fn refresh_traffic_keys(&mut self) -> Result<(), rustls::Error> {
        self.driver.connection_mut().refresh_traffic_keys()
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(
            self.driver
                .poll_handshake(cx, ServerConnection::early_data_accepted)
        )?;
        if self.driver.connection().is_handshaking() {
            return Poll::Ready(Ok(()));
        }
        self.poll_commit(cx)
    }

    /// Commits the token's nonce once the handshake is complete.
    fn poll_commit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(claim) = self.driver.connection().commit() else {
            return Poll::Ready(Ok(()));
        };
        let server = &self.server;
        let committing = self
            .committing
            .get_or_insert_with(|| commit(Arc::clone(server), claim));
        let answer = ready!(committing.as_mut().poll(cx));
        self.committing = None;
        if self.driver.connection_mut().committed(&answer) {
            return Poll::Ready(Ok(()));
        }
        // Nothing may be said to a connection that has no right to its token.
        tracing::warn!(?answer, "the token could not be committed; closing");
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the migration token could not be committed",
        )))
    }

    /// Takes plaintext that has come; `None` when there is none yet.
    fn take_plaintext(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        let before = buf.filled().len();
        let result = self.driver.take_plaintext(buf)?;
        if result.is_ok() && buf.filled().len() == before && buf.remaining() > 0 {
            self.client_closed = true;
            self.departure = None;
        }
        Some(result)
    }

    /// Makes the last offer to a client that was told to go and has closed its side.
    fn hand_over(&mut self) -> io::Result<()> {
        let Some(target) = self.hand_over_to.take_if(|_| self.client_closed) else {
            return Ok(());
        };
        self.driver
            .connection_mut()
            .offer(target, &self.state)
            .map_err(|error: OfferFailure| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    /// Fails when a notified client has stayed too long.
    fn poll_departure(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(departure) = &mut self.departure else {
            return Ok(());
        };
        if departure.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        self.departure = None;
        self.driver.connection_mut().send_close_notify();
        self.driver.write_in_passing(cx);
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client did not leave after migrate_notify",
        ))
    }
}

fn commit(server: Arc<MigrationServer>, claim: Claim) -> Committing {
    Box::pin(async move {
        let limit = server.nonce_store_timeout();
        timeout(limit, server.nonce_store().commit(claim))
            .await
            .ok()
    })
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
            ready!(this.poll_commit(cx))?;
            this.poll_departure(cx)?;
            if let Some(result) = this.take_plaintext(buf) {
                return Poll::Ready(result);
            }
            ready!(this.driver.poll_read_tls(cx))?;
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
        this.driver
            .poll_write(&mut Context::from_waker(&waker), buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let waker = this.wakers.writing(cx);
        this.driver.poll_flush(&mut Context::from_waker(&waker))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let waker = this.wakers.writing(cx);
        this.hand_over()?;
        this.driver.poll_shutdown(&mut Context::from_waker(&waker))
    }
}

impl<IO> fmt::Debug for TlsStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}
