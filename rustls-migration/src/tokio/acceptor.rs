//! The server's acceptor: a hello is read, judged and answered.
//!
//! It never serves; the stream that it makes does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::connections::Connections;
use super::drain::{self, Drain, DrainPlan};
use super::handshaking::{HandshakeTimeout, Handshaking, Places, places};
use super::questions::Questions;
use super::tls_stream::TlsStream;
use crate::server::{AcceptError, Accepting, Arrival, Counts, MigrationServer, ServerConnection};

/// How much is read from a client at a time until its hello is complete, in bytes.
const READ_LEN: usize = 4096;

/// Accepts TLS connections, and clients that come with a token. It takes the place of `tokio_rustls::TlsAcceptor`.
#[derive(Clone, Debug)]
pub struct MigrationAcceptor {
    server: Arc<MigrationServer>,
    connections: Arc<Connections>,
    handshakes: Places,
    questions: Arc<Questions>,
}

impl From<MigrationServer> for MigrationAcceptor {
    fn from(server: MigrationServer) -> Self {
        Arc::new(server).into()
    }
}

impl From<Arc<MigrationServer>> for MigrationAcceptor {
    fn from(server: Arc<MigrationServer>) -> Self {
        Self {
            connections: Arc::default(),
            handshakes: places(server.max_handshakes()),
            questions: Arc::new(Questions::new(Arc::clone(&server))),
            server,
        }
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
    /// `ConnectionAborted` when another connection has spent the client's token; `TimedOut` with a
    /// [`HandshakeTimeout`] inside.
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
        let mut handshaking = Handshaking::new(self.server.handshake_timeout());
        let judged = async {
            // Never closed.
            let place = Arc::clone(&self.handshakes).acquire_owned().await.ok();
            (place, self.judge(io, peer, local).await)
        };
        let (place, judged) = tokio::select! {
            biased;
            judged = judged => judged,
            () = handshaking.over() => {
                self.server.handshake_timed_out(peer);
                return Err(HandshakeTimeout.into());
            }
        };
        handshaking.take(place);
        let (io, connection) = judged?;
        let registration = self.connections.register();
        let questions = Arc::clone(&self.questions);
        let stream = TlsStream::new(io, connection, questions, registration, handshaking);
        Ok(StartHandshake(stream))
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
        self.connections.len()
    }

    /// Moves all connections of this acceptor and its clones elsewhere, those that are accepted meanwhile too. Stop
    /// accepting before.
    ///
    /// Each stream tells its client itself, when it is next polled, and hands over the state that it was
    /// [given](TlsStream::set_state). An application that reads to the end and then shuts down need not know.
    pub fn drain(&self, plan: DrainPlan) -> Drain {
        let random = self.server.random();
        drain::start(Arc::clone(&self.connections), plan, random)
    }

    /// Judges the hello, with the nonce store's answer where one is needed.
    async fn admit(&self, accepting: Accepting) -> Result<ServerConnection, AcceptError> {
        let claimed = accepting.examine()?;
        let answer = match claimed.claim() {
            Some(claim) => self.questions.claim(claim).await,
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
