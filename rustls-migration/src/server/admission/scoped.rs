//! Admission by the ticket alone, as in draft -03 (`docs/protocol.md` section 10): the checks of a ticket whose authorisation
//! is sealed in it, in the order of section 7.
//!
//! The ticket's digest is the nonce, so the ticket is spent as a token is.

use std::net::SocketAddr;

use migration_token::NonceKey;
use rustls::crypto::GetRandomFailed;
use time::OffsetDateTime;

use super::{Examined, Presented, Spent, is_timely, spendable};
use crate::server::{MigrationServer, Verdict};
use crate::ticket::{Authorization, SealedSession};
use crate::trace;
use crate::wire::hello::ClientHello;

/// Sets the nonces of tickets apart from those of tokens and of ordinary early data.
const LABEL: &[u8] = b"migration ticket";

/// A ticket of draft -03, opened.
pub(in crate::server) struct Scoped {
    sealed: SealedSession,
    expiry: u64,
    target: SocketAddr,
}

impl Scoped {
    /// Reads a ticket's plaintext; `None` when it is another kind of ticket.
    pub(in crate::server) fn read(plaintext: &[u8]) -> Option<Self> {
        let sealed = SealedSession::decode(plaintext).ok()?;
        match sealed.authorization {
            Authorization::Scoped { expiry, target } => Some(Self {
                sealed,
                expiry,
                target,
            }),
            Authorization::Token { .. } => None,
        }
    }
}

/// The steps of a hello that presents this ticket and no token. `scope` is that of the hello.
pub(in crate::server) fn examine(
    server: &MigrationServer,
    scoped: Scoped,
    presented: Presented<'_>,
    hello: &ClientHello<'_>,
    scope: &[u8; 32],
    now: OffsetDateTime,
) -> Result<Examined, GetRandomFailed> {
    trace::comes_from(scoped.sealed.lineage);
    if let Err(verdict) = check(server, &scoped, hello.psk_dhe_ke, scope, now) {
        return Ok(Examined::Declined(verdict));
    }
    let Scoped { sealed, expiry, .. } = scoped;
    let nonce = nonce(server, &sealed.scope, presented.ticket);
    let expiry = moment(expiry);
    let spent = Spent { nonce, expiry };
    spendable(
        server,
        sealed,
        presented,
        hello.migration_stream,
        spent,
        now,
    )
}

/// What is spent when this ticket is accepted.
pub(in crate::server) fn nonce(
    server: &MigrationServer,
    scope: &[u8; 32],
    ticket: &[u8],
) -> NonceKey {
    NonceKey::new(scope, &server.sha256(ticket), LABEL)
}

fn check(
    server: &MigrationServer,
    Scoped {
        sealed,
        expiry,
        target,
    }: &Scoped,
    psk_dhe_ke: bool,
    scope: &[u8; 32],
    now: OffsetDateTime,
) -> Result<(), Verdict> {
    if !psk_dhe_ke {
        return Err(Verdict::NoPsk);
    }
    if sealed.scope != *scope {
        return Err(Verdict::WrongScope);
    }
    if !server.own_addresses.contains(target) {
        return Err(Verdict::WrongTarget);
    }
    let over = now > moment(*expiry).saturating_add(server.clock_skew);
    if over || !is_timely(server, sealed.issued_at_ms, now) {
        return Err(Verdict::Expired);
    }
    Ok(())
}

fn moment(unix_seconds: u64) -> OffsetDateTime {
    i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
