//! A client's connection without its I/O: its hello leaves with the migration extensions, and what the server
//! offers is verified as it arrives.
//!
//! A bad offer is told and dropped; it never ends the connection.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead as _, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use migration_token::{TokenKey, VerifyError};
use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, ProtocolVersion};

use super::hook::ClientHook;
use super::offer::{Arrived, ReceivedTicket};
use super::{InvalidOfferError, MigrationClient, Offer};
use crate::address::canonical;
use crate::connection::{BUFFER_LIMIT, Connection};
use crate::key_schedule::SuiteCrypto;
use crate::move_kind::MoveKind;
use crate::provider::hook::{ConnectionHook as _, Scope};
use crate::wire::record::HelloSplicer;

/// How many updates wait to be taken; past that the oldest are forgotten.
const MAX_UPDATES: usize = 64;

/// What the server did that has to do with migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// It made an offer, which replaces an older one.
    Offered {
        /// Where the offer leads.
        target: SocketAddr,
        /// What goes on there.
        kind: MoveKind,
    },
    /// It sent a token that is no offer.
    OfferRefused(InvalidOfferError),
    /// It asks the client to move now.
    Notified,
}

/// A client's TLS connection that can be moved. It mirrors [`rustls::ClientConnection`], which it wraps.
pub struct ClientConnection {
    tls: rustls::ClientConnection,
    hook: Arc<ClientHook>,
    scope: Scope,
    client: Arc<MigrationClient>,
    server: SocketAddr,
    splicer: HelloSplicer,
    hello_sent: bool,
    /// TLS bytes after splicing that are still to be written.
    outgoing: VecDeque<u8>,
    early_data: EarlyData,
    /// On the heap: an idle connection has none.
    offer: Option<Box<Offer>>,
    /// What verifies offers, once one has come.
    token_key: Option<TokenKey>,
    notices: u64,
    /// What the last offer was that came after this side had been closed, and after how many notices.
    last_word: Option<(u64, Result<MoveKind, InvalidOfferError>)>,
    updates: VecDeque<Update>,
    closed: bool,
}

/// What the application gave to send with the hello.
#[derive(Default)]
struct EarlyData {
    data: Vec<u8>,
    /// How much of it left as early data.
    sent: usize,
    /// Whether the rest has been given to the connection.
    finished: bool,
    /// Whether it is meant for the resumed session only.
    for_session: bool,
    /// The application protocol that it is meant for, if it matters.
    for_alpn: Option<Option<Vec<u8>>>,
}

impl ClientConnection {
    /// A new connection to the server `name` at the address `server`.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] when rustls makes no connection.
    pub fn new(
        client: &Arc<MigrationClient>,
        name: ServerName<'static>,
        server: SocketAddr,
    ) -> Result<Self, ConnectError> {
        let hook = ClientHook::new(client.codepoints, None).ok_or(ConnectError::TokenTooLong)?;
        Self::with_hook(client, name, server, hook)
    }

    /// A connection that takes up the offer's session at its target.
    ///
    /// `early_data` is the first of the application data. It leaves with the hello as far as the target accepts that;
    /// the rest, or all of it when early data is refused, follows as soon as the handshake is complete.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] when the offer's time is over or rustls makes no connection.
    pub fn resume(
        client: &Arc<MigrationClient>,
        name: ServerName<'static>,
        offer: Offer,
        early_data: &[u8],
    ) -> Result<Self, ConnectError> {
        let target = offer.target();
        let now = client.clock.instant();
        if offer.is_expired(now) {
            return Err(ConnectError::OfferExpired);
        }
        let time = offer.tls_time(now);
        let (session, token) = offer.into_parts();
        let hook = ClientHook::new(client.codepoints, Some((session, token.encode())))
            .map(|hook| hook.at(time))
            .ok_or(ConnectError::TokenTooLong)?;
        let mut connection = Self::with_hook(client, name, target, hook)?;
        if let Some(mut writer) = connection.tls.early_data() {
            connection.early_data.sent = writer.write(early_data).unwrap_or(0);
        }
        connection.early_data.data = early_data.to_vec();
        Ok(connection)
    }

    /// Sends the early data only if the session resumes: it continues what the session said before, so a server that
    /// refused the session must not have it.
    #[must_use]
    pub fn only_if_resumed(mut self) -> Self {
        self.early_data.for_session = true;
        self
    }

    /// Sends the data that was given to send first only if this application protocol (ALPN) is negotiated, or none with
    /// `None`: it continues a stream that speaks it. To a server that negotiated another one nothing is sent.
    #[must_use]
    pub fn only_with_alpn(mut self, protocol: Option<Vec<u8>>) -> Self {
        self.early_data.for_alpn = Some(protocol);
        self
    }

