//! The client's end of the hook: it puts extensions into the hello, reads marks out of tickets, keeps the alert and the
//! request to move from rustls, and supplies the session to resume.
//!
//! It judges nothing: what it collects, the connection verifies.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ContentType, NamedGroup};
use zeroize::Zeroizing;

use super::offer::{Heard, ReceivedMark, ReceivedTicket};
use crate::codepoints::Codepoints;
use crate::dialect::{Dialect, Dialects};
use crate::provider::HashedHello;
use crate::provider::hook::{ConnectionHook, Verifying, current_as};
use crate::wire::dialect::draft01;
use crate::wire::dialect::draft03::{PostHandshake, PostHandshakeReader};
use crate::wire::ticket::NewSessionTicket;
use crate::wire::{KEY_UPDATE, Malformed, NEW_SESSION_TICKET, push_extension};

/// How many marked tickets are kept for verification. The newest checkpoint counts, and the newest offers.
const MAX_RECEIVED: usize = 4;

pub(super) struct ClientHook {
    codepoints: Codepoints,
    /// Those that the client offers.
    dialects: Dialects,
    /// Encoded, for each hello of this connection.
    hello_extensions: Vec<u8>,
    /// How many bytes of application data have come.
    received: AtomicU64,
    /// How many times the server has asked the client to move.
    notices: AtomicU64,
    /// Whether the handshake is complete.
    established: AtomicBool,
    /// Whether marked tickets have come, or notices.
    has_news: AtomicBool,
    /// Whether a KeyUpdate has come, which may want an answer.
    key_updated: AtomicBool,
    verifying: Verifying,
    hashed_hello: HashedHello,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    resumption_master_secret: Option<Zeroizing<Vec<u8>>>,
    /// The session to resume, until rustls takes it.
    resume: Option<Tls13ClientSessionValue>,
    /// The time at which rustls takes it, until rustls asks.
    time: Option<UnixTime>,
    messages: PostHandshakeReader,
    /// For each ticket that was decrypted and that rustls has not yet stored: its mark, if it has one.
    marks: VecDeque<Option<ReceivedMark>>,
    received: VecDeque<ReceivedTicket>,
    /// The newest target that was asked for, in draft -03.
    target: Option<Vec<u8>>,
}

impl State {
    /// A checkpoint that a newer one follows goes first.
    fn make_room_for(&mut self, mark: &ReceivedMark) {
        if self.received.len() < MAX_RECEIVED {
            return;
        }
        let says_so =
            |mark: &ReceivedMark| mark.stream.as_ref().is_some_and(|said| !said.is_empty());
        let is_one = |kept: &ReceivedTicket| says_so(&kept.mark);
        let kept = self.received.iter().filter(|kept| is_one(kept)).count();
        let former = match kept {
            0 => None,
            1 if !says_so(mark) => None,
            _ => self.received.iter().position(is_one),
        };
        self.received.remove(former.unwrap_or(0));
    }
}

impl ClientHook {
    /// `resume` is a session, with the encoded token that lets it resume elsewhere if there is one. With a checkpoint's,
    /// `received` is how many bytes have come since. `None` when the token is too long for an extension.
    pub(super) fn new(
        codepoints: Codepoints,
        dialects: Dialects,
        resume: Option<(Tls13ClientSessionValue, Option<Vec<u8>>)>,
        received: Option<u64>,
    ) -> Option<Self> {
        let mut hello_extensions = Vec::new();
        let mut push = |kind, content: &[u8]| push_extension(&mut hello_extensions, kind, content);
        if dialects.has(Dialect::Draft01) {
            push(codepoints.migration_support, &[])?;
        }
        if dialects.has(Dialect::Draft03) {
            push(codepoints.experimental.migration_support, &[])?;
        }
        let (session, token) = resume.unzip();
        if let Some(token) = token.flatten() {
            push(codepoints.migration_token, &token)?;
        }
        if let Some(received) = received {
            push(codepoints.migration_stream, &received.to_be_bytes())?;
        }
        let request = codepoints.experimental.migrate_request;
        let state = State {
            resume: session,
            messages: PostHandshakeReader::new(dialects.has(Dialect::Draft03).then_some(request)),
            ..State::default()
        };
        Some(Self {
            codepoints,
            dialects,
            hello_extensions,
            received: AtomicU64::new(0),
            notices: AtomicU64::new(0),
            established: AtomicBool::new(false),
            has_news: AtomicBool::new(false),
            key_updated: AtomicBool::new(false),
            verifying: Verifying::default(),
            hashed_hello: HashedHello::default(),
            state: Mutex::new(state),
        })
    }

    /// What time it is when rustls takes up the session.
    pub(super) fn at(self, time: Option<UnixTime>) -> Self {
        self.state().time = time;
        self
    }

    /// How many times the server has asked the client to move.
    pub(super) fn notices(&self) -> u64 {
        self.notices.load(Ordering::Relaxed)
    }

    /// Whether [`take_received`](Self::take_received) or [`notices`](Self::notices) has something new to tell.
    pub(super) fn take_news(&self) -> bool {
        self.has_news.load(Ordering::Relaxed) && self.has_news.swap(false, Ordering::Relaxed)
    }

    /// Whether the server has sent a KeyUpdate since.
    pub(super) fn take_key_updated(&self) -> bool {
        self.key_updated.load(Ordering::Relaxed) && self.key_updated.swap(false, Ordering::Relaxed)
    }

