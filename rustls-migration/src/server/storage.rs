//! The session storage that rustls is given: a connection's hook answers in its place.

use std::sync::Arc;

use rustls::server::StoresServerSessions;

use super::hook::ServerHook;
use crate::provider::hook::current_as;

/// The session storage of every configuration of a [`MigrationServer`](super::MigrationServer): inside a
/// connection's scope its hook answers.
#[derive(Debug)]
pub(super) struct HookedStorage(pub(super) Arc<dyn StoresServerSessions>);

impl StoresServerSessions for HookedStorage {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        match current_as::<ServerHook>() {
            Some(hook) => hook.put(key, value),
            None => self.0.put(key, value),
        }
    }

    /// Sessions of TLS 1.2 are asked for like this. None of them may pass for the one of a token.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match current_as::<ServerHook>() {
            Some(hook) if hook.offer_presented => None,
            Some(_) | None => self.0.get(key),
        }
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        match current_as::<ServerHook>() {
            Some(hook) => hook.take(key),
            None => self.0.take(key),
        }
    }

    fn can_cache(&self) -> bool {
        self.0.can_cache()
    }
}
