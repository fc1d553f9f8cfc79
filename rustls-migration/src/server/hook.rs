//! The server's end of the hook: it lends rustls the admitted or ordinary session, seals the tickets that rustls makes, makes
//! tickets with tokens, at once or later, from the first of them, and changes the type of records (`docs/protocol.md`
//! sections 1 and 3).
//!
//! It never touches application data.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migration_token::TokenKey;
use rustls::ContentType;
use rustls::server::StoresServerSessions;
use zeroize::Zeroizing;

use super::OfferError;
use super::admission::Lent;
use super::issue::{Issuer, MAX_STATE_LEN};
use super::template::{Template, TicketKey};
use crate::address::as_in_token;
use crate::provider::hook::{ConnectionHook, Verifying, current_as, without_scope};
use crate::provider::{HashedHello, SharedDecrypter};
use crate::wire::hello::TicketRequest;

pub(super) struct ServerHook {
    /// Where sessions of TLS 1.2 are kept; the user's, wrapped. Never called with the lock held.
    storage: Arc<dyn StoresServerSessions>,
    /// What issues tickets; `None` when the hello was not understood.
    issuer: Option<Issuer>,
    /// How many of rustls' tickets the client may get.
    wanted: Wanted,
    /// Whether the hello had a token, accepted or not.
    token_presented: bool,
    /// Whether the hello announced early data.
    early_data_offered: bool,
    /// Whether the hello has been answered.
    answered: AtomicBool,
    /// Whether rustls may be about to make tickets.
    wants_ticket_keys: AtomicBool,
    /// So many bytes of application data that come next are records of another type.
    retagged: AtomicUsize,
    verifying: Verifying,
    /// Only a hello with an admitted token, or with early data, is known before rustls hashes it.
    hashed_hello: HashedHello,
    state: Mutex<State>,
}

/// What a hello has in it.
#[derive(Clone, Copy, Default)]
pub(super) struct Offered {
    pub(super) token: bool,
    pub(super) early_data: bool,
    /// How many tickets the client wants, if that counts here.
    pub(super) ticket_request: Option<TicketRequest>,
}

/// How many tickets a client gets at its handshake, the one with a token among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// As many as rustls makes.
    All,
    /// Fewer than rustls makes: after a full handshake and after a resumption.
    AtMost { full: usize, resumed: usize },
}

struct State {
    /// The ticket that the client presents and the session that it stands for, until rustls takes it.
    lent: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    resumption_master_secret: Option<Zeroizing<Vec<u8>>>,
    token_key: Option<TokenKey>,
    /// What opens the client's handshake records, for the filter of refused early data.
    decrypter: Option<SharedDecrypter>,
    /// Nonce and pre-shared key of the ticket that rustls is making.
    ticket_key: Option<TicketKey>,
    resumed: bool,
    /// How many tickets rustls has made.
    made: usize,
    /// What offers are made from, or why there can be none.
    template: Result<Template, OfferError>,
    /// How many tickets have been made from the template.
    issued: u64,
    /// The handshake's NewSessionTickets, until they are sent.
    tickets: Vec<u8>,
    /// Whether the handshake's token has been issued.
    token_at_handshake: bool,
    token_sent: bool,
    /// The type of the next retagged bytes.
    retag_as: Option<ContentType>,
}

impl ServerHook {
    pub(super) fn new(
        storage: Arc<dyn StoresServerSessions>,
        issuer: Option<Issuer>,
        wanted: Wanted,
        offered: Offered,
        lent: Option<Lent>,
    ) -> Self {
        let (lent, hashed) = match lent {
            Some(lent) => (Some((lent.ticket, lent.session)), lent.hashed),
            None => (None, None),
        };
        let state = State {
            lent,
            resumption_master_secret: None,
            token_key: None,
            decrypter: None,
            ticket_key: None,
            resumed: false,
            made: 0,
            template: Err(OfferError::NoTicket),
            issued: 0,
            tickets: Vec::new(),
            token_at_handshake: false,
            token_sent: false,
            retag_as: None,
        };
        Self {
            storage,
            issuer,
            wanted,
            token_presented: offered.token,
            early_data_offered: offered.early_data,
            answered: AtomicBool::new(false),
            wants_ticket_keys: AtomicBool::new(false),
            retagged: AtomicUsize::new(0),
            verifying: Verifying::default(),
            hashed_hello: HashedHello::new(hashed),
            state: Mutex::new(state),
        }
    }

    /// The AlertDescription of `migrate_notify`, once the client has been sent a token on this connection.
    pub(super) fn notify_alert(&self) -> Option<u8> {
        let issuer = self.issuer.as_ref().filter(|_| self.state().token_sent)?;
        Some(issuer.server.codepoints.migrate_notify)
    }

