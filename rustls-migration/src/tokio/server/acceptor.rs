//! The server's acceptor: a hello is read, judged and answered.
//!
//! It never serves; the stream that it makes does.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::drain::{self, Drain, DrainPlan};
use super::duties::StreamCore;
use super::handshake::{HandshakePermits, HandshakeSlot, HandshakeTimeout, permits};
use super::nonce_store::NonceStoreGate;
use super::registry::Registry;
use super::stream::TlsStream;
use crate::server::{AcceptError, Accepting, Arrival, Counts, MigrationServer, ServerConnection};
use crate::tokio::driver::Driver;

/// How much is read from a client at a time until its hello is complete, in bytes.
const READ_LEN: usize = 4096;

/// Accepts TLS connections, and clients that come with a token. It takes the place of `tokio_rustls::TlsAcceptor`.
#[derive(Clone, Debug)]
pub struct MigrationAcceptor {
    server: Arc<MigrationServer>,
    registry: Arc<Registry>,
    permits: HandshakePermits,
    gate: Arc<NonceStoreGate>,
    require_handshake: bool,
}

impl From<MigrationServer> for MigrationAcceptor {
    fn from(server: MigrationServer) -> Self {
        Arc::new(server).into()
    }
}

impl From<Arc<MigrationServer>> for MigrationAcceptor {
    fn from(server: Arc<MigrationServer>) -> Self {
        Self {
            registry: Arc::default(),
            permits: permits(server.max_handshakes()),
            gate: Arc::new(NonceStoreGate::new(Arc::clone(&server))),
            require_handshake: false,
            server,
        }
    }
}

impl MigrationAcceptor {
    /// Accepts complete handshakes only, for applications that must not act twice: early data is read when the client's
    /// Finished has been verified and its token spent, so a copy of somebody else's hello never reaches the application.
    /// It costs a resumed client the round trip that early data saves.
    #[must_use]
    pub fn require_handshake(mut self) -> Self {
        self.require_handshake = true;
        self
    }

    /// Accepts a connection over `io`.
    ///
    /// Resolves when the handshake is complete or, if the client's early data is accepted, as soon as it can be read.
    /// Dropping the future drops the connection.
    ///
    /// # Errors
    ///
    /// Those of `io`; [`AcceptError`] or [`rustls::Error`] inside an `InvalidData` error when the client is at fault;
    /// `ConnectionAborted` with a [`TokenNotSpent`](super::TokenNotSpent) inside when another connection has spent the
    /// client's token; `TimedOut` with a [`HandshakeTimeout`] inside.
    pub async fn accept<IO>(&self, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
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
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // On the heap, and gone when the stream is there: a task stays as large as the largest future that it ever awaited.
        Box::pin(async { self.start(io, peer, local).await?.into_stream().await }).await
    }

    /// The first half of [`accept_from`](Self::accept_from): resolves when the client's hello has been judged, so that
    /// the verdict on its token is known even of a client that never completes its handshake. One that sends a copy of
    /// somebody else's hello never does.
    ///
    /// # Errors
    ///
    /// Those of `io`; [`AcceptError`] inside an `InvalidData` error when the client is at fault; `TimedOut` with a
    /// [`HandshakeTimeout`] inside.
    pub async fn start<IO>(
        &self,
        io: IO,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> io::Result<StartHandshake<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        // Registered first, so that a drain knows of connections whose hello is still to come.
        let registration = self.registry.register(peer);
        let mut slot = HandshakeSlot::new(self.server.handshake_timeout());
        let judged = async {
            // Never closed.
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
            (permit, self.judge(io, peer, local).await)
        };
        let (permit, judged) = tokio::select! {
            biased;
            judged = judged => judged,
            () = slot.timeout() => {
                self.server.handshake_timed_out(peer);
                return Err(HandshakeTimeout.into());
            }
        };
        slot.take(permit);
        let (io, connection) = judged?;
        let driver = Driver::new(io, connection);
        Ok(StartHandshake {
            core: Box::new(StreamCore::new(
                driver,
                Arc::clone(&self.gate),
                registration,
                slot,
            )),
            require_handshake: self.require_handshake,
        })
    }

    /// Reads the hello, judges it and gives it to the TLS library.
    async fn judge<IO>(
        &self,
        mut io: IO,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> io::Result<(IO, ServerConnection)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut accepting = Accepting::new(Arc::clone(&self.server), peer, local);
        read_hello(&mut io, &mut accepting).await?;
        match self.admit(accepting).await {
            Ok(connection) => Ok((io, connection)),
            Err(error) => {
                // The client learns why if it still listens; the error counts more.
                let _ = io.write_all(&error.alert()).await;
                let _ = io.shutdown().await;
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// What became of arrivals so far, as from [`MigrationServer::counts`].
    pub fn counts(&self) -> Counts {
        self.server.counts()
    }

    /// How many connections of this acceptor and its clones are live.
    pub fn connections(&self) -> usize {
        self.registry.len()
    }

    /// Moves all connections of this acceptor and its clones elsewhere, those that are accepted meanwhile too. Stop
    /// accepting before.
    ///
    /// Each client is told although nobody may poll its stream. A stream whose application has
    /// [consented](TlsStream::set_state) is handed over; an application that reads to the end and then shuts down need not
    /// know. Every other one is moved as a connection: the application learns of it by
    /// [`ConnectionHandle::told`](super::ConnectionHandle::told), finishes what it does, and ends the stream.
    pub fn drain(&self, plan: DrainPlan) -> Drain {
        let random = self.server.random();
        drain::start(Arc::clone(&self.registry), plan, random)
    }

    /// Judges the hello, with the nonce store's answer where one is needed.
    async fn admit(&self, accepting: Accepting) -> Result<ServerConnection, AcceptError> {
        let claimed = accepting.examine()?;
        let answer = match claimed.claim() {
            Some(claim) => self.gate.claim(claim).await,
            None => None,
        };
        claimed.accept(answer)
    }
}

/// A connection whose hello has been judged and not yet answered, as from [`MigrationAcceptor::start`].
#[must_use = "the client waits for an answer"]
pub struct StartHandshake<IO> {
    core: Box<StreamCore<IO>>,
    require_handshake: bool,
}

impl<IO> StartHandshake<IO>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    /// How the client came here. A refusal is final; who is admitted has yet to complete the handshake.
    pub fn arrival(&self) -> &Arrival {
        self.core.connection().arrival()
    }

    /// The second half of [`MigrationAcceptor::accept_from`].
    ///
    /// # Errors
    ///
    /// As [`MigrationAcceptor::accept`].
    pub async fn into_stream(self) -> io::Result<TlsStream<IO>> {
        let Self {
            mut core,
            require_handshake,
        } = self;
        poll_fn(|cx| {
            core.attend(cx);
            match require_handshake {
                true => core.poll_established(),
                false => core.poll_accepted(),
            }
        })
        .await?;
        Ok(TlsStream::new(*core))
    }
}

impl<IO> fmt::Debug for StartHandshake<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartHandshake").finish_non_exhaustive()
    }
}

async fn read_hello<IO>(io: &mut IO, accepting: &mut Accepting) -> io::Result<()>
where
    IO: AsyncRead + Unpin,
{
    // On the heap: the future that holds it lives as long as the connection's task.
    let mut buf = vec![0; READ_LEN];
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
