//! The server's end of the link: it lends rustls the admitted session, turns one of its tickets into one with a
//! token, and sends the alert (`docs/protocol.md` sections 1 and 3).
//!
//! It never touches application data.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ContentType;
use rustls::server::StoresServerSessions;
use zeroize::Zeroizing;

use super::admission::Admitted;
use super::issue::Issuer;
use crate::provider::link::{Link, current_as};
use crate::wire::ticket::NewSessionTicket;
use crate::wire::{MAX_FRAGMENT_LEN, next_message};

/// What rustls stores for a ticket: its key, which is the ticket, and its session.
type StoredSession = (Vec<u8>, Zeroizing<Vec<u8>>);

pub(super) struct ServerLink {
    /// Where sessions of tickets without a token are kept.
    storage: Arc<dyn StoresServerSessions>,
    /// Present when the client supports migration and there is a target for it.
    issuer: Option<Issuer>,
    /// Whether the hello had a token, accepted or not.
    token_presented: bool,
    /// The next record of application data is a `migrate_notify` alert.
    alert_next: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    admitted: Option<StoredSession>,
    resumption_master_secret: Option<Zeroizing<Vec<u8>>>,
    /// The session whose ticket is to travel with a token, between rustls' storing it and its sending the ticket.
    for_token: Option<StoredSession>,
    token_sent: bool,
}

impl ServerLink {
    pub(super) fn new(
        storage: Arc<dyn StoresServerSessions>,
        issuer: Option<Issuer>,
        token_presented: bool,
        admitted: Option<&Admitted>,
    ) -> Self {
        let state = State {
            admitted: admitted.map(|admitted| (admitted.ticket.clone(), admitted.session.clone())),
            ..State::default()
        };
        Self {
            storage,
            issuer,
            token_presented,
            alert_next: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// The AlertDescription of `migrate_notify`, once the client has been sent a token on this connection.
    pub(super) fn notify_alert(&self) -> Option<u8> {
        let issuer = self.issuer.as_ref().filter(|_| self.state().token_sent)?;
        Some(issuer.server.codepoints.migrate_notify)
    }

    /// Makes the next record of application data an alert; `false` takes that back.
    pub(super) fn set_alert_next(&self, alert: bool) {
        self.alert_next.store(alert, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the session of the first ticket for the token; others go to the storage. TLS 1.2 has no
    /// `resumption_master_secret`, so nothing of it is kept here.
    fn put(&self, key: Vec<u8>, session: Vec<u8>) -> bool {
        let mut state = self.state();
        let first = self.issuer.is_some() && !state.token_sent && state.for_token.is_none();
        if first && state.resumption_master_secret.is_some() {
            state.for_token = Some((key, Zeroizing::new(session)));
            return true;
        }
        self.storage.put(key, session)
    }

    /// Lends the admitted session, once. A refused token's ticket resumes nothing.
    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        if !self.token_presented {
            return self.storage.take(key);
        }
        let admitted = &mut self.state().admitted;
        let (_, session) = admitted.take_if(|(ticket, _)| ticket == key)?;
        Some(session.to_vec())
    }

    /// Puts the token into the ticket that waits for it, among the messages of one record.
    fn add_token(&self, messages: &[u8]) -> Option<Vec<u8>> {
        let issuer = self.issuer.as_ref()?;
        let mut state = self.state();
        let (key, session) = state.for_token.take()?;
        let rewritten = state
            .resumption_master_secret
            .as_ref()
            .and_then(|secret| rewrite(issuer, secret, messages, &key, &session));
        if rewritten.is_some() {
            state.token_sent = true;
        } else {
            // The client gets an ordinary ticket, which the storage must know.
            tracing::warn!("no token could be issued; the ticket stays an ordinary one");
            self.storage.put(key, session.to_vec());
        }
        rewritten
    }
}

/// The messages with the token added to the ticket `key`; `None` when that is not possible in one record.
fn rewrite(
    issuer: &Issuer,
    resumption_master_secret: &[u8],
    messages: &[u8],
    key: &[u8],
    session: &[u8],
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(messages.len() + session.len() + 1024);
    let mut found = false;
    let mut rest = messages;
    while !rest.is_empty() {
        let (message, tail) = next_message(rest)?;
        rest = tail;
        match NewSessionTicket::read(message) {
            Ok(ticket) if ticket.ticket == key => {
                out.extend(issuer.issue(resumption_master_secret, &ticket, session)?);
                found = true;
            }
            Ok(_) | Err(_) => out.extend_from_slice(message),
        }
    }
    (found && out.len() <= MAX_FRAGMENT_LEN).then_some(out)
}

impl Link for ServerLink {
    fn resumption_master_secret(&self, secret: &[u8]) {
        self.state().resumption_master_secret = Some(Zeroizing::new(secret.to_vec()));
    }

    fn wants_outbound(&self, kind: ContentType) -> bool {
        if kind == ContentType::ApplicationData {
            return self.alert_next.load(Ordering::Relaxed);
        }
        kind == ContentType::Handshake && self.issuer.is_some() && self.state().for_token.is_some()
    }

    fn rewrite_outbound(
        &self,
        kind: ContentType,
        payload: &[u8],
    ) -> Option<(ContentType, Vec<u8>)> {
        if kind == ContentType::ApplicationData {
            let alert = self.alert_next.swap(false, Ordering::Relaxed);
            return alert.then(|| (ContentType::Alert, payload.to_vec()));
        }
        self.add_token(payload).map(|messages| (kind, messages))
    }
}

/// The session storage of every configuration of a [`MigrationServer`](super::MigrationServer): inside a
/// connection's scope its link answers.
#[derive(Debug)]
pub(super) struct LinkedStorage(pub(super) Arc<dyn StoresServerSessions>);

impl StoresServerSessions for LinkedStorage {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        match current_as::<ServerLink>() {
            Some(link) => link.put(key, value),
            None => self.0.put(key, value),
        }
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        match current_as::<ServerLink>() {
            Some(link) => link.take(key),
            None => self.0.take(key),
        }
    }

    fn can_cache(&self) -> bool {
        self.0.can_cache()
    }
}
