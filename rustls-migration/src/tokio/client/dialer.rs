//! How a connection to one address is made. Streams hold a dialer, for the addresses that they move to.
//!
//! It dials one address at a time, and never decides which.

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::error::ConnectError;
use super::idle_timeout::IdleTimeout;
use super::recovery::{ProbeTimes, Window};
use super::relocation::{ResolveTarget, TextTargets};
use super::transport::{Dial, TcpDialer, Transport};
use crate::client::{self, ClientConnection, MigrationClient, Offer};
use crate::connection::Connection as _;
use crate::tokio::driver::Driver;

/// One connection of a client's stream, with its transport.
pub(super) type ClientConn = Driver<Box<dyn Transport>, ClientConnection>;

/// How long to wait before an address that could not be reached is dialled again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// For how long a connection that was opened ahead is used. Its server has given a handshake so much time (by default ten
/// seconds) since it accepted the connection, and a hand-over has one attempt.
const FRESH: Duration = Duration::from_secs(2);

/// How far a handshake goes before its connection is used.
#[derive(Clone, Copy, Debug)]
pub(super) enum HandshakeGoal {
    /// It is complete. What waits to be written leaves while the stream is read and written: who waited for it, and did
    /// not read, would wait for ever for a server that does not read either until what it says is read.
    Complete,
    /// All of it has been written, since nobody uses the connection at once.
    Written,
}

impl HandshakeGoal {
    fn is_reached(self) -> impl Fn(&mut ClientConnection) -> bool {
        move |connection| matches!(self, Self::Complete) && !connection.is_handshaking()
    }
}

/// What must be the same at the new server for a stream to go on there.
#[derive(Clone, Debug)]
pub(super) struct Continuity {
    pub(super) name: ServerName<'static>,
    /// The application protocol (ALPN) that the stream speaks.
    pub(super) alpn: Option<Vec<u8>>,
}

/// How connections are made.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    client: Arc<MigrationClient>,
    dial: Arc<dyn Dial>,
    pub(super) resolver: Arc<dyn ResolveTarget>,
    pub(super) connect_timeout: Duration,
    pub(super) source_timeout: Duration,
    /// What streams keep for a recovery.
    pub(super) window: Window,
    /// Whether streams have a connection to where a recovery would lead.
    pub(super) dials_ahead: bool,
    /// When silent servers are asked whether they live.
    pub(super) probe: Option<ProbeTimes>,
}

impl Dialer {
    pub(super) fn new(client: Arc<MigrationClient>) -> Self {
        Self {
            client,
            dial: Arc::new(TcpDialer),
            resolver: Arc::new(TextTargets),
            connect_timeout: Duration::from_secs(10),
            source_timeout: Duration::from_secs(30),
            window: Window::default(),
            dials_ahead: false,
            probe: None,
        }
    }

    pub(super) fn set_dial(&mut self, dial: impl Dial + 'static) {
        self.dial = Arc::new(dial);
    }

    pub(super) fn client(&self) -> &MigrationClient {
        &self.client
    }

    pub(super) fn idle_timeout(&self) -> IdleTimeout {
        IdleTimeout::new(self.source_timeout)
    }

