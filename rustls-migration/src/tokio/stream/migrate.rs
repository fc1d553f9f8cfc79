//! Migration when the application says so (`docs/protocol.md` section 4, mode Immediate).
//!
//! What may have been acted upon at the target is not sent a second time.

use std::future::Future;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::HandshakeKind;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::hand_off::Phase;
use super::{EarlyDataOutcome, Event, FallBackReason, Landing, Leg, MigrationStream};
use crate::address::canonical;
use crate::client::{Offer, OfferError};
use crate::connection::Connection as _;
use crate::tokio::{ConnectFailure, Opened};

/// How long a connection that is left is read to its end, so that its server sees the `close_notify` and no reset.
const LINGER: Duration = Duration::from_secs(2);

impl MigrationStream {
    /// Leaves the present server and resumes the session at the newest offer's target (draft section 4.4).
    ///
    /// Call it when the server asks for it ([`Event::Notified`]), or whenever the application wants to. What the old
    /// server has sent and the application has not read is lost, so `early_data` should say where to go on: it is sent
    /// first, with the hello if the target accepts that, and only once.
    ///
    /// When the target fails, the stream goes back to the address that it was first connected to, as a new connection;
    /// the [`Landing`] says so. Do not drop this future before it is done: the stream is lost then.
    ///
    /// # Errors
    ///
    /// [`MigrateError`]. Unless it is [`MigrateError::Lost`], the stream is where it was and goes on.
    pub async fn migrate(&mut self, early_data: &[u8]) -> Result<Landing, MigrateError> {
        self.migrate_over(None, early_data).await
    }

    /// Opens a connection to the newest offer's target, to migrate over it later with a round trip less. The stream can be
    /// read and written meanwhile.
    ///
    /// # Errors
    ///
    /// [`MigrateError::NoOffer`] at once; the future has those of the dialer, and `TimedOut`.
    pub fn open_target(
        &self,
    ) -> Result<impl Future<Output = io::Result<Opened>> + Send + use<>, MigrateError> {
        let token = self.offer().ok_or(MigrateError::NoOffer)?;
        let (connector, target) = (self.connector.clone(), canonical(token.target_address()));
        Ok(async move { connector.open(target).await })
    }

    /// As [`migrate`](Self::migrate), over a connection that [`open_target`](Self::open_target) has opened. If that leads
    /// elsewhere than the newest offer, or the target has closed it, another one is opened.
    ///
    /// # Errors
    ///
    /// As [`migrate`](Self::migrate).
    pub async fn migrate_over(
        &mut self,
        opened: impl Into<Option<Opened>>,
        early_data: &[u8],
    ) -> Result<Landing, MigrateError> {
        if !matches!(self.phase, Phase::Settled) {
            return Err(MigrateError::UnderWay);
        }
        let offer = self.take_usable_offer()?;
        let target = offer.target();
        let unread = self.leave();
        let dialled = match self.connector.open_unless(opened.into(), target).await {
            Ok(opened) => {
                let started = self
                    .connector
                    .start(&self.name, opened, Some(offer), early_data);
                started.await
            }
            Err(failure) => Err(failure),
        };
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
        self.check_offer()?;
        self.take_offer().ok_or(MigrateError::NoOffer)
    }

    /// Closes the present connection in the background. Returns how many bytes of it were not read.
    fn leave(&mut self) -> usize {
        self.notified = false;
        let mut unread = mem::take(&mut self.inbox).len();
        let Some(mut leg) = self.leg.take() else {
            return unread;
        };
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

    /// It takes the stream whole, since what borrows it from another thread must be `Sync` and a transport need not be.
    async fn fall_back(
        &mut self,
        outcome: EarlyDataOutcome,
        early_data: &[u8],
    ) -> Result<Leg, MigrateError> {
        let rest = match outcome {
            EarlyDataOutcome::AfterHandshake => early_data,
            EarlyDataOutcome::Accepted | EarlyDataOutcome::None | EarlyDataOutcome::Unknown => &[],
        };
        self.connector
            .dial(&self.name, self.origin, None, rest)
            .await
            .map_err(|failure| MigrateError::Lost(Box::new(failure)))
    }

    /// Waits for an offer to another address and follows it.
    pub(in crate::tokio) async fn follow_first_offer(&mut self, patience: Duration) {
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
                return Poll::Ready(Some(canonical(token.target_address())));
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
        ConnectFailure::SessionRefused { .. } => (
            outcome(early_data, false),
            FallBackReason::HandshakeFailed(Arc::new(failure.into())),
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

/// Why a stream did not migrate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The server has made no offer, or it has been used.
    #[error("there is no offer to follow")]
    NoOffer,
    /// The newest offer is none that the client accepts.
    #[error("the offer is not accepted")]
    OfferRefused(#[source] OfferError),
    /// The newest offer's time is over.
    #[error("the offer has expired")]
    Expired,
    /// The stream is in the middle of a hand-off that it makes by itself.
    #[error("a hand-off is under way")]
    UnderWay,
    /// No target is ready.
    #[error("no target is ready")]
    NotReady,
    /// The stream has migrated as often as its [`MigrationLimit`](crate::client::MigrationLimit) allows.
    #[error("the stream has migrated too often")]
    TooOften,
    /// Neither the target nor the address that the stream was first connected to could be reached. The stream is lost.
    #[error("neither the target nor the first address could be reached")]
    Lost(#[source] Box<ConnectFailure>),
}
