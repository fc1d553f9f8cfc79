//! The client's connector: its settings, and how streams begin.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::dialer::{Dialer, Preconnected};
use super::error::ConnectError;
use super::recovery::{PastWindow, ProbeTimes, Window};
use super::relocation::ResolveTarget;
use super::stream::MigrationStream;
use super::transport::{Dial, Transport};
use crate::address::canonical;
use crate::client::{MigrationClient, Offer};

/// Opens streams that can follow a server's migrations. It takes the place of `tokio_rustls::TlsConnector`.
#[derive(Clone, Debug)]
pub struct MigrationConnector {
    dialer: Dialer,
    follow_offers: Option<Duration>,
    hand_off: HandOff,
}

/// How a stream follows when its server asks it to move, and the server's application has consented that the stream goes on
/// elsewhere (`docs/protocol.md` section 4).
///
/// A stream without that consent is finished at its server whatever the mode, and
/// [`StreamHandle::successor`](super::StreamHandle::successor) opens the next connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandOff {
    /// Not by itself: the application calls [`MigrationStream::migrate`]. Should it close its side first and the server
    /// hand over, reads fail with [`HandOffError::NotFollowed`](super::HandOffError::NotFollowed), and
    /// [`MigrationStream::offer`] says where the session goes on.
    #[default]
    Manual,
    /// By itself, and so that nothing is lost or repeated (break before make): the stream is finished at the old server, which
    /// hands over its last state, and goes on at the target. The application reads and writes as if nothing happened.
    Drain,
    /// The target is resumed beside the old server, which goes on serving (make before break). When the target is ready
    /// ([`Event::Ready`](super::Event::Ready)), the application calls [`MigrationStream::switch`] at a boundary of its
    /// own protocol, and the stream never stalls. Transports should send small writes at once (`TCP_NODELAY`, also on
    /// the server's accepted sockets), or a switch may wait for a delayed acknowledgement.
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
            dialer: Dialer::new(client),
            follow_offers: None,
            hand_off: HandOff::default(),
        }
    }
}

impl MigrationConnector {
    /// The settings of its connections.
    pub fn client(&self) -> &MigrationClient {
        self.dialer.client()
    }

    /// Another way to reach addresses than TCP.
    #[must_use]
    pub fn dialer(mut self, dialer: impl Dial + 'static) -> Self {
        self.dialer.set_dial(dialer);
        self
    }

    /// How the targets of [`Dialect::Draft03`](crate::Dialect::Draft03) are resolved; by default as
    /// [`TextTargets`](super::TextTargets).
    #[must_use]
    pub fn target_resolver(mut self, resolver: impl ResolveTarget + 'static) -> Self {
        self.dialer.resolver = Arc::new(resolver);
        self
    }

