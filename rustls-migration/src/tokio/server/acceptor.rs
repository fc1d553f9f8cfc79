//! The server's acceptor: a hello is read, judged and answered.
//!
//! It never serves; the stream that it makes does.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tracing::Instrument as _;

use super::drain::{self, Drain, DrainPlan};
use super::duties::StreamCore;
use super::error::DepartureOverdue;
use super::handle::DepartureStatus;
use super::handshake::{HandshakePermits, HandshakeSlot, HandshakeTimeout, HelloMemory, permits};
use super::nonce_store::NonceStoreGate;
use super::registry::{Registration, Registry};
use super::stream::TlsStream;
use crate::MoveKind;
use crate::server::{
    AcceptError, Arrival, HelloAcceptor, MigrationServer, ServerConnection, Stats,
};
use crate::tokio::driver::Driver;

/// How much is read from a client at a time until its hello is complete, in bytes.
const READ_LEN: usize = 4096;

/// How much is read of a client that has no place yet: enough to know that it has begun.
const FIRST_LEN: usize = 5;

/// Accepts TLS connections, and clients that come with a token. It takes the place of `tokio_rustls::TlsAcceptor`.
///
/// Clones are the same acceptor: they share connections, places, the nonce store, and what [`replace`](Self::replace) changes.
///
/// # Traces
///
/// Each connection has a `tracing` span `connection` at level DEBUG, with the target `rustls_migration::connection`, inside of the
/// span in which it was accepted. Its fields are the client's address `peer`; `id` and `epoch`, the stream's [`Lineage`](crate::Lineage), when the
/// handshake is complete; and `from`, the `id` in the ticket that the client came with. So a stream has one `id` at all nodes, and in the log of its
/// client; a conversation that begins with a session that was offered elsewhere has one of its own, and says `from`. Events in it tell of the
/// arrival (see [`Stats`]), and at level DEBUG of being told to move, and of each [`DepartureStatus`].
#[derive(Clone, Debug)]
pub struct MigrationAcceptor {
    shared: Arc<Shared>,
    require_handshake: bool,
}

/// What the clones of an acceptor share.
#[derive(Debug)]
struct Shared {
    server: RwLock<Arc<MigrationServer>>,
    registry: Arc<Registry>,
    permits: HandshakePermits,
    hello_memory: HelloMemory,
    gate: Arc<NonceStoreGate>,
}

impl From<MigrationServer> for MigrationAcceptor {
    fn from(server: MigrationServer) -> Self {
        Arc::new(server).into()
    }
}

impl From<Arc<MigrationServer>> for MigrationAcceptor {
    fn from(server: Arc<MigrationServer>) -> Self {
        let shared = Shared {
            registry: Arc::default(),
            permits: permits(server.max_handshakes()),
            hello_memory: HelloMemory::new(server.max_hello_memory()),
            gate: Arc::new(NonceStoreGate::new(&server)),
            server: RwLock::new(server),
        };
        Self {
            shared: Arc::new(shared),
            require_handshake: false,
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

    /// Accepts a connection over `io`, which counts as one of this acceptor's from the call on, before the future is polled: a
    /// node that stops accepts what its listener holds, calls this for each, and then drains.
    ///
    /// Resolves when the handshake is complete or, if the client's early data is accepted, as soon as it can be read.
    /// Dropping the future drops the connection.
    ///
    /// # Errors
    ///
    /// Those of `io`; [`AcceptError`] or [`rustls::Error`] inside an `InvalidData` error when the client is at fault;
    /// `ConnectionAborted` with a [`TokenNotSpent`](super::TokenNotSpent) inside when another connection has spent the
    /// client's token; `TimedOut` with a [`HandshakeTimeout`] inside.
    pub fn accept<IO>(
        &self,
        io: IO,
    ) -> impl Future<Output = io::Result<TlsStream<IO>>> + Send + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.accept_from(io, None, None)
    }

    /// As [`accept`](Self::accept), with the addresses that the choice of a target may want to know: the client's, and
    /// the one that it connected to.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn accept_from<IO>(
        &self,
        io: IO,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> impl Future<Output = io::Result<TlsStream<IO>>> + Send + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let start = self.start(io, peer, local);
        // On the heap, and gone when the stream is there: a task stays as large as the largest future that it ever awaited.
        Box::pin(async move { start.await?.into_stream().await })
    }

