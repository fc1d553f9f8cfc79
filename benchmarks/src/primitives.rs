//! The single steps of a migration, by themselves: the token's and the nonce store's.
//!
//! Sealing and opening a ticket is not public; it is a part of the resumed handshakes.

use std::hint::black_box;
use std::net::SocketAddr;

use migration_token::{
    Claim, ClaimId, ClaimOutcome, CommitOutcome, MemoryNonceStore, MigrationToken, NonceKey,
    NonceStore as _, TokenHash, TokenKey,
};
use time::{Duration, OffsetDateTime};

use crate::aged::Aged;
use crate::error::BenchError;
use crate::peers::{Suite, answer};
use crate::report::Step;
use crate::timing::{Plan, measure as time};
use crate::workload::Workload;

const NONCE: [u8; 16] = [0x6e; 16];

/// How many nonces are claimed in one second of the store's time, which bounds how many are live.
const CLAIMS_PER_SECOND: u64 = 1000;

/// Measures each step.
pub(crate) fn measure(plan: Plan, suite: Suite) -> Result<Vec<Step>, BenchError> {
    let hash = match suite {
        Suite::Aes256 => TokenHash::Sha384,
        Suite::Aes128 | Suite::Chacha20 => TokenHash::Sha256,
    };
    let step = |name, run| {
        Ok::<_, BenchError>(Step {
            name,
            ns: time(plan, run)?,
        })
    };
    Ok(vec![
        step("token key derivation", derive(hash))?,
        step("token issue (sign, encode)", issue(hash)?)?,
        step("token check (decode, verify)", check(hash)?)?,
        step("nonce claim and commit", claim_and_commit())?,
    ])
}

fn secret(hash: TokenHash) -> Vec<u8> {
    vec![0x73; hash.output_len()]
}

fn derive(hash: TokenHash) -> Workload {
    let secret = secret(hash);
    Box::new(move || {
        black_box(TokenKey::derive(hash, black_box(&secret))?);
        Ok(())
    })
}

fn issue(hash: TokenHash) -> Result<Workload, BenchError> {
    let key = TokenKey::derive(hash, &secret(hash))?;
    let (target, expiry) = (
        SocketAddr::from(([192, 0, 2, 1], 443)),
        OffsetDateTime::now_utc(),
    );
    Ok(Box::new(move || {
        black_box(key.sign(target, expiry, black_box(&NONCE))?.encode());
        Ok(())
    }))
}

fn check(hash: TokenHash) -> Result<Workload, BenchError> {
    let key = TokenKey::derive(hash, &secret(hash))?;
    let target = SocketAddr::from(([192, 0, 2, 1], 443));
    let token = key
        .sign(target, OffsetDateTime::now_utc(), &NONCE)?
        .encode();
    Ok(Box::new(move || {
        MigrationToken::decode(black_box(&token))
            .ok()
            .filter(|token| key.verify(token).is_ok())
            .map(drop)
            .ok_or(BenchError::Unexpected("the token does not verify"))
    }))
}

fn claim_and_commit() -> Workload {
    let started = OffsetDateTime::now_utc();
    let store = MemoryNonceStore::with_monotonic(
        MemoryNonceStore::DEFAULT_CAPACITY,
        started,
        Aged::clock(),
    );
    let mut count = 0u64;
    Box::new(move || {
        count += 1;
        let seconds = i64::try_from(count / CLAIMS_PER_SECOND).unwrap_or(i64::MAX);
        let now = started.saturating_add(Duration::seconds(seconds));
        let claim = Claim {
            nonce: NonceKey::new(&[0; 32], &[0; 32], &count.to_be_bytes()),
            id: ClaimId::new([0; 16]),
            issued_after: now,
            keep_until: now.saturating_add(Duration::MINUTE),
            now,
        };
        let claimed = answer(store.claim(claim))?? == ClaimOutcome::First;
        let committed = answer(store.commit(claim))?? == CommitOutcome::Won;
        if claimed && committed {
            Ok(())
        } else {
            Err(BenchError::Unexpected("the nonce was not spent"))
        }
    })
}
