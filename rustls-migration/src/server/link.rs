//! The server's end of the link: it lends rustls the admitted session, makes tickets with tokens, at once or later, from
//! the first one that rustls makes, and changes the type of records (`docs/protocol.md` sections 1 and 3).
//!
//! It never touches application data.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migration_token::TokenKey;
use rustls::ContentType;
use rustls::server::StoresServerSessions;
use zeroize::Zeroizing;

use super::OfferFailure;
use super::admission::Lent;
use super::issue::{Issuer, MAX_STATE_LEN};
use super::template::{Template, TicketKey};
use crate::address::as_in_token;
use crate::provider::link::{Link, Verifying, current_as, without_scope};
use crate::provider::{HashedHello, SharedDecrypter};
use crate::wire::hello::TicketRequest;

pub(super) struct ServerLink {
    /// Where sessions of tickets without a token are kept; the user's, wrapped. Never called with the lock held.
    storage: Arc<dyn StoresServerSessions>,
    /// Present when the client supports migration.
    issuer: Option<Issuer>,
    /// How many of rustls' tickets the client may get.
    wanted: Wanted,
    /// Whether the hello had a token, accepted or not.
    token_presented: bool,
    /// Whether the hello announced early data.
    early_data_offered: bool,
    /// Whether the hello has been answered.
    answered: AtomicBool,
    /// Whether the next ticket that rustls makes is the template of this connection's offers.
    wants_template: AtomicBool,
    /// So many bytes of application data that come next are records of another type.
    retagged: AtomicUsize,
    verifying: Verifying,
    /// Only a hello with an admitted token is known before rustls hashes it.
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
    admitted: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
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
    template: Result<Template, OfferFailure>,
    /// How many tickets have been made from the template.
    issued: u64,
    /// The NewSessionTicket with the handshake's token, until it is sent.
    first_token: Option<Vec<u8>>,
    /// Whether the handshake's token has been issued.
    token_at_handshake: bool,
    token_sent: bool,
    /// The type of the next retagged bytes.
    retag_as: Option<ContentType>,
}

impl ServerLink {
    pub(super) fn new(
        storage: Arc<dyn StoresServerSessions>,
        issuer: Option<Issuer>,
        wanted: Wanted,
        offered: Offered,
        lent: Option<Lent>,
    ) -> Self {
        let (admitted, hashed) = match lent {
            Some(lent) => (Some((lent.ticket, lent.session)), Some(lent.hashed)),
            None => (None, None),
        };
        let state = State {
            admitted,
            resumption_master_secret: None,
            token_key: None,
            decrypter: None,
            ticket_key: None,
            resumed: false,
            made: 0,
            template: Err(OfferFailure::NoTicket),
            issued: 0,
            first_token: None,
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
            wants_template: AtomicBool::new(false),
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

    /// The NewSessionTicket with the handshake's token, to be sent now that the handshake is complete.
    pub(super) fn take_first_token(&self) -> Option<Vec<u8>> {
        let mut state = self.state();
        let token = state.first_token.take()?;
        state.token_sent = true;
        Some(token)
    }

    /// Makes a NewSessionTicket with a token for `target`, and with the application's `state` when its stream can go on
    /// there.
    pub(super) fn offer(
        &self,
        target: SocketAddr,
        state: Option<&[u8]>,
    ) -> Result<Vec<u8>, OfferFailure> {
        let issuer = self.issuer.as_ref().ok_or(OfferFailure::NotSupported)?;
        let len = state.map_or(0, <[u8]>::len);
        if len > MAX_STATE_LEN {
            return Err(OfferFailure::StateTooLong { len });
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
    fn token_key(&self, issuer: &Issuer, secret: &[u8]) -> Result<TokenKey, OfferFailure> {
        if let Some(known) = &self.state().token_key {
            return Ok(known.clone());
        }
        let derived = issuer.token_key(secret)?;
        self.state().token_key = Some(derived.clone());
        Ok(derived)
    }

    /// What a ticket is made from, and its nonce, which is never used again. rustls' own nonces have 32 bytes.
    fn take_template(&self) -> Result<(Zeroizing<Vec<u8>>, Template, u64), OfferFailure> {
        let mut state = self.state();
        let secret = state.resumption_master_secret.clone();
        let secret = secret.ok_or(OfferFailure::NotSupported)?;
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

    /// rustls has made a ticket. The first one is the template of this connection's offers, and not sent when it has become
    /// the ticket with the handshake's token; others are ordinary, and their sessions go to the storage. TLS 1.2 has no
    /// `resumption_master_secret`, so there all are.
    fn put(&self, ticket: Vec<u8>, session: Vec<u8>) -> bool {
        let Some((nth, key)) = self.next_ticket() else {
            return self.storage.put(ticket, session);
        };
        let with_token = match (nth, &self.issuer) {
            (0, Some(issuer)) => self.keep_template(issuer, &session, key.as_ref()),
            (_, _) => false,
        };
        if with_token || nth >= self.wanted() {
            // rustls sends no ticket whose session is not stored.
            drop(Zeroizing::new(session));
            return false;
        }
        self.storage.put(ticket, session)
    }

    /// Which of rustls' tickets is the next one, counted from 0, with its nonce and key when it may be the template. `None`
    /// when all of them are ordinary.
    fn next_ticket(&self) -> Option<(usize, Option<TicketKey>)> {
        let mut state = self.state();
        let migrates = self.issuer.is_some() && state.resumption_master_secret.is_some();
        migrates.then(|| {
            let nth = state.made;
            state.made += 1;
            (nth, state.ticket_key.take())
        })
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
        self.wants_template.store(false, Ordering::Relaxed);
        let secret = self.state().resumption_master_secret.clone();
        // It calls the user's clocks and random source.
        let (template, token) = without_scope(|| {
            let template = issuer.template(session, key);
            let token = issuer.target.map(|target| {
                let template = template.as_ref().map_err(|failure| *failure)?;
                let ticket = template.ticket(key.ok_or(OfferFailure::UnknownSession)?);
                let secret = secret.as_ref().ok_or(OfferFailure::NotSupported)?;
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
        state.first_token = token;
        state.token_at_handshake = issued;
        issued
    }

    /// Lends the admitted session, once. A refused token's ticket resumes nothing.
    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        if !self.token_presented {
            return self.storage.take(key);
        }
        let admitted = &mut self.state().admitted;
        let (_, mut session) = admitted.take_if(|(ticket, _)| ticket == key)?;
        Some(std::mem::take(&mut *session))
    }
}

/// At the seal limit, the keys have warned already.
fn warn_of(reason: OfferFailure) {
    if reason != OfferFailure::SealLimit {
        tracing::warn!(%reason, "no token was issued at the handshake");
    }
}

impl Link for ServerLink {
    fn verifying(&self) -> &Verifying {
        &self.verifying
    }

    fn hashed_hello(&self) -> Option<&HashedHello> {
        Some(&self.hashed_hello)
    }

    fn resumption_master_secret(&self, secret: &[u8]) {
        self.hashed_hello.clear();
        self.state().resumption_master_secret = Some(Zeroizing::new(secret.to_vec()));
        let migrates = self.issuer.is_some();
        self.wants_template.store(migrates, Ordering::Relaxed);
    }

    fn wants_ticket_key(&self) -> bool {
        self.wants_template.load(Ordering::Relaxed)
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

    /// Sessions of TLS 1.2 are asked for like this. None of them may pass for the one of a token.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match current_as::<ServerLink>() {
            Some(link) if link.token_presented => None,
            Some(_) | None => self.0.get(key),
        }
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
