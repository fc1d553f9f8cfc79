//! Issuing (`docs/protocol.md` sections 3, 6 and 10): a sealed ticket that may be taken elsewhere, with its token or its mark, at
//! the handshake or any time later; and sealed tickets of ordinary sessions.
//!
//! It seals a session as rustls made it, or not at all.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_token::{Claim, NonceKey, TokenHash, TokenKey};
use rustls::crypto::SecureRandom;
use rustls::{ContentType, Tls13CipherSuite};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::admission::{self, scoped};
use super::template::{Template, TicketKey};
use super::{MigrationServer, OfferError};
use crate::dialect::Dialect;
use crate::key_schedule::{SuiteCrypto, ticket_psk};
use crate::lineage::Lineage;
use crate::ticket::{
    Authorization, EarlyDataGrant, OrdinarySession, Seal, SealError, SealNonce, SealedSession,
    TicketKeys,
};
use crate::wire::checkpoint::StreamMark;
use crate::wire::dialect::{draft01, draft03};
use crate::wire::ticket::{MAX_OFFERED_TICKET_LEN, OfferedTicket};

/// Early data that a ticket with a token offers at most, in bytes (`docs/protocol.md` section 3).
///
/// A server that refuses early data must drop as much as any node of its service offers, in records of one byte each.
pub(super) const MAX_EARLY_DATA_SIZE: u32 = 16_384;

/// Length of an issued nonce, in bytes.
const NONCE_LEN: usize = 16;

/// Largest application state in a ticket, in bytes (`docs/protocol.md` section 6).
pub(crate) const MAX_STATE_LEN: usize = 8192;

/// Issues tickets on one connection.
pub(super) struct Issuer {
    pub(super) server: Arc<MigrationServer>,
    pub(super) scope: [u8; 32],
    /// The dialect in which the client may get offers; `None` when it supports no migration.
    pub(super) dialect: Option<Dialect>,
    /// The target of an offer at the handshake.
    pub(super) target: Option<SocketAddr>,
}

/// What goes on at the target of an offer.
#[derive(Clone, Copy)]
pub(super) enum GoesOn<'a> {
    /// The session.
    Session,
    /// The stream, from this state.
    Stream(&'a [u8]),
    /// The stream, if this server dies.
    Checkpoint {
        state: &'a [u8],
        /// How many bytes of the client the state accounts for.
        position: u64,
        /// How many bytes that the application writes from the state on have been sent already.
        ahead: u64,
    },
}

impl<'a> GoesOn<'a> {
    /// The stream, when there is a state, and else the session.
    pub(super) fn from(state: Option<&'a [u8]>) -> Self {
        state.map_or(Self::Session, Self::Stream)
    }

    pub(super) fn state(self) -> Option<&'a [u8]> {
        match self {
            Self::Session => None,
            Self::Stream(state) | Self::Checkpoint { state, .. } => Some(state),
        }
    }

    fn is_checkpoint(self) -> bool {
        matches!(self, Self::Checkpoint { .. })
    }

    fn ahead(self) -> Option<u64> {
        match self {
            Self::Session | Self::Stream(_) => None,
            Self::Checkpoint { ahead, .. } => Some(ahead),
        }
    }

    /// The content of `migration_stream`, if the ticket has that. `target` is empty where a token says it.
    fn mark(self, target: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Session => None,
            Self::Stream(_) => Some(StreamMark::HandOver.encode()),
            Self::Checkpoint { position, .. } => {
                Some(StreamMark::Checkpoint { position, target }.encode())
            }
        }
    }
}

/// What a connection's offers are derived from, and what it says of itself in them.
#[derive(Clone, Copy)]
pub(super) struct Secrets<'a> {
    pub(super) resumption_master_secret: &'a [u8],
    /// In draft -01.
    pub(super) token_key: Option<&'a TokenKey>,
    pub(super) lineage: Lineage,
}