    /// Where the token of the handshake leads, once it has been issued.
    pub(super) fn target_at_handshake(&self) -> Option<SocketAddr> {
        let issuer = self.issuer.as_ref();
        let issuer = issuer.filter(|_| self.state().token_at_handshake)?;
        issuer.target
    }

    /// Whether the client announced early data.
    pub(super) fn early_data_offered(&self) -> bool {
        self.early_data_offered
    }

    /// What opens the client's handshake records, once the hello of a client that announced early data is answered.
    pub(super) fn take_decrypter(&self) -> Option<SharedDecrypter> {
        self.answered.store(true, Ordering::Relaxed);
        self.state().decrypter.take()
    }

    /// The hello is answered.
    pub(super) fn answered(&self, resumed: bool) {
        if self.wanted != Wanted::All {
            self.state().resumed = resumed;
        }
    }

    /// The NewSessionTickets to be sent now that the handshake is complete; perhaps none.
    pub(super) fn take_tickets(&self) -> Vec<u8> {
        self.wants_ticket_keys.store(false, Ordering::Relaxed);
        let mut state = self.state();
        state.token_sent |= state.token_at_handshake;
        std::mem::take(&mut state.tickets)
    }

    /// Makes a NewSessionTicket with a token for `target`, and with the application's `state` when its stream can go on
    /// there.
    pub(super) fn offer(
        &self,
        target: SocketAddr,
        state: Option<&[u8]>,
    ) -> Result<Vec<u8>, OfferError> {
        let issuer = self.issuer.as_ref().filter(|issuer| issuer.migrates);
        let issuer = issuer.ok_or(OfferError::NotSupported)?;
        let len = state.map_or(0, <[u8]>::len);
        if len > MAX_STATE_LEN {
            return Err(OfferError::StateTooLong { len });
        }
        let (secret, template, nonce) = self.take_template()?;
        let token_key = self.token_key(issuer, &secret)?;
        let secrets = (secret.as_slice(), &token_key);
        let message = issuer.issue_from(secrets, template, nonce, as_in_token(target), state)?;
        self.state().token_sent = true;
        issuer.server.counters.offer();
        Ok(message)
    }

    /// What signs this connection's tokens. It is derived once.
    fn token_key(&self, issuer: &Issuer, secret: &[u8]) -> Result<TokenKey, OfferError> {
        if let Some(known) = &self.state().token_key {
            return Ok(known.clone());
        }
        let derived = issuer.token_key(secret)?;
        self.state().token_key = Some(derived.clone());
        Ok(derived)
    }

    /// What a ticket is made from, and its nonce, which is never used again. rustls' own nonces have 32 bytes.
    fn take_template(&self) -> Result<(Zeroizing<Vec<u8>>, Template, u64), OfferError> {
        let mut state = self.state();
        let secret = state.resumption_master_secret.clone();
        let secret = secret.ok_or(OfferError::NotSupported)?;
        let template = state.template.clone()?;
        let nonce = state.issued;
        state.issued += 1;
        Ok((secret, template, nonce))
    }