    /// Sends `data` as soon as the handshake is complete, on a connection that resumes no offer.
    #[must_use]
    pub fn with_first_data(mut self, data: &[u8]) -> Self {
        self.early_data.data = data.to_vec();
        self
    }

    /// Whether the server may have got anything of the data that was given with the hello.
    #[cfg(feature = "tokio")]
    pub(crate) fn first_data_may_have_left(&self) -> bool {
        self.early_data.sent > 0 || self.early_data.finished
    }

    fn with_hook(
        client: &Arc<MigrationClient>,
        name: ServerName<'static>,
        server: SocketAddr,
        hook: ClientHook,
    ) -> Result<Self, ConnectError> {
        let hook = Arc::new(hook);
        let config = Arc::clone(&client.config);
        let splicer = HelloSplicer::new(config.max_fragment_size);
        let mut scope = Scope::new(&hook);
        let tls = scope.enter(|| rustls::ClientConnection::new(config, name));
        let tls = tls.map_err(ConnectError::Tls)?;
        Ok(Self {
            tls,
            hook,
            scope,
            client: Arc::clone(client),
            server: canonical(server),
            splicer,
            hello_sent: false,
            outgoing: VecDeque::new(),
            early_data: EarlyData::default(),
            offer: None,
            token_key: None,
            notices: 0,
            last_word: None,
            updates: VecDeque::new(),
            closed: false,
        })
    }

    /// The server's address.
    #[cfg(feature = "tokio")]
    pub(crate) fn server(&self) -> SocketAddr {
        self.server
    }

    /// The newest offer that was accepted.
    pub fn offer(&self) -> Option<&Offer> {
        self.offer.as_deref()
    }

    /// Whether the server has handed the stream over: an offer of kind [`MoveKind::Stream`] that came when this side had
    /// been closed, and that no `migrate_notify` followed (`docs/protocol.md` section 4). An error when it is an offer that
    /// is not accepted.
    pub fn handed_over(&self) -> Option<Result<(), InvalidOfferError>> {
        let (notices, offer) = self.last_word?;
        if notices == 0 || notices != self.notices {
            return None;
        }
        match offer {
            Ok(MoveKind::Connection) => None,
            Ok(MoveKind::Stream) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    }

    /// Takes the newest offer, to [`resume`](Self::resume) with it.
    pub fn take_offer(&mut self) -> Option<Offer> {
        self.offer.take().map(|offer| *offer)
    }

    /// The oldest update that was not taken yet.
    pub fn next_update(&mut self) -> Option<Update> {
        self.updates.pop_front()
    }

    /// How many bytes left as early data; whether they were accepted,
    /// [`rustls::ClientConnection::is_early_data_accepted`] tells after the handshake.
    pub fn early_data_sent(&self) -> usize {
        self.early_data.sent
    }

    /// The wrapped connection, for what it knows of the session.
    pub fn tls(&self) -> &rustls::ClientConnection {
        &self.tls
    }

    /// Verifies the offers that have come.
    fn take_offers(&mut self) {
        if !self.hook.take_news() {
            return;
        }
        while let Some(received) = self.hook.take_received() {
            let notices = received.notices;
            let verified = self.verify(received);
            if self.closed {
                self.last_word =
                    Some((notices, verified.as_ref().map(Offer::kind).map_err(|e| *e)));
            }
            let update = match verified {
                Ok(offer) => {
                    let (target, kind) = (offer.target(), offer.kind());
                    self.offer = Some(Box::new(offer));
                    Update::Offered { target, kind }
                }
                Err(error) => Update::OfferRefused(error),
            };
            self.push_update(update);
        }
        if self.notices < self.hook.notices() {
            self.notices = self.hook.notices();
            self.push_update(Update::Notified);
        }
    }

    /// Verifies one offer. The token's key is derived for the first one.
    fn verify(&mut self, received: ReceivedTicket) -> Result<Offer, InvalidOfferError> {
        let arrived = Arrived {
            at: self.client.clock.instant(),
            tls_time: self.client.config.time_provider.current_time(),
        };
        let suite = self.tls.negotiated_cipher_suite();
        let crypto = suite.and_then(|suite| SuiteCrypto::new(suite.tls13()?));
        let crypto = crypto.ok_or(VerifyError::OtherSession)?;
        let key = match self.token_key.take() {
            Some(key) => key,
            None => {
                let secret = self.hook.take_secret().ok_or(VerifyError::OtherSession)?;
                TokenKey::derive_with(&crypto, &secret).map_err(|_| VerifyError::OtherSession)?
            }
        };
        let key = self.token_key.insert(key);
        let policy = &*self.client.policy;
        Offer::verify(received, (&crypto, key), self.server, policy, arrived)
    }

    fn push_update(&mut self, update: Update) {
        if self.updates.len() == MAX_UPDATES {
            self.updates.pop_front();
        }
        self.updates.push_back(update);
    }

    /// Sends what early data did not carry.
    fn finish_early_data(&mut self) {
        let resumed = self.tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let EarlyData {
            data,
            sent,
            for_session,
            for_alpn,
            finished,
        } = &mut self.early_data;
        let other_alpn = for_alpn
            .as_ref()
            .is_some_and(|protocol| protocol.as_deref() != self.tls.alpn_protocol());
        let withheld = (*for_session && !resumed) || other_alpn;
        let from = match (self.tls.is_early_data_accepted(), withheld) {
            (true, _) => *sent,
            (false, false) => 0,
            (false, true) => data.len(),
        };
        if let Some(rest) = data.get(from..).filter(|rest| !rest.is_empty()) {
            // All of it is in memory already, so the buffer's limit must not cut it.
            self.tls.set_buffer_limit(None);
            let written = self.scope.enter(|| self.tls.writer().write_all(rest));
            debug_assert!(written.is_ok(), "an unlimited buffer takes all");
            *finished = true;
            self.tls.set_buffer_limit(Some(BUFFER_LIMIT));
        }
        *data = Vec::new();
    }

    /// Moves what rustls wants to write through the splicer. Only a hello changes: the first, and after a
    /// HelloRetryRequest, which only TLS 1.3 has, the second.
    fn splice_outgoing(&mut self) -> io::Result<()> {
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records)?;
        }
        let retry = self.tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let hello_expected = !self.hello_sent || retry;
        let extensions = self.hook.hello_extensions();
        let (spliced, found) = self.splicer.rewrite(&records, hello_expected, extensions);
        self.hello_sent |= found;
        self.outgoing.extend(spliced);
        Ok(())
    }
}

