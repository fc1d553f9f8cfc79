//! Offers: a token that a server issued, with the session that it lets the client resume (`docs/protocol.md`
//! sections 2 and 4).
//!
//! An offer is used once. What does not verify never becomes one.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use migration_token::{DecodeError, MigrationToken, TokenKey, VerifyError};
use rustls::client::Tls13ClientSessionValue;
use rustls::pki_types::UnixTime;

use super::policy::{TargetPolicy, TargetRefused};
use crate::address::canonical;
use crate::codepoints::Codepoints;
use crate::key_schedule::SuiteCrypto;
use crate::move_kind::MoveKind;
use crate::wire::ticket::{MAX_OFFERED_TICKET_LEN, NewSessionTicket};

/// A token and its ticket, as received.
pub(super) struct ReceivedTicket {
    pub(super) session: Tls13ClientSessionValue,
    pub(super) token: ReceivedToken,
    /// How many times `migrate_notify` had come before it.
    pub(super) notices: u64,
}

/// Longest life of a ticket, in seconds (RFC 8446 section 4.6.1).
const MAX_LIFETIME_SECS: u32 = 7 * 24 * 60 * 60;

/// When an offer arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived {
    pub(super) at: Instant,
    /// By rustls' clock, which may be set since.
    pub(super) tls_time: Option<UnixTime>,
}

/// What a ticket says of migration, as received.
pub(super) struct ReceivedToken {
    encoded: Vec<u8>,
    /// The content of `migration_stream`, when that is there.
    stream: Option<Vec<u8>>,
    ticket_len: usize,
    lifetime_secs: u32,
}

impl ReceivedToken {
    /// `None` when the ticket has no token.
    pub(super) fn of(ticket: &NewSessionTicket<'_>, codepoints: Codepoints) -> Option<Self> {
        let encoded = ticket.extension(codepoints.migration_token)?.to_vec();
        let stream = ticket.extension(codepoints.migration_stream);
        Some(Self {
            encoded,
            stream: stream.map(<[u8]>::to_vec),
            ticket_len: ticket.ticket.len(),
            lifetime_secs: ticket.lifetime_secs,
        })
    }

    /// What it says, when it is well formed.
    fn read(&self) -> Result<(MigrationToken, MoveKind), InvalidOfferError> {
        if self.ticket_len > MAX_OFFERED_TICKET_LEN {
            return Err(InvalidOfferError::TicketTooLong {
                len: self.ticket_len,
            });
        }
        if self.lifetime_secs == 0 {
            return Err(InvalidOfferError::NoLifetime);
        }
        let token = MigrationToken::decode(&self.encoded)?;
        let kind = match self.stream.as_deref() {
            None => MoveKind::Connection,
            Some([]) => MoveKind::Stream,
            Some(_) => return Err(InvalidOfferError::MalformedStream),
        };
        Ok((token, kind))
    }

    /// How long it may be followed.
    fn life(&self) -> Duration {
        Duration::from_secs(self.lifetime_secs.min(MAX_LIFETIME_SECS).into())
    }
}

/// A server's offer to resume this session at another address.
pub struct Offer {
    session: Tls13ClientSessionValue,
    token: MigrationToken,
    kind: MoveKind,
    arrived: Arrived,
    life: Duration,
}

impl Offer {
    /// Verifies what a server sent (`docs/protocol.md` section 2).
    pub(super) fn verify(
        received: ReceivedTicket,
        (crypto, token_key): (&SuiteCrypto, &TokenKey),
        current: SocketAddr,
        policy: &dyn TargetPolicy,
        arrived: Arrived,
    ) -> Result<Self, InvalidOfferError> {
        let (token, kind) = received.token.read()?;
        token_key.verify_with(crypto, &token)?;
        policy.allow(current, canonical(token.target_address()))?;
        Ok(Self {
            session: received.session,
            token,
            kind,
            arrived,
            life: received.token.life(),
        })
    }

    /// The token, which names the target and its time.
    pub fn token(&self) -> &MigrationToken {
        &self.token
    }

    /// Where it leads: the token's target address, an IPv4 address as such and never mapped into IPv6.
    pub fn target(&self) -> SocketAddr {
        canonical(self.token.target_address())
    }

