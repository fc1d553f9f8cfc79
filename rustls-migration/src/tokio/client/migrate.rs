//! Migration when the application says so (`docs/protocol.md` section 4, mode Immediate).
//!
//! The old server is left when the target has answered, never before. What may have been acted upon at the target is not
//! sent a second time.

use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::HandshakeKind;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::dialer::{ClientConn, Continuity, Dialer, Preconnected};
use super::error::{ConnectError, MigrateError};
use super::outcome::{EarlyDataOutcome, FallBackReason, MigrationOutcome};
use super::phase::{Next, Phase, Resumed, Stranded};
use super::stream::MigrationStream;
use crate::client::Offer;
use crate::connection::Connection as _;
use crate::tokio::waker::Party;

/// How long a connection that is left is read to its end, so that its server sees the `close_notify` and no reset.
const LINGER: Duration = Duration::from_secs(2);

impl MigrationStream {
    /// Leaves the present server and resumes the session at the newest offer's target (draft section 4.4).
    ///
    /// Call it when the server asks for it ([`Event::Notified`](super::Event::Notified)), or whenever the application wants
    /// to. What the old server has sent and the application has not read is lost, so `early_data` should say where to go on:
    /// it is sent first, with the hello if the target accepts that, and only once.
    ///
    /// The old server is left when the target has accepted a connection. When the handshake there fails, the stream goes
    /// back to the address that it was first connected to, as a new connection; the [`MigrationOutcome`] says so.
    ///
    /// Safe to cancel: a migration that has begun goes on while the stream is read and written, and what is written
    /// follows `early_data`.
    ///
    /// # Errors
    ///
    /// [`MigrateError`]. Unless it is [`MigrateError::Lost`], the stream is where it was and goes on.
    pub async fn migrate(&mut self, early_data: &[u8]) -> Result<MigrationOutcome, MigrateError> {
        self.migrate_over(None, early_data).await
    }

    /// Opens a connection to the newest offer's target, to migrate over it later with a round trip less. The stream can be
    /// read and written meanwhile.
    ///
    /// # Errors
    ///
    /// [`MigrateError::NoOffer`] at once; the future has [`ConnectError::Dial`].
    pub fn open_target(
        &self,
    ) -> Result<impl Future<Output = Result<Preconnected, ConnectError>> + Send + use<>, MigrateError>
    {
        let target = self.control.with_offer(Offer::target);
        let target = target.ok_or(MigrateError::NoOffer)?;
        let control = Arc::clone(&self.control);
        Ok(async move { control.dialer.open(target).await })
    }

    /// As [`migrate`](Self::migrate), over a connection that [`open_target`](Self::open_target) has opened. If that leads
    /// elsewhere than the newest offer, is older than two seconds, or the target has closed it, another one is opened.
    ///
    /// # Errors
    ///
    /// As [`migrate`](Self::migrate).
    pub async fn migrate_over(
        &mut self,
        preconnected: impl Into<Option<Preconnected>>,
        early_data: &[u8],
    ) -> Result<MigrationOutcome, MigrateError> {
        self.check_phase()?;
        match self.begin_to_leave(preconnected.into(), early_data).await {
            Ok(()) => poll_fn(|cx| self.poll_migrated(cx)).await,
            Err(error) => {
                self.control.tell_failure(error.name(), &error);
                Err(error)
            }
        }
    }

    /// Whether the application may leave the present server now.
    fn check_phase(&self) -> Result<(), MigrateError> {
        match &self.phase {
            Phase::Connected {
                next: Next::Nothing,
                ..
            } if !self.shutdown => Ok(()),
            Phase::Ended { .. } if !self.shutdown => Ok(()),
            Phase::Connected {
                next: Next::Nothing,
                ..
            }
            | Phase::Ended { .. }
            | Phase::Failed(_) => Err(MigrateError::Closed),
            Phase::Lost(error) => Err(error.clone().unwrap_or(MigrateError::Closed)),
            Phase::Connected { .. }
            | Phase::ReadingOut { .. }
            | Phase::Resuming { .. }
            | Phase::Recovering { .. }
            | Phase::Switching { .. }
            | Phase::Outlived { .. } => Err(MigrateError::UnderWay),
        }
    }

    /// Leaves the present server for the newest offer's target, when that has answered.
    async fn begin_to_leave(
        &mut self,
        preconnected: Option<Preconnected>,
        early_data: &[u8],
    ) -> Result<(), MigrateError> {
        let control = Arc::clone(&self.control);
        if control.with_offer(|_| ()).is_none() {
            let offer = control.resolve_offer(|_| true).await?;
            control.set_offer(offer);
        }
        let target = self.check_offer()?;
        let preconnected = control.dialer.reuse_or_open(preconnected, target).await;
        let preconnected =
            preconnected.map_err(|error| MigrateError::Unreachable(Arc::new(error)))?;
        // A target that could not be reached was no migration.
        self.admit_offer()?;
        let offer = control.take_offer().ok_or(MigrateError::NoOffer)?;
        self.leave_for(offer, preconnected, early_data);
        Ok(())
    }

