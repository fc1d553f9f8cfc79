//! Admission: whether a ClientHello may resume here what was offered elsewhere (`docs/protocol.md` sections 7 and 8): by its
//! token, or in draft -03 by its ticket alone (`scoped.rs`).
//!
//! The order of the checks is part of the protocol. Nothing before the claim costs I/O, and nothing here reaches the
//! TLS library.
//!
//! What is compared with a value that an attacker must not learn byte by byte is compared in constant time: the ticket's
//! tag (by the cipher), the token's signature, the token's digest, and the binder. How far a hello came may show in how
//! long its answer takes, and gives no secret away: whether to stop follows from what is in clear in the hello (token,
//! ticket, server name), from the clock and the configuration, and from whether one of those four comparisons held. The
//! scope is a digest of public names. To learn anything of the nonce, a hello must have passed the binder.

pub(super) mod scoped;

use std::fmt;

use migration_token::{
    Claim, ClaimId, ClaimOutcome, CommitOutcome, MigrationToken, NonceKey, SESSION_ID_LEN,
    StoreError, TokenKey,
};
use rustls::crypto::GetRandomFailed;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::{Arrival, MigrationServer, Verdict};
#[cfg(feature = "tokio")]
use crate::MoveKind;
use crate::address::as_in_token;
use crate::key_schedule::{SuiteCrypto, binder_is_valid};
use crate::lineage::Lineage;
use crate::provider::Hashed;
use crate::ticket::{Authorization, SealedSession};
use crate::trace;
use crate::wire::checkpoint;
use crate::wire::hello::ClientHello;

/// How long a nonce outlives its token, so that a handshake that began in time can still commit.
pub(super) const HANDSHAKE_GRACE: Duration = Duration::minutes(1);

/// How many identities of one hello are tried. A migrating client sends one.
pub(super) const MAX_IDENTITIES: usize = 4;

/// What became of a hello before any I/O (steps 2 to 11).
#[derive(Debug)]
pub(super) enum Examined {
    /// No token: an ordinary handshake.
    Ordinary,
    /// A token that is refused.
    Declined(Verdict),
    /// A token in order, and a pre-shared key that the client does not have. The handshake must be aborted.
    BadBinder,
    /// All is in order but for the nonce.
    Candidate(Box<Candidate>),
}

/// A hello that has passed every check but that of its nonce.
pub(super) struct Candidate {
    lent: Lent,
    state: Option<Zeroizing<Vec<u8>>>,
    received: Option<u64>,
    lineage: Lineage,
    claim: Claim,
}

/// What rustls gets of an admitted or an ordinary session, once.
#[derive(Debug)]
pub(super) struct Lent {
    /// The ticket that the client presents as its pre-shared key's identity.
    pub(super) ticket: Vec<u8>,
    /// rustls' session for it.
    pub(super) session: Zeroizing<Vec<u8>>,
    /// What the binder covers, if that has been hashed.
    pub(super) hashed: Option<Hashed>,
}

/// Proof that a token was admitted: a session resumes only with one of these, and only admission makes them.
///
/// ```compile_fail
/// // Nobody else can make one.
/// let admitted = rustls_migration::server::Admitted { early_data: true };
/// ```
pub struct Admitted {
    lent: Option<Lent>,
    /// The application's state when its stream goes on here.
    pub(super) state: Option<Zeroizing<Vec<u8>>>,
    /// When the state is a checkpoint's: how many bytes the client has that the application writes from it on.
    pub(super) received: Option<u64>,
    /// That of the stream which goes on here, if one does.
    pub(super) goes_on: Option<Lineage>,
    /// Whether early data may run here.
    pub(super) early_data: bool,
    /// What to commit once the client's Finished has been verified.
    pub(super) claim: Claim,
}

impl Candidate {
    /// What to ask the nonce store.
    pub(super) fn claim(&self) -> Claim {
        self.claim
    }

    /// What goes on here if the token is accepted.
    #[cfg(feature = "tokio")]
    pub(super) fn kind(&self) -> MoveKind {
        match self.state {
            Some(_) => MoveKind::Stream,
            None => MoveKind::Connection,
        }
    }