/// What an offer is made from.
pub(super) struct Ticket<'a> {
    /// Unique on the connection (RFC 8446 section 4.6.1).
    pub(super) nonce: &'a [u8],
    /// That of the session.
    pub(super) age_add: u32,
    pub(super) psk: &'a [u8],
    /// rustls' session with this key.
    pub(super) session: Zeroizing<Vec<u8>>,
}

/// What is random in one offer. It is drawn at once, since each draw may be a system call.
#[derive(Default)]
struct Drawn {
    token_nonce: [u8; NONCE_LEN],
    seal_nonce: SealNonce,
    age_add: [u8; size_of::<u32>()],
}

impl Drawn {
    fn from(random: &dyn SecureRandom) -> Result<Self, OfferError> {
        let mut drawn = Self::default();
        let mut all = [0; size_of::<Self>()];
        random.fill(&mut all).map_err(|_| OfferError::Failed)?;
        let parts = [
            &mut drawn.token_nonce[..],
            &mut drawn.seal_nonce,
            &mut drawn.age_add,
        ];
        let mut all = all.into_iter();
        for part in parts.into_iter().flatten() {
            *part = all.next().ok_or(OfferError::Failed)?;
        }
        Ok(drawn)
    }
}

/// What marks an offer's ticket.
struct Authorized {
    /// What is sealed.
    authorization: Authorization,
    /// The encoded token, in draft -01.
    token: Option<Vec<u8>>,
    /// When it ends.
    expiry: OffsetDateTime,
}

/// A ticket that may be taken elsewhere.
pub(super) struct Issued {
    /// The NewSessionTicket.
    pub(super) message: Vec<u8>,
    /// What spends it, of a checkpoint that may be superseded.
    pub(super) spends: Option<Claim>,
}

impl Issuer {
    /// The NewSessionTicket to send now, for `target`. With a key for tokens it has a token, which draft -03 does without.
    ///
    /// [`OfferError::SealLimit`], [`OfferError::TicketTooLong`], or [`OfferError::Failed`] when the random source
    /// failed.
    pub(super) fn issue(
        &self,
        secrets: Secrets<'_>,
        ticket: Ticket<'_>,
        target: SocketAddr,
        goes_on: GoesOn<'_>,
    ) -> Result<Issued, OfferError> {
        let drawn = Drawn::from(self.server.random())?;
        self.issue_drawn(&drawn, secrets, ticket, target, goes_on)
    }

    fn issue_drawn(
        &self,
        drawn: &Drawn,
        secrets: Secrets<'_>,
        ticket: Ticket<'_>,
        target: SocketAddr,
        goes_on: GoesOn<'_>,
    ) -> Result<Issued, OfferError> {
        let server = &self.server;
        let now = server.clock.now();
        let Authorized {
            authorization,
            token,
            expiry,
        } = self
            .authorize(secrets.token_key, &drawn.token_nonce, target, now)
            .ok_or(OfferError::Failed)?;
        let issued_at_ms = unix_milliseconds(now).ok_or(OfferError::Failed)?;
        let session = SealedSession {
            issued_at_ms,
            scope: self.scope,
            lineage: secrets.lineage,
            authorization,
            psk: Zeroizing::new(ticket.psk.to_vec()),
            session: ticket.session,
            state: goes_on.state().map(|state| Zeroizing::new(state.to_vec())),
            ahead: goes_on.ahead(),
        };
        let session = session.encode().ok_or(OfferError::Failed)?;
        check_len(&session)?;
        let keys = &server.ticket_keys;
        let sealed = keys.seal_with(&drawn.seal_nonce, &session, Seal::Offer)?;
        let supersedes = goes_on.is_checkpoint() && server.superseded.is_some();
        let spends = supersedes.then(|| {
            // That of the token, in draft -01. In draft -03 the ticket is spent.
            let nonce = match secrets.token_key {
                Some(key) => NonceKey::new(&self.scope, key.session_id(), &drawn.token_nonce),
                None => scoped::nonce(server, &self.scope, &sealed),
            };
            admission::claim(
                server,
                admission::Spent { nonce, expiry },
                issued_at_ms,
                now,
            )
        });
        let spends = spends.transpose().map_err(|_| OfferError::Failed)?;
        let codepoints = server.codepoints;
        let stream = match &token {
            Some(_) => goes_on.mark(&[]),
            None => goes_on.mark(&server.name_of(target)),
        };
        let offered = OfferedTicket {
            lifetime_secs: whole_seconds(server.token_lifetime)?,
            age_add: ticket.age_add,
            nonce: ticket.nonce,
            ticket: &sealed,
            mark: Some(match &token {
                Some(token) => draft01::mark(codepoints, token),
                None => draft03::mark(codepoints),
            }),
            stream_extension: stream
                .as_deref()
                .map(|content| (codepoints.migration_stream, content)),
            max_early_data_size: server.max_early_data_size(),
        };
        let message = offered.encode().ok_or(OfferError::Failed)?;
        Ok(Issued { message, spends })
    }

