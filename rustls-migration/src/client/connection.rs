//! A client's connection without its I/O: its hello leaves with the migration extensions, and what the server
//! offers is verified as it arrives.
//!
//! A bad offer is told and dropped; it never ends the connection.

mod tickets;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead as _, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use migration_token::TokenKey;
use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, ProtocolVersion};

use super::first_data::FirstData;
use super::hook::ClientHook;
use super::update::{ConnectError, Update};
use super::{Checkpoint, InvalidOfferError, MarkedTicket, MigrationClient, Offer};
use crate::address::canonical;
use crate::connection::{BUFFER_LIMIT, Connection};
use crate::dialect::Dialect;
use crate::lineage::Lineage;
use crate::move_kind::MoveKind;
use crate::provider::hook::{ConnectionHook as _, Scope};
use crate::wire::record::HelloSplicer;

/// How many updates wait to be taken; past that the oldest are forgotten.
const MAX_UPDATES: usize = 64;

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
    first_data: FirstData,
    /// On the heap: an idle connection has none.
    offer: Option<Box<Offer>>,
    /// The newest checkpoint.
    checkpoint: Option<Box<Checkpoint>>,
    /// A ticket of draft -03 that has not been given a target.
    marked: Option<Box<MarkedTicket>>,
    /// The newest target that was asked for, in draft -03.
    requested: Option<Vec<u8>>,
    /// What verifies tokens, once one has come.
    token_key: Option<TokenKey>,
    /// Which stream this is, once a marked ticket has come.
    lineage: Option<Lineage>,
    /// Which stream goes on here if the session is resumed.
    goes_on: Option<Lineage>,
    notices: u64,
    /// What the last offer was that came after this side had been closed, and after how many notices.
    last_word: Option<(u64, Result<MoveKind, InvalidOfferError>)>,
    updates: VecDeque<Update>,
    must_resume: bool,
    /// A KeyUpdate has come that may want an answer, which has not been let go.
    owes_answer: bool,
    closed: bool,
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
        let hook = ClientHook::new(client.codepoints, client.dialects, None, None)
            .ok_or(ConnectError::TokenTooLong)?;
        Self::with_hook(client, name, server, hook)
    }

    /// Which stream this is, once its server has sent a ticket that may be taken elsewhere.
    #[cfg(feature = "tokio")]
    pub(crate) fn lineage(&self) -> Option<Lineage> {
        self.lineage
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
        let (since, goes_on) = (offer.since(), offer.goes_on());
        let must_resume = offer.dialect() == Dialect::Draft03 && !client.full_handshakes;
        let (session, token) = offer.into_parts();
        let resume = Some((session, token.map(|token| token.encode())));
        let hook = ClientHook::new(client.codepoints, client.dialects, resume, since)
            .map(|hook| hook.at(time))
            .ok_or(ConnectError::TokenTooLong)?;
        let mut connection = Self::with_hook(client, name, target, hook)?;
        connection.first_data.set(early_data);
        connection.first_data.for_session = must_resume;
        connection.first_data.send_early(&mut connection.tls);
        connection.must_resume = must_resume;
        connection.goes_on = goes_on;
        Ok(connection)
    }

    /// Whether a server that makes a full handshake must not be told anything (draft -03 section 10.3): an offer of that dialect,
    /// and no [leave](super::MigrationClientBuilder::allow_full_handshakes) to go on. Until the handshake is complete, such a connection
    /// takes nothing that is written. Who drives a connection by hand gives it up when it [is refused](Self::is_refused).
    pub fn must_resume(&self) -> bool {
        self.must_resume
    }

    /// Whether the server has made a full handshake although the session [had to be resumed](Self::must_resume).
    pub fn is_refused(&self) -> bool {
        let full = match self.tls.handshake_kind() {
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) => true,
            Some(HandshakeKind::Resumed) | None => false,
        };
        self.must_resume && full && !self.tls.is_handshaking()
    }

    /// Sends the early data only if the session resumes: it continues what the session said before, so a server that
    /// refused the session must not have it.
    #[must_use]
    pub fn only_if_resumed(mut self) -> Self {
        self.first_data.for_session = true;
        self
    }

    /// Sends the data that was given to send first only if this application protocol (ALPN) is negotiated, or none with
    /// `None`: it continues a stream that speaks it. To a server that negotiated another one nothing is sent.
    #[must_use]
    pub fn only_with_alpn(mut self, protocol: Option<Vec<u8>>) -> Self {
        self.first_data.for_alpn = Some(protocol);
        self
    }

    /// Sends `data` as soon as the handshake is complete, on a connection that resumes no offer.
    #[must_use]
    pub fn with_first_data(mut self, data: &[u8]) -> Self {
        self.first_data.set(data);
        self
    }

    /// How many bytes the connection was given to send first.
    #[cfg(feature = "tokio")]
    pub(crate) fn first_data_len(&self) -> usize {
        self.first_data.len()
    }

    /// Whether the server may have got anything of the data that was given with the hello.
    #[cfg(feature = "tokio")]
    pub(crate) fn first_data_may_have_left(&self) -> bool {
        self.first_data.may_have_left()
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
            first_data: FirstData::default(),
            offer: None,
            checkpoint: None,
            marked: None,
            requested: None,
            token_key: None,
            lineage: None,
            goes_on: None,
            notices: 0,
            last_word: None,
            updates: VecDeque::new(),
            must_resume: false,
            owes_answer: false,
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

    /// What the newest offer would move, or the newest marked ticket that has no target.
    pub fn offered_kind(&self) -> Option<MoveKind> {
        let marked = || self.marked.as_ref().map(|marked| marked.kind());
        self.offer().map(Offer::kind).or_else(marked)
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

    /// Takes the newest checkpoint, to go on elsewhere when the server has died.
    pub fn take_checkpoint(&mut self) -> Option<Checkpoint> {
        self.checkpoint.take().map(|checkpoint| *checkpoint)
    }

    /// Takes the newest ticket of draft -03 that has not been given a target.
    pub fn take_marked(&mut self) -> Option<MarkedTicket> {
        self.marked.take().map(|marked| *marked)
    }

    /// The newest target that the server asked for, in draft -03: opaque bytes, for the application to resolve. Empty when the
    /// choice is the client's; `None` when there has been no request.
    pub fn requested_target(&self) -> Option<&[u8]> {
        self.requested.as_deref()
    }

    /// Lets the newest marked ticket of draft -03 lead to `target`, which the application has resolved or chosen: it becomes the
    /// newest offer.
    ///
    /// # Errors
    ///
    /// [`InvalidOfferError::NoMark`] when there is no such ticket, and [`InvalidOfferError::Target`] when the policy does not let
    /// the client go there, which uses the ticket up.
    pub fn lead_to(&mut self, target: SocketAddr) -> Result<&Offer, InvalidOfferError> {
        let marked = self.marked.take().ok_or(InvalidOfferError::NoMark)?;
        let offer = marked.lead_to(target, self.server, &*self.client.policy)?;
        Ok(self.offer.insert(Box::new(offer)))
    }

    /// The oldest update that was not taken yet.
    pub fn next_update(&mut self) -> Option<Update> {
        self.updates.pop_front()
    }

    /// How many bytes left as early data; whether they were accepted,
    /// [`rustls::ClientConnection::is_early_data_accepted`] tells after the handshake.
    pub fn early_data_sent(&self) -> usize {
        self.first_data.sent()
    }

    /// The wrapped connection, for what it knows of the session.
    pub fn tls(&self) -> &rustls::ClientConnection {
        &self.tls
    }

    /// Sends what early data did not carry.
    fn finish_first_data(&mut self) {
        let rest = self.first_data.take_rest(&self.tls);
        if !rest.is_empty() {
            self.write_held(&rest);
        }
    }

    /// Writes all of what has been held for this connection. It is in memory already, so the buffer's limit must not cut it.
    pub(crate) fn write_held(&mut self, held: &[u8]) {
        self.tls.set_buffer_limit(None);
        let written = self.scope.enter(|| self.tls.writer().write_all(held));
        debug_assert!(written.is_ok(), "an unlimited buffer takes all");
        self.tls.set_buffer_limit(Some(BUFFER_LIMIT));
    }

    /// Adds to what the application gave to send with the hello, as far as it can leave as early data now: nothing when some of
    /// what was given before cannot. Returns how much was taken.
    #[cfg(feature = "tokio")]
    pub(crate) fn add_early_data(&mut self, more: &[u8]) -> usize {
        let (tls, first_data) = (&mut self.tls, &mut self.first_data);
        self.scope.enter(|| first_data.add_early(tls, more))
    }

    /// rustls answers a KeyUpdate only with what is written next. This writes nothing, and lets the answer go; but not while something
    /// waits, or a server that reads nothing would have one kept for each that it sends.
    fn let_answer_go(&mut self) {
        if self.owes_answer && !self.wants_write() {
            self.owes_answer = false;
            if !self.closed {
                let _ = self.scope.enter(|| self.tls.writer().write(&[]));
            }
        }
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
            self.finish_first_data();
        }
        self.take_offers();
        self.owes_answer |= self.hook.take_key_updated();
        self.let_answer_go();
        Ok(())
    }

    fn write_tls(&mut self, wr: &mut dyn Write) -> io::Result<usize> {
        if self.tls.is_handshaking() {
            self.splice_outgoing()?;
        }
        if self.outgoing.is_empty() {
            let written = self.tls.write_tls(wr);
            self.let_answer_go();
            return written;
        }
        let (first, _) = self.outgoing.as_slices();
        let written = wr.write(first)?;
        self.outgoing.drain(..written);
        if self.outgoing.is_empty() {
            // Nothing waits here after the handshake.
            self.outgoing = VecDeque::new();
            self.let_answer_go();
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
        if self.is_refused() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        if self.must_resume && self.tls.is_handshaking() {
            // rustls would send it right behind its Finished, whoever the server is.
            return Ok(0);
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
