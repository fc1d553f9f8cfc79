//! Offers: a ticket that a server marked, with where it leads (`docs/protocol.md` sections 2, 4 and 10).
//!
//! An offer is used once. What does not verify never becomes one.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use migration_token::{DecodeError, MigrationToken, TokenKey, VerifyError};
use rustls::client::Tls13ClientSessionValue;
use rustls::pki_types::UnixTime;

use super::checkpoint::Checkpoint;
use super::policy::{TargetPolicy, TargetRefused};
use crate::address::canonical;
use crate::codepoints::Codepoints;
use crate::dialect::{Dialect, Dialects};
use crate::key_schedule::SuiteCrypto;
use crate::lineage::Lineage;
use crate::move_kind::MoveKind;
use crate::wire::checkpoint::StreamMark;
use crate::wire::ticket::{MAX_OFFERED_TICKET_LEN, NewSessionTicket};

/// A ticket that may be taken elsewhere, as received.
pub(super) struct ReceivedTicket {
    pub(super) session: Tls13ClientSessionValue,
    pub(super) mark: ReceivedMark,
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

/// What had come of the server before a ticket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard {
    /// How many times it had asked the client to move.
    pub(super) notices: u64,
    /// How many bytes of application data.
    pub(super) bytes: u64,
}

/// What a ticket says of migration, as received.
pub(super) struct ReceivedMark {
    /// The encoded token, in draft -01.
    token: Option<Vec<u8>>,
    /// The content of `migration_allowed`, in draft -03.
    allowed: Option<Vec<u8>>,
    /// The content of `migration_stream`, when that is there. Only a checkpoint's has something in it.
    pub(super) stream: Option<Vec<u8>>,
    ticket_len: usize,
    lifetime_secs: u32,
    /// What had come before it.
    pub(super) heard: Heard,
}

/// What a well-formed mark says.
struct Mark {
    /// In draft -01.
    token: Option<MigrationToken>,
    kind: MoveKind,
    /// How many of the client's bytes a checkpoint accounts for, and what it says of where to go on.
    checkpoint: Option<(u64, Vec<u8>)>,
}

impl ReceivedMark {
    /// `None` when the ticket is ordinary in every dialect that the client offered.
    pub(super) fn of(
        ticket: &NewSessionTicket<'_>,
        codepoints: Codepoints,
        dialects: Dialects,
        heard: Heard,
    ) -> Option<Self> {
        let content = |dialect, extension| {
            let content = ticket
                .extension(extension)
                .filter(|_| dialects.has(dialect))?;
            Some(content.to_vec())
        };
        let token = content(Dialect::Draft01, codepoints.migration_token);
        let allowed = content(Dialect::Draft03, codepoints.experimental.migration_allowed);
        let stream = ticket.extension(codepoints.migration_stream);
        (token.is_some() || allowed.is_some()).then(|| Self {
            token,
            allowed,
            stream: stream.map(<[u8]>::to_vec),
            ticket_len: ticket.ticket.len(),
            lifetime_secs: ticket.lifetime_secs,
            heard,
        })
    }

    /// What it says, when it is well formed.
    fn read(&self) -> Result<Mark, InvalidOfferError> {
        if self.ticket_len > MAX_OFFERED_TICKET_LEN {
            return Err(InvalidOfferError::TicketTooLong {
                len: self.ticket_len,
            });
        }
        if self.lifetime_secs == 0 {
            return Err(InvalidOfferError::NoLifetime);
        }
        let token = match (self.token.as_deref(), self.allowed.as_deref()) {
            (Some(token), None) => Some(MigrationToken::decode(token)?),
            (None, Some([])) => None,
            (_, Some(_)) | (None, None) => return Err(InvalidOfferError::MalformedMark),
        };
        let malformed = |_| InvalidOfferError::MalformedStream;
        let stream = self.stream.as_deref().map(StreamMark::read);
        let (kind, checkpoint) = match stream.transpose().map_err(malformed)? {
            None => (MoveKind::Connection, None),
            Some(StreamMark::HandOver) => (MoveKind::Stream, None),
            // A token says where to go on.
            Some(StreamMark::Checkpoint { target, .. })
                if token.is_some() && !target.is_empty() =>
            {
                return Err(InvalidOfferError::MalformedStream);
            }
            Some(StreamMark::Checkpoint { position, target }) => {
                (MoveKind::Stream, Some((position, target.to_vec())))
            }
        };
        Ok(Mark {
            token,
            kind,
            checkpoint,
        })
    }

    /// How long it may be followed.
    fn life(&self) -> Duration {
        Duration::from_secs(self.lifetime_secs.min(MAX_LIFETIME_SECS).into())
    }
}

/// A server's leave to resume this session elsewhere, which does not say where: the ticket of draft -03. With a target it is
/// an [`Offer`].
pub struct MarkedTicket {
    session: Tls13ClientSessionValue,
    kind: MoveKind,
    /// That of the connection on which it came.
    lineage: Option<Lineage>,
    arrived: Arrived,
    life: Duration,
}

