//! The client's end of the hook: it puts extensions into the hello, reads tokens out of tickets, keeps the alert
//! from rustls, and supplies the session to resume.
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

use super::offer::{ReceivedTicket, ReceivedToken};
use crate::codepoints::Codepoints;
use crate::provider::HashedHello;
use crate::provider::hook::{ConnectionHook, Verifying, current_as};
use crate::wire::ticket::NewSessionTicket;
use crate::wire::{MESSAGE_HEADER_LEN, NEW_SESSION_TICKET, next_message, push_extension};

/// Largest handshake message that rustls takes; a longer one ends the connection there.
const MAX_MESSAGE_LEN: usize = MESSAGE_HEADER_LEN + 0xffff;

/// How many tickets with tokens are kept for verification. The newest count.
const MAX_RECEIVED: usize = 4;

pub(super) struct ClientHook {
    codepoints: Codepoints,
    /// Encoded, for each hello of this connection.
    hello_extensions: Vec<u8>,
    /// How many times `migrate_notify` has come.
    notices: AtomicU64,
    /// Whether the handshake is complete.
    established: AtomicBool,
    /// Whether tickets with tokens have come, or notices.
    has_news: AtomicBool,
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
    /// Post-handshake messages whose end is still to come.
    partial: Vec<u8>,
    /// For each ticket that was decrypted and that rustls has not yet stored: its token, if it has one.
    tokens: VecDeque<Option<ReceivedToken>>,
    received: VecDeque<ReceivedTicket>,
}

impl ClientHook {
    /// `resume` is a session with the encoded token that lets it resume elsewhere. `None` when the token is too long
    /// for an extension.
    pub(super) fn new(
        codepoints: Codepoints,
        resume: Option<(Tls13ClientSessionValue, Vec<u8>)>,
    ) -> Option<Self> {
        let mut hello_extensions = Vec::new();
        push_extension(&mut hello_extensions, codepoints.migration_support, &[])?;
        let mut state = State::default();
        if let Some((session, token)) = resume {
            push_extension(&mut hello_extensions, codepoints.migration_token, &token)?;
            state.resume = Some(session);
        }
        Some(Self {
            codepoints,
            hello_extensions,
            notices: AtomicU64::new(0),
            established: AtomicBool::new(false),
            has_news: AtomicBool::new(false),
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

    /// How many times `migrate_notify` has come.
    pub(super) fn notices(&self) -> u64 {
        self.notices.load(Ordering::Relaxed)
    }

    /// Whether [`take_received`](Self::take_received) or [`notices`](Self::notices) has something new to tell.
    pub(super) fn take_news(&self) -> bool {
        self.has_news.load(Ordering::Relaxed) && self.has_news.swap(false, Ordering::Relaxed)
    }

    /// The next ticket with a token.
    pub(super) fn take_received(&self) -> Option<ReceivedTicket> {
        let mut state = self.state();
        let received = state.received.pop_front();
        if state.received.is_empty() {
            state.received = VecDeque::new();
        }
        received
    }

    /// The connection's `resumption_master_secret`, which is worth nothing more here once the token's key has been derived.
    pub(super) fn take_secret(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.state().resumption_master_secret.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the tokens of the tickets in one record, which may begin or end inside a message.
    fn note_tickets(&self, state: &mut State, payload: &[u8]) {
        state.partial.extend_from_slice(payload);
        while let Some((message, rest)) = next_message(&state.partial) {
            if message.first() == Some(&NEW_SESSION_TICKET) {
                let token = NewSessionTicket::read(message)
                    .ok()
                    .and_then(|ticket| ReceivedToken::of(&ticket, self.codepoints));
                state.tokens.push_back(token);
            }
            state.partial = rest.to_vec();
        }
        if state.partial.len() > MAX_MESSAGE_LEN {
            state.partial.clear();
        }
    }

    /// rustls stores the ticket that was decrypted first. One with a token is kept here, since it is worth nothing
    /// without it; another is given back.
    fn keep(&self, session: Tls13ClientSessionValue) -> Option<Tls13ClientSessionValue> {
        let mut state = self.state();
        let token = state.tokens.pop_front().flatten();
        if state.tokens.is_empty() {
            // Tickets are rare: their room is not kept.
            state.tokens = VecDeque::new();
        }
        let Some(token) = token else {
            return Some(session);
        };
        if state.received.len() == MAX_RECEIVED {
            state.received.pop_front();
        }
        state.received.push_back(ReceivedTicket {
            session,
            token,
            notices: self.notices(),
        });
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

    /// Only after the handshake: until then there is no `resumption_master_secret`.
    fn hide_inbound(&self, kind: ContentType, payload: &[u8]) -> bool {
        if !self.established.load(Ordering::Relaxed) {
            return false;
        }
        if kind == ContentType::Handshake {
            self.note_tickets(&mut self.state(), payload);
        }
        let notify = kind == ContentType::Alert
            && matches!(payload, [_, description] if *description == self.codepoints.migrate_notify);
        if notify {
            self.notices.fetch_add(1, Ordering::Relaxed);
            self.has_news.store(true, Ordering::Relaxed);
        }
        notify
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