    /// The first half of [`accept_from`](Self::accept_from): resolves when the client's hello has been judged, so that
    /// the verdict on its token is known even of a client that never completes its handshake. One that sends a copy of
    /// somebody else's hello never does.
    ///
    /// # Errors
    ///
    /// Those of `io`; [`AcceptError`] inside an `InvalidData` error when the client is at fault; `TimedOut` with a
    /// [`HandshakeTimeout`] inside.
    pub fn start<IO>(
        &self,
        io: IO,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> impl Future<Output = io::Result<StartHandshake<IO>>> + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        // Registered before the future is polled, so that a drain knows of connections whose hello is still to come.
        let registration = self.shared.registry.register(peer);
        let span = registration.control().span().clone();
        let acceptor = self.clone();
        async move { acceptor.answer(registration, io, peer, local).await }.instrument(span)
    }

    async fn answer<IO>(
        self,
        registration: Registration,
        mut io: IO,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> io::Result<StartHandshake<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let shared = &self.shared;
        let mut first = [0; FIRST_LEN];
        let (len, permit) = tokio::select! {
            biased;
            begun = shared.begin(&mut io, &mut first, peer) => begun?,
            overdue = given_up(&registration) => return Err(overdue.into()),
        };
        let server = shared.server();
        let mut slot = HandshakeSlot::new(server.handshake_timeout(), permit);
        let accepting = HelloAcceptor::new(Arc::clone(&server), peer, local);
        let first = first.get(..len).unwrap_or_default();
        let judged = tokio::select! {
            biased;
            judged = shared.judge(io, first, accepting) => judged,
            () = slot.timeout() => {
                server.handshake_timed_out(peer);
                return Err(HandshakeTimeout.into());
            }
            overdue = given_up(&registration) => return Err(overdue.into()),
        };
        let (io, connection) = judged?;
        let driver = Driver::new(io, connection);
        Ok(StartHandshake {
            core: Box::new(StreamCore::new(
                driver,
                Arc::clone(&shared.gate),
                registration,
                slot,
            )),
            require_handshake: self.require_handshake,
        })
    }

    /// What became of arrivals so far, as from [`MigrationServer::stats`].
    pub fn stats(&self) -> Stats {
        self.shared.server().stats()
    }

    /// How many connections of this acceptor and its clones are live.
    pub fn connections(&self) -> usize {
        self.shared.registry.len()
    }

    /// Moves all connections of this acceptor and its clones elsewhere, those that are accepted meanwhile too. It ends
    /// when none is left, so stop accepting before: accept who waits in the listener's queue, call
    /// [`accept`](Self::accept) for each, close the listener, and then drain. The system resets who is in the queue
    /// when a listener is closed. Another drain takes the place of one that is under way.
    ///
    /// Each client is told although nobody may poll its stream. A stream whose application has
    /// [consented](TlsStream::set_state) is handed over; an application that reads to the end and then shuts down need not
    /// know. Every other one is moved as a connection: the application learns of it by
    /// [`ConnectionHandle::told`](super::ConnectionHandle::told), finishes what it does, and ends the stream.
    pub fn drain(&self, plan: DrainPlan) -> Drain {
        let server = self.shared.server();
        drain::start(
            Arc::clone(&self.shared.registry),
            plan,
            server.departure_deadline(),
            server.random(),
        )
    }

    /// The settings that new connections get.
    pub fn server(&self) -> Arc<MigrationServer> {
        self.shared.server()
    }

    /// Gives the connections that come from now on to `server`, as when certificates, a verifier, ALPN or targets have
    /// changed. Live connections go on as they are.
    ///
    /// All stay connections of one acceptor, with one set of places, one nonce store and one set of counts: those of the
    /// first server. So `server`'s own store, `max_handshakes`, `max_hello_memory`, `max_nonce_store_requests` and
    /// `nonce_store_timeout` are not used. Tokens go on being admitted if it has the same ticket keys, service name and
    /// addresses.
    pub fn replace(&self, server: MigrationServer) {
        let held = &self.shared.server;
        let mut held = held.write().unwrap_or_else(PoisonError::into_inner);
        *held = Arc::new(server.in_place_of(&held));
    }

