//! The client's stream, which moves when the application says so (`docs/protocol.md` section 4, mode Immediate).
//!
//! It never sends twice what a server may have acted upon.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use migration_token::MigrationToken;
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use time::Duration as TimeDuration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::connector::{ConnectFailure, Leg, MigrationConnector};
use super::event::{EarlyDataOutcome, Event, EventSource, Events, FallBackReason, Landing};
use crate::client::{LoopGuard, Offer, Update};
use crate::connection::Connection as _;

/// How long a connection that is left is read to its end, so that its server sees the `close_notify` and no reset.
const LINGER: Duration = Duration::from_secs(2);

/// A client's stream over a TLS connection that can be moved.
///
/// It reads and writes like `tokio_rustls::client::TlsStream`. Migration happens in [`migrate`](Self::migrate) alone:
/// the bytes before it belong to the old server, the bytes after it to the new one.
pub struct MigrationStream {
    connector: MigrationConnector,
    name: ServerName<'static>,
    /// Where the stream was first connected to, and where it is now.
    origin: SocketAddr,
    address: SocketAddr,
    /// `None` when the stream was lost in a migration.
    leg: Option<Leg>,
    notified: bool,
    guard: LoopGuard,
    events: EventSource,
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
            notified: false,
            guard: LoopGuard::default(),
            events: EventSource::new(),
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

    /// Leaves the present server and resumes the session at the newest offer's target (draft section 4.4).
    ///
    /// Call it when the server asks for it ([`Event::Notified`]), or whenever the application wants to. What the old
    /// server has sent and the application has not read is lost, so `early_data` should say where to go on: it is sent
    /// first, with the hello if the target accepts that, and only once.
    ///
    /// When the target fails, the stream goes back to the address that it was first connected to, as a new connection;
    /// the [`Landing`] says so. Do not cancel this future: the stream is lost then.
    ///
    /// # Errors
    ///
    /// [`MigrateError`]. Unless it is [`MigrateError::Lost`], the stream is where it was and goes on.
    pub async fn migrate(&mut self, early_data: &[u8]) -> Result<Landing, MigrateError> {
        let offer = self.take_usable_offer()?;
        let target = offer.token().target_address();
        let unread = self.leave();
        let dialled = self
            .connector
            .dial(&self.name, target, Some(offer), early_data)
            .await;
        let (leg, at, mut early, fell_back) = match dialled {
            Ok(leg) => (leg, target, outcome(early_data, true), None),
            Err(failure) => {
                let (outcome, reason) = after_failure(failure, early_data);
                let leg = self.fall_back(outcome, early_data).await?;
                (leg, self.origin, outcome, Some(reason))
            }
        };
        let tls = leg.connection().tls();
        if fell_back.is_none() && !tls.is_early_data_accepted() {
            early = outcome(early_data, false);
        }
        let landing = Landing {
            from: self.address,
            at,
            handshake: tls.handshake_kind().unwrap_or(HandshakeKind::Full),
            early_data: early,
            unread,
            fell_back,
        };
        self.address = at;
        self.leg = Some(leg);
        self.events.send(Event::Landed(landing.clone()));
        self.take_updates();
        Ok(landing)
    }

    /// Takes the offer if it may be followed now.
    fn take_usable_offer(&mut self) -> Result<Offer, MigrateError> {
        let client = self.connector.client();
        let now = client.clock().now();
        let token = self.offer().ok_or(MigrateError::NoOffer)?;
        if token.is_expired(now, TimeDuration::ZERO) {
            return Err(MigrateError::Expired);
        }
        if !self.guard.admit(client.limit(), now) {
            return Err(MigrateError::TooOften);
        }
        self.leg
            .as_mut()
            .and_then(|leg| leg.connection_mut().take_offer())
            .ok_or(MigrateError::NoOffer)
    }

    /// Closes the present connection in the background. Returns how many bytes of it were not read.
    fn leave(&mut self) -> usize {
        self.notified = false;
        let Some(mut leg) = self.leg.take() else {
            return 0;
        };
        let mut unread = 0;
        while let Ok(plaintext @ [_, ..]) = leg.connection_mut().fill_buf() {
            let amount = plaintext.len();
            leg.connection_mut().consume(amount);
            unread += amount;
        }
        tokio::spawn(async move {
            // Whatever goes wrong here concerns nobody any more.
            let _ = timeout(LINGER, read_to_end(leg)).await;
        });
        unread
    }