    /// Step 12, with the store's answer; `None` when it gave none in time.
    ///
    /// An answer that comes when the nonce may have been forgotten says nothing. No timeout prevents that: a process, or its
    /// machine, may stand still between the question and the answer.
    pub(super) fn decide(
        self,
        answer: Option<Result<ClaimOutcome, StoreError>>,
        now: OffsetDateTime,
    ) -> Result<Admitted, Verdict> {
        if now > self.claim.keep_until {
            return Err(Verdict::Expired);
        }
        let early_data = match answer {
            Some(Ok(ClaimOutcome::First)) => true,
            Some(Ok(ClaimOutcome::Pending)) => false,
            Some(Ok(ClaimOutcome::Committed)) => return Err(Verdict::Replayed),
            Some(Err(StoreError::Forgotten)) => return Err(Verdict::Expired),
            Some(Err(_)) | None => return Err(Verdict::StoreUnavailable),
        };
        Ok(Admitted {
            lent: Some(self.lent),
            // Where only the session goes on, a conversation begins.
            goes_on: self.state.is_some().then(|| self.lineage.next()),
            state: self.state,
            received: self.received,
            early_data,
            claim: self.claim,
        })
    }
}

impl Admitted {
    /// How its client has come, as far as is known before its hello is answered.
    pub(super) fn arrival(&self) -> Arrival {
        let (early_data, state) = (false, self.state.clone());
        match (state, self.received) {
            (Some(state), Some(received)) => Arrival::Recovered {
                early_data,
                state,
                received,
            },
            (state, _) => Arrival::Migrated { early_data, state },
        }
    }

    /// The session, for rustls. There is one.
    pub(super) fn lend(&mut self) -> Option<Lent> {
        self.lent.take()
    }
}

/// Step 13: whether the connection may go on, with the store's answer; `None` when it gave none in time.
pub(super) fn may_go_on(answer: &Option<Result<CommitOutcome, StoreError>>) -> bool {
    matches!(answer, Some(Ok(CommitOutcome::Won)))
}

/// Steps 2 to 11 for one ClientHello.
///
/// `scope` is that of the hello.
pub(super) fn examine(
    server: &MigrationServer,
    hello: &ClientHello<'_>,
    scope: &[u8; 32],
    now: OffsetDateTime,
) -> Result<Examined, GetRandomFailed> {
    let Some(encoded_token) = hello.migration_token else {
        return Ok(Examined::Ordinary);
    };
    let opened = match open(server, hello, encoded_token) {
        Ok(opened) => opened,
        Err(verdict) => return Ok(Examined::Declined(verdict)),
    };
    trace::comes_from(opened.sealed.lineage);
    if let Err(verdict) = check(server, scope, encoded_token, &opened, now) {
        return Ok(Examined::Declined(verdict));
    }
    let Opened {
        token,
        session_id,
        sealed,
        presented,
        ..
    } = opened;
    let nonce = NonceKey::new(&sealed.scope, &session_id, token.nonce());
    let expiry = token.expiry();
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

/// What is spent when a token or a ticket is accepted, and when that would not be accepted any more.
pub(super) struct Spent {
    pub(super) nonce: NonceKey,
    pub(super) expiry: OffsetDateTime,
}

/// What to ask the nonce store for a connection of its own, or for a server that takes a checkpoint back.
pub(super) fn claim(
    server: &MigrationServer,
    Spent { nonce, expiry }: Spent,
    issued_at_ms: u64,
    now: OffsetDateTime,
) -> Result<Claim, GetRandomFailed> {
    let mut id = [0; 16];
    server.random().fill(&mut id)?;
    Ok(Claim {
        nonce,
        id: ClaimId::new(id),
        issued_after: issued_after(server, issued_at_ms),
        keep_until: expiry.saturating_add(server.clock_skew + HANDSHAKE_GRACE),
        now,
    })
}

/// How many bytes the client has that the application writes from the ticket's checkpoint on, if it is a checkpoint's. `said` is
/// what the hello says of it.
fn received(sealed: &SealedSession, said: Option<&[u8]>) -> Result<Option<u64>, Verdict> {
    match (sealed.ahead, said.map(checkpoint::received)) {
        (None, None) => Ok(None),
        (Some(ahead), Some(Ok(since))) => {
            let received = ahead.checked_add(since);
            received.map(Some).ok_or(Verdict::Malformed)
        }
        (None, Some(_)) | (Some(_), None | Some(Err(_))) => Err(Verdict::Malformed),
    }
}

/// A ticket as a hello presents it.
#[derive(Clone, Copy)]
pub(super) struct Presented<'a> {
    pub(super) ticket: &'a [u8],
    pub(super) binder: &'a [u8],
    pub(super) truncated_hello: &'a [u8],
}