    /// The newest target that was asked for, in draft -03.
    pub(super) fn take_target(&self) -> Option<Vec<u8>> {
        self.state().target.take()
    }

    /// The next marked ticket.
    pub(super) fn take_received(&self) -> Option<ReceivedTicket> {
        let mut state = self.state();
        let received = state.received.pop_front();
        if state.received.is_empty() {
            state.received = VecDeque::new();
        }
        received
    }

    /// Derives something from the connection's `resumption_master_secret`.
    pub(super) fn with_secret<R>(&self, derive: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let secret = self.state().resumption_master_secret.clone();
        secret.map(|secret| derive(&secret))
    }

    /// The connection's `resumption_master_secret`, which is worth nothing more here once the token's key has been derived.
    pub(super) fn take_secret(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.state().resumption_master_secret.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the handshake messages in one record say of migration, and takes out those that rustls does not know. Returns
    /// how much is left.
    fn read_messages(&self, record: &mut [u8]) -> Result<usize, Malformed> {
        let mut state = self.state();
        let State {
            messages,
            marks,
            target,
            ..
        } = &mut *state;
        messages.read(record, |message| match message {
            PostHandshake::Request(asked) => {
                *target = Some(asked.to_vec());
                self.note_notice();
            }
            PostHandshake::Other(message) if message.first() == Some(&NEW_SESSION_TICKET) => {
                let heard = Heard {
                    notices: self.notices(),
                    bytes: self.received.load(Ordering::Relaxed),
                };
                let mark = NewSessionTicket::read(message).ok().and_then(|ticket| {
                    ReceivedMark::of(&ticket, self.codepoints, self.dialects, heard)
                });
                marks.push_back(mark);
            }
            PostHandshake::Other(message) if message.first() == Some(&KEY_UPDATE) => {
                self.key_updated.store(true, Ordering::Relaxed);
            }
            PostHandshake::Other(_) => {}
        })
    }

    fn note_notice(&self) {
        self.notices.fetch_add(1, Ordering::Relaxed);
        self.has_news.store(true, Ordering::Relaxed);
    }

    /// rustls stores the ticket that was decrypted first. A marked one is kept here, for elsewhere; another is given back.
    fn keep(&self, session: Tls13ClientSessionValue) -> Option<Tls13ClientSessionValue> {
        let mut state = self.state();
        let mark = state.marks.pop_front().flatten();
        if state.marks.is_empty() {
            // Tickets are rare: their room is not kept.
            state.marks = VecDeque::new();
        }
        let Some(mark) = mark else {
            return Some(session);
        };
        state.make_room_for(&mark);
        state.received.push_back(ReceivedTicket { session, mark });
        self.has_news.store(true, Ordering::Relaxed);
        None
    }
}

impl ConnectionHook for ClientHook {
    fn verifying(&self) -> &Verifying {
        &self.verifying
    }

    fn hello_extensions(&self) -> &[u8] {
        &self.hello_extensions
    }

    fn hashed_hello(&self) -> Option<&HashedHello> {
        Some(&self.hashed_hello)
    }

    fn resumption_master_secret(&self, secret: &[u8]) {
        self.hashed_hello.clear();
        self.state().resumption_master_secret = Some(Zeroizing::new(secret.to_vec()));
        self.established.store(true, Ordering::Relaxed);
    }

    fn application_data(&self, len: usize) {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        self.received.fetch_add(len, Ordering::Relaxed);
    }

    /// Only after the handshake: until then there is no `resumption_master_secret`.
    fn inbound(&self, kind: ContentType, payload: &mut [u8]) -> Result<usize, Malformed> {
        if !self.established.load(Ordering::Relaxed) {
            return Ok(payload.len());
        }
        if kind == ContentType::Handshake {
            return self.read_messages(payload);
        }
        if kind == ContentType::Alert
            && self.dialects.has(Dialect::Draft01)
            && draft01::is_notice(self.codepoints, payload)
        {
            self.note_notice();
            return Ok(0);
        }
        Ok(payload.len())
    }
}

/// The clock of every configuration of a [`MigrationClient`](super::MigrationClient): the session of an offer is as old as it
/// is, whatever the user's clock says since it was set. Certificates are judged by the user's clock.
#[derive(Debug)]
pub(super) struct HookedTime(pub(super) Arc<dyn TimeProvider>);

impl TimeProvider for HookedTime {
    fn current_time(&self) -> Option<UnixTime> {
        // The age of a session that is taken up is the first that rustls asks for.
        let time = current_as::<ClientHook>().and_then(|hook| hook.state().time.take());
        time.or_else(|| self.0.current_time())
    }
}

/// The session store of every configuration of a [`MigrationClient`](super::MigrationClient): inside a connection's
/// scope its hook answers for TLS 1.3 tickets that have to do with migration. The store in it is the user's, wrapped.
#[derive(Debug)]
pub(super) struct HookedStore(pub(super) Arc<dyn ClientSessionStore>);

impl ClientSessionStore for HookedStore {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.0.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        let ordinary = match current_as::<ClientHook>() {
            Some(hook) => hook.keep(value),
            None => Some(value),
        };
        if let Some(value) = ordinary {
            self.0.insert_tls13_ticket(server_name, value);
        }
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        let resume = current_as::<ClientHook>().and_then(|hook| hook.state().resume.take());
        resume.or_else(|| self.0.take_tls13_ticket(server_name))
    }
}