    async fn fall_back(
        &self,
        outcome: EarlyDataOutcome,
        early_data: &[u8],
    ) -> Result<Leg, MigrateError> {
        let mut leg = self
            .connector
            .dial(&self.name, self.origin, None, &[])
            .await
            .map_err(|failure| MigrateError::Lost(Box::new(failure)))?;
        if outcome == EarlyDataOutcome::AfterHandshake {
            let mut rest = early_data;
            while !rest.is_empty() {
                let written = std::future::poll_fn(|cx| leg.poll_write(cx, rest))
                    .await
                    .map_err(|error| {
                        MigrateError::Lost(Box::new(ConnectFailure::Dial {
                            address: self.origin,
                            error,
                        }))
                    })?;
                rest = rest.get(written..).unwrap_or_default();
            }
        }
        Ok(leg)
    }

    /// Waits for an offer to another address and follows it.
    pub(super) async fn follow_first_offer(&mut self, patience: Duration) {
        let offered = std::future::poll_fn(|cx| self.poll_offer(cx));
        let elsewhere =
            matches!(timeout(patience, offered).await, Ok(Some(target)) if target != self.address);
        if elsewhere {
            // When this fails, the stream is where it was, or reads and writes tell that it is lost.
            let _ = self.migrate(&[]).await;
        }
    }

    /// Reads until there is an offer. `None` when the server says something else first.
    fn poll_offer(&mut self, cx: &mut Context<'_>) -> Poll<Option<SocketAddr>> {
        loop {
            self.take_updates();
            if let Some(token) = self.offer() {
                return Poll::Ready(Some(token.target_address()));
            }
            let Some(leg) = &mut self.leg else {
                return Poll::Ready(None);
            };
            let silent = matches!(leg.connection_mut().fill_buf(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            if !silent || ready!(leg.poll_read_tls(cx)).is_err() {
                return Poll::Ready(None);
            }
        }
    }

    /// Passes on what the connection noticed.
    fn take_updates(&mut self) {
        let Some(leg) = &mut self.leg else { return };
        while let Some(update) = leg.connection_mut().next_update() {
            self.events.send(match update {
                Update::Offered { target } => Event::Offered { target },
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

/// What became of `early_data` at a target that completed the handshake.
fn outcome(early_data: &[u8], accepted: bool) -> EarlyDataOutcome {
    match (early_data.is_empty(), accepted) {
        (true, _) => EarlyDataOutcome::None,
        (false, true) => EarlyDataOutcome::Accepted,
        (false, false) => EarlyDataOutcome::AfterHandshake,
    }
}

/// What became of `early_data` at a target that failed, and why the stream falls back.
fn after_failure(failure: ConnectFailure, early_data: &[u8]) -> (EarlyDataOutcome, FallBackReason) {
    match failure {
        ConnectFailure::Dial { error, .. } => (
            outcome(early_data, false),
            FallBackReason::Unreachable(Arc::new(error)),
        ),
        ConnectFailure::Handshake {
            error,
            early_data_sent,
            ..
        } => (
            match early_data_sent {
                true => EarlyDataOutcome::Unknown,
                false => outcome(early_data, false),
            },
            FallBackReason::HandshakeFailed(Arc::new(error)),
        ),
    }
}

async fn read_to_end(mut leg: Leg) -> io::Result<()> {
    std::future::poll_fn(|cx| leg.poll_shutdown(cx)).await?;
    let mut ignored = [0; 4096];
    while leg.io_mut().read(&mut ignored).await? > 0 {}
    Ok(())
}

impl AsyncRead for MigrationStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let leg = this.leg()?;
            leg.write_in_passing(cx);
            if let Some(result) = leg.take_plaintext(buf) {
                return Poll::Ready(result);
            }
            let read = leg.poll_read_tls(cx);
            this.take_updates();
            ready!(read)?;
        }
    }
}

impl AsyncWrite for MigrationStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().leg()?.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().leg()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().leg()?.poll_shutdown(cx)
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

/// Why a stream did not migrate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The server has made no offer, or it has been used.
    #[error("there is no offer to follow")]
    NoOffer,
    /// The newest offer's time is over.
    #[error("the offer has expired")]
    Expired,
    /// The stream has migrated as often as its [`MigrationLimit`](crate::client::MigrationLimit) allows.
    #[error("the stream has migrated too often")]
    TooOften,
    /// Neither the target nor the address that the stream was first connected to could be reached. The stream is lost.
    #[error("neither the target nor the first address could be reached")]
    Lost(#[source] Box<ConnectFailure>),
}
