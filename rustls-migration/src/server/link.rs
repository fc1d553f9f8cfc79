//! The server's end of the link: it lends rustls the admitted session, turns its tickets into tickets with tokens, at
//! once or later, and changes the type of records (`docs/protocol.md` sections 1 and 3).
//!
//! It never touches application data.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ContentType;
use rustls::server::StoresServerSessions;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::OfferFailure;
use super::admission::Admitted;
use super::issue::{Issuer, MAX_STATE_LEN, RustlsTicket};
use crate::address::as_in_token;
use crate::provider::SharedDecrypter;
use crate::provider::link::{Link, Verifying, current_as, without_scope};
use crate::wire::hello::TicketRequest;
use crate::wire::next_message;
use crate::wire::ticket::NewSessionTicket;

pub(super) struct ServerLink {
    /// Where sessions of tickets without a token are kept; the user's, wrapped. Never called with the lock held.
    storage: Arc<dyn StoresServerSessions>,
    /// Present when the client supports migration.
    issuer: Option<Issuer>,
    /// How many of rustls' tickets are sent at the handshake.
    sent_at_handshake: AtomicUsize,
    /// How many more of them are held in reserve.
    reserve: usize,
    /// Whether the hello had a token, accepted or not.
    token_presented: bool,
    /// Whether the hello announced early data.
    early_data_offered: bool,
    ticket_request: Option<TicketRequest>,
    /// Whether the hello has been answered.
    answered: AtomicBool,
    /// So many bytes of application data that come next are records of another type.
    retagged: AtomicUsize,
    verifying: Verifying,
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

#[derive(Default)]
struct State {
    /// The ticket that the client presents and the session that it stands for, until rustls takes it.
    admitted: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    resumption_master_secret: Option<Zeroizing<Vec<u8>>>,
    /// What opens the client's handshake records, for the filter of refused early data.
    decrypter: Option<SharedDecrypter>,
    /// How many tickets rustls has made.
    made: usize,
    /// Sessions of tickets that rustls is about to send and that are not to be sent as they are.
    kept: Vec<Kept>,
    /// Tickets in reserve.
    reserve: Vec<Reserved>,
    /// The target of the handshake's token, if its ticket does not fit where rustls has its tickets.
    late_target: Option<SocketAddr>,
    token_sent: bool,
    /// The type of the next retagged bytes.
    retag_as: Option<ContentType>,
}

struct Kept {
    ticket: Vec<u8>,
    session: Zeroizing<Vec<u8>>,
    /// Whether it is for the token at the handshake, or for the reserve.
    for_handshake: Option<SocketAddr>,
}

/// Where a ticket's session belongs.
enum Place {
    /// In the storage: the ticket is sent as it is.
    Storage,
    /// With the link: for the token at the handshake, or in reserve.
    Here { for_handshake: Option<SocketAddr> },
    /// The ticket is not sent.
    Nowhere,
}

/// One of rustls' tickets that has not been sent.
struct Reserved {
    message: Vec<u8>,
    session: Zeroizing<Vec<u8>>,
    made: OffsetDateTime,
}

impl Reserved {
    fn new(message: &[u8], kept: Kept, made: OffsetDateTime) -> Self {
        Self {
            message: message.to_vec(),
            session: kept.session,
            made,
        }
    }
}

impl ServerLink {
    pub(super) fn new(
        storage: Arc<dyn StoresServerSessions>,
        issuer: Option<Issuer>,
        (sent_at_handshake, reserve): (usize, usize),
        offered: Offered,
        admitted: Option<&Admitted>,
    ) -> Self {
        let state = State {
            admitted: admitted.map(|admitted| (admitted.ticket.clone(), admitted.session.clone())),
            ..State::default()
        };
        Self {
            storage,
            issuer,
            sent_at_handshake: AtomicUsize::new(sent_at_handshake),
            reserve,
            token_presented: offered.token,
            early_data_offered: offered.early_data,
            ticket_request: offered.ticket_request,
            answered: AtomicBool::new(false),
            retagged: AtomicUsize::new(0),
            verifying: Verifying::default(),
            state: Mutex::new(state),
        }
    }

    /// The AlertDescription of `migrate_notify`, once the client has been sent a token on this connection.
    pub(super) fn notify_alert(&self) -> Option<u8> {
        let issuer = self.issuer.as_ref().filter(|_| self.state().token_sent)?;
        Some(issuer.server.codepoints.migrate_notify)
    }

    /// Where the token of the handshake leads, once it has been sent.
    pub(super) fn target_at_handshake(&self) -> Option<SocketAddr> {
        let issuer = self.issuer.as_ref().filter(|_| self.state().token_sent)?;
        issuer.target
    }

