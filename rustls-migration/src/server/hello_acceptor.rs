//! The time before there is a connection: the hello is read and judged, and the nonce store is asked
//! (`docs/protocol.md` section 7).
//!
//! rustls gets nothing before the verdict.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use migration_token::{Claim, ClaimOutcome, StoreError};
use rustls::AlertDescription;

use super::admission::{Candidate, Examined, examine, scope};
use super::connection::Admission;
use super::hook::{Offered, ServerHook, Wanted};
use super::issue::Issuer;
use super::resumption::{self, Resumes, Resumption};
use super::{Incoming, MigrationServer, ServerConnection, Verdict};
#[cfg(feature = "tokio")]
use crate::MoveKind;
use crate::address::as_in_token;
use crate::dialect::Dialect;
use crate::wire::hello::ClientHello;
use crate::wire::record::{HelloProgress, HelloReader};

/// Collects a client's hello.
///
/// Drive it like this: [`push`](Self::push) received bytes until it says that it has enough, [`examine`](Self::examine)
/// the hello, ask the nonce store what [`ExaminedHello::claim`] says, if anything, and [`ExaminedHello::accept`] with its answer.
#[derive(Debug)]
pub struct HelloAcceptor {
    server: Arc<MigrationServer>,
    reader: HelloReader,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
}

impl HelloAcceptor {
    /// Starts to read a hello. The addresses are passed to the server's choice of a target.
    pub fn new(
        server: Arc<MigrationServer>,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> Self {
        Self {
            server,
            reader: HelloReader::default(),
            peer: peer.map(as_in_token),
            local: local.map(as_in_token),
        }
    }

    /// Takes what the client sent next. `true` when that is enough.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.reader.push(bytes) != HelloProgress::Incomplete
    }

    /// How many bytes of the hello have come.
    #[cfg(feature = "tokio")]
    pub(crate) fn received(&self) -> usize {
        self.reader.received()
    }

    /// How many bytes of memory the hello may come to take, as far as is known.
    #[cfg(feature = "tokio")]
    pub(crate) fn most(&self) -> usize {
        self.reader.most()
    }

    /// Makes room for as much.
    #[cfg(feature = "tokio")]
    pub(crate) fn reserve(&mut self) {
        self.reader.reserve();
    }

    /// Judges the hello by everything but its token's nonce (`docs/protocol.md` section 7, steps 1 to 11).
    ///
    /// # Errors
    ///
    /// [`AcceptError`] when the connection must end here; its [`alert`](AcceptError::alert) is for the client.
    pub fn examine(self) -> Result<ExaminedHello, AcceptError> {
        let server = self.server;
        let mut examined = Examined::Ordinary;
        let mut resumption = None;
        let mut issuer = None;
        let mut offered = Offered::default();
        // What is not a hello goes to rustls, which knows the right alert.
        if let Ok(hello) = ClientHello::read(self.reader.message(), server.codepoints) {
            let support = |dialect| hello.support(dialect).is_some_and(|data| !data.is_empty());
            if server.dialects.choose(support).is_some() {
                return Err(AcceptError::MalformedSupport);
            }
            let scope = scope(&server.service, hello.server_name);
            let now = server.clock.now();
            let no_randomness = |_| AcceptError::Tls(rustls::Error::FailedToGetRandomBytes);
            let speaks_tokens = server.dialects.has(Dialect::Draft01);
            let token = hello.migration_token.is_some() && speaks_tokens;
            if token {
                examined = examine(&server, &hello, &scope, now).map_err(no_randomness)?;
            } else {
                match resumption::examine(&server, &hello, &scope, now).map_err(no_randomness)? {
                    Resumes::Nothing => {}
                    Resumes::Ordinary(found) => resumption = Some(Box::new(found)),
                    Resumes::Scoped(found) => examined = found,
                }
            }
            offered = Offered {
                offer: token || !matches!(examined, Examined::Ordinary),
                early_data: hello.early_data,
                // Without a maximum, rustls takes no notice of a client's wish either.
                ticket_request: hello
                    .ticket_request
                    .filter(|_| server.configs.ordinary.max_tls13_tickets > 0),
            };
            let addresses = (self.peer, self.local);
            issuer = Some(issuer_for(&server, &hello, scope, addresses));
        }
        let (candidate, declined) = match examined {
            Examined::Ordinary => (None, None),
            Examined::Declined(verdict) => (None, Some(verdict)),
            Examined::Candidate(candidate) => (Some(candidate), None),
            Examined::BadBinder => {
                server.counters.bad_binder(self.peer);
                return Err(AcceptError::BadBinder);
            }
        };
        Ok(ExaminedHello {
            server,
            peer: self.peer,
            issuer,
            offered,
            candidate,
            declined,
            resumption,
            received: self.reader.into_raw(),
        })
    }
}

/// What issues tickets to this client: with an offer of the target that is chosen for it, if it supports migration.
fn issuer_for(
    server: &Arc<MigrationServer>,
    hello: &ClientHello<'_>,
    scope: [u8; 32],
    (peer, local): (Option<SocketAddr>, Option<SocketAddr>),
) -> Issuer {
    let speaks = |dialect| hello.support(dialect).is_some();
    let dialect = server.dialects.choose(speaks);
    let incoming = Incoming {
        peer,
        local,
        server_name: hello
            .server_name
            .and_then(|name| std::str::from_utf8(name).ok()),
    };
    let target = server
        .choose_target
        .as_ref()
        .filter(|_| dialect.is_some())
        .and_then(|choose| choose(&incoming))
        .map(as_in_token)
        .filter(|target| Some(*target) != local);
    Issuer {
        server: Arc::clone(server),
        scope,
        dialect,
        target,
    }
}