impl MarkedTicket {
    /// What goes on at the target.
    pub fn kind(&self) -> MoveKind {
        self.kind
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.age(now) >= self.life
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.arrived.at)
    }

    /// The offer to resume the session at `target`, for a client that is at `current`.
    ///
    /// # Errors
    ///
    /// [`InvalidOfferError::Target`] when the policy does not let the client go there. The ticket is used up.
    pub(crate) fn lead_to(
        self,
        target: SocketAddr,
        current: SocketAddr,
        policy: &dyn TargetPolicy,
    ) -> Result<Offer, InvalidOfferError> {
        let target = canonical(target);
        policy.allow(current, target)?;
        Ok(Offer {
            ticket: self,
            target,
            token: None,
            since: None,
        })
    }
}

impl fmt::Debug for MarkedTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MarkedTicket")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// What a received ticket turned out to be.
pub(super) enum Verified {
    /// It says where it leads.
    Offer(Offer),
    /// It does not.
    Marked(MarkedTicket),
    /// It is for when the server dies.
    Checkpoint(Checkpoint),
}

/// A server's offer to resume this session at another address.
pub struct Offer {
    ticket: MarkedTicket,
    target: SocketAddr,
    /// In draft -01.
    token: Option<MigrationToken>,
    /// Of a checkpoint: how many bytes have come since.
    since: Option<u64>,
}

impl Offer {
    /// Verifies what a server sent (`docs/protocol.md` section 2) on the connection with this lineage. `token_key` is asked for if
    /// there is a token.
    pub(super) fn verify(
        received: ReceivedTicket,
        lineage: Option<Lineage>,
        token_key: impl FnOnce() -> Result<(SuiteCrypto, TokenKey), InvalidOfferError>,
        current: SocketAddr,
        policy: &dyn TargetPolicy,
        arrived: Arrived,
    ) -> Result<Verified, InvalidOfferError> {
        let Mark {
            token,
            kind,
            checkpoint,
        } = received.mark.read()?;
        let heard = received.mark.heard.bytes;
        let ticket = MarkedTicket {
            session: received.session,
            kind,
            lineage,
            arrived,
            life: received.mark.life(),
        };
        let Some(token) = token else {
            return Ok(match checkpoint {
                None => Verified::Marked(ticket),
                Some((written, name)) => {
                    Verified::Checkpoint(Checkpoint::named(ticket, name, written, heard))
                }
            });
        };
        let (crypto, key) = token_key()?;
        key.verify_with(&crypto, &token)?;
        let mut offer = ticket.lead_to(token.target_address(), current, policy)?;
        offer.token = Some(token);
        Ok(match checkpoint {
            None => Verified::Offer(offer),
            Some((written, _)) => Verified::Checkpoint(Checkpoint::to(offer, written, heard)),
        })
    }

    /// The offer of a checkpoint since which so many bytes have come.
    pub(super) fn after_checkpoint(self, since: u64) -> Self {
        Self {
            since: Some(since),
            ..self
        }
    }

    /// Of a checkpoint: how many bytes have come since.
    pub(super) fn since(&self) -> Option<u64> {
        self.since
    }

    /// The token, which names the target and its time; `None` in draft -03, which has none.
    pub fn token(&self) -> Option<&MigrationToken> {
        self.token.as_ref()
    }

    /// The dialect in which it was made.
    pub fn dialect(&self) -> Dialect {
        match self.token {
            Some(_) => Dialect::Draft01,
            None => Dialect::Draft03,
        }
    }

    /// Where it leads: the token's target address, or the one that draft -03's target was resolved to; an IPv4 address as such
    /// and never mapped into IPv6.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// What goes on at the target.
    pub fn kind(&self) -> MoveKind {
        self.ticket.kind
    }

    /// That of the stream which goes on at the target, if one does.
    pub(super) fn goes_on(&self) -> Option<Lineage> {
        match self.ticket.kind {
            MoveKind::Stream => self.ticket.lineage.map(Lineage::next),
            MoveKind::Connection => None,
        }
    }

    /// Whether its time is over: the ticket's lifetime, counted from its arrival by a clock that does not step. By the
    /// expiry in token or ticket, the servers judge.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.ticket.is_expired(now)
    }

    /// The time at which rustls is to take up the session: as much after its arrival as has passed, however rustls' clock
    /// has been set meanwhile.
    pub(super) fn tls_time(&self, now: Instant) -> Option<UnixTime> {
        let arrived = self.ticket.arrived.tls_time?.as_secs();
        let passed = arrived.saturating_add(self.ticket.age(now).as_secs());
        Some(UnixTime::since_unix_epoch(Duration::from_secs(passed)))
    }

    /// Early data that the target announces to accept, in bytes; 0 for none.
    pub fn max_early_data_size(&self) -> u32 {
        self.ticket.session.max_early_data_size()
    }

    /// The ticket, to lead it elsewhere.
    #[cfg(feature = "tokio")]
    pub(crate) fn into_marked(self) -> MarkedTicket {
        self.ticket
    }

    pub(super) fn into_parts(self) -> (Tls13ClientSessionValue, Option<MigrationToken>) {
        (self.ticket.session, self.token)
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer")
            .field("target", &self.target)
            .field("token", &self.token)
            .field("kind", &self.ticket.kind)
            .finish_non_exhaustive()
    }
}

