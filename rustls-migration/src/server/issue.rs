//! Issuing: a token, and the sealed ticket that it travels with (`docs/protocol.md` sections 3 and 6), at the
//! handshake or any time later.
//!
//! A ticket without a token is never changed.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_token::{TokenHash, TokenKey};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{MigrationServer, OfferFailure};
use crate::schedule::ticket_psk;
use crate::ticket::{SealFailure, SealedSession};
use crate::wire::ticket::{MAX_OFFERED_TICKET_LEN, NewSessionTicket, TokenParts};

/// Early data that a ticket with a token offers at most, in bytes (`docs/protocol.md` section 3).
///
/// A server that refuses early data must drop as much as any node of its service offers, in records of one byte each.
pub(super) const MAX_EARLY_DATA_SIZE: u32 = 16_384;

/// Length of an issued nonce, in bytes.
const NONCE_LEN: usize = 16;

/// Largest application state in a ticket, in bytes (`docs/protocol.md` section 6).
pub(crate) const MAX_STATE_LEN: usize = 8192;

/// Issues tokens on one connection whose client supports migration.
pub(super) struct Issuer {
    pub(super) server: Arc<MigrationServer>,
    pub(super) scope: [u8; 32],
    /// The target of a token at the handshake.
    pub(super) target: Option<SocketAddr>,
}

/// One of rustls' tickets with what it stores for it.
pub(super) struct RustlsTicket<'a> {
    pub(super) message: NewSessionTicket<'a>,
    pub(super) session: &'a [u8],
    /// When rustls made it.
    pub(super) made: OffsetDateTime,
}

impl Issuer {
    /// The NewSessionTicket to send now in place of rustls' own, with a token for `target`; with `state` for the stream to
    /// go on there.
    ///
    /// [`OfferFailure::SealLimit`], or [`OfferFailure::Failed`] when the random source failed or something in the session
    /// is too long.
    pub(super) fn issue(
        &self,
        resumption_master_secret: &[u8],
        ticket: &RustlsTicket<'_>,
        target: SocketAddr,
        state: Option<&[u8]>,
    ) -> Result<Vec<u8>, OfferFailure> {
        let server = &self.server;
        let now = server.clock.now();
        let (session, token) = self
            .sign(resumption_master_secret, ticket, (target, state), now)
            .ok_or(OfferFailure::Failed)?;
        let sealed = server.ticket_keys.seal(&session, server.random());
        let sealed = sealed.map_err(|failure| match failure {
            SealFailure::Limit => OfferFailure::SealLimit,
            SealFailure::Failed => OfferFailure::Failed,
        })?;
        if sealed.len() > MAX_OFFERED_TICKET_LEN {
            return Err(OfferFailure::Failed);
        }
        let lifetime = server.token_lifetime.whole_seconds();
        let parts = TokenParts {
            ticket: &sealed,
            token_extension: server.codepoints.migration_token,
            token: &token,
            stream_extension: state.map(|_| server.codepoints.migration_stream),
            max_lifetime_secs: u32::try_from(lifetime).map_err(|_| OfferFailure::Failed)?,
            max_early_data_size: server.max_early_data_size(),
            older_by: now - ticket.made,
        };
        let message = ticket.message.with_token(&parts);
        message.ok_or(OfferFailure::Failed)
    }

    /// The session to seal, and the token that goes with it.
    fn sign(
        &self,
        resumption_master_secret: &[u8],
        ticket: &RustlsTicket<'_>,
        (target, state): (SocketAddr, Option<&[u8]>),
        now: OffsetDateTime,
    ) -> Option<(Zeroizing<Vec<u8>>, Vec<u8>)> {
        let server = &self.server;
        let hash = TokenHash::from_output_len(resumption_master_secret.len())?;
        let suite = server.suite_of(hash)?;
        let token_key = TokenKey::derive(hash, resumption_master_secret).ok()?;
        let mut nonce = [0; NONCE_LEN];
        server.random().fill(&mut nonce).ok()?;
        let expiry = now.checked_add(server.token_lifetime)?;
        let token = token_key.sign(target, expiry, &nonce).ok()?.encode();
        let session = SealedSession {
            issued_at_ms: u64::try_from(now.unix_timestamp_nanos() / 1_000_000).ok()?,
            scope: self.scope,
            token_digest: Sha256::digest(&token).into(),
            token_key,
            psk: ticket_psk(suite, resumption_master_secret, ticket.message.nonce),
            session: Zeroizing::new(ticket.session.to_vec()),
            state: state.map(|state| Zeroizing::new(state.to_vec())),
        };
        Some((session.encode()?, token))
    }
}
