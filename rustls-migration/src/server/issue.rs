//! Issuing (`docs/protocol.md` sections 3 and 6): a token and the sealed ticket that it travels with, at the handshake or
//! any time later; and sealed tickets of ordinary sessions.
//!
//! It seals a session as rustls made it, or not at all.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_token::{TokenHash, TokenKey};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::template::{Template, TicketKey};
use super::{MigrationServer, OfferError};
use crate::key_schedule::{SuiteCrypto, ticket_psk};
use crate::ticket::{EarlyDataGrant, OrdinarySession, Seal, SealError, SealedSession, TicketKeys};
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
    /// Whether the client supports migration, and may get tokens.
    pub(super) migrates: bool,
    /// The target of a token at the handshake.
    pub(super) target: Option<SocketAddr>,
}

/// What a token travels with.
pub(super) struct Ticket<'a> {
    /// Unique on the connection (RFC 8446 section 4.6.1).
    pub(super) nonce: &'a [u8],
    /// That of the session.
    pub(super) age_add: u32,
    pub(super) psk: &'a [u8],
    /// rustls' session with this key.
    pub(super) session: Zeroizing<Vec<u8>>,
}

impl Issuer {
    /// The NewSessionTicket to send now, with a token for `target`; with `state` for the stream to go on there.
    ///
    /// [`OfferError::SealLimit`], [`OfferError::TicketTooLong`], or [`OfferError::Failed`] when the random source
    /// failed.
    pub(super) fn issue(
        &self,
        token_key: &TokenKey,
        ticket: Ticket<'_>,
        target: SocketAddr,
        state: Option<&[u8]>,
    ) -> Result<Vec<u8>, OfferError> {
        let server = &self.server;
        let (nonce, age_add) = (ticket.nonce, ticket.age_add);
        let (session, token) = self
            .sign(token_key, ticket, (target, state))
            .ok_or(OfferError::Failed)?;
        let sealed = self.seal(&session, Seal::Offer)?;
        let offered = OfferedTicket {
            lifetime_secs: whole_seconds(server.token_lifetime)?,
            age_add,
            nonce,
            ticket: &sealed,
            token: Some((server.codepoints.migration_token, &token)),
            stream_extension: state.map(|_| server.codepoints.migration_stream),
            max_early_data_size: server.max_early_data_size(),
        };
        offered.encode().ok_or(OfferError::Failed)
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
        let sealed = self.seal(&plaintext, Seal::Session)?;
        let offered = OfferedTicket {
            lifetime_secs: whole_seconds(server.session_lifetime)?,
            age_add: ticket.age_add,
            nonce: ticket.nonce,
            ticket: &sealed,
            token: None,
            stream_extension: None,
            max_early_data_size: if grants { max_early_data_size } else { 0 },
        };
        offered.encode().ok_or(OfferError::Failed)
    }

    /// Seals a ticket that clients take.
    fn seal(&self, plaintext: &[u8], kind: Seal) -> Result<Vec<u8>, OfferError> {
        let len = TicketKeys::sealed_len(plaintext.len());
        if len > MAX_OFFERED_TICKET_LEN {
            return Err(OfferError::TicketTooLong { len });
        }
        let (keys, random) = (&self.server.ticket_keys, self.server.random());
        keys.seal(plaintext, kind, random)
            .map_err(|failure| match failure {
                SealError::Limit => OfferError::SealLimit,
                SealError::Failed => OfferError::Failed,
            })
    }

    /// The session to seal, and the token that goes with it.
    fn sign(
        &self,
        token_key: &TokenKey,
        ticket: Ticket<'_>,
        (target, state): (SocketAddr, Option<&[u8]>),
    ) -> Option<(Zeroizing<Vec<u8>>, Vec<u8>)> {
        let server = &self.server;
        let now = server.clock.now();
        let crypto = server.suite_of(token_key.hash())?;
        let crypto = SuiteCrypto::new(crypto)?;
        let mut nonce = [0; NONCE_LEN];
        server.random().fill(&mut nonce).ok()?;
        let expiry = now.checked_add(server.token_lifetime)?;
        let token = token_key.sign_with(&crypto, target, expiry, &nonce);
        let token = token.ok()?.encode();
        let session = SealedSession {
            issued_at_ms: unix_milliseconds(now)?,
            scope: self.scope,
            token_digest: server.sha256(&token),
            token_key: token_key.clone(),
            psk: Zeroizing::new(ticket.psk.to_vec()),
            session: ticket.session,
            state: state.map(|state| Zeroizing::new(state.to_vec())),
        };
        Some((session.encode()?, token))
    }

    /// The template of a connection's tickets, from the session of a ticket with this key.
    pub(super) fn template(
        &self,
        session: &[u8],
        key: Option<&TicketKey>,
    ) -> Result<Template, OfferError> {
        let len = TicketKeys::sealed_len(session.len());
        if len > MAX_OFFERED_TICKET_LEN {
            return Err(OfferError::TicketTooLong { len });
        }
        let now = self.server.tls_time().ok_or(OfferError::Failed)?;
        let session = Zeroizing::new(session.to_vec());
        key.and_then(|key| Template::new(session, &key.psk, now))
            .ok_or(OfferError::UnknownSession)
    }

    /// What signs the tokens of a connection.
    pub(super) fn token_key(
        &self,
        resumption_master_secret: &[u8],
    ) -> Result<TokenKey, OfferError> {
        TokenHash::from_output_len(resumption_master_secret.len())
            .and_then(|hash| self.server.suite_of(hash))
            .and_then(SuiteCrypto::new)
            .and_then(|crypto| TokenKey::derive_with(&crypto, resumption_master_secret).ok())
            .ok_or(OfferError::Failed)
    }

    /// As [`issue`](Self::issue), of a ticket of its own that is made from `template`.
    pub(super) fn issue_from(
        &self,
        (resumption_master_secret, token_key): (&[u8], &TokenKey),
        template: Template,
        nonce: u64,
        target: SocketAddr,
        state: Option<&[u8]>,
    ) -> Result<Vec<u8>, OfferError> {
        let server = &self.server;
        let nonce = nonce.to_be_bytes();
        let suite = server.suite_of(token_key.hash());
        let suite = suite.ok_or(OfferError::Failed)?;
        let psk = ticket_psk(suite, resumption_master_secret, &nonce);
        let mut age_add = [0; size_of::<u32>()];
        let filled = server.random().fill(&mut age_add);
        filled.map_err(|_| OfferError::Failed)?;
        let age_add = u32::from_be_bytes(age_add);
        let now = server.tls_time().ok_or(OfferError::Failed)?;
        let session = template.with(&psk, now, age_add);
        let ticket = Ticket {
            nonce: &nonce,
            age_add,
            psk: &psk,
            session: session.ok_or(OfferError::UnknownSession)?,
        };
        self.issue(token_key, ticket, target, state)
    }
}

fn unix_milliseconds(moment: OffsetDateTime) -> Option<u64> {
    u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
}

/// A `ticket_lifetime`.
fn whole_seconds(lifetime: Duration) -> Result<u32, OfferError> {
    u32::try_from(lifetime.whole_seconds()).map_err(|_| OfferError::Failed)
}
