//! The live connections of an acceptor, so that a drain can reach them.
//!
//! A stream carries out its own commands. Nothing here touches its bytes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::handle::Control;

/// The connections of one acceptor.
#[derive(Debug, Default)]
pub(super) struct Registry {
    live: Mutex<HashMap<u64, Arc<Control>>>,
    next: AtomicU64,
    changed: Arc<Notify>,
}

impl Registry {
    /// Adds a connection, which leaves when what is returned is dropped.
    pub(super) fn register(self: &Arc<Self>, peer: Option<SocketAddr>) -> Registration {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let control = Arc::new(Control::new(peer, Arc::clone(&self.changed)));
        self.live().insert(id, Arc::clone(&control));
        self.changed.notify_one();
        Registration {
            registry: Arc::clone(self),
            id,
            control,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.live().len()
    }

    /// The live connections with their identifiers.
    pub(super) fn all(&self) -> Vec<(u64, Arc<Control>)> {
        let live = self.live();
        live.iter()
            .map(|(id, control)| (*id, Arc::clone(control)))
            .collect()
    }

    /// Resolves when a connection came, went, or stands differently.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn live(&self) -> MutexGuard<'_, HashMap<u64, Arc<Control>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among the [`Registry`].
#[derive(Debug)]
pub(super) struct Registration {
    registry: Arc<Registry>,
    id: u64,
    control: Arc<Control>,
}

impl Registration {
    pub(super) fn control(&self) -> &Arc<Control> {
        &self.control
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.live().remove(&self.id);
        self.control.end();
    }
}
