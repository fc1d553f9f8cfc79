//! What was answered to requests that may come again.
//!
//! It decides nothing: whoever records first has the say.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use migration_token::BoxFuture;

use super::state::IDENTITY_LEN;

/// Length of a [`RequestId`], in bytes.
const LEN: usize = IDENTITY_LEN + size_of::<u64>();

/// Which request it is: unique, and the same at each server that the request comes to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; LEN]);

impl RequestId {
    /// The request that comes after `answered` others.
    pub(super) fn new(identity: [u8; IDENTITY_LEN], answered: u64) -> Self {
        let mut id = [0; LEN];
        let (stream, number) = id.split_at_mut(IDENTITY_LEN);
        stream.copy_from_slice(&identity);
        number.copy_from_slice(&answered.to_be_bytes());
        Self(id)
    }

    /// As a key in a store, 24 bytes: those of one stream begin with the same 16, and follow one another.
    pub fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }
}

/// In hexadecimal digits. It is no secret.
impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({})", base16ct::lower::encode_string(&self.0))
    }
}

/// A store of responses that all nodes of a service share.
///
/// Between a checkpoint and the death of its server requests are carried out that the next server gets again. The log has it answer
/// them as they were answered, and carry them out no second time. A response may be forgotten when the longest life of
/// a [token](crate::server::MigrationServerBuilder::token_lifetime) has passed since it was recorded.
pub trait RequestLog: Send + Sync {
    /// The response that is recorded for `id`.
    fn get(&self, id: RequestId) -> BoxFuture<'_, io::Result<Option<Vec<u8>>>>;

    /// Records `response` for `id`, durably, unless there is one already. Returns what is recorded then: of two servers
    /// that carry out one request, the first has the say.
    fn put(&self, id: RequestId, response: Vec<u8>) -> BoxFuture<'_, io::Result<Vec<u8>>>;
}

/// Responses in memory: for tests, and for nodes in one process. It grows for ever.
#[derive(Default)]
pub struct MemoryRequestLog(Mutex<HashMap<RequestId, Vec<u8>>>);

impl RequestLog for MemoryRequestLog {
    fn get(&self, id: RequestId) -> BoxFuture<'_, io::Result<Option<Vec<u8>>>> {
        let recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recorded = recorded.get(&id).cloned();
        Box::pin(async move { Ok(recorded) })
    }

    fn put(&self, id: RequestId, response: Vec<u8>) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = match recorded.entry(id) {
            Entry::Occupied(first) => first.get().clone(),
            Entry::Vacant(first) => first.insert(response).clone(),
        };
        Box::pin(async move { Ok(first) })
    }
}

/// Leaves the responses out.
impl fmt::Debug for MemoryRequestLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("MemoryRequestLog")
            .field("recorded", &recorded.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_response_stays() {
        let log = MemoryRequestLog::default();
        let [one, other] = [0, 1].map(|answered| RequestId::new([7; 16], answered));
        assert_eq!(log.get(one).await.unwrap(), None);
        assert_eq!(log.put(one, b"first".to_vec()).await.unwrap(), b"first");
        assert_eq!(log.put(one, b"second".to_vec()).await.unwrap(), b"first");
        assert_eq!(log.get(one).await.unwrap().unwrap(), b"first");
        assert_eq!(log.get(other).await.unwrap(), None);
        assert!(one.as_bytes() < other.as_bytes());
    }
}
