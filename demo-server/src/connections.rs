//! The live connections of a node, for who watches it.
//!
//! It only lists them. What becomes of each, its own handle knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls_migration::server::Arrival;
use rustls_migration::tokio::{ConnectionHandle, DepartureStatus};
use serde::Serialize;

/// The connections that are live. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<Live>>);

#[derive(Debug, Default)]
struct Live {
    next: u64,
    /// By number, in the order of their coming; `None` while the handshake is under way.
    connections: BTreeMap<u64, Option<ConnectionHandle>>,
}

/// How a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stands {
    /// Its handshake is under way.
    Arriving,
    /// Its client came here without a token that counts.
    New,
    /// Its client was moved here.
    Moved,
    /// Its client has been asked to move, and is about to go.
    Told,
    /// Its client cannot be asked to move.
    Stays,
    /// Its client did not go in time.
    Overdue,
}

/// A connection's place in the list, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    connections: Connections,
    number: u64,
}

impl Connections {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one whose handshake begins.
    pub(crate) fn enter(&self) -> Entered {
        let mut live = self.live();
        let number = live.next;
        live.next = number.wrapping_add(1);
        live.connections.insert(number, None);
        drop(live);
        Entered {
            connections: self.clone(),
            number,
        }
    }

    /// How each stands, the oldest first.
    pub fn all(&self) -> Vec<(u64, Stands)> {
        let live = self.live();
        let each = live.connections.iter();
        each.map(|(number, handle)| (*number, stands(handle.as_ref())))
            .collect()
    }
}

impl Entered {
    /// Its stream is there.
    pub(crate) fn begin(&self, handle: ConnectionHandle) {
        let mut live = self.connections.live();
        live.connections.insert(self.number, Some(handle));
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.connections.live().connections.remove(&self.number);
    }
}

fn stands(handle: Option<&ConnectionHandle>) -> Stands {
    let Some(handle) = handle else {
        return Stands::Arriving;
    };
    match (handle.status(), handle.arrival()) {
        (DepartureStatus::Overdue, _) => Stands::Overdue,
        (DepartureStatus::NotMovable, _) => Stands::Stays,
        (DepartureStatus::Told | DepartureStatus::Left | DepartureStatus::HandedOver, _) => {
            Stands::Told
        }
        (_, Arrival::Migrated { .. }) => Stands::Moved,
        _ => Stands::New,
    }
}