    /// Whether a client may be sent here now, for a health check. It asks the nonce store for a nonce that nobody uses.
    pub async fn readiness(&self) -> Readiness {
        let server = self.shared.server();
        let nonce_store = match server.probe() {
            Some(claim) => matches!(
                self.shared.gate.claim(claim, MoveKind::Connection).await,
                Some(Ok(_))
            ),
            None => false,
        };
        Readiness {
            admits_tokens: server.admits_tokens_now(),
            free_places: self.shared.permits.available_permits(),
            nonce_store,
        }
    }
}

/// Whether clients may be sent to a node, as from [`MigrationAcceptor::readiness`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// Tokens that are issued now are admitted, as far as the beginning of the store's memory goes: see
    /// [`MigrationServer::admits_tokens_since`].
    pub admits_tokens: bool,
    /// How many more handshakes may be under way.
    pub free_places: usize,
    /// The nonce store answers in time, and takes the nonces of tokens that are issued now.
    pub nonce_store: bool,
}

impl Readiness {
    /// Whether clients that are moved here now can be admitted.
    pub fn is_ready(&self) -> bool {
        self.admits_tokens && self.free_places > 0 && self.nonce_store
    }
}

/// Resolves when a drain has lost its patience.
async fn given_up(registration: &Registration) -> DepartureOverdue {
    let control = registration.control();
    control.close_ordered().await;
    control.set_status(DepartureStatus::Overdue);
    DepartureOverdue
}

impl Shared {
    fn server(&self) -> Arc<MigrationServer> {
        let server = self.server.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&server)
    }

    /// Waits for a client's first bytes, and then for a place. A client that is silent takes none.
    async fn begin<IO>(
        &self,
        io: &mut IO,
        first: &mut [u8],
        peer: Option<SocketAddr>,
    ) -> io::Result<(usize, Option<OwnedSemaphorePermit>)>
    where
        IO: AsyncRead + Unpin,
    {
        let server = self.server();
        let mut time = pin!(sleep(server.hello_timeout()));
        let len = tokio::select! {
            biased;
            len = io.read(first) => len?,
            () = &mut time => {
                server.was_silent();
                return Err(HandshakeTimeout.into());
            }
        };
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        tokio::select! {
            biased;
            // Never closed.
            permit = Arc::clone(&self.permits).acquire_owned() => Ok((len, permit.ok())),
            () = &mut time => {
                server.handshake_timed_out(peer);
                Err(HandshakeTimeout.into())
            }
        }
    }

    /// Reads the hello, judges it and gives it to the TLS library.
    async fn judge<IO>(
        &self,
        mut io: IO,
        first: &[u8],
        mut accepting: HelloAcceptor,
    ) -> io::Result<(IO, ServerConnection)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let memory = match accepting.push(first) {
            true => None,
            false => self.read_hello(&mut io, &mut accepting).await?,
        };
        let admitted = self.admit(accepting).await;
        drop(memory);
        match admitted {
            Ok(connection) => Ok((io, connection)),
            Err(error) => {
                // The client learns why if it still listens; the error counts more.
                let _ = io.write_all(&error.alert()).await;
                let _ = io.shutdown().await;
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Reads the hello. What is returned is its share of the memory for hellos.
    async fn read_hello<IO>(
        &self,
        io: &mut IO,
        accepting: &mut HelloAcceptor,
    ) -> io::Result<Option<OwnedSemaphorePermit>>
    where
        IO: AsyncRead + Unpin,
    {
        // On the heap: the future that holds it lives as long as the connection's task.
        let mut buf = vec![0; READ_LEN];
        let mut memory = None;
        loop {
            if self.hello_memory.asks(accepting.received()) {
                self.hello_memory.hold(accepting.most(), &mut memory).await;
                accepting.reserve();
            }
            let len = io.read(&mut buf).await?;
            let received = buf.get(..len).unwrap_or_default();
            if received.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if accepting.push(received) {
                return Ok(memory);
            }
        }
    }

    /// Judges the hello, with the nonce store's answer where one is needed.
    async fn admit(&self, accepting: HelloAcceptor) -> Result<ServerConnection, AcceptError> {
        let claimed = accepting.examine()?;
        let answer = match claimed.claim() {
            Some(claim) if claimed.claims_early_data_only() => {
                self.gate.claim_early_data(claim).await
            }
            Some(claim) => self.gate.claim(claim, claimed.kind()).await,
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
