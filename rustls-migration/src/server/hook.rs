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
use rustls::crypto::cipher::OutboundChunks;
use rustls::server::StoresServerSessions;
use zeroize::Zeroizing;

use super::OfferError;
use super::admission::Lent;
use super::issue::{GoesOn, Issued, Issuer, MAX_STATE_LEN, Secrets};
use super::template::{Template, TicketKey};
use crate::address::as_in_token;
use crate::dialect::Dialect;
use crate::lineage::Lineage;
use crate::provider::hook::{ConnectionHook, Verifying, without_scope};
use crate::provider::{HashedHello, SharedDecrypter};
use crate::wire::hello::TicketRequest;
use crate::wire::{KEY_UPDATE_NOT_REQUESTED, KEY_UPDATE_REQUESTED, Malformed};

pub(super) struct ServerHook {
    /// Where sessions of TLS 1.2 are kept; the user's, wrapped. Never called with the lock held.
    storage: Arc<dyn StoresServerSessions>,
    /// What issues tickets; `None` when the hello was not understood.
    issuer: Option<Issuer>,
    /// How many of rustls' tickets the client may get.
    wanted: Wanted,
    /// Whether the hello had a token or a marked ticket, accepted or not.
    pub(super) offer_presented: bool,
    /// Whether the hello announced early data.
    early_data_offered: bool,
    /// Whether the hello has been answered.
    answered: AtomicBool,
    /// Whether rustls may be about to make tickets.
    wants_ticket_keys: AtomicBool,
    /// So many bytes of application data that come next are records of another type.
    retagged: AtomicUsize,
    /// Whether the client has sent a handshake message that may want an answer.
    key_updated: AtomicBool,
    /// How many KeyUpdates have been sent that ask for an answer, less the answers. Several may have one answer, and then it is never 0
    /// again: nothing is learned from answers then.
    unanswered: AtomicUsize,
    /// Whether the client has sent application data.
    heard: AtomicBool,
    verifying: Verifying,
    /// Only a hello with an admitted token, or with early data, is known before rustls hashes it.
    hashed_hello: HashedHello,
    state: Mutex<State>,
}