/// A hello that has been judged by everything but its token's nonce.
pub struct ExaminedHello {
    server: Arc<MigrationServer>,
    peer: Option<SocketAddr>,
    issuer: Option<Issuer>,
    offered: Offered,
    candidate: Option<Box<Candidate>>,
    declined: Option<Verdict>,
    /// An ordinary session that is resumed.
    resumption: Option<Box<Resumption>>,
    received: Vec<u8>,
}

impl ExaminedHello {
    /// What to ask [`NonceStore::claim`](migration_token::NonceStore::claim) before [`accept`](Self::accept); `None` when
    /// there is nothing to ask.
    pub fn claim(&self) -> Option<Claim> {
        match (&self.candidate, &self.resumption) {
            (Some(candidate), _) => Some(candidate.claim()),
            (None, Some(resumption)) => resumption.claim(),
            (None, None) => None,
        }
    }

    /// Whether no more than the early data of an ordinary resumption depends on the store's answer.
    #[cfg(feature = "tokio")]
    pub(crate) fn claims_early_data_only(&self) -> bool {
        self.candidate.is_none()
    }

    /// What goes on here if the token is accepted.
    #[cfg(feature = "tokio")]
    pub(crate) fn kind(&self) -> MoveKind {
        let candidate = self.candidate.as_ref();
        candidate.map_or(MoveKind::Connection, |candidate| candidate.kind())
    }

    /// Makes the connection and gives it what was received.
    ///
    /// `answer` is the store's to [`claim`](Self::claim); `None` when it gave none in time, which refuses the token, or the early
    /// data of an ordinary resumption.
    ///
    /// # Errors
    ///
    /// [`AcceptError::Tls`] when rustls refuses what the client sent.
    pub fn accept(
        self,
        answer: Option<Result<ClaimOutcome, StoreError>>,
    ) -> Result<ServerConnection, AcceptError> {
        let server = self.server;
        let configs = &server.configs;
        let mut resumed = None;
        let decided = match (self.candidate, self.declined) {
            (Some(candidate), _) => Some(candidate.decide(answer, server.clock.now())),
            (None, Some(verdict)) => Some(Err(verdict)),
            (None, None) => {
                let decide = |resumption: Box<Resumption>| resumption.decide(&answer, &server);
                resumed = self.resumption.map(decide);
                None
            }
        };
        let early_data = matches!(resumed, Some((_, true)));
        let (config, mut admission) = match decided {
            // Whatever rustls thinks of it: early data that was not claimed is refused.
            None if self.offered.early_data && !early_data => {
                (&configs.no_early_data, Admission::Ordinary)
            }
            None => (&configs.ordinary, Admission::Ordinary),
            Some(Ok(admitted)) if admitted.early_data => {
                (&configs.early_data, Admission::Admitted(Box::new(admitted)))
            }
            Some(Ok(admitted)) => (
                &configs.no_early_data,
                Admission::Admitted(Box::new(admitted)),
            ),
            Some(Err(verdict)) => (&configs.no_early_data, Admission::Declined(verdict)),
        };
        let (lent, goes_on) = match &mut admission {
            Admission::Admitted(admitted) => (admitted.lend(), admitted.goes_on),
            Admission::Ordinary => (resumed.map(|(lent, _)| lent), None),
            Admission::Declined(_) => (None, None),
        };
        let (config, wanted) = match &self.issuer {
            Some(issuer) if issuer.dialect.is_some() => {
                configs.with_template(config, self.offered.ticket_request)
            }
            Some(_) | None => (Arc::clone(config), Wanted::All),
        };
        let storage = Arc::clone(&configs.storage);
        let hook = ServerHook::new(storage, self.issuer, wanted, self.offered, lent, goes_on);
        let mut connection = ServerConnection::new(server, self.peer, config, hook, admission)?;
        connection.receive(&self.received)?;
        Ok(connection)
    }
}

impl fmt::Debug for ExaminedHello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExaminedHello")
            .field("declined", &self.declined)
            .finish_non_exhaustive()
    }
}

/// Why a connection ended before there was one. The client is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The data of `migration_support` is not empty.
    #[error("the client's migration_support extension is not empty")]
    MalformedSupport,
    /// The token is in order, but the client does not have its session's pre-shared key. No nonce was spent.
    #[error("the client's binder is wrong")]
    BadBinder,
    /// rustls refuses what the client sent.
    #[error("the TLS library refuses the client's hello")]
    Rejected {
        /// Why.
        #[source]
        error: rustls::Error,
        /// The records that tell the client.
        alert: Vec<u8>,
    },
    /// rustls could not make a connection.
    #[error("the TLS library makes no connection")]
    Tls(#[source] rustls::Error),
}

impl AcceptError {
    /// The records to send before the connection is closed.
    pub fn alert(&self) -> Vec<u8> {
        let description = match self {
            Self::MalformedSupport => AlertDescription::DecodeError,
            Self::BadBinder => AlertDescription::DecryptError,
            Self::Rejected { alert, .. } => return alert.clone(),
            Self::Tls(_) => AlertDescription::InternalError,
        };
        const ALERT: u8 = 21;
        const LEVEL_FATAL: u8 = 2;
        vec![ALERT, 3, 3, 0, 2, LEVEL_FATAL, description.into()]
    }
}