/// Why what a server sent is no offer. It is dropped and the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOfferError {
    /// The token is malformed. The server is at fault.
    #[error("the server's token is malformed")]
    Malformed(#[from] DecodeError),
    /// The ticket's `migration_allowed` extension is not empty, or there is a token beside it. The server is at fault.
    #[error("the mark of the server's ticket is malformed")]
    MalformedMark,
    /// The ticket's `migration_stream` extension is neither a hand-over's nor a checkpoint's. The server is at fault.
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
    #[error("the server's offer leads where this client does not go")]
    Target(#[from] TargetRefused),
    /// There is no marked ticket that could lead anywhere. The caller is early, or has used it.
    #[error("the server has marked no ticket")]
    NoMark,
    /// The target that the server asked for could not be resolved to an address.
    #[error("the server's target could not be resolved")]
    Unresolved,
}

#[cfg(feature = "tokio")]
impl InvalidOfferError {
    /// What logs and metrics call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::MalformedMark => "malformed_mark",
            Self::MalformedStream => "malformed_stream",
            Self::TicketTooLong { .. } => "ticket_too_long",
            Self::Unverified(_) => "unverified",
            Self::NoLifetime => "no_lifetime",
            Self::Target(_) => "target_refused",
            Self::NoMark => "no_mark",
            Self::Unresolved => "unresolved",
        }
    }
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
            let found = match received(&ticket, both()).map(|mark| mark.read()) {
                None => "none",
                Some(Ok(Mark {
                    token,
                    checkpoint: Some((position, target)),
                    ..
                })) => {
                    assert_eq!(vector["position"], position, "{}", vector["name"]);
                    assert_eq!(vectors::hex(&vector["target"]), target);
                    match token {
                        Some(_) => "checkpoint",
                        None => "allowed checkpoint",
                    }
                }
                Some(Ok(Mark { token, kind, .. })) => match (token, kind) {
                    (Some(_), MoveKind::Connection) => "connection",
                    (Some(_), MoveKind::Stream) => "stream",
                    (None, MoveKind::Connection) => "allowed connection",
                    (None, MoveKind::Stream) => "allowed stream",
                },
                Some(Err(
                    InvalidOfferError::MalformedStream | InvalidOfferError::MalformedMark,
                )) => "malformed",
                Some(Err(_)) => "another fault",
            };
            assert_eq!(vector["kind"], found, "{}", vector["name"]);
        }
    }

    fn both() -> Dialects {
        Dialects::new([Dialect::Draft01, Dialect::Draft03]).unwrap()
    }

    fn received(ticket: &NewSessionTicket<'_>, dialects: Dialects) -> Option<ReceivedMark> {
        ReceivedMark::of(ticket, Codepoints::default(), dialects, Heard::default())
    }

    #[test]
    fn the_mark_of_a_dialect_that_was_not_offered_is_none() {
        let by_name = |name: &str| {
            let mut all = vectors::section("new_session_tickets").into_iter();
            let vector = all.find(|vector| vector["name"] == name).unwrap();
            vectors::hex(&vector["message"])
        };
        let [old, new] =
            [Dialect::Draft01, Dialect::Draft03].map(|one| Dialects::new([one]).unwrap());
        for (name, reads, does_not) in [
            ("draft -03: a stream's ticket", new, old),
            ("a stream's offer", old, new),
        ] {
            let message = by_name(name);
            let ticket = NewSessionTicket::read(&message).unwrap();
            assert!(received(&ticket, reads).is_some() && received(&ticket, does_not).is_none());
        }
    }

    #[test]
    fn a_ticket_without_a_lifetime_is_no_offer_and_none_lives_longer_than_a_week() {
        let section = vectors::section("new_session_tickets");
        let message = vectors::hex(&section[0]["message"]);
        for (lifetime_secs, life) in [(0, None), (1, Some(1)), (u32::MAX, Some(604_800))] {
            let mut ticket = NewSessionTicket::read(&message).unwrap();
            ticket.lifetime_secs = lifetime_secs;
            let token = received(&ticket, both()).unwrap();
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
            let mut token = received(&ticket, both()).unwrap();
            token.ticket_len = len;
            assert_eq!(token.read().err(), expected);
        }
    }
}