    /// Connects to `address`, without TLS.
    pub(super) async fn open(&self, address: SocketAddr) -> Result<Preconnected, ConnectError> {
        let dialled = timeout(self.connect_timeout, self.dial.dial(address)).await;
        match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(io) => Ok(Preconnected::new(address, io)),
            Err(error) => Err(ConnectError::Dial { address, error }),
        }
    }

    /// As [`open`](Self::open), again and again until it succeeds. Each failure goes to `failed`, with the time until the
    /// next attempt.
    pub(super) async fn open_patiently(
        &self,
        address: SocketAddr,
        failed: impl Fn(ConnectError, Duration) + Send,
    ) -> Preconnected {
        let (mut retry_in, longest) = RETRY;
        loop {
            match self.open(address).await {
                Ok(preconnected) => return preconnected,
                Err(error) => failed(error, retry_in),
            }
            tokio::time::sleep(retry_in).await;
            retry_in = (retry_in * 2).min(longest);
        }
    }

    /// As [`open`](Self::open), again and again within the time for connecting. For a target that there is no way back from.
    async fn open_in_time(&self, address: SocketAddr) -> Result<Preconnected, ConnectError> {
        let last = std::sync::Mutex::new(None);
        let opened = self.open_patiently(address, |error, _| {
            *last
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
        });
        match timeout(self.connect_timeout, opened).await {
            Ok(preconnected) => Ok(preconnected),
            Err(_) => {
                let last = last
                    .into_inner()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                Err(last.unwrap_or(ConnectError::Dial {
                    address,
                    error: io::ErrorKind::TimedOut.into(),
                }))
            }
        }
    }

    /// What was connected ahead, if it leads to `address`, is fresh and still open there; else a new connection.
    pub(super) async fn reuse_or_open(
        &self,
        ahead: Option<Preconnected>,
        address: SocketAddr,
    ) -> Result<Preconnected, ConnectError> {
        match still_open(ahead, address).await {
            Some(preconnected) => Ok(preconnected),
            None => self.open(address).await,
        }
    }

    /// As [`reuse_or_open`](Self::reuse_or_open), dialling again and again within the time for connecting.
    pub(super) async fn reuse_or_dial(
        &self,
        ahead: Option<Preconnected>,
        address: SocketAddr,
    ) -> Result<Preconnected, ConnectError> {
        match still_open(ahead, address).await {
            Some(preconnected) => Ok(preconnected),
            None => self.open_in_time(address).await,
        }
    }

    /// Completes a first handshake.
    pub(super) async fn connect(
        &self,
        name: &ServerName<'static>,
        preconnected: Preconnected,
    ) -> Result<ClientConn, ConnectError> {
        let connection = ClientConnection::new(&self.client, name.clone(), preconnected.address);
        self.handshake(preconnected, connection, HandshakeGoal::Written)
            .await
    }

    /// Connects to `address` again, for a stream whose target failed. `first_data` follows the handshake.
    pub(super) async fn reconnect(
        &self,
        stream: &Continuity,
        address: SocketAddr,
        first_data: &[u8],
    ) -> Result<ClientConn, ConnectError> {
        let preconnected = self.open(address).await?;
        let connection = ClientConnection::new(&self.client, stream.name.clone(), address)
            .map(|connection| connection.with_first_data(first_data));
        self.start(stream, preconnected, connection).await
    }

    /// Resumes the offer's session, or makes a full handshake if the server refuses it. `early_data` comes first either way.
    pub(super) async fn migrate(
        &self,
        stream: &Continuity,
        preconnected: Preconnected,
        offer: Offer,
        early_data: &[u8],
    ) -> Result<ClientConn, ConnectError> {
        let connection =
            ClientConnection::resume(&self.client, stream.name.clone(), offer, early_data);
        self.start(stream, preconnected, connection).await
    }

    /// Resumes the offer's session for a new stream, or makes a full handshake.
    pub(super) async fn succeed(
        &self,
        name: &ServerName<'static>,
        offer: Offer,
        early_data: &[u8],
    ) -> Result<ClientConn, ConnectError> {
        let preconnected = self.open(offer.target()).await?;
        let connection = ClientConnection::resume(&self.client, name.clone(), offer, early_data);
        self.handshake(preconnected, connection, HandshakeGoal::Written)
            .await
    }

    async fn start(
        &self,
        stream: &Continuity,
        preconnected: Preconnected,
        connection: Result<ClientConnection, client::ConnectError>,
    ) -> Result<ClientConn, ConnectError> {
        let connection =
            connection.map(|connection| connection.only_with_alpn(stream.alpn.clone()));
        let conn = self
            .handshake(preconnected, connection, HandshakeGoal::Complete)
            .await?;
        stream.check(conn)
    }

    /// Resumes the offer's session, and nothing else: `early_data` continues what the session said, so it goes nowhere else.
    pub(super) async fn resume(
        &self,
        stream: &Continuity,
        preconnected: Preconnected,
        offer: Offer,
        early_data: &[u8],
        goal: HandshakeGoal,
    ) -> Result<ClientConn, ConnectError> {
        let mut handshake = self.begin_to_resume(stream, preconnected, offer, early_data)?;
        poll_fn(|cx| handshake.poll(cx, goal)).await?;
        stream.check_resumed(handshake)
    }

    /// The first half of [`resume`](Self::resume), for who polls the handshake. The second is [`Continuity::check_resumed`].
    pub(super) fn begin_to_resume(
        &self,
        stream: &Continuity,
        preconnected: Preconnected,
        offer: Offer,
        early_data: &[u8],
    ) -> Result<Handshake, ConnectError> {
        let connection =
            ClientConnection::resume(&self.client, stream.name.clone(), offer, early_data)
                .map(ClientConnection::only_if_resumed)
                .map(|connection| connection.only_with_alpn(stream.alpn.clone()));
        self.begin(preconnected, connection)
    }

    async fn handshake(
        &self,
        preconnected: Preconnected,
        connection: Result<ClientConnection, client::ConnectError>,
        goal: HandshakeGoal,
    ) -> Result<ClientConn, ConnectError> {
        let mut handshake = self.begin(preconnected, connection)?;
        poll_fn(|cx| handshake.poll(cx, goal)).await?;
        Ok(handshake.conn)
    }

    fn begin(
        &self,
        Preconnected { address, io, .. }: Preconnected,
        connection: Result<ClientConnection, client::ConnectError>,
    ) -> Result<Handshake, ConnectError> {
        let connection = connection.map_err(|error| ConnectError::Handshake {
            address,
            error: io::Error::other(error),
            early_data_sent: false,
        })?;
        Ok(Handshake {
            address,
            conn: Driver::new(io, connection),
            time: Box::pin(sleep(self.connect_timeout)),
        })
    }
}

