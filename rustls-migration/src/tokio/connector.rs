//! The client's connector.
//!
//! It dials one address at a time and never more than one migration needs.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::timeout;

use super::driver::Driver;
use super::silence::Silence;
use super::stream::MigrationStream;
use super::transport::{Dial, TcpDialer, Transport};
use crate::address::canonical;
use crate::client::{ClientConnection, ConnectError, MigrationClient, Offer};
use crate::connection::Connection as _;

/// One connection of a client's stream.
pub(super) type Leg = Driver<Box<dyn Transport>, ClientConnection>;

/// How far a handshake goes before its connection is used.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// It is complete. What waits to be written leaves while the stream is read and written: who waited for it, and did
    /// not read, would wait for ever for a server that does not read either until what it says is read.
    Complete,
    /// All of it has been written, since nobody uses the connection at once.
    Written,
}

impl Until {
    fn done(self) -> impl Fn(&mut ClientConnection) -> bool {
        move |connection| matches!(self, Self::Complete) && !connection.is_handshaking()
    }
}

/// Opens streams that can follow a server's migrations. It takes the place of `tokio_rustls::TlsConnector`.
#[derive(Clone, Debug)]
pub struct MigrationConnector {
    client: Arc<MigrationClient>,
    dialer: Arc<dyn Dial>,
    connect_timeout: Duration,
    source_timeout: Duration,
    follow_offers: Option<Duration>,
    hand_off: HandOff,
}

/// How a stream follows when its server asks it to move (`docs/protocol.md` section 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandOff {
    /// Not by itself: the application calls [`MigrationStream::migrate`]. Should it close its side first and the server
    /// hand over, reads end, and [`MigrationStream::offer`] says where the session goes on.
    #[default]
    Manual,
    /// By itself, and so that nothing is lost or repeated: the stream is finished at the old server, which hands over its
    /// last state, and goes on at the target. The application reads and writes as if nothing happened.
    Drain,
    /// The target is resumed beside the old server, which goes on serving. When the target is ready
    /// ([`Event::Ready`](super::Event::Ready)), the application calls [`MigrationStream::switch`] at a boundary of its
    /// own protocol, and the stream never stalls.
    Overlap,
}

impl From<MigrationClient> for MigrationConnector {
    fn from(client: MigrationClient) -> Self {
        Arc::new(client).into()
    }
}

impl From<Arc<MigrationClient>> for MigrationConnector {
    fn from(client: Arc<MigrationClient>) -> Self {
        Self {
            client,
            dialer: Arc::new(TcpDialer),
            connect_timeout: Duration::from_secs(10),
            source_timeout: Duration::from_secs(30),
            follow_offers: None,
            hand_off: HandOff::default(),
        }
    }
}

impl MigrationConnector {
    /// Another way to reach addresses than TCP.
    #[must_use]
    pub fn dialer(mut self, dialer: impl Dial + 'static) -> Self {
        self.dialer = Arc::new(dialer);
        self
    }

    /// How long one address may take until its handshake is complete, by default ten seconds.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the old server may say nothing in a hand-off that waits for its end, by default thirty seconds. Past it the
    /// stream fails with [`HandOffError::SourceLost`](super::HandOffError::SourceLost).
    #[must_use]
    pub fn source_timeout(mut self, timeout: Duration) -> Self {
        self.source_timeout = timeout;
        self
    }

    /// Follows a server's first offer at once, before [`connect`](Self::connect) returns: for services whose anycast
    /// address only introduces a client to the node that will serve it (draft section 6).
    ///
    /// `patience` is how long to wait for the offer. A server that makes none in that time, or that speaks first,
    /// keeps the client.
    #[must_use]
    pub fn follow_offers_within(mut self, patience: Duration) -> Self {
        self.follow_offers = Some(patience);
        self
    }

    /// How streams follow when they are asked to; by default the application moves them.
    #[must_use]
    pub fn hand_off(mut self, hand_off: HandOff) -> Self {
        self.hand_off = hand_off;
        self
    }

    /// Connects to the server `name` at `address`.
    ///
    /// # Errors
    ///
    /// [`ConnectFailure`] says which step failed.
    pub async fn connect(
        &self,
        name: ServerName<'static>,
        address: SocketAddr,
    ) -> Result<MigrationStream, ConnectFailure> {
        let address = canonical(address);
        let leg = self.dial(&name, address, None, &[]).await?;
        let mut stream = MigrationStream::new(self.clone(), name, address, leg);
        if let Some(patience) = self.follow_offers {
            stream.follow_first_offer(patience).await;
        }
        Ok(stream)
    }

    pub(super) fn mode(&self) -> HandOff {
        self.hand_off
    }

    pub(super) fn silence(&self) -> Silence {
        Silence::new(self.source_timeout)
    }

    pub(super) fn client(&self) -> &Arc<MigrationClient> {
        &self.client
    }

    /// Connects to `address`, without TLS.
    pub(super) async fn open(&self, address: SocketAddr) -> io::Result<Opened> {
        let io = timeout(self.connect_timeout, self.dialer.dial(address))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        Ok(Opened { address, io })
    }