/// Step 11, and what to ask for in step 12.
fn spendable(
    server: &MigrationServer,
    sealed: SealedSession,
    presented: Presented<'_>,
    said: Option<&[u8]>,
    spent: Spent,
    now: OffsetDateTime,
) -> Result<Examined, GetRandomFailed> {
    let received = match received(&sealed, said) {
        Ok(received) => received,
        Err(verdict) => return Ok(Examined::Declined(verdict)),
    };
    let Some(suite) = sealed.hash().and_then(|hash| server.suite_of(hash)) else {
        return Ok(Examined::Declined(Verdict::NotResumed));
    };
    let hashed = Hashed::new(suite.common.hash_provider, presented.truncated_hello);
    if !binder_is_valid(suite, &sealed.psk, &hashed.digest(), presented.binder) {
        return Ok(Examined::BadBinder);
    }
    let claim = claim(server, spent, sealed.issued_at_ms, now)?;
    Ok(Examined::Candidate(Box::new(Candidate {
        lent: Lent {
            ticket: presented.ticket.to_vec(),
            session: sealed.session,
            hashed: Some(hashed),
        },
        state: sealed.state,
        received,
        lineage: sealed.lineage,
        claim,
    })))
}

/// A token and the ticket that came with it.
struct Opened<'a> {
    token: MigrationToken,
    /// What is sealed of the token.
    digest: [u8; 32],
    key: TokenKey,
    session_id: [u8; SESSION_ID_LEN],
    sealed: SealedSession,
    presented: Presented<'a>,
}

/// Steps 3 to 5.
fn open<'a>(
    server: &MigrationServer,
    hello: &ClientHello<'a>,
    encoded_token: &[u8],
) -> Result<Opened<'a>, Verdict> {
    let offer = hello.pre_shared_key.filter(|_| hello.psk_dhe_ke);
    let offer = offer.ok_or(Verdict::NoPsk)?;
    let token = MigrationToken::decode(encoded_token).map_err(|_| Verdict::Malformed)?;
    let (identity, sealed, digest, key) = offer
        .iter()
        .take(MAX_IDENTITIES)
        .find_map(|identity| {
            let plain = server.ticket_keys.open(identity.ticket)?;
            let sealed = SealedSession::decode(&plain).ok()?;
            match &sealed.authorization {
                Authorization::Token { digest, key } => {
                    let (digest, key) = (*digest, key.clone());
                    Some((identity, sealed, digest, key))
                }
                Authorization::Scoped { .. } => None,
            }
        })
        .ok_or(Verdict::UnknownTicket)?;
    Ok(Opened {
        token,
        digest,
        session_id: *key.session_id(),
        key,
        sealed,
        presented: Presented {
            ticket: identity.ticket,
            binder: identity.binder,
            truncated_hello: offer.truncated_hello,
        },
    })
}

/// Steps 6 to 10.
fn check(
    server: &MigrationServer,
    scope: &[u8; 32],
    encoded_token: &[u8],
    opened: &Opened<'_>,
    now: OffsetDateTime,
) -> Result<(), Verdict> {
    let (token, sealed, key) = (&opened.token, &opened.sealed, &opened.key);
    if sealed.scope != *scope {
        return Err(Verdict::WrongScope);
    }
    let crypto = server.suite_of(key.hash()).and_then(SuiteCrypto::new);
    match crypto {
        Some(crypto) => key.verify_with(&crypto, token),
        None => key.verify(token),
    }
    .map_err(|_| Verdict::BadSignature)?;
    let digest = server.sha256(encoded_token);
    if !bool::from(digest.ct_eq(&opened.digest)) {
        return Err(Verdict::NotIssued);
    }
    if !server
        .own_addresses
        .contains(&as_in_token(token.target_address()))
    {
        return Err(Verdict::WrongTarget);
    }
    if token.is_expired(now, server.clock_skew) || !is_timely(server, sealed.issued_at_ms, now) {
        return Err(Verdict::Expired);
    }
    Ok(())
}

