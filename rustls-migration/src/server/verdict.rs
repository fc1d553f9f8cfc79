//! What came of a `migration_token` (`docs/protocol.md` section 7). Verdicts are for the server's own eyes: on the
//! wire all refusals look alike.

use std::fmt;

use zeroize::Zeroizing;

/// Why a presented token was not accepted. The client landed by a full handshake all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// The hello has a token, but no `pre_shared_key` or no `psk_dhe_ke`. The client is at fault.
    NoPsk,
    /// The token does not decode, or the hello says how much it has had since a checkpoint and presents none, or the other way
    /// round. The client is at fault.
    Malformed,
    /// No known key opens the ticket: it is foreign, or its key has been rotated out.
    UnknownTicket,
    /// The ticket belongs to another service or server name.
    WrongScope,
    /// The token is not of the ticket's session, or its signature is wrong.
    BadSignature,
    /// The token is signed, but it is not the one that the server issued with this ticket. The client is at fault.
    NotIssued,
    /// The token names an address that this server does not answer for.
    WrongTarget,
    /// The token's time is over or has not come, or the nonce store cannot know whether it was spent.
    Expired,
    /// The token has been spent.
    Replayed,
    /// The nonce store failed, was full, or did not answer in time. The environment is at fault.
    StoreUnavailable,
    /// The token was good, but the TLS library did not resume the session, for instance because its cipher suite
    /// is no longer enabled. The token stays unspent.
    NotResumed,
}

impl Verdict {
    /// Every verdict, in the order of the checks.
    pub const ALL: [Self; 11] = [
        Self::NoPsk,
        Self::Malformed,
        Self::UnknownTicket,
        Self::WrongScope,
        Self::BadSignature,
        Self::NotIssued,
        Self::WrongTarget,
        Self::Expired,
        Self::Replayed,
        Self::StoreUnavailable,
        Self::NotResumed,
    ];

    /// The place in [`ALL`](Self::ALL).
    pub(super) fn index(self) -> usize {
        match self {
            Self::NoPsk => 0,
            Self::Malformed => 1,
            Self::UnknownTicket => 2,
            Self::WrongScope => 3,
            Self::BadSignature => 4,
            Self::NotIssued => 5,
            Self::WrongTarget => 6,
            Self::Expired => 7,
            Self::Replayed => 8,
            Self::StoreUnavailable => 9,
            Self::NotResumed => 10,
        }
    }

    /// What logs and metrics call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NoPsk => "NoPsk",
            Self::Malformed => "Malformed",
            Self::UnknownTicket => "UnknownTicket",
            Self::WrongScope => "WrongScope",
            Self::BadSignature => "BadSignature",
            Self::NotIssued => "NotIssued",
            Self::WrongTarget => "WrongTarget",
            Self::Expired => "Expired",
            Self::Replayed => "Replayed",
            Self::StoreUnavailable => "StoreUnavailable",
            Self::NotResumed => "NotResumed",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::NoPsk => "the hello has no usable pre-shared key",
            Self::Malformed => "the token, or the number beside it, is malformed",
            Self::UnknownTicket => "no known key opens the ticket",
            Self::WrongScope => "the ticket is for another service or name",
            Self::BadSignature => "the token's signature is wrong",
            Self::NotIssued => "the token was not issued with the ticket",
            Self::WrongTarget => "the token is for another address",
            Self::Expired => "the token is too old",
            Self::Replayed => "the token has been spent",
            Self::StoreUnavailable => "the nonce store is unavailable",
            Self::NotResumed => "the session could not be resumed",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// How a client came to this server.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Arrival {
    /// Without a token: a new connection, or an ordinary resumption.
    Fresh,
    /// With a token that was accepted.
    Migrated {
        /// Whether early data is accepted, if the client sends any. For each token it is at most once. Until the handshake is complete, who
        /// sends it may have copied it.
        early_data: bool,
        /// `Some` when the client's stream goes on here in the middle: what the issuing server's application sealed
        /// into the ticket, 0 to 8192 bytes. `None` when only the session goes on: a conversation begins. The ticket
        /// says which, so the client has no say in it.
        state: Option<Zeroizing<Vec<u8>>>,
    },
    /// With a checkpoint's token, since the server that made the checkpoint is lost to the client. The stream goes on here from
    /// the checkpoint's state: the client says again what that does not account for.
    Recovered {
        /// As for [`Migrated`](Self::Migrated).
        early_data: bool,
        /// The checkpoint's state, 0 to 8192 bytes.
        state: Zeroizing<Vec<u8>>,
        /// How many bytes the client has that the application writes from the checkpoint on. They are discarded, unless the
        /// application [takes the number](super::ServerConnection::take_received) and begins behind them.
        received: u64,
    },
    /// With a token that was refused.
    Declined(Verdict),
}

impl Arrival {
    /// The state from which the client's stream goes on here, 0 to 8192 bytes: handed over, or a checkpoint's. `None` when a
    /// conversation begins.
    pub fn state(&self) -> Option<&[u8]> {
        match self {
            Self::Migrated { state, .. } => state.as_ref().map(|state| state.as_slice()),
            Self::Recovered { state, .. } => Some(state.as_slice()),
            Self::Fresh | Self::Declined(_) => None,
        }
    }
}

/// Leaves the application's state out.
impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh => f.write_str("Fresh"),
            Self::Migrated { early_data, .. } => f
                .debug_struct("Migrated")
                .field("early_data", early_data)
                .finish_non_exhaustive(),
            Self::Recovered {
                early_data,
                received,
                ..
            } => f
                .debug_struct("Recovered")
                .field("early_data", early_data)
                .field("received", received)
                .finish_non_exhaustive(),
            Self::Declined(verdict) => f.debug_tuple("Declined").field(verdict).finish(),
        }
    }
}
