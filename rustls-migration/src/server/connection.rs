//! A server's connection without its I/O, from the moment when its hello has been judged.
//!
//! No byte of 1-RTT data reaches the application before the token's nonce is committed, and no ticket the client.

mod telling;

use std::fmt;
use std::io::{self, BufRead as _, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use migration_token::{Claim, CommitOutcome, StoreError};
use rustls::{ContentType, HandshakeKind, PeerMisbehaved, ServerConfig};

use super::admission::{Admitted, may_go_on};
use super::hello_acceptor::AcceptError;
use super::hook::ServerHook;
use super::recovery::Moved;
use super::refused::{EarlyDataFilter, Next};
use super::supersede::Superseding;
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
    /// What the application has read and written.
    pub(super) moved: Moved,
    /// How many bytes that the application writes next the client has already.
    pub(super) ahead: u64,
    /// Checkpoints that are spent when newer ones have come; `None` while there is none, or none is.
    pub(super) superseding: Option<Box<Superseding>>,
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
    /// Bytes of records of this layer's own that may still wait to be sent. They take nothing of the application's room, or what it
    /// writes would leave in more and smaller pieces.
    own: usize,
    /// A KeyUpdate has come that may want an answer, which has not been let go.
    owes_answer: bool,
}

/// What a record has besides its payload, in bytes: its header, its type and its tag.
const RECORD_OVERHEAD: usize = 22;

/// So many notices are sent without data or an offer between them. To the client's TLS library each is an empty record, of
/// which it takes no more than 32 in a row.
const MAX_NOTICES: u8 = 8;

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
            Admission::Admitted(admitted) => (admitted.arrival(), Some(admitted)),
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
            to_commit: admitted.as_ref().map(|admitted| admitted.claim),
            moved: Moved::default(),
            superseding: None,
            ahead: admitted.map_or(0, |admitted| admitted.received.unwrap_or(0)),
            early_data: Vec::new(),
            early_data_read: 0,
            early_data_counted: false,
            filter,
            notices: 0,
            closed: false,
            half_rtt,
            held_back: false,
            own: 0,
            owes_answer: false,
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
        if let Arrival::Migrated { early_data, .. } | Arrival::Recovered { early_data, .. } =
            &mut self.arrival
        {
            match kind {
                HandshakeKind::Resumed => *early_data = self.tls.early_data().is_some(),
                // It may yet resume when the second hello comes.
                HandshakeKind::FullWithHelloRetryRequest if self.tls.is_handshaking() => return,
                HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest => {
                    self.arrival = Arrival::Declined(Verdict::NotResumed);
                    self.to_commit = None;
                    self.ahead = 0;
                    self.hook.begins_anew();
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
        let migrated = matches!(
            self.arrival,
            Arrival::Migrated { .. } | Arrival::Recovered { .. }
        );
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
            Arrival::Migrated { state: Some(_), .. } | Arrival::Recovered { .. } => {
                MoveKind::Stream
            }
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

    /// How long a token is good.
    #[cfg(feature = "tokio")]
    pub(crate) fn token_lifetime(&self) -> std::time::Duration {
        self.server.token_lifetime.unsigned_abs()
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

    /// Whether this side has been closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Lets rustls process what it has read.
    fn process(&mut self) -> Result<(), rustls::Error> {
        if !self.tls.is_handshaking() {
            let processed = self.scope.enter(|| self.tls.process_new_packets());
            if self.hook.take_key_updated() {
                self.owes_answer = true;
                self.let_answer_go();
                self.look_for_answer();
            }
            return processed.map(|_| ());
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

    /// rustls answers a KeyUpdate only with what is written next. This writes nothing, and lets the answer go; but not while something
    /// waits, or a client that reads nothing would have one kept for each that it sends.
    fn let_answer_go(&mut self) {
        if self.owes_answer && !self.tls.wants_write() {
            self.owes_answer = false;
            let _ = self.scope.enter(|| self.tls.writer().write(&[]));
        }
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
        let own = payload.len().saturating_add(RECORD_OVERHEAD);
        self.own = self.own.saturating_add(own);
        let mut written = Ok(());
        while !payload.is_empty() && written.is_ok() {
            written = self
                .scope
                .enter(|| self.tls.writer().write(payload))
                .map(|len| payload = payload.get(len..).unwrap_or_default());
        }
        self.hook.retag(kind, 0);
        self.limit_buffer();
        written
    }

    fn limit_buffer(&mut self) {
        let limit = BUFFER_LIMIT.saturating_add(self.own);
        self.tls.set_buffer_limit(Some(limit));
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
        let written = self.tls.write_tls(wr)?;
        if self.own > 0 {
            // As if they were the first to leave: to a slow client something always waits, and the room must not grow.
            self.own = self.own.saturating_sub(written);
            self.limit_buffer();
        }
        self.let_answer_go();
        Ok(written)
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
        self.moved.note_read(amount);
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
        if let Some(discarded) = self.discard(plaintext.len()) {
            self.moved.note_written(discarded);
            return Ok(discarded);
        }
        let written = self.scope.enter(|| self.tls.writer().write(plaintext))?;
        self.held_back |= written > 0 && !self.half_rtt && self.tls.is_handshaking();
        self.moved.note_written(written);
        if written > 0 {
            self.notices = 0;
            self.data_written();
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
