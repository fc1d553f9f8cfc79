//! The nonce store of a server that was given none: how much it holds, and who shares it.
//!
//! Servers of one process that answer for the same address never have separate stores of this kind, since a token could be
//! spent in each.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use migration_token::MemoryNonceStore;
use time::OffsetDateTime;

use crate::error::ConfigError;

/// How many accepted tokens a second the store holds for as long as they live.
const TOKENS_PER_SECOND: u64 = 1000;

/// The most that it holds. A nonce takes some hundred bytes.
const MAX_CAPACITY: u64 = 8_000_000;

/// How long a nonce is kept beyond its token's life and the clocks' difference (`docs/protocol.md` section 8).
const BEYOND: Duration = Duration::from_secs(60);

/// Stores of this process by the addresses of their servers, as long as a server lives.
static STORES: Mutex<Vec<Shared>> = Mutex::new(Vec::new());

struct Shared {
    addresses: HashSet<SocketAddr>,
    store: Weak<MemoryNonceStore>,
}

/// How many nonces a store holds whose tokens live for so long.
pub(super) fn capacity(token_lifetime: Duration, clock_skew: Duration) -> usize {
    let kept = token_lifetime
        .saturating_add(clock_skew)
        .saturating_add(BEYOND)
        .as_secs()
        .max(1);
    let capacity = kept.saturating_mul(TOKENS_PER_SECOND);
    if capacity > MAX_CAPACITY {
        let per_second = MAX_CAPACITY / kept;
        tracing::warn!(
            per_second,
            "tokens live so long that the nonce store is full when more clients a second move here"
        );
    }
    usize::try_from(capacity.min(MAX_CAPACITY)).unwrap_or(usize::MAX)
}

/// The store of the live servers of this process that answer for one of `addresses`, or a new one.
///
/// # Errors
///
/// [`ConfigError::NonceStores`] when two of them have separate stores, because they had nothing in common before.
pub(super) fn shared(
    addresses: &HashSet<SocketAddr>,
    capacity: usize,
    now: OffsetDateTime,
) -> Result<Arc<MemoryNonceStore>, ConfigError> {
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    stores.retain(|shared| shared.store.strong_count() > 0);
    let mut found = stores
        .iter_mut()
        .filter(|shared| !shared.addresses.is_disjoint(addresses));
    let first = found.next();
    if found.next().is_some() {
        return Err(ConfigError::NonceStores);
    }
    if let Some(shared) = first
        && let Some(store) = shared.store.upgrade()
    {
        shared.addresses.extend(addresses);
        return Ok(store);
    }
    let store = Arc::new(MemoryNonceStore::new(capacity, now));
    stores.push(Shared {
        addresses: addresses.clone(),
        store: Arc::downgrade(&store),
    });
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ports: &[u16]) -> HashSet<SocketAddr> {
        let address = |port: &u16| SocketAddr::from(([192, 0, 2, 77], *port));
        ports.iter().map(address).collect()
    }

    #[test]
    fn the_capacity_follows_from_the_life() {
        let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
        assert_eq!(capacity(hour, Duration::from_secs(5)), 3_665_000);
        assert_eq!(capacity(minute, Duration::ZERO), 120_000);
        assert_eq!(capacity(hour * 24 * 7, Duration::ZERO), 8_000_000);
    }

    #[test]
    fn an_address_has_one_store_in_a_process() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let get = |ports: &[u16]| shared(&addresses(ports), 10, now);
        let first = get(&[1, 2]).unwrap();
        assert!(Arc::ptr_eq(&first, &get(&[2, 3]).unwrap()));
        assert!(Arc::ptr_eq(&first, &get(&[3]).unwrap()));
        let other = get(&[4]).unwrap();
        assert!(!Arc::ptr_eq(&first, &other));
        assert!(matches!(get(&[1, 4]), Err(ConfigError::NonceStores)));
        // None of these servers lives any more.
        drop((first, other));
        get(&[1, 4]).unwrap();
    }
}
