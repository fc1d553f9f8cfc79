//! The attached connections of a server, by number and by the address that each one is on.
//!
//! Does constant work for each change, however many connections there are.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc};

use super::{AddressId, AttachmentId, ServerEvent};

/// Events that wait for a slow reader at most.
const EVENTS: usize = 1024;

#[derive(Debug)]
pub(super) struct Registry {
    book: Mutex<Book>,
    events: broadcast::Sender<ServerEvent>,
}

#[derive(Debug, Default)]
struct Book {
    attached: HashMap<AttachmentId, Attached>,
    on: HashMap<AddressId, HashSet<AttachmentId>>,
    /// Who is told of changes at an address.
    watching: HashMap<AddressId, mpsc::UnboundedSender<Change>>,
}

#[derive(Debug)]
struct Attached {
    connection: quinn::Connection,
    on: AddressId,
}

/// What changed at an address.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Came(AttachmentId, quinn::Connection),
    Left(AttachmentId),
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            book: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
        }
    }
}

impl Registry {
    /// Answers `false` when the connection is there already.
    pub(super) fn insert(
        &self,
        id: AttachmentId,
        connection: quinn::Connection,
        on: AddressId,
    ) -> bool {
        let mut book = self.book.lock();
        if book.attached.contains_key(&id) {
            return false;
        }
        book.come(id, &connection, on);
        book.attached.insert(id, Attached { connection, on });
        #[cfg(feature = "metrics")]
        metrics::gauge!(crate::metrics::ATTACHED.name).increment(1.0);
        true
    }

    pub(super) fn moved(&self, id: AttachmentId, to: AddressId) {
        let mut book = self.book.lock();
        let Some(attached) = book.attached.get_mut(&id) else {
            return;
        };
        let from = std::mem::replace(&mut attached.on, to);
        let connection = attached.connection.clone();
        if from != to {
            book.leave(id, from);
            book.come(id, &connection, to);
        }
    }

    pub(super) fn remove(&self, id: AttachmentId) {
        let mut book = self.book.lock();
        let removed = book.attached.remove(&id);
        if let Some(attached) = &removed {
            #[cfg(feature = "metrics")]
            metrics::gauge!(crate::metrics::ATTACHED.name).decrement(1.0);
            book.leave(id, attached.on);
        }
        // The last handle of a connection closes it, which is not for under this lock.
        drop(book);
        drop(removed);
    }

    pub(super) fn all(&self) -> Vec<quinn::Connection> {
        let book = self.book.lock();
        let attached = book.attached.values();
        attached.map(|one| one.connection.clone()).collect()
    }

    pub(super) fn anybody_on(&self, address: AddressId) -> bool {
        self.book.lock().on.contains_key(&address)
    }

    /// Tells of everybody at an address, now and from now on. Another watcher of the same address hears no more.
    pub(super) fn watch(&self, address: AddressId) -> mpsc::UnboundedReceiver<Change> {
        let (sender, changes) = mpsc::unbounded_channel();
        let mut book = self.book.lock();
        for id in book.on.get(&address).into_iter().flatten() {
            if let Some(attached) = book.attached.get(id) {
                // The receiver is in this function's hands.
                let _ = sender.send(Change::Came(*id, attached.connection.clone()));
            }
        }
        book.watching.insert(address, sender);
        changes
    }

    /// The watcher is gone.
    pub(super) fn unwatch(&self, address: AddressId) {
        let mut book = self.book.lock();
        if book
            .watching
            .get(&address)
            .is_some_and(mpsc::UnboundedSender::is_closed)
        {
            book.watching.remove(&address);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.book.lock().attached.len()
    }

    pub(super) fn report(&self, event: ServerEvent) {
        tracing::debug!(?event);
        // Nobody has to listen.
        let _ = self.events.send(event);
    }

    pub(super) fn events(&self) -> broadcast::Receiver<ServerEvent> {
        self.events.subscribe()
    }
}

impl Book {
    fn come(&mut self, id: AttachmentId, connection: &quinn::Connection, to: AddressId) {
        self.on.entry(to).or_default().insert(id);
        if let Some(watcher) = self.watching.get(&to) {
            let _ = watcher.send(Change::Came(id, connection.clone()));
        }
    }

    fn leave(&mut self, id: AttachmentId, from: AddressId) {
        if let Some(there) = self.on.get_mut(&from) {
            there.remove(&id);
            if there.is_empty() {
                self.on.remove(&from);
            }
        }
        if let Some(watcher) = self.watching.get(&from) {
            let _ = watcher.send(Change::Left(id));
        }
    }
}
