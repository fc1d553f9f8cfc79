//! Nonce stores by name, for programs that tests run.
//!
//! A store that is opened here remembers the present moment.

use std::sync::Arc;
use std::time::Duration;

use migration_token::{FileNonceStore, MemoryNonceStore, NonceStore, RedisNonceStore};
use time::OffsetDateTime;

/// Opens `memory`, `file:PATH` or `redis://HOST:PORT`; `None` when the name is none of these.
pub async fn open(name: &str) -> Option<Arc<dyn NonceStore>> {
    let now = OffsetDateTime::now_utc();
    let capacity = MemoryNonceStore::DEFAULT_CAPACITY;
    if name == "memory" {
        Some(Arc::new(MemoryNonceStore::new(capacity, now)))
    } else if let Some(path) = name.strip_prefix("file:") {
        Some(Arc::new(FileNonceStore::open(path, capacity, now).unwrap()))
    } else if name.starts_with("redis://") {
        Some(Arc::new(on_redis(name).await))
    } else {
        None
    }
}

async fn on_redis(address: &str) -> RedisNonceStore {
    let store = RedisNonceStore::builder(address)
        // Nothing here is about time.
        .timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    store.check(OffsetDateTime::now_utc()).await.unwrap();
    while store.remembers_since() > Some(OffsetDateTime::now_utc()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store
}