impl Connection for ClientConnection {
    fn read_tls(&mut self, rd: &mut dyn Read) -> io::Result<usize> {
        self.tls.read_tls(rd)
    }

    fn process_new_packets(&mut self) -> Result<(), rustls::Error> {
        let handshaking = self.tls.is_handshaking();
        self.scope.enter(|| self.tls.process_new_packets())?;
        if handshaking && !self.tls.is_handshaking() {
            self.finish_early_data();
        }
        self.take_offers();
        Ok(())
    }

    fn write_tls(&mut self, wr: &mut dyn Write) -> io::Result<usize> {
        if self.tls.is_handshaking() {
            self.splice_outgoing()?;
        }
        if self.outgoing.is_empty() {
            return self.tls.write_tls(wr);
        }
        let (first, _) = self.outgoing.as_slices();
        let written = wr.write(first)?;
        self.outgoing.drain(..written);
        if self.outgoing.is_empty() {
            // Nothing waits here after the handshake.
            self.outgoing = VecDeque::new();
        }
        Ok(written)
    }

    fn wants_read(&self) -> bool {
        self.tls.wants_read()
    }

    fn wants_write(&self) -> bool {
        !self.outgoing.is_empty() || self.tls.wants_write()
    }

    fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.tls.reader().into_first_chunk()
    }

    fn consume(&mut self, amount: usize) {
        self.tls.reader().consume(amount);
    }

    fn write(&mut self, plaintext: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.scope.enter(|| self.tls.writer().write(plaintext))
    }

    fn refresh_traffic_keys(&mut self) -> Result<(), rustls::Error> {
        self.scope.enter(|| self.tls.refresh_traffic_keys())
    }

    fn send_close_notify(&mut self) {
        if !self.closed {
            self.closed = true;
            self.tls.send_close_notify();
        }
    }
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConnection")
            .field("server", &self.server)
            .field("offer", &self.offer)
            .finish_non_exhaustive()
    }
}

/// Why there is no connection. Nothing has been sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The offer's time is over: see [`Offer::is_expired`]. The caller is late.
    #[error("the offer's time is over")]
    OfferExpired,
    /// The token does not fit an extension. The server is at fault.
    #[error("the token does not fit an extension")]
    TokenTooLong,
    /// rustls makes no connection. The caller is at fault: the name, or the configuration.
    #[error("the TLS library makes no connection")]
    Tls(#[source] rustls::Error),
}