    /// The NewSessionTicket of an ordinary session, whose key and nonce these are. It offers early data if there is a memory that
    /// can say whether it was accepted.
    ///
    /// The failures are those of [`issue`](Self::issue), and those of [`template`](Self::template).
    pub(super) fn issue_ordinary(
        &self,
        session: &[u8],
        key: Option<&TicketKey>,
    ) -> Result<Vec<u8>, OfferError> {
        let server = &self.server;
        let template = self.template(session, key)?;
        let ticket = template.ticket(key.ok_or(OfferError::UnknownSession)?);
        let max_early_data_size = server.configs.ordinary.max_early_data_size;
        let memory = server.nonce_store.memory_id();
        let early_data = memory
            .filter(|_| max_early_data_size > 0)
            .map(|memory| EarlyDataGrant {
                memory,
                age_add: ticket.age_add,
                psk: Zeroizing::new(ticket.psk.to_vec()),
            });
        let grants = early_data.is_some();
        let ordinary = OrdinarySession {
            issued_at_ms: unix_milliseconds(server.clock.now()).ok_or(OfferError::Failed)?,
            scope: self.scope,
            early_data,
            session: ticket.session,
        };
        let plaintext = ordinary.encode().ok_or(OfferError::Failed)?;
        check_len(&plaintext)?;
        let (keys, random) = (&server.ticket_keys, server.random());
        let sealed = keys.seal(&plaintext, Seal::Session, random)?;
        let offered = OfferedTicket {
            lifetime_secs: whole_seconds(server.session_lifetime)?,
            age_add: ticket.age_add,
            nonce: ticket.nonce,
            ticket: &sealed,
            mark: None,
            stream_extension: None,
            max_early_data_size: if grants { max_early_data_size } else { 0 },
        };
        offered.encode().ok_or(OfferError::Failed)
    }

    /// What allows the session to be resumed at `target`.
    fn authorize(
        &self,
        token_key: Option<&TokenKey>,
        nonce: &[u8; NONCE_LEN],
        target: SocketAddr,
        now: OffsetDateTime,
    ) -> Option<Authorized> {
        let server = &self.server;
        let expiry = now.checked_add(server.token_lifetime)?;
        let Some(token_key) = token_key else {
            return Some(Authorized {
                authorization: Authorization::Scoped {
                    expiry: u64::try_from(expiry.unix_timestamp()).ok()?,
                    target,
                },
                token: None,
                expiry,
            });
        };
        let crypto = server.suite_of(token_key.hash())?;
        let crypto = SuiteCrypto::new(crypto)?;
        let token = token_key.sign_with(&crypto, target, expiry, nonce);
        let token = token.ok()?.encode();
        Some(Authorized {
            authorization: Authorization::Token {
                digest: server.sha256(&token),
                key: token_key.clone(),
            },
            token: Some(token),
            expiry,
        })
    }