    /// What was opened ahead, if it leads to `address` and is still open there; else a new connection.
    pub(super) async fn open_unless(
        &self,
        ahead: Option<Opened>,
        address: SocketAddr,
    ) -> Result<Opened, ConnectFailure> {
        if let Some(mut opened) = ahead.filter(|opened| opened.address == address)
            && opened.is_open().await
        {
            return Ok(opened);
        }
        self.open(address)
            .await
            .map_err(|error| ConnectFailure::Dial { address, error })
    }

    /// Dials `address` and completes a handshake there, which resumes the offer's session if there is one. Without an
    /// offer `early_data` follows the handshake.
    pub(super) async fn dial(
        &self,
        name: &ServerName<'static>,
        address: SocketAddr,
        offer: Option<Offer>,
        early_data: &[u8],
    ) -> Result<Leg, ConnectFailure> {
        let opened = self.open_unless(None, address).await?;
        self.start(name, opened, offer, early_data).await
    }

    /// As [`dial`](Self::dial), over a connection that has been opened.
    pub(super) async fn start(
        &self,
        name: &ServerName<'static>,
        Opened { address, io }: Opened,
        offer: Option<Offer>,
        early_data: &[u8],
    ) -> Result<Leg, ConnectFailure> {
        let until = match offer.is_some() || !early_data.is_empty() {
            true => Until::Complete,
            false => Until::Written,
        };
        let connection = match offer {
            Some(offer) => ClientConnection::resume(&self.client, name.clone(), offer, early_data),
            None => ClientConnection::new(&self.client, name.clone(), address)
                .map(|connection| connection.with_first_data(early_data)),
        };
        self.handshake(io, address, connection, until).await
    }

    /// Resumes the offer's session over `opened`, which leads to its target. `early_data` continues what the session said, so it goes nowhere else.
    pub(super) async fn resume(
        &self,
        name: &ServerName<'static>,
        Opened { address, io }: Opened,
        offer: Offer,
        early_data: &[u8],
        until: Until,
    ) -> Result<Leg, ConnectFailure> {
        let connection = ClientConnection::resume(&self.client, name.clone(), offer, early_data)
            .map(ClientConnection::only_if_resumed);
        let leg = self.handshake(io, address, connection, until).await?;
        match leg.connection().tls().handshake_kind() {
            Some(HandshakeKind::Resumed) => Ok(leg),
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) | None => {
                Err(ConnectFailure::SessionRefused { address })
            }
        }
    }

    async fn handshake(
        &self,
        io: Box<dyn Transport>,
        address: SocketAddr,
        connection: Result<ClientConnection, ConnectError>,
        until: Until,
    ) -> Result<Leg, ConnectFailure> {
        let failed = |early_data_sent, error| ConnectFailure::Handshake {
            address,
            error,
            early_data_sent,
        };
        let connection = connection.map_err(|error| failed(false, io::Error::other(error)))?;
        let mut leg = Driver::new(io, connection);
        let handshake = poll_fn(|cx| leg.poll_handshake(cx, until.done()));
        let done = timeout(self.connect_timeout, handshake)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match done {
            Ok(()) => Ok(leg),
            Err(error) => Err(failed(leg.connection().first_data_may_have_left(), error)),
        }
    }
}

/// A connection to an offer's target, without TLS, that was opened before it is used
/// ([`MigrationStream::open_target`]).
pub struct Opened {
    address: SocketAddr,
    io: Box<dyn Transport>,
}

impl Opened {
    /// Where it leads.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the server has kept it. A server says nothing before the client does, so nothing can be read from it.
    async fn is_open(&mut self) -> bool {
        let mut byte = [0];
        poll_fn(|cx| {
            let read = Pin::new(&mut self.io).poll_read(cx, &mut ReadBuf::new(&mut byte));
            Poll::Ready(read.is_pending())
        })
        .await
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Why an address could not be connected to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// The address could not be reached. The environment is at fault.
    #[error("{address} could not be reached")]
    Dial {
        /// The address.
        address: SocketAddr,
        /// What went wrong.
        #[source]
        error: io::Error,
    },
    /// The TLS handshake failed; `error` has a [`rustls::Error`] inside when the peer is at fault.
    #[error("the handshake with {address} failed")]
    Handshake {
        /// The address.
        address: SocketAddr,
        /// What went wrong.
        #[source]
        error: io::Error,
        /// Whether data that was given to send first may have left by then, as early data or after it.
        early_data_sent: bool,
    },
    /// The server made a full handshake in place of resuming the session, so the state that the old server handed over is
    /// not there. Nothing was sent to it.
    #[error("{address} does not resume the session")]
    SessionRefused {
        /// The address.
        address: SocketAddr,
    },
}

impl From<ConnectFailure> for io::Error {
    fn from(failure: ConnectFailure) -> Self {
        let kind = match &failure {
            ConnectFailure::Dial { error, .. } | ConnectFailure::Handshake { error, .. } => {
                error.kind()
            }
            ConnectFailure::SessionRefused { .. } => io::ErrorKind::ConnectionRefused,
        };
        Self::new(kind, failure)
    }
}