    /// How many offers can still be made.
    pub(super) fn reserve_len(&self) -> usize {
        self.state().reserve.len()
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

    /// The hello is answered: the client gets as many tickets as it asked for, if it did.
    pub(super) fn answered(&self, resumed: bool) {
        let Some((issuer, wish)) = self.issuer.as_ref().zip(self.ticket_request) else {
            return;
        };
        let tickets = issuer.server.configs.tickets_for(wish, resumed);
        self.sent_at_handshake.store(tickets, Ordering::Relaxed);
    }

    /// The ticket with the handshake's token, if it was too long for the record with the other tickets. As a message of its
    /// own it may take several.
    pub(super) fn late_token(&self) -> Option<Vec<u8>> {
        let target = self.state().late_target.take()?;
        let token = self.release(target, None);
        token.inspect_err(|reason| warn_of(*reason)).ok()
    }

    /// Takes a ticket out of the reserve and puts a token for `target` in it, and the application's `state` when its
    /// stream can go on there.
    pub(super) fn release(
        &self,
        target: SocketAddr,
        state: Option<&[u8]>,
    ) -> Result<Vec<u8>, OfferFailure> {
        let issuer = self.issuer.as_ref().ok_or(OfferFailure::NotSupported)?;
        let len = state.map_or(0, <[u8]>::len);
        if len > MAX_STATE_LEN {
            return Err(OfferFailure::StateTooLong { len });
        }
        let (secret, reserved) = self.take_reserved()?;
        let issued = reserved
            .ticket()
            .and_then(|ticket| issuer.issue(&secret, &ticket, as_in_token(target), state));
        if issued.is_ok() {
            self.state().token_sent = true;
            issuer.server.counters.offer();
        } else {
            // What cannot be sealed now may be when the keys have been rotated, so the ticket stays until then.
            self.state().reserve.push(reserved);
        }
        issued
    }

    fn take_reserved(&self) -> Result<(Zeroizing<Vec<u8>>, Reserved), OfferFailure> {
        let mut state = self.state();
        let secret = state.resumption_master_secret.clone();
        let secret = secret.ok_or(OfferFailure::NotSupported)?;
        let reserved = state.reserve.pop().ok_or(OfferFailure::ReserveEmpty)?;
        Ok((secret, reserved))
    }

    /// Makes the next `len` bytes of application data records of type `kind`. With 0 nothing is pending any more.
    pub(super) fn retag(&self, kind: ContentType, len: usize) {
        self.state().retag_as = Some(kind);
        self.retagged.store(len, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the session of a ticket that gets a token now or may get one later; others go to the storage. TLS 1.2 has
    /// no `resumption_master_secret`, so nothing of it is kept.
    fn put(&self, ticket: Vec<u8>, session: Vec<u8>) -> bool {
        match self.place() {
            Place::Storage => self.storage.put(ticket, session),
            Place::Here { for_handshake } => {
                self.state().kept.push(Kept {
                    ticket,
                    session: Zeroizing::new(session),
                    for_handshake,
                });
                true
            }
            Place::Nowhere => false,
        }
    }

    /// Where the session of the next ticket belongs.
    fn place(&self) -> Place {
        let mut state = self.state();
        let issuer = self
            .issuer
            .as_ref()
            .filter(|_| state.resumption_master_secret.is_some());
        let Some(issuer) = issuer else {
            return Place::Storage;
        };
        let index = state.made;
        state.made += 1;
        let for_handshake = issuer.target.filter(|_| index == 0);
        let sent_at_handshake = self.sent_at_handshake.load(Ordering::Relaxed);
        if for_handshake.is_none() && index < sent_at_handshake {
            return Place::Storage;
        }
        match index < sent_at_handshake + self.reserve {
            true => Place::Here { for_handshake },
            false => Place::Nowhere,
        }
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

    /// What to send in place of a record with tickets: the first with its token, those for the reserve left out.
    fn replace_tickets(&self, messages: &[u8]) -> Option<Vec<u8>> {
        let issuer = self.issuer.as_ref()?;
        let made = without_scope(|| issuer.server.clock.now());
        let mut out = Vec::with_capacity(messages.len() + 2048);
        let mut rest = messages;
        let mut too_long = None;
        while !rest.is_empty() {
            let (message, tail) = next_message(rest)?;
            rest = tail;
            let kept = self.state().take_kept(message);
            match kept {
                None => out.extend_from_slice(message),
                Some(kept) if kept.for_handshake.is_none() => {
                    let reserved = Reserved::new(message, kept, made);
                    self.state().reserve.push(reserved);
                }
                Some(kept) => {
                    let room = issuer.server.max_record_len();
                    let room = room.saturating_sub(out.len() + tail.len());
                    // It calls the user's random source.
                    match without_scope(|| self.with_token(issuer, message, &kept, made, room)) {
                        Ok(Some(with_token)) => out.extend(with_token),
                        Ok(None) => too_long = Some((message, kept)),
                        Err(reason) => {
                            warn_of(reason);
                            self.send_as_is(message, &kept, &mut out);
                        }
                    }
                }
            }
        }
        if let Some((message, kept)) = too_long {
            self.state().late_target = kept.for_handshake;
            // rustls sends a record, so there must be something in it.
            if out.is_empty() {
                self.send_as_is(message, &kept, &mut out);
            } else {
                let reserved = Reserved::new(message, kept, made);
                self.state().reserve.push(reserved);
            }
        }
        Some(out)
    }

    /// The client gets an ordinary ticket, which the storage must know.
    fn send_as_is(&self, message: &[u8], kept: &Kept, out: &mut Vec<u8>) {
        self.storage.put(kept.ticket.clone(), kept.session.to_vec());
        out.extend_from_slice(message);
    }
}

/// At the seal limit, the keys have warned already.
fn warn_of(reason: OfferFailure) {
    if reason != OfferFailure::SealLimit {
        tracing::warn!(%reason, "no token was issued at the handshake");
    }
}

impl State {
    /// The session that is kept for the ticket in `message`.
    fn take_kept(&mut self, message: &[u8]) -> Option<Kept> {
        let ticket = NewSessionTicket::read(message).ok()?.ticket;
        let index = self.kept.iter().position(|kept| kept.ticket == ticket)?;
        Some(self.kept.swap_remove(index))
    }
}

impl Reserved {
    fn ticket(&self) -> Result<RustlsTicket<'_>, OfferFailure> {
        Ok(RustlsTicket {
            message: NewSessionTicket::read(&self.message).map_err(|_| OfferFailure::Failed)?,
            session: &self.session,
            made: self.made,
        })
    }
}

impl ServerLink {
    /// The ticket in `message` with the token for the handshake; `None` if that has more than `room` bytes.
    fn with_token(
        &self,
        issuer: &Issuer,
        message: &[u8],
        kept: &Kept,
        made: OffsetDateTime,
        room: usize,
    ) -> Result<Option<Vec<u8>>, OfferFailure> {
        let ticket = RustlsTicket {
            message: NewSessionTicket::read(message).map_err(|_| OfferFailure::Failed)?,
            session: &kept.session,
            made,
        };
        let secret = self.state().resumption_master_secret.clone();
        let secret = secret.ok_or(OfferFailure::NotSupported)?;
        let target = kept.for_handshake.ok_or(OfferFailure::Failed)?;
        let message = issuer.issue(&secret, &ticket, target, None)?;
        if message.len() > room {
            return Ok(None);
        }
        self.state().token_sent = true;
        issuer.server.counters.offer();
        Ok(Some(message))
    }
}

impl Link for ServerLink {
    fn verifying(&self) -> &Verifying {
        &self.verifying
    }

    fn resumption_master_secret(&self, secret: &[u8]) {
        self.state().resumption_master_secret = Some(Zeroizing::new(secret.to_vec()));
    }

    /// Until the hello is answered. The last one by then opens what the client says next.
    fn wants_decrypter(&self) -> bool {
        self.early_data_offered && !self.answered.load(Ordering::Relaxed)
    }

    fn share_decrypter(&self, decrypter: SharedDecrypter) {
        self.state().decrypter = Some(decrypter);
    }

    fn wants_outbound(&self, kind: ContentType) -> bool {
        if kind == ContentType::ApplicationData {
            return self.retagged.load(Ordering::Relaxed) > 0;
        }
        kind == ContentType::Handshake && self.issuer.is_some() && !self.state().kept.is_empty()
    }

    fn rewrite_outbound(
        &self,
        kind: ContentType,
        payload: &[u8],
    ) -> Option<(ContentType, Vec<u8>)> {
        if kind != ContentType::ApplicationData {
            return self
                .replace_tickets(payload)
                .map(|messages| (kind, messages));
        }
        let retagged = self.retagged.load(Ordering::Relaxed);
        self.retagged
            .store(retagged.saturating_sub(payload.len()), Ordering::Relaxed);
        Some((self.state().retag_as?, payload.to_vec()))
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
