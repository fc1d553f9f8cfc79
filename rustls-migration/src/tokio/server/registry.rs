//! The live connections of an acceptor, so that a drain can reach them.
//!
//! A stream carries out its own commands. Nothing here touches its bytes. What a drain counts of a connection changes under
//! the lock of this registry, so that a drain that begins meanwhile counts each connection once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handle::Control;
use super::ledger::{DrainedConnection, Ledger};
use crate::measure::{count, gauge};

/// The connections of one acceptor.
#[derive(Debug, Default)]
pub(super) struct Registry {
    live: Mutex<Live>,
}

#[derive(Debug, Default)]
pub(super) struct Live {
    connections: HashMap<u64, Arc<Control>>,
    next: u64,
    /// The drain under way.
    drain: Option<Arc<Ledger>>,
}

impl Live {
    /// The drain under way.
    pub(super) fn drain(&self) -> Option<&Arc<Ledger>> {
        self.drain.as_ref()
    }
}

impl Registry {
    /// Adds a connection, which leaves when what is returned is dropped.
    pub(super) fn register(self: &Arc<Self>, peer: Option<SocketAddr>) -> Registration {
        let control = Arc::new(Control::new(peer, Arc::clone(self)));
        let mut live = self.live();
        let id = live.next;
        live.next = id.wrapping_add(1);
        live.connections.insert(id, Arc::clone(&control));
        if let Some(drain) = &live.drain {
            drain.add_new(id);
        }
        drop(live);
        gauge!(CONNECTIONS, increment 1.0);
        Registration {
            registry: Arc::clone(self),
            id,
            control,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.live().connections.len()
    }

    /// A live connection.
    pub(super) fn get(&self, id: u64) -> Option<Arc<Control>> {
        self.live().connections.get(&id).map(Arc::clone)
    }

    /// The live connections.
    pub(super) fn all(&self) -> Vec<Arc<Control>> {
        self.live().connections.values().map(Arc::clone).collect()
    }

    /// Begins to count for a drain, in the place of the one under way. Returns the connections that are there.
    pub(super) fn begin_drain(&self, ledger: &Arc<Ledger>) -> Vec<u64> {
        let mut live = self.live();
        if let Some(older) = live.drain.replace(Arc::clone(ledger)) {
            older.replace();
        }
        for control in live.connections.values() {
            ledger.add(control.enter_drain());
        }
        live.connections.keys().copied().collect()
    }

    /// Stats no longer for this drain.
    pub(super) fn end_drain(&self, ledger: &Arc<Ledger>) {
        let mut live = self.live();
        live.drain.take_if(|drain| Arc::ptr_eq(drain, ledger));
    }

    /// How each connection of this drain stands: those that are gone first.
    pub(super) fn drained(&self, ledger: &Arc<Ledger>) -> Vec<DrainedConnection> {
        let live = self.live();
        let mut drained = ledger.gone();
        // Of a drain that is over, nothing is known but what it has recorded.
        if live
            .drain
            .as_ref()
            .is_some_and(|drain| Arc::ptr_eq(drain, ledger))
        {
            drained.extend(live.connections.values().map(|control| control.drained()));
        }
        drained
    }

    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
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
        let mut live = self.registry.live();
        live.connections.remove(&self.id);
        self.control.leave(live.drain());
        drop(live);
        let (status, _) = self.control.status();
        // In this order: who reads zero connections reads each end, too.
        count!(CONNECTIONS_CLOSED, "departure" => status.name());
        gauge!(CONNECTIONS, decrement 1.0);
        self.control.ended();
    }
}