    /// How long one address may take until its handshake is complete, by default ten seconds. A target whose old server is done
    /// is dialled again within this time.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.dialer.connect_timeout = timeout;
        self
    }

    /// How long the old server may say nothing in a hand-off that waits for its end, by default thirty seconds. Past it the
    /// stream fails with [`HandOffError::SourceLost`](super::HandOffError::SourceLost).
    #[must_use]
    pub fn source_timeout(mut self, timeout: Duration) -> Self {
        self.dialer.source_timeout = timeout;
        self
    }

    /// How much a stream keeps of what it has written since its server's newest checkpoint, in bytes, so that it can go on elsewhere
    /// if the server dies; and what becomes of a write past that. By default 256 KiB and [`PastWindow::GiveUp`]. With 0 a stream
    /// does not recover.
    ///
    /// A stream whose server makes no checkpoints keeps nothing, nor does one in [`HandOff::Manual`], which does not recover. A
    /// recovery counts against the [`MigrationLimit`](crate::client::MigrationLimit).
    #[must_use]
    pub fn recovery_window(mut self, bytes: usize, past: PastWindow) -> Self {
        let Window { from_start, .. } = self.dialer.window;
        self.dialer.window = Window {
            bytes,
            past,
            from_start,
        };
        self
    }

    /// Keeps what a stream writes from its first byte on, before it is known whether the server makes checkpoints: then the first
    /// one counts, whatever was written by the time it comes. When the
    /// [window](Self::recovery_window) has been filled and there has been no checkpoint, nothing is kept any more.
    #[must_use]
    pub fn recover_from_start(mut self) -> Self {
        self.dialer.window.from_start = true;
        self
    }

    /// Keeps a connection to the target of a stream's newest checkpoint dialled ahead, so that a recovery takes one round trip and
    /// not two. By default the target is dialled when the server is lost.
    ///
    /// It costs each target a connection for each stream that would come to it: no place among its handshakes, and no
    /// TLS, but a socket. A server closes a connection on which no hello comes (this project's after its
    /// [`hello_timeout`](crate::server::MigrationServerBuilder::hello_timeout), and counts it as silent); it is dialled again
    /// after a while, which grows from 50 ms to 30 s if the target keeps none. Failures are told by
    /// [`Event::TargetUnreachable`](super::Event::TargetUnreachable). The stream has it while a recovery is possible, and sees to it while it is
    /// read or written. What becomes of it does not touch the stream. A target that is not allowed is not dialled, and
    /// a draft -03 target is resolved ahead.
    ///
    /// If it turns out to be dead, or gives no answer in half of the [`connect_timeout`](Self::connect_timeout), the hello that has been
    /// sent over it is repeated, byte for byte, over a new one. Should the target have had both, it takes the session up once, and
    /// at most one of the two gets early data accepted.
    #[must_use]
    pub fn dial_recovery_ahead(mut self) -> Self {
        self.dialer.dials_ahead = true;
        self
    }

    /// Asks a server that has been silent for `after` whether it lives, by a TLS KeyUpdate that asks for another; if nothing comes
    /// `within` that time, it is dead, and the stream recovers. By default nobody is asked.
    ///
    /// It is done while the stream is read or written and has a checkpoint. A server answers when its application reads, so `within`
    /// must be longer than that ever leaves its stream alone. TLS stacks take 32 KeyUpdates in a row, so a stream on which nothing is
    /// sent, or nothing comes, is asked about 24 times and then no more, but for six times when something has been written.
    #[must_use]
    pub fn probe(mut self, after: Duration, within: Duration) -> Self {
        self.dialer.probe = Some(ProbeTimes { after, within });
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
    /// [`ConnectError`] says which step failed.
    pub async fn connect(
        &self,
        name: ServerName<'static>,
        address: SocketAddr,
    ) -> Result<MigrationStream, ConnectError> {
        let preconnected = Box::pin(self.dialer.open(canonical(address))).await?;
        self.begin(name, preconnected).await
    }

    /// Connects to the server `name` over `io`, which leads to `address`: a connection that the caller has opened, by a name that it
    /// has resolved, through a proxy, or after `STARTTLS`. It takes the place of `tokio_rustls::TlsConnector::connect`.
    ///
    /// Targets that the server names later are dialled as ever ([`dialer`](Self::dialer)). `address` is what a
    /// [`TargetPolicy`](crate::client::TargetPolicy) compares them with, and where a stream falls back to. Who does not know it
    /// says the unspecified address with port 0: then the default policy refuses every target.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says which step failed.
    pub async fn connect_over(
        &self,
        name: ServerName<'static>,
        address: SocketAddr,
        io: impl Transport + 'static,
    ) -> Result<MigrationStream, ConnectError> {
        let preconnected = Preconnected::new(canonical(address), Box::new(io));
        self.begin(name, preconnected).await
    }

    async fn begin(
        &self,
        name: ServerName<'static>,
        preconnected: Preconnected,
    ) -> Result<MigrationStream, ConnectError> {
        let address = preconnected.address();
        // On the heap, and gone when the stream is there: a task stays as large as the largest future that it ever awaited.
        let conn = Box::pin(self.dialer.connect(&name, preconnected)).await?;
        let mut stream =
            MigrationStream::new(self.dialer.clone(), self.hand_off, name, address, conn);
        if let Some(patience) = self.follow_offers {
            Box::pin(stream.follow_first_offer(patience)).await;
        }
        Ok(stream)
    }

    /// Connects to the offer's target with its session: the next connection of a client whose server asked it to move
    /// ([`StreamHandle::take_offer`](super::StreamHandle::take_offer)). If the target does not take the session up, the
    /// connection begins with a full handshake, or for an offer of draft -03 fails with
    /// [`ConnectError::SessionRefused`]. So it does if the offer came to another [`MigrationClient`]: rustls resumes
    /// a session only under the configuration that it was made with.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says which step failed. The offer is used up.
    pub async fn resume(
        &self,
        name: ServerName<'static>,
        offer: Offer,
    ) -> Result<MigrationStream, ConnectError> {
        self.resume_with(name, offer, &[]).await
    }

    /// As [`resume`](Self::resume), with what the application says first. It leaves with the hello, as early data, as far as the
    /// configuration and the offer allow it, and after the handshake otherwise. The target accepts it as early data once at most,
    /// but perhaps in a copy of the hello: it should be safe to be said twice (RFC 8446 section 8).
    ///
    /// # Errors
    ///
    /// As for [`resume`](Self::resume). [`ConnectError::Handshake`] says whether some of it may have left.
    pub async fn resume_with(
        &self,
        name: ServerName<'static>,
        offer: Offer,
        early_data: &[u8],
    ) -> Result<MigrationStream, ConnectError> {
        let dialer = self.dialer.clone();
        let stream = MigrationStream::succeed(dialer, self.hand_off, name, offer, early_data);
        Box::pin(stream).await
    }
}
