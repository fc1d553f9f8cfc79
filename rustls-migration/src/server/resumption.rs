//! Ordinary resumption (`docs/protocol.md` sections 7 and 8): a session of a ticket without a token resumes at any node of its
//! service, and its early data is accepted at most once where the nonce store's memory is the one of the issuer.
//!
//! What is refused here costs the client its early data, or its resumption, and never its connection. The session is
//! lent to rustls, which checks the binder, the server name, the cipher suite and the application protocol as ever.
//!
//! A claim is not committed: nobody else is to have the session, so there is nothing to win. One flight has one
//! claim's key and one end of its time, so no clock can let it in again once its nonce has been forgotten.

use std::fmt;

use migration_token::{Claim, ClaimId, ClaimOutcome, MemoryId, NonceKey, StoreError, TokenHash};
use rustls::crypto::GetRandomFailed;
use time::{Duration, OffsetDateTime};

use super::MigrationServer;
use super::admission::scoped::{self, Scoped};
use super::admission::{
    Examined, HANDSHAKE_GRACE, Lent, MAX_IDENTITIES, Presented, from_unix_milliseconds,
};
use crate::dialect::Dialect;
use crate::key_schedule::binder_is_valid;
use crate::provider::Hashed;
use crate::ticket::{EarlyDataGrant, OrdinarySession};
use crate::wire::hello::{ClientHello, PskIdentity, PskOffer};

/// How far a ticket's age by the client and by the server may differ for its early data to be accepted. It is rustls' own limit.
const FRESHNESS: Duration = Duration::seconds(60);

/// Sets the nonces of ordinary early data apart from those of tokens.
const LABEL: &[u8] = b"early data";

/// An ordinary session that the client may resume.
pub(super) struct Resumption {
    lent: Lent,
    early_data: Option<EarlyDataClaim>,
}

/// Early data that is accepted if nobody has claimed it.
struct EarlyDataClaim {
    claim: Claim,
    memory: MemoryId,
}

impl Resumption {
    /// What to ask the nonce store; `None` when the client has no early data, or none that could be accepted.
    pub(super) fn claim(&self) -> Option<Claim> {
        self.early_data.as_ref().map(|early_data| early_data.claim)
    }

    /// The session, and whether its early data is accepted, with the store's answer; `None` when it gave none in time.
    ///
    /// The memory must still be the same when the answer is there: a shared store may meanwhile have become another one.
    pub(super) fn decide(
        self,
        answer: &Option<Result<ClaimOutcome, StoreError>>,
        server: &MigrationServer,
    ) -> (Lent, bool) {
        let first = matches!(answer, Some(Ok(ClaimOutcome::First)));
        let accepted = self
            .early_data
            .is_some_and(|EarlyDataClaim { claim, memory }| {
                first
                    && server.clock.now() <= claim.keep_until
                    && server.nonce_store.memory_id() == Some(memory)
            });
        (self.lent, accepted)
    }
}

/// What a hello without a token resumes.
pub(super) enum Resumes {
    Nothing,
    /// An ordinary session.
    Ordinary(Resumption),
    /// A session that was offered elsewhere in draft -03, or what speaks against it.
    Scoped(Examined),
}

/// What a hello without a token resumes. Each identity is opened once.
pub(super) fn examine(
    server: &MigrationServer,
    hello: &ClientHello<'_>,
    scope: &[u8; 32],
    now: OffsetDateTime,
) -> Result<Resumes, GetRandomFailed> {
    let scoped = server.dialects.has(Dialect::Draft03);
    let ordinary = hello.psk_dhe_ke && server.configs.keeps_sessions;
    let Some(offer) = hello.pre_shared_key.filter(|_| scoped || ordinary) else {
        return Ok(Resumes::Nothing);
    };
    for (index, identity) in offer.iter().take(MAX_IDENTITIES).enumerate() {
        let Some(plain) = server.ticket_keys.open(identity.ticket) else {
            continue;
        };
        if scoped && let Some(scoped) = Scoped::read(&plain) {
            let presented = Presented {
                ticket: identity.ticket,
                binder: identity.binder,
                truncated_hello: offer.truncated_hello,
            };
            return scoped::examine(server, scoped, presented, hello, scope, now)
                .map(Resumes::Scoped);
        }
        let Ok(session) = OrdinarySession::decode(&plain) else {
            continue;
        };
        if ordinary && session.scope == *scope && is_alive(server, &session, now) {
            let identity = (index, identity);
            return resume(server, hello, offer, identity, session, now).map(Resumes::Ordinary);
        }
    }
    Ok(Resumes::Nothing)
}