    /// The template of a connection's tickets, from the session of a ticket with this key.
    pub(super) fn template(
        &self,
        session: &[u8],
        key: Option<&TicketKey>,
    ) -> Result<Template, OfferError> {
        check_len(session)?;
        let now = self.server.tls_time().ok_or(OfferError::Failed)?;
        let session = Zeroizing::new(session.to_vec());
        key.and_then(|key| Template::new(session, &key.psk, now))
            .ok_or(OfferError::UnknownSession)
    }

    /// What signs the tokens of a connection; `None` in draft -03.
    pub(super) fn token_key(
        &self,
        resumption_master_secret: &[u8],
    ) -> Result<Option<TokenKey>, OfferError> {
        if self.dialect == Some(Dialect::Draft03) {
            return Ok(None);
        }
        self.suite(resumption_master_secret)
            .and_then(SuiteCrypto::new)
            .and_then(|crypto| TokenKey::derive_with(&crypto, resumption_master_secret).ok())
            .map(Some)
            .ok_or(OfferError::Failed)
    }

    /// The lineage of a stream that begins on this connection.
    pub(super) fn begin_lineage(&self, resumption_master_secret: &[u8]) -> Option<Lineage> {
        let suite = self.suite(resumption_master_secret)?;
        Some(Lineage::begin(suite, resumption_master_secret))
    }

    /// A suite with the hash of the connection's.
    fn suite(&self, resumption_master_secret: &[u8]) -> Option<&'static Tls13CipherSuite> {
        let hash = TokenHash::from_output_len(resumption_master_secret.len())?;
        self.server.suite_of(hash)
    }

    /// As [`issue`](Self::issue), of a ticket of its own that is made from `template`.
    pub(super) fn issue_from(
        &self,
        secrets: Secrets<'_>,
        template: Template,
        nonce: u64,
        target: SocketAddr,
        goes_on: GoesOn<'_>,
    ) -> Result<Issued, OfferError> {
        let server = &self.server;
        let nonce = nonce.to_be_bytes();
        let resumption_master_secret = secrets.resumption_master_secret;
        let suite = self.suite(resumption_master_secret);
        let suite = suite.ok_or(OfferError::Failed)?;
        let psk = ticket_psk(suite, resumption_master_secret, &nonce);
        let drawn = Drawn::from(server.random())?;
        let age_add = u32::from_be_bytes(drawn.age_add);
        let now = server.tls_time().ok_or(OfferError::Failed)?;
        let session = template.with(&psk, now, age_add);
        let ticket = Ticket {
            nonce: &nonce,
            age_add,
            psk: &psk,
            session: session.ok_or(OfferError::UnknownSession)?,
        };
        self.issue_drawn(&drawn, secrets, ticket, target, goes_on)
    }

    /// What asks the client to move to `target`, with the type of its record; `None` when it supports no migration, or the
    /// target's name is too long.
    pub(super) fn notice(&self, target: SocketAddr) -> Option<(ContentType, Vec<u8>)> {
        let codepoints = self.server.codepoints;
        match self.dialect? {
            Dialect::Draft01 => Some(draft01::notice(codepoints)),
            Dialect::Draft03 => draft03::notice(codepoints, &self.server.name_of(target)),
        }
    }
}

/// Whether this can be sealed in a ticket that clients take.
fn check_len(plaintext: &[u8]) -> Result<(), OfferError> {
    match TicketKeys::sealed_len(plaintext.len()) {
        len if len > MAX_OFFERED_TICKET_LEN => Err(OfferError::TicketTooLong { len }),
        _ => Ok(()),
    }
}

impl From<SealError> for OfferError {
    fn from(failure: SealError) -> Self {
        match failure {
            SealError::Limit => Self::SealLimit,
            SealError::Failed => Self::Failed,
        }
    }
}

fn unix_milliseconds(moment: OffsetDateTime) -> Option<u64> {
    u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
}

/// A `ticket_lifetime`.
fn whole_seconds(lifetime: Duration) -> Result<u32, OfferError> {
    u32::try_from(lifetime.whole_seconds()).map_err(|_| OfferError::Failed)
}
