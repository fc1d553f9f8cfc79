//! The live connections of an acceptor, so that a drain can reach them.
//!
//! A stream carries out its own orders, when it is polled. Nothing here touches its bytes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use atomic_waker::AtomicWaker;
use tokio::sync::Notify;

/// What a drain wants of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Tell the client to move there.
    MoveTo(SocketAddr),
    /// Close the connection.
    Close,
}

/// Where a connection stands with regard to a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// It serves.
    #[default]
    Serving,
    /// Its client has been told to move.
    Notified,
    /// Its client cannot be told.
    CannotMove,
    /// Its client has closed its side after the notice.
    Moved,
    /// It was closed because its client did not leave.
    Forced,
}

/// One connection, as a drain sees it.
#[derive(Debug, Default)]
pub(super) struct Control {
    state: Mutex<State>,
    waker: AtomicWaker,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    order: Option<Order>,
    standing: Standing,
    gone: bool,
}

impl Control {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an order, which replaces an older one.
    pub(super) fn order(&self, order: Order) {
        self.state().order = Some(order);
        self.waker.wake();
    }

    /// Takes the order that waits, or registers to be woken for one.
    pub(super) fn take_order(&self, waker: &Waker) -> Option<Order> {
        self.waker.register(waker);
        self.state().order.take()
    }

    /// Where the connection stands, and whether it is gone.
    pub(super) fn standing(&self) -> (Standing, bool) {
        let state = self.state();
        (state.standing, state.gone)
    }

    pub(super) fn stands(&self, standing: Standing) {
        self.state().standing = standing;
        self.changed.notify_one();
    }
}

/// The connections of one acceptor.
#[derive(Debug, Default)]
pub(super) struct Connections {
    live: Mutex<HashMap<u64, Arc<Control>>>,
    next: AtomicU64,
    changed: Arc<Notify>,
}

impl Connections {
    /// Adds a connection, which leaves when what is returned is dropped.
    pub(super) fn register(self: &Arc<Self>) -> Registration {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let control = Arc::new(Control {
            changed: Arc::clone(&self.changed),
            ..Control::default()
        });
        self.live().insert(id, Arc::clone(&control));
        self.changed.notify_one();
        Registration {
            connections: Arc::clone(self),
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

/// A connection's place among the [`Connections`].
#[derive(Debug)]
pub(super) struct Registration {
    connections: Arc<Connections>,
    id: u64,
    control: Arc<Control>,
}

impl Registration {
    pub(super) fn control(&self) -> &Control {
        &self.control
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.control.state().gone = true;
        self.connections.live().remove(&self.id);
        self.connections.changed.notify_one();
    }
}