    /// Leaves the present server.
    fn leave_for(&mut self, offer: Offer, preconnected: Preconnected, early_data: &[u8]) {
        let continuity = self.continuity();
        let leaving = Leaving {
            dialer: self.control.dialer.clone(),
            continuity,
            origin: self.origin,
            from: self.control.address(),
            unread: self.leave(),
            early_data: early_data.to_vec(),
        };
        self.control.begin_to_hold();
        self.phase = Phase::Resuming {
            resume: Box::pin(leaving.migrate(offer, preconnected)),
            held: Vec::new(),
        };
    }

    fn poll_migrated(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<MigrationOutcome, MigrateError>> {
        let waker = self.control.wakers.register(Party::Writer, cx);
        let Phase::Resuming { resume, .. } = &mut self.phase else {
            return Poll::Ready(Err(MigrateError::Closed));
        };
        let resumed = ready!(resume.as_mut().poll(&mut Context::from_waker(&waker)));
        Poll::Ready(self.resumed(resumed))
    }

    /// Closes the present connection in the background. Returns how many bytes of it were not read.
    fn leave(&mut self) -> usize {
        // What went wrong there is not the next server's error.
        self.read_error = None;
        let mut unread = mem::take(&mut self.inbox).len();
        let (Phase::Connected { mut conn, .. } | Phase::Ended { mut conn, .. }) = self.take_phase()
        else {
            return unread;
        };
        while let Ok(plaintext @ [_, ..]) = conn.connection_mut().fill_buf() {
            let amount = plaintext.len();
            conn.connection_mut().consume(amount);
            unread += amount;
        }
        tokio::spawn(async move {
            // Whatever goes wrong here concerns nobody any more.
            let _ = timeout(LINGER, read_to_end(*conn)).await;
        });
        unread
    }

    /// Waits for an offer to another address and follows it.
    pub(super) async fn follow_first_offer(&mut self, patience: Duration) {
        let offered = poll_fn(|cx| self.poll_offer(cx));
        let elsewhere = matches!(timeout(patience, offered).await, Ok(Some(target)) if target != self.peer_addr());
        if elsewhere {
            // When this fails, the stream is where it was, or reads and writes tell that it is lost.
            let _ = self.migrate(&[]).await;
        }
    }

    /// Reads until there is an offer. `None` when the server says something else first.
    fn poll_offer(&mut self, cx: &mut Context<'_>) -> Poll<Option<SocketAddr>> {
        loop {
            self.take_updates();
            self.poll_resolving(cx);
            if let Some(target) = self.control.with_offer(Offer::target) {
                return Poll::Ready(Some(target));
            }
            let Some(conn) = self.phase.source_mut() else {
                return Poll::Ready(None);
            };
            let silent = matches!(conn.connection_mut().fill_buf(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            if !silent || ready!(conn.poll_read_tls(cx)).is_err() {
                return Poll::Ready(None);
            }
        }
    }
}

/// A stream between two servers.
struct Leaving {
    dialer: Dialer,
    continuity: Continuity,
    origin: SocketAddr,
    from: SocketAddr,
    unread: usize,
    early_data: Vec<u8>,
}

impl Leaving {
    async fn migrate(self, offer: Offer, preconnected: Preconnected) -> Resumed {
        let at = preconnected.address();
        let migrated = self
            .dialer
            .migrate(&self.continuity, preconnected, offer, &self.early_data)
            .await;
        match migrated {
            Ok(conn) => {
                let accepted = conn.connection().tls().is_early_data_accepted();
                let early_data = EarlyDataOutcome::of(!self.early_data.is_empty(), accepted);
                let outcome = self.outcome(at, &conn, early_data, None);
                Ok((conn, outcome))
            }
            Err(error) => self.fall_back(Arc::new(error)).await,
        }
    }

    async fn fall_back(self, target: Arc<ConnectError>) -> Resumed {
        let (early_data, rest) = match EarlyDataOutcome::after_failure(&target) {
            EarlyDataOutcome::Unknown => (EarlyDataOutcome::Unknown, &[][..]),
            EarlyDataOutcome::Accepted
            | EarlyDataOutcome::AfterHandshake
            | EarlyDataOutcome::None => (
                EarlyDataOutcome::of(!self.early_data.is_empty(), false),
                &*self.early_data,
            ),
        };
        match self
            .dialer
            .reconnect(&self.continuity, self.origin, rest)
            .await
        {
            Ok(conn) => {
                let reason = Some(FallBackReason(target));
                let outcome = self.outcome(self.origin, &conn, early_data, reason);
                Ok((conn, outcome))
            }
            Err(origin) => Err(Stranded::Lost(MigrateError::Lost {
                target,
                origin: Arc::new(origin),
            })),
        }
    }

    fn outcome(
        &self,
        at: SocketAddr,
        conn: &ClientConn,
        early_data: EarlyDataOutcome,
        fell_back: Option<FallBackReason>,
    ) -> MigrationOutcome {
        let handshake = conn.connection().tls().handshake_kind();
        MigrationOutcome {
            from: self.from,
            at,
            handshake: handshake.unwrap_or(HandshakeKind::Full),
            early_data,
            unread: self.unread,
            fell_back,
        }
    }
}

async fn read_to_end(mut conn: ClientConn) -> io::Result<()> {
    poll_fn(|cx| conn.poll_shutdown(cx)).await?;
    let mut ignored = [0; 4096];
    while conn.io_mut().read(&mut ignored).await? > 0 {}
    Ok(())
}