/// The resumption of an ordinary session, with its early data if that may be accepted.
fn resume(
    server: &MigrationServer,
    hello: &ClientHello<'_>,
    offer: PskOffer<'_>,
    (index, identity): (usize, PskIdentity<'_>),
    session: OrdinarySession,
    now: OffsetDateTime,
) -> Result<Resumption, GetRandomFailed> {
    let scope = session.scope;
    let mut lent = Lent {
        ticket: identity.ticket.to_vec(),
        session: session.session,
        hashed: None,
    };
    // Early data belongs to the first identity (RFC 8446 section 4.2.10).
    let wanted = hello.early_data && index == 0 && server.configs.ordinary.max_early_data_size > 0;
    let grant = session.early_data.filter(|_| wanted);
    let early_data = match grant {
        Some(grant) if is_fresh(&grant, &identity, session.issued_at_ms, now) => {
            let hashed = check_binder(server, &grant, &identity, offer.truncated_hello);
            let valid = hashed.is_some();
            lent.hashed = hashed;
            match valid && server.nonce_store.memory_id() == Some(grant.memory) {
                true => Some(EarlyDataClaim {
                    claim: claim(
                        server,
                        &grant,
                        &identity,
                        (&scope, session.issued_at_ms),
                        now,
                    )?,
                    memory: grant.memory,
                }),
                false => None,
            }
        }
        Some(_) | None => None,
    };
    Ok(Resumption { lent, early_data })
}

/// Whether the session's time is not over. One that was issued later than now has a life before it.
fn is_alive(server: &MigrationServer, session: &OrdinarySession, now: OffsetDateTime) -> bool {
    let ends = from_unix_milliseconds(session.issued_at_ms).saturating_add(server.session_lifetime);
    now <= ends.saturating_add(server.clock_skew)
}

/// When the hello was sent: the moment of the ticket's issue and its age by the client, which the binder covers.
fn sent_at(
    grant: &EarlyDataGrant,
    identity: &PskIdentity<'_>,
    issued_at_ms: u64,
) -> OffsetDateTime {
    let age = identity.obfuscated_age.wrapping_sub(grant.age_add);
    from_unix_milliseconds(issued_at_ms).saturating_add(Duration::milliseconds(i64::from(age)))
}

fn is_fresh(
    grant: &EarlyDataGrant,
    identity: &PskIdentity<'_>,
    issued_at_ms: u64,
    now: OffsetDateTime,
) -> bool {
    (now - sent_at(grant, identity, issued_at_ms)).abs() <= FRESHNESS
}

/// The hash of the hello up to its binders, if this binder is right. So a hello with a wrong one spends nothing.
fn check_binder(
    server: &MigrationServer,
    grant: &EarlyDataGrant,
    identity: &PskIdentity<'_>,
    truncated_hello: &[u8],
) -> Option<Hashed> {
    let suite = server.suite_of(TokenHash::from_output_len(grant.psk.len())?)?;
    let hashed = Hashed::new(suite.common.hash_provider, truncated_hello);
    binder_is_valid(suite, &grant.psk, &hashed.digest(), identity.binder).then_some(hashed)
}

/// The claim of a flight of early data. Nobody accepts it before or after it is fresh, by any clock of a node, so that is how long
/// it is to be known. All of it but the id and the present moment follows from the hello.
fn claim(
    server: &MigrationServer,
    grant: &EarlyDataGrant,
    identity: &PskIdentity<'_>,
    (scope, issued_at_ms): (&[u8; 32], u64),
    now: OffsetDateTime,
) -> Result<Claim, GetRandomFailed> {
    let mut id = [0; 16];
    server.random().fill(&mut id)?;
    let sent = sent_at(grant, identity, issued_at_ms);
    let earliest = sent
        .saturating_sub(FRESHNESS)
        .max(from_unix_milliseconds(issued_at_ms));
    Ok(Claim {
        nonce: NonceKey::new(scope, &server.sha256(identity.ticket), LABEL),
        id: ClaimId::new(id),
        issued_after: earliest.saturating_sub(server.clock_skew),
        keep_until: sent.saturating_add(FRESHNESS + server.clock_skew + HANDSHAKE_GRACE),
        now,
    })
}

impl fmt::Debug for Resumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resumption").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(feature = "ring")]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
    use std::task::{Context, Poll, Waker};
    use std::time::Instant;

    use migration_token::{MemoryNonceStore, Monotonic};
    use rustls::ServerConfig;
    use rustls::server::ResolvesServerCertUsingSni;
    use zeroize::Zeroizing;

    use super::*;
    use crate::clock::Clock;
    use crate::codepoints::Codepoints;
    use crate::key_schedule::binder;
    use crate::ticket::{Seal, TicketKeys};
    use crate::wire::hello::tests::{hello_with, psk_extension};
    use crate::wire::{EXT_EARLY_DATA, EXT_PSK_KEY_EXCHANGE_MODES};

    const SCOPE: [u8; 32] = [5; 32];
    const PSK: [u8; 32] = [7; 32];
    /// The obfuscated age in every hello.
    const OBFUSCATED_AGE: u32 = 0x0102_0304;
    const BINDER_LEN: usize = 32;

    #[derive(Clone, Debug)]
    struct HandClock {
        /// Unix milliseconds. It can be set.
        wall: Arc<AtomicI64>,
        /// Milliseconds that have passed.
        elapsed: Arc<AtomicU64>,
    }

    impl Monotonic for HandClock {
        fn elapsed(&self) -> std::time::Duration {
            std::time::Duration::from_millis(self.elapsed.load(Ordering::SeqCst))
        }

        fn origin(&self) -> Option<u128> {
            None
        }
    }

    impl Clock for HandClock {
        fn now(&self) -> OffsetDateTime {
            from_unix_milliseconds(self.wall.load(Ordering::SeqCst).unsigned_abs())
        }

        fn instant(&self) -> Instant {
            Instant::now()
        }
    }

    /// A node and its clock.
    struct World {
        server: MigrationServer,
        keys: TicketKeys,
        clock: HandClock,
    }

    impl World {
        fn new() -> Self {
            let clock = HandClock {
                wall: Arc::new(AtomicI64::new(1_800_000_000_000)),
                elapsed: Arc::default(),
            };
            let provider = crate::provider::ring();
            let keys = TicketKeys::generate(provider.secure_random).unwrap();
            let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
            config.max_early_data_size = 1000;
            let server = MigrationServer::builder(config, "files", keys.clone())
                .clock(clock.clone())
                .nonce_store(Self::store(&clock))
                .build();
            let world = Self {
                server: server.unwrap(),
                keys,
                clock,
            };
            world.pass(10);
            world
        }

        /// A store that begins now.
        fn store(clock: &HandClock) -> Arc<MemoryNonceStore> {
            let monotonic = Arc::new(clock.clone());
            Arc::new(MemoryNonceStore::with_monotonic(
                100,
                clock.now(),
                monotonic,
            ))
        }

        fn pass(&self, seconds: u32) {
            let passed = u64::from(seconds) * 1000;
            self.clock.elapsed.fetch_add(passed, Ordering::SeqCst);
            self.set(i64::from(seconds));
        }

        /// The clock is set. No time passes.
        fn set(&self, seconds: i64) {
            self.clock.wall.fetch_add(seconds * 1000, Ordering::SeqCst);
        }

        /// A ticket that is issued now. Hellos with it say that they are so many seconds old.
        fn ticket(&self, age: u32) -> Vec<u8> {
            let memory = self.server.nonce_store.memory_id().unwrap();
            self.ticket_of(memory, age)
        }

        fn ticket_of(&self, memory: MemoryId, age: u32) -> Vec<u8> {
            let now = self.clock.wall.load(Ordering::SeqCst);
            let session = OrdinarySession {
                issued_at_ms: now.unsigned_abs(),
                scope: SCOPE,
                early_data: Some(EarlyDataGrant {
                    memory,
                    age_add: OBFUSCATED_AGE.wrapping_sub(age * 1000),
                    psk: Zeroizing::new(PSK.to_vec()),
                }),
                session: Zeroizing::new(b"session".to_vec()),
            };
            let random = self.server.random();
            let plain = session.encode().unwrap();
            self.keys.seal(&plain, Seal::Session, random).unwrap()
        }

        /// A hello with this ticket and a right binder. Those with another `number` are others.
        fn hello(&self, ticket: &[u8], number: u8) -> Vec<u8> {
            let mut hello = hello_with(&[
                (EXT_PSK_KEY_EXCHANGE_MODES, vec![1, 1]),
                (EXT_EARLY_DATA, vec![]),
                (0xFF00, vec![number]),
                psk_extension(ticket),
            ]);
            let read = ClientHello::read(&hello, Codepoints::default()).unwrap();
            let truncated = read.pre_shared_key.unwrap().truncated_hello;
            let suite = self.server.suite_of(TokenHash::Sha256).unwrap();
            let hash = suite.common.hash_provider.hash(truncated);
            let right = binder(suite, &PSK, &hash);
            let at = hello.len() - BINDER_LEN;
            hello[at..].copy_from_slice(right.as_ref());
            hello
        }

        fn examine(&self, hello: &[u8]) -> Option<Resumption> {
            let hello = ClientHello::read(hello, Codepoints::default()).unwrap();
            match examine(&self.server, &hello, &SCOPE, self.clock.now()).unwrap() {
                Resumes::Ordinary(resumption) => Some(resumption),
                Resumes::Nothing | Resumes::Scoped(_) => None,
            }
        }

        /// Whether the session resumes, and whether its early data is accepted.
        fn present(&self, hello: &[u8]) -> (bool, bool) {
            let Some(resumption) = self.examine(hello) else {
                return (false, false);
            };
            let answer = resumption.claim().map(|claim| self.claim(claim));
            let (lent, accepted) = resumption.decide(&answer, &self.server);
            assert_eq!(*lent.session, b"session");
            (true, accepted)
        }

        fn claim(&self, claim: Claim) -> Result<ClaimOutcome, StoreError> {
            let asked = pin!(self.server.nonce_store.claim(claim));
            match asked.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => answer,
                Poll::Pending => panic!("a memory store answers at once"),
            }
        }
    }

    #[test]
    fn early_data_is_accepted_when_the_age_is_right_to_within_a_minute() {
        for (age, passed, accepted) in [
            (0, 0, true),
            (0, 60, true),
            (0, 61, false),
            (3600, 3540, true),
            (3600, 3539, false),
            (3600, 3660, true),
            (3600, 3661, false),
            // The session lives for twelve hours.
            (43_190, 43_200, true),
        ] {
            let world = World::new();
            let hello = world.hello(&world.ticket(age), 0);
            world.pass(passed);
            let presented = world.present(&hello);
            assert_eq!(presented, (true, accepted), "{age} s old after {passed} s");
        }
        let world = World::new();
        let hello = world.hello(&world.ticket(43_190), 0);
        world.pass(43_206);
        assert_eq!(world.present(&hello), (false, false));
    }

    #[test]
    fn a_ticket_that_is_used_again_has_early_data_when_no_copy_of_the_first_hello_is_fresh() {
        let world = World::new();
        let ticket = world.ticket(0);
        let (first, another) = (world.hello(&ticket, 0), world.hello(&ticket, 1));
        assert_eq!(world.present(&first), (true, true));
        assert_eq!(world.present(&first), (true, false));
        assert_eq!(world.present(&another), (true, false));
        // The nonce is known for 60 s, the skew of 5 s and a minute; by then no hello of this age is fresh.
        world.pass(127);
        assert_eq!(world.present(&another), (true, false));
        // Whatever the clock says next, nothing that was accepted is accepted again.
        let other = world.hello(&world.ticket(0), 0);
        assert_eq!(world.present(&other), (true, true));
        world.set(-127);
        assert_eq!(world.present(&first), (true, false));
        assert_eq!(world.present(&another), (true, false));
    }

    #[test]
    fn a_hello_with_a_wrong_binder_or_another_memory_asks_the_store_nothing() {
        let world = World::new();
        let mut wrong = world.hello(&world.ticket(0), 0);
        *wrong.last_mut().unwrap() ^= 1;
        let resumption = world.examine(&wrong).unwrap();
        assert!(resumption.claim().is_none(), "rustls aborts the handshake");
        let elsewhere = world.ticket_of(MemoryId::new([0; 16]), 0);
        let hello = world.hello(&elsewhere, 0);
        assert!(world.examine(&hello).unwrap().claim().is_none());
    }

    #[test]
    fn an_answer_of_another_memory_or_after_its_time_accepts_nothing() {
        let mut world = World::new();
        let hello = world.hello(&world.ticket(0), 0);
        let resumption = world.examine(&hello).unwrap();
        let answer = resumption.claim().map(|claim| world.claim(claim));
        assert!(matches!(answer, Some(Ok(ClaimOutcome::First))));
        world.pass(126);
        assert!(!resumption.decide(&answer, &world.server).1);
        world.set(-126);

        let hello = world.hello(&world.ticket(0), 0);
        let resumption = world.examine(&hello).unwrap();
        world.server.nonce_store = World::store(&world.clock);
        assert!(!resumption.decide(&answer, &world.server).1);
    }

    #[test]
    fn a_ticket_of_another_scope_or_of_nobody_resumes_nothing() {
        let world = World::new();
        let hello = world.hello(&world.ticket(0), 0);
        let read = ClientHello::read(&hello, Codepoints::default()).unwrap();
        let resumption = examine(&world.server, &read, &[6; 32], world.clock.now());
        assert!(matches!(resumption, Ok(Resumes::Nothing)), "another scope");
        let foreign = world.hello(&[9; 100], 0);
        assert!(world.examine(&foreign).is_none());
    }
}