/// What a hello has in it.
#[derive(Clone, Copy, Default)]
pub(super) struct Offered {
    /// A token, or a ticket of draft -03.
    pub(super) offer: bool,
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
    /// That of the stream: the one that goes on here, or the one that has begun, once that is known.
    lineage: Option<Lineage>,
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
    /// Whether an offer has been made at the handshake.
    offered_at_handshake: bool,
    /// Where the newest offer leads that the client has been sent.
    offered: Option<SocketAddr>,
    /// Where the client was last asked to go.
    asked: Option<SocketAddr>,
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
        goes_on: Option<Lineage>,
    ) -> Self {
        let (lent, hashed) = match lent {
            Some(lent) => (Some((lent.ticket, lent.session)), lent.hashed),
            None => (None, None),
        };
        let state = State {
            lent,
            resumption_master_secret: None,
            token_key: None,
            lineage: goes_on,
            decrypter: None,
            ticket_key: None,
            resumed: false,
            made: 0,
            template: Err(OfferError::NoTicket),
            issued: 0,
            tickets: Vec::new(),
            offered_at_handshake: false,
            offered: None,
            asked: None,
            retag_as: None,
        };
        Self {
            storage,
            issuer,
            wanted,
            offer_presented: offered.offer,
            early_data_offered: offered.early_data,
            answered: AtomicBool::new(false),
            wants_ticket_keys: AtomicBool::new(false),
            retagged: AtomicUsize::new(0),
            key_updated: AtomicBool::new(false),
            unanswered: AtomicUsize::new(0),
            heard: AtomicBool::new(false),
            verifying: Verifying::default(),
            hashed_hello: HashedHello::new(hashed),
            state: Mutex::new(state),
        }
    }

    /// What asks the client to move by its newest offer, with the type of its record, once it has one of this connection.
    pub(super) fn notice(&self) -> Option<(ContentType, Vec<u8>)> {
        let target = self.state().offered?;
        self.ask(target)
    }

    /// What tells the client where a hand-over to `target` leads, before that comes: in draft -03, where the ticket does not, when
    /// it was last asked to go elsewhere.
    pub(super) fn notice_before_hand_over(
        &self,
        target: SocketAddr,
    ) -> Option<(ContentType, Vec<u8>)> {
        let issuer = self.issuer.as_ref()?;
        let elsewhere = self.state().asked != Some(as_in_token(target));
        let needed = issuer.dialect == Some(Dialect::Draft03) && elsewhere;
        needed.then(|| self.ask(as_in_token(target))).flatten()
    }

    fn ask(&self, target: SocketAddr) -> Option<(ContentType, Vec<u8>)> {
        // It calls the user's naming of targets.
        let notice = without_scope(|| self.issuer.as_ref()?.notice(target))?;
        self.state().asked = Some(target);
        Some(notice)
    }

    /// Where the offer of the handshake leads, once it has been made.
    pub(super) fn target_at_handshake(&self) -> Option<SocketAddr> {
        let issuer = self.issuer.as_ref();
        let issuer = issuer.filter(|_| self.state().offered_at_handshake)?;
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

    /// Whether the client has sent a handshake message since.
    pub(super) fn take_key_updated(&self) -> bool {
        self.key_updated.load(Ordering::Relaxed) && self.key_updated.swap(false, Ordering::Relaxed)
    }

    /// How many KeyUpdates want an answer of the client, at the most.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Whether the client has sent application data since.
    pub(super) fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
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
        if state.offered_at_handshake {
            state.offered = self.issuer.as_ref().and_then(|issuer| issuer.target);
        }
        std::mem::take(&mut state.tickets)
    }

    /// Makes a NewSessionTicket that may be taken to `target`. That of a checkpoint is none that a client is asked to follow.
    pub(super) fn offer(
        &self,
        target: SocketAddr,
        goes_on: GoesOn<'_>,
    ) -> Result<Issued, OfferError> {
        let issuer = self.issuer.as_ref();
        let issuer = issuer.filter(|issuer| issuer.dialect.is_some());
        let issuer = issuer.ok_or(OfferError::NotSupported)?;
        let len = goes_on.state().map_or(0, <[u8]>::len);
        if len > MAX_STATE_LEN {
            return Err(OfferError::StateTooLong { len });
        }
        let (secret, template, nonce) = self.take_template()?;
        let token_key = self.token_key(issuer, &secret)?;
        let secrets = Secrets {
            resumption_master_secret: &secret,
            token_key: token_key.as_ref(),
            lineage: self.lineage().ok_or(OfferError::Failed)?,
        };
        let target = as_in_token(target);
        let issued = issuer.issue_from(secrets, template, nonce, target, goes_on)?;
        match goes_on {
            GoesOn::Session | GoesOn::Stream(_) => {
                self.state().offered = Some(target);
                issuer.server.counters.offer();
            }
            GoesOn::Checkpoint { .. } => issuer.server.counters.checkpoint(),
        }
        Ok(issued)
    }

    /// What signs this connection's tokens, if it has any. It is derived once.
    fn token_key(&self, issuer: &Issuer, secret: &[u8]) -> Result<Option<TokenKey>, OfferError> {
        if let Some(known) = &self.state().token_key {
            return Ok(Some(known.clone()));
        }
        let derived = issuer.token_key(secret)?;
        self.state().token_key.clone_from(&derived);
        Ok(derived)
    }

    /// The lineage of the stream; `None` for a client that does not support migration, and of one that begins here while the
    /// handshake is not complete. It is derived once.
    pub(super) fn lineage(&self) -> Option<Lineage> {
        let issuer = self.issuer.as_ref();
        let issuer = issuer.filter(|issuer| issuer.dialect.is_some())?;
        let mut state = self.state();
        if state.lineage.is_none() {
            let secret = state.resumption_master_secret.as_ref()?;
            // By the provider's own primitives, which call nobody.
            state.lineage = issuer.begin_lineage(secret);
        }
        state.lineage
    }

    /// Nothing goes on here: rustls has not resumed the session.
    pub(super) fn begins_anew(&self) {
        self.state().lineage = None;
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
    pub(super) fn put(&self, key: Vec<u8>, session: Vec<u8>) -> bool {
        let Some((nth, ticket_key)) = self.next_ticket() else {
            return self.storage.put(key, session);
        };
        let session = Zeroizing::new(session);
        let Some(issuer) = &self.issuer else {
            return false;
        };
        let first = nth == 0 && issuer.dialect.is_some();
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
                let token_key = self.token_key(issuer, secret)?;
                let secrets = Secrets {
                    resumption_master_secret: secret,
                    token_key: token_key.as_ref(),
                    lineage: self.lineage().ok_or(OfferError::Failed)?,
                };
                issuer.issue(secrets, ticket, target, GoesOn::Session)
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
        state
            .tickets
            .extend(token.map(|issued| issued.message).unwrap_or_default());
        state.offered_at_handshake = issued;
        issued
    }

    /// Lends the session that this ticket stands for, once. No other ticket resumes anything.
    pub(super) fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
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

    fn application_data(&self, len: usize) {
        if len > 0 {
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    fn inbound(&self, kind: ContentType, payload: &mut [u8]) -> Result<usize, Malformed> {
        if kind == ContentType::Handshake {
            self.key_updated.store(true, Ordering::Relaxed);
            if *payload == KEY_UPDATE_NOT_REQUESTED {
                let unanswered = self.unanswered().saturating_sub(1);
                self.unanswered.store(unanswered, Ordering::Relaxed);
            }
        }
        Ok(payload.len())
    }

    fn outbound_type(&self, kind: ContentType, plaintext: &OutboundChunks<'_>) -> ContentType {
        let len = plaintext.len();
        // rustls asks of its own accord, too, when keys are used up.
        if kind == ContentType::Handshake
            && len == KEY_UPDATE_REQUESTED.len()
            && plaintext.to_vec() == KEY_UPDATE_REQUESTED
        {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
        }
        let retagged = self.retagged.load(Ordering::Relaxed);
        if retagged == 0 || kind != ContentType::ApplicationData {
            return kind;
        }
        self.retagged
            .store(retagged.saturating_sub(len), Ordering::Relaxed);
        self.state().retag_as.unwrap_or(kind)
    }
}
