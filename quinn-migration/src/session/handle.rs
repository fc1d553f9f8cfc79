//! The way from a `quinn::Connection` to the hook behind it.
//!
//! The session answers a label of ours in `export_keying_material` with a number; a table leads from the number to
//! the hook. Never keeps a hook alive: quinn's session and keys do, and the entry goes with the last of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::hooks::{Effects, Hook};
use crate::socket::{PathId, Routes, Tag};

/// Not an IANA exporter label: the request never reaches TLS.
pub(super) const HANDLE_LABEL: &[u8] = b"quinn-migration handle";

const LENGTH: usize = size_of::<u64>();

/// Numbers are unique in the process, so that a connection of one endpoint is unknown to another.
static NEXT: AtomicU64 = AtomicU64::new(1);

type Table<H> = Mutex<HashMap<u64, Weak<Shared<H>>>>;

/// The hooks of one client or server.
#[derive(Debug)]
pub(crate) struct Handles<H>(Arc<Table<H>>);

/// One connection's hook.
#[derive(Debug)]
pub(crate) struct Handle<H>(Arc<Shared<H>>);

#[derive(Debug)]
struct Shared<H> {
    number: u64,
    hook: Mutex<H>,
    woken: watch::Sender<()>,
    routes: Option<Routes>,
    table: Weak<Table<H>>,
}

impl<H: Hook> Handles<H> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::default()))
    }

    pub(super) fn create(&self, hook: H, routes: Option<Routes>) -> Handle<H> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let table = Arc::downgrade(&self.0);
        let woken = watch::Sender::new(());
        let shared = Arc::new(Shared {
            number,
            hook: Mutex::new(hook),
            woken,
            routes,
            table,
        });
        self.0.lock().insert(number, Arc::downgrade(&shared));
        Handle(shared)
    }

    /// The hook behind a connection of this client or server.
    pub(crate) fn find(&self, connection: &quinn::Connection) -> Option<Handle<H>> {
        let mut number = [0; LENGTH];
        connection
            .export_keying_material(&mut number, HANDLE_LABEL, b"")
            .ok()?;
        self.0
            .lock()
            .get(&u64::from_be_bytes(number))?
            .upgrade()
            .map(Handle)
    }

    /// Connections whose state is held.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl<H: Hook> Handle<H> {
    pub(crate) fn with_hook<T>(&self, work: impl FnOnce(&mut H) -> T) -> T {
        work(&mut self.0.hook.lock())
    }

    /// Runs a hook on a packet and does what it asks for. Answers whether the packet is to have a long number, which
    /// is the caller's part.
    pub(super) fn apply(&self, work: impl FnOnce(&mut H, &mut Effects)) -> bool {
        let mut effects = Effects::default();
        self.with_hook(|hook| work(hook, &mut effects));
        if effects.is_nothing() {
            return effects.force_4_byte_pn;
        }
        if let Some(routes) = &self.0.routes {
            let new = [effects.route, effects.probe_route];
            for (id, path) in new.into_iter().flatten() {
                routes.set(id, path);
            }
            if let Some((id, time)) = effects.hold {
                routes.hold(id, time);
            }
            if effects.release {
                routes.release(None);
            }
        }
        if effects.wake {
            // At once: the next packet by another path may be here before the task is.
            self.watch_other_paths();
            self.wake();
        }
        effects.force_4_byte_pn
    }

    /// Unique in the process.
    pub(crate) fn number(&self) -> u64 {
        self.0.number
    }

    /// Packets by the paths that are not in use are to be told from others.
    pub(crate) fn watch_other_paths(&self) {
        if let Some(routes) = &self.0.routes {
            routes.watch(self.with_hook(|hook| hook.other_paths()));
        }
    }

    /// The path that the packet with this AEAD tag came by, when that is not the one in use.
    pub(super) fn came_by(&self, tag: &Tag) -> Option<PathId> {
        self.0.routes.as_ref()?.came_by(tag)
    }

    /// Tells the hook how much has come by the path in use. Answers whether more of it waits in the socket.
    pub(super) fn has_unread(&self) -> bool {
        let path = self.with_hook(|hook| hook.path_in_use());
        let Some((path, routes)) = path.zip(self.0.routes.as_ref()) else {
            return false;
        };
        let received = routes.traffic(path).received;
        self.with_hook(|hook| hook.on_traffic(received));
        routes.has_unread(path)
    }

    pub(crate) fn routes(&self) -> Option<&Routes> {
        self.0.routes.as_ref()
    }

    pub(crate) fn wake(&self) {
        self.0.woken.send_replace(());
    }

    /// Resolves on every wake-up after this call.
    pub(crate) fn wakes(&self) -> watch::Receiver<()> {
        self.0.woken.subscribe()
    }

    /// Writes the number into `out`; `false` when `out` is not of its length.
    pub(super) fn export(&self, out: &mut [u8]) -> bool {
        let number = self.0.number.to_be_bytes();
        let fits = out.len() == number.len();
        if fits {
            out.copy_from_slice(&number);
        }
        fits
    }
}

impl<H> Clone for Handle<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<H> Clone for Handles<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<H> Drop for Shared<H> {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.lock().remove(&self.number);
        }
    }
}