    /// Makes the next `len` bytes of application data records of type `kind`. With 0 nothing is pending any more.
    pub(super) fn retag(&self, kind: ContentType, len: usize) {
        self.state().retag_as = Some(kind);
        self.retagged.store(len, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// rustls has made a ticket, or a session of TLS 1.2, which goes to the storage. No ticket of rustls is sent, since its session
    /// is not stored. To a client that supports migration the first one is the template of the connection's offers, and
    /// becomes the ticket with the handshake's token; every other one is sealed as it is.
    fn put(&self, key: Vec<u8>, session: Vec<u8>) -> bool {
        let Some((nth, ticket_key)) = self.next_ticket() else {
            return self.storage.put(key, session);
        };
        let session = Zeroizing::new(session);
        let Some(issuer) = &self.issuer else {
            return false;
        };
        let first = nth == 0 && issuer.migrates;
        let with_token = first && self.keep_template(issuer, &session, ticket_key.as_ref());
        let keeps_sessions = issuer.server.configs.keeps_sessions;
        if !with_token && keeps_sessions && nth < self.wanted() {
            self.seal(issuer, &session, ticket_key.as_ref());
        }
        false
    }

    /// Which of rustls' tickets is the next one, counted from 0, with its nonce and key. `None` in TLS 1.2, which has no
    /// `resumption_master_secret`.
    fn next_ticket(&self) -> Option<(usize, Option<TicketKey>)> {
        let mut state = self.state();
        state.resumption_master_secret.as_ref()?;
        let nth = state.made;
        state.made += 1;
        Some((nth, state.ticket_key.take()))
    }

    /// Makes an ordinary ticket.
    fn seal(&self, issuer: &Issuer, session: &[u8], key: Option<&TicketKey>) {
        // It calls the user's clocks, nonce store and random source.
        match without_scope(|| issuer.issue_ordinary(session, key)) {
            Ok(ticket) => self.state().tickets.extend(ticket),
            Err(reason) => warn_of(reason),
        }
    }

    /// How many tickets the client gets.
    fn wanted(&self) -> usize {
        match self.wanted {
            Wanted::All => usize::MAX,
            Wanted::AtMost { full, resumed } => match self.state().resumed {
                true => resumed,
                false => full,
            },
        }
    }

    /// Keeps the template, and issues the handshake's token. `false` when there is none, or it cannot be issued.
    fn keep_template(&self, issuer: &Issuer, session: &[u8], key: Option<&TicketKey>) -> bool {
        let secret = self.state().resumption_master_secret.clone();
        // It calls the user's clocks and random source.
        let (template, token) = without_scope(|| {
            let template = issuer.template(session, key);
            let token = issuer.target.map(|target| {
                let template = template.as_ref().map_err(|failure| *failure)?;
                let ticket = template.ticket(key.ok_or(OfferError::UnknownSession)?);
                let secret = secret.as_ref().ok_or(OfferError::NotSupported)?;
                issuer.issue(&self.token_key(issuer, secret)?, ticket, target, None)
            });
            (template, token)
        });
        let token = token.and_then(|token| token.inspect_err(|reason| warn_of(*reason)).ok());
        let issued = token.is_some();
        if issued {
            issuer.server.counters.offer();
        }
        let mut state = self.state();
        state.template = template;
        state.tickets.extend(token.unwrap_or_default());
        state.token_at_handshake = issued;
        issued
    }

    /// Lends the session that this ticket stands for, once. No other ticket resumes anything.
    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let lent = &mut self.state().lent;
        let (_, mut session) = lent.take_if(|(ticket, _)| ticket == key)?;
        Some(std::mem::take(&mut *session))
    }
}

/// At the seal limit, the keys have warned already.
fn warn_of(reason: OfferError) {
    if reason != OfferError::SealLimit {
        tracing::warn!(%reason, "a ticket was not issued at the handshake");
    }
}

impl ConnectionHook for ServerHook {
    fn verifying(&self) -> &Verifying {
        &self.verifying
    }

    fn hashed_hello(&self) -> Option<&HashedHello> {
        Some(&self.hashed_hello)
    }

    fn resumption_master_secret(&self, secret: &[u8]) {
        self.hashed_hello.clear();
        self.state().resumption_master_secret = Some(Zeroizing::new(secret.to_vec()));
        let issues = self.issuer.is_some();
        self.wants_ticket_keys.store(issues, Ordering::Relaxed);
    }

    fn wants_ticket_key(&self) -> bool {
        self.wants_ticket_keys.load(Ordering::Relaxed)
    }

    fn ticket_key(&self, nonce: &[u8], psk: &[u8]) {
        self.state().ticket_key = Some(TicketKey {
            nonce: nonce.to_vec(),
            psk: Zeroizing::new(psk.to_vec()),
        });
    }

    /// Until the hello is answered. The last one by then opens what the client says next.
    fn wants_decrypter(&self) -> bool {
        self.early_data_offered && !self.answered.load(Ordering::Relaxed)
    }

    fn share_decrypter(&self, decrypter: SharedDecrypter) {
        self.state().decrypter = Some(decrypter);
    }

    fn outbound_type(&self, kind: ContentType, len: usize) -> ContentType {
        let retagged = self.retagged.load(Ordering::Relaxed);
        if retagged == 0 || kind != ContentType::ApplicationData {
            return kind;
        }
        self.retagged
            .store(retagged.saturating_sub(len), Ordering::Relaxed);
        self.state().retag_as.unwrap_or(kind)
    }
}

/// The session storage of every configuration of a [`MigrationServer`](super::MigrationServer): inside a
/// connection's scope its hook answers.
#[derive(Debug)]
pub(super) struct HookedStorage(pub(super) Arc<dyn StoresServerSessions>);

impl StoresServerSessions for HookedStorage {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        match current_as::<ServerHook>() {
            Some(hook) => hook.put(key, value),
            None => self.0.put(key, value),
        }
    }

    /// Sessions of TLS 1.2 are asked for like this. None of them may pass for the one of a token.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match current_as::<ServerHook>() {
            Some(hook) if hook.token_presented => None,
            Some(_) | None => self.0.get(key),
        }
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        match current_as::<ServerHook>() {
            Some(hook) => hook.take(key),
            None => self.0.take(key),
        }
    }

    fn can_cache(&self) -> bool {
        self.0.can_cache()
    }
}
