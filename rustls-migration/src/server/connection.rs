//! A server's connection without its I/O, from the moment when its hello has been judged.
//!
//! No byte of 1-RTT data reaches the application before the token's nonce is committed, and no ticket the client.

use std::fmt;
use std::io::{self, BufRead as _, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use migration_token::{Claim, CommitOutcome, StoreError};
use rustls::{ContentType, HandshakeKind, PeerMisbehaved, ServerConfig};

use super::admission::{Admitted, may_go_on};
use super::hello_acceptor::AcceptError;
use super::hook::ServerHook;
use super::offer_error::{NotifyError, OfferError};
use super::refused::{EarlyDataFilter, Next};
use super::{Arrival, MigrationServer, Verdict};
#[cfg(feature = "tokio")]
use crate::MoveKind;
use crate::connection::{BUFFER_LIMIT, Connection};
use crate::provider::hook::Scope;

/// What admission decided.
pub(super) enum Admission {
    Ordinary,
    Admitted(Box<Admitted>),
    Declined(Verdict),
}

/// A server's TLS connection that can be moved. It mirrors [`rustls::ServerConnection`], which it wraps.
pub struct ServerConnection {
    tls: rustls::ServerConnection,
    server: Arc<MigrationServer>,
    peer: Option<SocketAddr>,
    pub(super) hook: Arc<ServerHook>,
    scope: Scope,
    arrival: Arrival,
    /// Whether the arrival is final.
    settled: bool,
    /// The nonce to commit before 1-RTT data may be read.
    to_commit: Option<Claim>,
    /// Early data that rustls accepted and the application has not read.
    early_data: Vec<u8>,
    early_data_read: usize,
    early_data_counted: bool,
    /// Drops refused early data for as long as some may come.
    filter: Option<EarlyDataFilter>,
    /// How many notices the client was sent since something else.
    notices: u8,
    /// Whether `close_notify` has been sent.
    closed: bool,
    /// Whether plaintext that is written during the handshake leaves at once.
    half_rtt: bool,
    /// Plaintext has been written that rustls holds back until the handshake is complete.
    held_back: bool,
}

/// So many notices are sent without data or an offer between them. To the client's TLS library each is an empty record, of
/// which it takes no more than 32 in a row.
const MAX_NOTICES: u8 = 8;

/// The level of `migrate_notify` (`docs/protocol.md` section 1).
const LEVEL_WARNING: u8 = 1;

impl ServerConnection {
    pub(super) fn new(
        server: Arc<MigrationServer>,
        peer: Option<SocketAddr>,
        config: Arc<ServerConfig>,
        hook: ServerHook,
        admission: Admission,
    ) -> Result<Self, AcceptError> {
        let (arrival, admitted) = match admission {
            Admission::Ordinary => (Arrival::Fresh, None),
            Admission::Declined(verdict) => (Arrival::Declined(verdict), None),
            Admission::Admitted(admitted) => (
                Arrival::Migrated {
                    early_data: false,
                    state: admitted.state.clone(),
                },
                Some(admitted),
            ),
        };
        let filter = hook
            .early_data_offered()
            .then(|| EarlyDataFilter::new(server.configs.ordinary.max_early_data_size));
        let hook = Arc::new(hook);
        let half_rtt = config.send_half_rtt_data;
        let mut scope = Scope::new(&hook);
        let tls = scope.enter(|| rustls::ServerConnection::new(config));
        let tls = tls.map_err(AcceptError::Tls)?;
        Ok(Self {
            tls,
            server,
            peer,
            hook,
            scope,
            arrival,
            settled: false,
            to_commit: admitted.map(|admitted| admitted.claim),
            early_data: Vec::new(),
            early_data_read: 0,
            early_data_counted: false,
            filter,
            notices: 0,
            closed: false,
            half_rtt,
            held_back: false,
        })
    }

    /// Gives rustls what was received before it existed.
    pub(super) fn receive(&mut self, mut received: &[u8]) -> Result<(), AcceptError> {
        while !received.is_empty() {
            let taken = self.read_tls(&mut received);
            self.process_new_packets().map_err(|error| {
                let mut alert = Vec::new();
                while self.tls.wants_write() && self.tls.write_tls(&mut alert).is_ok() {}
                AcceptError::Rejected { error, alert }
            })?;
            match taken {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Compares what admission allowed with what rustls made of it, once it has answered the hello.
    fn settle_arrival(&mut self) {
        let Some(kind) = self.tls.handshake_kind().filter(|_| !self.settled) else {
            return;
        };
        if let Arrival::Migrated { early_data, .. } = &mut self.arrival {
            match kind {
                HandshakeKind::Resumed => *early_data = self.tls.early_data().is_some(),
                // It may yet resume when the second hello comes.
                HandshakeKind::FullWithHelloRetryRequest if self.tls.is_handshaking() => return,
                HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest => {
                    self.arrival = Arrival::Declined(Verdict::NotResumed);
                    self.to_commit = None;
                }
            }
        }
        self.settled = true;
        self.server.counters.arrived(&self.arrival, self.peer);
    }

    /// Stats a client that has resumed an ordinary session.
    fn count_resumption(&mut self) {
        let resumed = self.tls.handshake_kind() == Some(HandshakeKind::Resumed);
        if resumed && matches!(self.arrival, Arrival::Fresh) {
            let early_data = self.tls.early_data().is_some();
            self.server.counters.resumed(early_data);
        }
    }

    /// Stats a client that migrated and whose first early data has come.
    fn count_early_data(&mut self) {
        let migrated = matches!(self.arrival, Arrival::Migrated { .. });
        if migrated && !self.early_data.is_empty() && !self.early_data_counted {
            self.early_data_counted = true;
            self.server.counters.early_data(self.peer);
        }
    }

    /// How the client came here. Final once [`early_data_accepted`](Self::early_data_accepted), or when the handshake
    /// is complete.
    pub fn arrival(&self) -> &Arrival {
        &self.arrival
    }

    /// What goes on here of a client that came with a token.
    #[cfg(feature = "tokio")]
    pub(crate) fn arrived_as(&self) -> MoveKind {
        match self.arrival {
            Arrival::Migrated { state: Some(_), .. } => MoveKind::Stream,
            Arrival::Migrated { state: None, .. } | Arrival::Fresh | Arrival::Declined(_) => {
                MoveKind::Connection
            }
        }
    }

    /// Whether rustls accepts early data on this connection, in a migration or an ordinary resumption. What has come of
    /// it can be read although the handshake is not complete.
    pub fn early_data_accepted(&mut self) -> bool {
        self.tls.early_data().is_some()
    }

    /// What to ask [`NonceStore::commit`](migration_token::NonceStore::commit) now, before anything else can be read or
    /// leaves; `None` when there is nothing to ask.
    pub fn commit(&self) -> Option<Claim> {
        self.to_commit.filter(|_| !self.tls.is_handshaking())
    }

    /// Takes the store's answer to [`commit`](Self::commit); `None` when it gave none in time.
    ///
    /// `false` means that the connection must be closed: another one has spent the token, or nobody can tell.
    #[must_use]
    pub fn committed(&mut self, answer: &Option<Result<CommitOutcome, StoreError>>) -> bool {
        self.server.counters.commit(answer, self.peer);
        let won = may_go_on(answer);
        if won {
            self.to_commit = None;
        }
        won
    }

    /// How long the client may stay once it has been notified.
    #[cfg(feature = "tokio")]
    pub(crate) fn departure_deadline(&self) -> std::time::Duration {
        self.server.departure_deadline()
    }

    /// The handshake has taken too long.
    #[cfg(feature = "tokio")]
    pub(crate) fn timed_out(&self) {
        self.server.handshake_timed_out(self.peer);
    }

    /// Whether plaintext has been written that leaves only when the handshake is complete. What else is said would
    /// overtake it.
    pub fn holds_plaintext(&self) -> bool {
        self.held_back && self.tls.is_handshaking()
    }

    /// How many TLS bytes wait to be written.
    #[cfg(feature = "tokio")]
    pub(crate) fn tls_bytes_to_write(&mut self) -> usize {
        // Nothing new has come, so this only looks.
        let state = self.scope.enter(|| self.tls.process_new_packets());
        state.map_or(0, |state| state.tls_bytes_to_write())
    }

    /// Tells the client to move now, by the `migrate_notify` alert. It leaves with what is written next.
    ///
    /// A client that has been told eight times, with neither data nor an offer since, is not told again: that would end its
    /// connection. It is `Ok` all the same.
    ///
    /// # Errors
    ///
    /// [`NotifyError`] when the client may not be sent the alert.
    pub fn notify(&mut self) -> Result<(), NotifyError> {
        if self.tls.is_handshaking() {
            return Err(NotifyError::Handshaking);
        }
        if self.closed {
            return Err(NotifyError::Closed);
        }
        let description = self.hook.notify_alert().ok_or(NotifyError::NoToken)?;
        if self.notices >= MAX_NOTICES {
            return Ok(());
        }
        self.write_as(ContentType::Alert, &[LEVEL_WARNING, description])
            .map_err(|_| NotifyError::Closed)?;
        self.notices += 1;
        Ok(())
    }

    /// Offers the client another target than before, or the same with another state: a NewSessionTicket with a new token. It
    /// leaves with what is written next. The client uses the newest offer. There may be any number of them.
    ///
    /// With `Some(state)`, of 0 to 8192 bytes, the application consents to a move of the stream: it can go on at the target
    /// from this state, which is for the application there, and for nobody between (see [`Arrival::Migrated`]). With
    /// `None` only the session goes on there, with the client's next connection, and this stream ends here.
    ///
    /// # Errors
    ///
    /// [`OfferError`]; nothing was sent then, and the connection goes on.
    pub fn offer(&mut self, target: SocketAddr, state: Option<&[u8]>) -> Result<(), OfferError> {
        if self.tls.is_handshaking() {
            return Err(OfferError::Handshaking);
        }
        if self.closed {
            return Err(OfferError::Closed);
        }
        let ticket = self.hook.offer(target, state)?;
        self.notices = 0;
        self.write_as(ContentType::Handshake, &ticket)
            .map_err(|_| OfferError::Closed)
    }

    /// Where the token leads that the client got at the handshake, if it got one.
    pub fn target_at_handshake(&self) -> Option<SocketAddr> {
        self.hook.target_at_handshake()
    }

    /// Lets rustls process what it has read.
    fn process(&mut self) -> Result<(), rustls::Error> {
        if !self.tls.is_handshaking() {
            return self
                .scope
                .enter(|| self.tls.process_new_packets())
                .map(|_| ());
        }
        if let Some(kind) = self.tls.handshake_kind() {
            self.hook.answered(kind == HandshakeKind::Resumed);
        }
        let processed = self.scope.enter(|| self.tls.process_new_packets());
        if let Some(mut early_data) = self.tls.early_data() {
            // What rustls holds is in memory; reading it cannot fail.
            let _ = early_data.read_to_end(&mut self.early_data);
        }
        self.settle_arrival();
        self.count_early_data();
        if !self.tls.is_handshaking() {
            self.count_resumption();
            // The client does without them, as without any offer.
            let _ = self.write_as(ContentType::Handshake, &self.hook.take_tickets());
        }
        processed.map(|_| ())
    }

    /// Gives rustls what the filter let pass.
    fn give(&mut self, mut received: &[u8]) -> Result<(), rustls::Error> {
        while !received.is_empty() {
            let taken = self.tls.read_tls(&mut received);
            self.process()?;
            match taken {
                Ok(1..) => {}
                // The client has closed its side: the rest is to be ignored.
                Ok(0) => break,
                // What rustls does not take is early data past every budget.
                Err(_) => return Err(PeerMisbehaved::TooMuchEarlyDataReceived.into()),
            }
        }
        Ok(())
    }

    /// Writes records of a type that rustls does not write by itself: as application data, which the hook retags.
    fn write_as(&mut self, kind: ContentType, mut payload: &[u8]) -> io::Result<()> {
        // What is begun must be written whole, so the buffer's limit must not cut it.
        self.tls.set_buffer_limit(None);
        self.hook.retag(kind, payload.len());
        let mut written = Ok(());
        while !payload.is_empty() && written.is_ok() {
            written = self
                .scope
                .enter(|| self.tls.writer().write(payload))
                .map(|len| payload = payload.get(len..).unwrap_or_default());
        }
        self.hook.retag(kind, 0);
        self.tls.set_buffer_limit(Some(BUFFER_LIMIT));
        written
    }

    /// The wrapped connection, for what it knows of the session.
    pub fn tls(&self) -> &rustls::ServerConnection {
        &self.tls
    }
}

impl Connection for ServerConnection {
    fn read_tls(&mut self, rd: &mut dyn Read) -> io::Result<usize> {
        match self.filter.as_mut().map(|filter| filter.read(rd)) {
            None => self.tls.read_tls(rd),
            // rustls is to know of the end.
            Some(Ok(0)) => self.tls.read_tls(&mut io::empty()),
            Some(read) => read,
        }
    }

    fn process_new_packets(&mut self) -> Result<(), rustls::Error> {
        let Some(mut filter) = self.filter.take() else {
            return self.process();
        };
        loop {
            match filter.next() {
                Next::Receive => break,
                Next::Record(record) => {
                    self.give(record)?;
                    if !filter.goes_on(&mut self.tls, &self.hook) {
                        return self.give(&filter.into_rest());
                    }
                }
                Next::Over(rest) => return self.give(rest),
            }
        }
        self.filter = Some(filter);
        Ok(())
    }

    fn write_tls(&mut self, wr: &mut dyn Write) -> io::Result<usize> {
        self.tls.write_tls(wr)
    }

    fn wants_read(&self) -> bool {
        self.tls.wants_read()
    }

    /// Nothing leaves between the client's Finished and the commit: tickets, and the token in them, are for the connection
    /// that has spent its own.
    fn wants_write(&self) -> bool {
        self.tls.wants_write() && self.commit().is_none()
    }

    fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Early data comes first. Then comes nothing until [`commit`](ServerConnection::commit) is answered.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.early_data.get(self.early_data_read..) {
            Some(early_data) if !early_data.is_empty() => Ok(early_data),
            Some(_) | None if self.to_commit.is_some() => Err(io::ErrorKind::WouldBlock.into()),
            Some(_) | None => self.tls.reader().into_first_chunk(),
        }
    }

    fn consume(&mut self, amount: usize) {
        if self.early_data_read < self.early_data.len() {
            self.early_data_read += amount;
            if self.early_data_read >= self.early_data.len() {
                self.early_data = Vec::new();
                self.early_data_read = 0;
            }
        } else {
            self.tls.reader().consume(amount);
        }
    }

    fn write(&mut self, plaintext: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let written = self.scope.enter(|| self.tls.writer().write(plaintext))?;
        self.held_back |= written > 0 && !self.half_rtt && self.tls.is_handshaking();
        if written > 0 {
            self.notices = 0;
        }
        Ok(written)
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

impl fmt::Debug for ServerConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConnection")
            .field("arrival", &self.arrival)
            .finish_non_exhaustive()
    }
}