    /// What goes on at the target.
    pub fn kind(&self) -> MoveKind {
        self.kind
    }

    /// Whether its time is over: the ticket's lifetime, counted from its arrival by a clock that does not step. By the
    /// token's own expiry, the servers judge.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.age(now) >= self.life
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.arrived.at)
    }

    /// The time at which rustls is to take up the session: as much after its arrival as has passed, however rustls' clock
    /// has been set meanwhile.
    pub(super) fn tls_time(&self, now: Instant) -> Option<UnixTime> {
        let arrived = self.arrived.tls_time?.as_secs();
        let passed = arrived.saturating_add(self.age(now).as_secs());
        Some(UnixTime::since_unix_epoch(Duration::from_secs(passed)))
    }

    /// Early data that the target announces to accept, in bytes; 0 for none.
    pub fn max_early_data_size(&self) -> u32 {
        self.session.max_early_data_size()
    }

    pub(super) fn into_parts(self) -> (Tls13ClientSessionValue, MigrationToken) {
        (self.session, self.token)
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer")
            .field("token", &self.token)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Why a server's token is no offer. It is dropped and the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOfferError {
    /// The token is malformed. The server is at fault.
    #[error("the server's token is malformed")]
    Malformed(#[from] DecodeError),
    /// The ticket's `migration_stream` extension is not empty. The server is at fault.
    #[error("the server's migration_stream extension is malformed")]
    MalformedStream,
    /// The ticket is longer than the 24,576 bytes that a client sends on to a target. The server is at fault.
    #[error("the server's ticket has {len} bytes, at most 24,576 are sent to a target")]
    TicketTooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// The token does not verify under this session's secret. The server is at fault.
    #[error("the server's token does not verify")]
    Unverified(#[from] VerifyError),
    /// The ticket's lifetime is 0, so it is to be discarded at once (RFC 8446 section 4.6.1).
    #[error("the server's ticket has no lifetime")]
    NoLifetime,
    /// The target is one that this client does not follow to.
    #[error("the server's token leads where this client does not go")]
    Target(#[from] TargetRefused),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    #[test]
    fn the_vectors_tickets_are_offers_of_the_kind_that_they_say() {
        for vector in vectors::section("new_session_tickets") {
            let message = vectors::hex(&vector["message"]);
            let ticket = NewSessionTicket::read(&message).unwrap();
            let token = ReceivedToken::of(&ticket, Codepoints::default());
            let found = match token.as_ref().map(ReceivedToken::read) {
                None => "none",
                Some(Ok((_, MoveKind::Connection))) => "connection",
                Some(Ok((_, MoveKind::Stream))) => "stream",
                Some(Err(InvalidOfferError::MalformedStream)) => "malformed",
                Some(Err(_)) => "another fault",
            };
            assert_eq!(vector["kind"], found, "{}", vector["name"]);
        }
    }

    #[test]
    fn a_ticket_without_a_lifetime_is_no_offer_and_none_lives_longer_than_a_week() {
        let section = vectors::section("new_session_tickets");
        let message = vectors::hex(&section[0]["message"]);
        for (lifetime_secs, life) in [(0, None), (1, Some(1)), (u32::MAX, Some(604_800))] {
            let mut ticket = NewSessionTicket::read(&message).unwrap();
            ticket.lifetime_secs = lifetime_secs;
            let token = ReceivedToken::of(&ticket, Codepoints::default()).unwrap();
            match life {
                None => assert_eq!(token.read().err(), Some(InvalidOfferError::NoLifetime)),
                Some(life) => assert_eq!(token.life(), Duration::from_secs(life)),
            }
        }
    }

    #[test]
    fn a_ticket_that_is_too_long_is_no_offer() {
        let section = vectors::section("new_session_tickets");
        let message = vectors::hex(&section[0]["message"]);
        let ticket = NewSessionTicket::read(&message).unwrap();
        for (len, expected) in [
            (24_576, None),
            (
                24_577,
                Some(InvalidOfferError::TicketTooLong { len: 24_577 }),
            ),
        ] {
            let mut token = ReceivedToken::of(&ticket, Codepoints::default()).unwrap();
            token.ticket_len = len;
            assert_eq!(token.read().err(), expected);
        }
    }
}