/// A handshake under way, and the time that it has.
pub(super) struct Handshake {
    address: SocketAddr,
    conn: ClientConn,
    time: Pin<Box<Sleep>>,
}

impl Handshake {
    pub(super) fn connection_mut(&mut self) -> &mut ClientConnection {
        self.conn.connection_mut()
    }

    /// Ready when it has come as far as that, or has failed. What has come counts before the time.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        goal: HandshakeGoal,
    ) -> Poll<Result<(), ConnectError>> {
        let address = self.address;
        let done = match self.conn.poll_handshake(cx, goal.is_reached()) {
            Poll::Ready(done) => done,
            Poll::Pending => {
                ready!(self.time.as_mut().poll(cx));
                Err(io::ErrorKind::TimedOut.into())
            }
        };
        Poll::Ready(match done {
            Ok(()) if self.conn.connection().is_refused() => {
                Err(ConnectError::SessionRefused { address })
            }
            Ok(()) => Ok(()),
            Err(error) => Err(ConnectError::Handshake {
                address,
                error,
                early_data_sent: self.conn.connection().first_data_may_have_left(),
            }),
        })
    }
}

impl Continuity {
    /// That of a stream to the server with this name, with the connection that it has.
    pub(super) fn of(name: ServerName<'static>, conn: Option<&ClientConn>) -> Self {
        let tls = conn.map(|conn| conn.connection().tls());
        let alpn = tls.and_then(|tls| tls.alpn_protocol());
        Self {
            name,
            alpn: alpn.map(<[u8]>::to_vec),
        }
    }

    /// A handshake that is done must have resumed the session.
    pub(super) fn check_resumed(
        &self,
        Handshake { address, conn, .. }: Handshake,
    ) -> Result<ClientConn, ConnectError> {
        match conn.connection().tls().handshake_kind() {
            Some(HandshakeKind::Resumed) => self.check(conn),
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) | None => {
                Err(ConnectError::SessionRefused { address })
            }
        }
    }

    /// What `conn` negotiated must be what the stream speaks.
    fn check(&self, conn: ClientConn) -> Result<ClientConn, ConnectError> {
        match conn.connection().tls().alpn_protocol() == self.alpn.as_deref() {
            true => Ok(conn),
            false => Err(ConnectError::AlpnChanged {
                address: conn.connection().server(),
            }),
        }
    }
}

async fn still_open(ahead: Option<Preconnected>, address: SocketAddr) -> Option<Preconnected> {
    let mut preconnected = ahead.filter(|ahead| ahead.address == address && ahead.age() < FRESH)?;
    preconnected.is_open().await.then_some(preconnected)
}

/// A connection to an offer's target, without TLS, that was opened before it is used
/// ([`MigrationStream::open_target`](super::MigrationStream::open_target)).
pub struct Preconnected {
    address: SocketAddr,
    io: Box<dyn Transport>,
    opened: Instant,
}

impl Preconnected {
    pub(super) fn new(address: SocketAddr, io: Box<dyn Transport>) -> Self {
        Self {
            address,
            io,
            opened: Instant::now(),
        }
    }

    /// Where it leads.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How long ago it was opened.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    pub(super) fn into_io(self) -> Box<dyn Transport> {
        self.io
    }

    /// Ready when the server has not kept it. A server says nothing before the client does, so nothing can be read from it.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut byte = [0];
        let read = Pin::new(&mut self.io).poll_read(cx, &mut ReadBuf::new(&mut byte));
        read.map(|_| ())
    }

    /// Whether the server has kept it.
    pub(super) async fn is_open(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(self.poll_closed(cx).is_pending())).await
    }
}

impl fmt::Debug for Preconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preconnected")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