/// Whether what was issued at this moment may have been issued, and cannot have been forgotten.
fn is_timely(server: &MigrationServer, issued_at_ms: u64, now: OffsetDateTime) -> bool {
    !is_from_the_future(server, issued_at_ms, now) && !may_be_forgotten(server, issued_at_ms)
}

/// Whether a token was issued later than now, by more than clocks may differ. Our clock is slow then, or the issuer's was
/// ahead; in neither case is it known what the token's age says about the store's memory.
fn is_from_the_future(server: &MigrationServer, issued_at_ms: u64, now: OffsetDateTime) -> bool {
    unix_milliseconds(issued_after(server, issued_at_ms)) > unix_milliseconds(now)
}

/// Whether a token of this age may have been spent before the store's memory begins.
fn may_be_forgotten(server: &MigrationServer, issued_at_ms: u64) -> bool {
    server.nonce_store.remembers_since().is_some_and(|since| {
        unix_milliseconds(issued_after(server, issued_at_ms)) < unix_milliseconds(since)
    })
}

/// When a token was issued by our clock, at the earliest: the issuer's may be ahead by the skew.
fn issued_after(server: &MigrationServer, issued_at_ms: u64) -> OffsetDateTime {
    from_unix_milliseconds(issued_at_ms).saturating_sub(server.clock_skew)
}

/// The moment that a sealed ticket names.
pub(super) fn from_unix_milliseconds(moment: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(moment) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn unix_milliseconds(moment: OffsetDateTime) -> i128 {
    moment.unix_timestamp_nanos().div_euclid(1_000_000)
}

/// Binds a session to a service and a server name: SHA-256 over both, unambiguously.
pub(super) fn scope(service: &str, server_name: Option<&[u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(
        u64::try_from(service.len())
            .unwrap_or(u64::MAX)
            .to_be_bytes(),
    );
    hash.update(service);
    if let Some(name) = server_name {
        hash.update([1]);
        hash.update(name.to_ascii_lowercase());
    }
    hash.finalize().into()
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").finish_non_exhaustive()
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted")
            .field("early_data", &self.early_data)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_differ_by_service_and_by_name_and_not_by_case() {
        let all = [
            scope("a", None),
            scope("a", Some(b"")),
            scope("a", Some(b"b")),
            scope("ab", None),
            scope("", Some(b"ab")),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|other| other != one));
        }
        assert_eq!(
            scope("a", Some(b"Host.Example")),
            scope("a", Some(b"host.example"))
        );
    }

    #[test]
    fn a_number_goes_with_a_checkpoint_and_with_nothing_else() {
        let said = 7u64.to_be_bytes();
        let sealed = |ahead| SealedSession {
            issued_at_ms: 0,
            scope: [0; 32],
            lineage: Lineage::from_parts([0; 16], 0),
            authorization: Authorization::Scoped {
                expiry: 0,
                target: "192.0.2.7:443".parse().unwrap(),
            },
            psk: Zeroizing::new(vec![0; 32]),
            session: Zeroizing::default(),
            state: Some(Zeroizing::default()),
            ahead,
        };
        for (ahead, said, expected) in [
            (None, None, Ok(None)),
            (Some(3), Some(&said[..]), Ok(Some(10))),
            (Some(3), None, Err(Verdict::Malformed)),
            (None, Some(&said[..]), Err(Verdict::Malformed)),
            (Some(3), Some(&said[1..]), Err(Verdict::Malformed)),
            (Some(u64::MAX), Some(&said[..]), Err(Verdict::Malformed)),
        ] {
            assert_eq!(received(&sealed(ahead), said), expected);
        }
    }
}
