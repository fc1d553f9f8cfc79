//! Which datagrams of a client leave through which socket: by destination connection ID.
//!
//! quinn switches connection IDs and addresses in one step that way. Never routes a datagram by its connection ID
//! alone: the address that quinn sends to counts too, so no server can draw another connection's datagrams.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use quinn::udp::Transmit;
use quinn::{AsyncUdpSocket, Runtime};
use quinn_proto::ConnectionId;

use super::came_by::{CameBy, Tag};
use super::hold::Hold;
use super::set::SocketSet;
use super::{PathId, PathSockets, Traffic};

/// Connection IDs with a route, for one connection; older ones are not in use any more.
const ROUTES_EACH: usize = 12;
/// How long a replaced socket receives what was under way to it.
const FORMER_LIFE: Duration = Duration::from_secs(3);
/// How long to wait for a socket that is full.
const FULL_SOCKET: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Router {
    pub(super) sockets: Arc<SocketSet>,
    runtime: Arc<dyn Runtime>,
    path_sockets: PathSockets,
    /// The endpoint's own socket, whose settings new ones take over.
    first: Mutex<UdpSocket>,
    former: Mutex<Vec<Former>>,
    pub(super) came_by: CameBy,
    table: RwLock<Table>,
    /// Datagrams that wait, by the address and the connection ID that quinn gives them.
    held: Mutex<HashMap<Key, Hold>>,
    /// Saves a look at them.
    any_held: AtomicBool,
    /// Saves a look at the table while no connection has moved.
    any: AtomicBool,
    next: AtomicU32,
    next_owner: AtomicU64,
}

/// What quinn sends a datagram with: the address that it believes in, and the connection ID.
type Key = (SocketAddr, ConnectionId);

/// A socket that was replaced. It only receives.
#[derive(Debug)]
struct Former {
    id: PathId,
    /// The path whose socket it was.
    of: PathId,
    until: Instant,
}

#[derive(Debug, Default)]
struct Table {
    /// Each with the number of the connection that it belongs to.
    routes: HashMap<Key, (u64, PathId)>,
    /// How many routes have a connection ID of this length.
    lengths: BTreeMap<usize, usize>,
    paths: HashMap<PathId, Endpoints>,
    /// Where packets come from that were under way to sockets which were replaced.
    former: HashMap<PathId, Endpoints>,
}

/// A path's server address, and the one that quinn believes in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endpoints {
    pub(super) server: SocketAddr,
    pub(super) believed: SocketAddr,
}

impl Router {
    /// `first` is the endpoint's own socket, as the application made it.
    pub(crate) fn new(
        first: &UdpSocket,
        path_sockets: PathSockets,
        runtime: Arc<dyn Runtime>,
    ) -> io::Result<Self> {
        let router = Self {
            sockets: Arc::default(),
            runtime,
            path_sockets,
            first: Mutex::new(first.try_clone()?),
            former: Mutex::default(),
            came_by: CameBy::default(),
            table: RwLock::default(),
            held: Mutex::default(),
            any_held: AtomicBool::new(false),
            any: AtomicBool::new(false),
            next: AtomicU32::new(0),
            next_owner: AtomicU64::new(0),
        };
        let socket = router.runtime.wrap_udp_socket(first.try_clone()?)?;
        router.sockets.insert(PathId::FIRST, socket, None);
        Ok(router)
    }

    /// Replaces the endpoint's own socket, and with it those of all paths. What is under way to the old ones still arrives
    /// for a while.
    pub(crate) fn rebind(&self, first: &UdpSocket) -> io::Result<()> {
        let socket = self.runtime.wrap_udp_socket(first.try_clone()?)?;
        let until = Instant::now() + FORMER_LIFE;
        *self.first.lock() = first.try_clone()?;
        self.replace(PathId::FIRST, socket, until);
        let paths: Vec<(PathId, Endpoints)> = {
            let table = self.table.read();
            table.paths.iter().map(|(id, ends)| (*id, *ends)).collect()
        };
        for (id, endpoints) in paths {
            match self.path_socket(endpoints.server) {
                Ok(socket) => self.replace(id, socket, until),
                // The path stays on its socket, which may still work.
                Err(error) => tracing::warn!(%error, to = %endpoints.server, "no new socket"),
            }
        }
        Ok(())
    }

    /// A path that was closed meanwhile stays closed.
    fn replace(&self, id: PathId, socket: Arc<dyn AsyncUdpSocket>, until: Instant) {
        let former = self.next_id();
        if let Some(endpoints) = self.endpoints(id) {
            self.table.write().former.insert(former, endpoints);
        }
        self.sockets.replace(id, socket, former);
        self.former.lock().push(Former {
            id: former,
            of: id,
            until,
        });
        // Closing takes the path out of the table before it looks for sockets.
        if id != PathId::FIRST && self.endpoints(id).is_none() {
            self.close_former(Some(id), Instant::now());
            self.sockets.remove(id);
            return;
        }
        self.sockets.expect(id);
    }

    /// Closes former sockets: those of path `of`, and those that are past their time.
    fn close_former(&self, of: Option<PathId>, now: Instant) {
        let mut former = self.former.lock();
        let over = |former: &mut Former| former.until <= now || Some(former.of) == of;
        let closing: Vec<Former> = former.extract_if(.., over).collect();
        drop(former);
        for former in closing {
            self.table.write().former.remove(&former.id);
            self.sockets.remove(former.id);
        }
    }

    /// A look at the former sockets, while packets come.
    pub(super) fn on_received(&self) {
        if !self.former.lock().is_empty() {
            self.close_former(None, Instant::now());
        }
    }

    fn next_id(&self) -> PathId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        PathId(number.wrapping_add(1).max(1))
    }

    fn path_socket(&self, server: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = self.path_sockets.open(server, &self.first.lock())?;
        self.runtime.wrap_udp_socket(socket)
    }

    pub(crate) fn routes(self: &Arc<Self>) -> Routes {
        Routes {
            router: Arc::clone(self),
            owner: self.next_owner.fetch_add(1, Ordering::Relaxed),
            own: Mutex::default(),
        }
    }

    /// Opens a socket on a port of its own, so that the new path cannot be linked to the old one by it
    /// (RFC 9000 section 9.5).
    fn open(&self, endpoints: Endpoints) -> io::Result<PathId> {
        let socket = self.path_socket(endpoints.server)?;
        let id = self.next_id();
        self.table.write().paths.insert(id, endpoints);
        self.sockets.insert(id, socket, None);
        self.sockets.expect(id);
        Ok(id)
    }

    pub(super) fn endpoints(&self, id: PathId) -> Option<Endpoints> {
        if id == PathId::FIRST {
            return None;
        }
        let table = self.table.read();
        let path = table.paths.get(&id).or_else(|| table.former.get(&id));
        path.copied()
    }

    /// Whether every datagram takes the first path.
    pub(super) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// Keeps a datagram of a connection that is held back.
    pub(super) fn keeps(&self, transmit: &Transmit<'_>) -> bool {
        if !self.any_held.load(Ordering::Acquire) {
            return false;
        }
        let Some((first, rest)) = transmit.contents.split_first() else {
            return false;
        };
        let mut held = self.held.lock();
        let of_it = |(destination, id): &&Key| {
            *destination == transmit.destination && first & 0x80 == 0 && rest.starts_with(id)
        };
        let key = held.keys().find(of_it).copied();
        let hold = key.and_then(|key| held.get_mut(&key));
        hold.map(|hold| hold.keep(transmit)).is_some()
    }

    /// Sends a run of datagrams that go the same way.
    pub(super) fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let path = self.lookup(transmit.destination, transmit.contents);
        self.send_on(path, transmit)
    }

    pub(super) fn send_on(&self, path: PathId, transmit: &Transmit<'_>) -> io::Result<()> {
        let endpoints = self.endpoints(path);
        let part = Transmit {
            destination: endpoints.map_or(transmit.destination, |endpoints| endpoints.server),
            src_ip: transmit.src_ip.filter(|_| endpoints.is_none()),
            ..transmit.clone()
        };
        self.sockets.try_send(path, &part)
    }

    /// The path for a datagram that quinn sends to `destination`.
    pub(super) fn lookup(&self, destination: SocketAddr, datagram: &[u8]) -> PathId {
        if self.is_empty() {
            return PathId::FIRST;
        }
        let Some((first, rest)) = datagram.split_first() else {
            return PathId::FIRST;
        };
        if first & 0x80 != 0 {
            return PathId::FIRST;
        }
        let table = self.table.read();
        let path = table.lengths.keys().find_map(|length| {
            let id = ConnectionId::new(rest.get(..*length)?);
            table.routes.get(&(destination, id)).copied()
        });
        let path = path.map(|(_, path)| path);
        path.unwrap_or(PathId::FIRST)
    }

    pub(crate) fn traffic(&self, id: PathId) -> Traffic {
        self.sockets.traffic(id).unwrap_or_default()
    }

    /// Sockets in use, the endpoint's own included.
    pub(crate) fn open_sockets(&self) -> usize {
        self.sockets.len().saturating_sub(self.former.lock().len())
    }

    /// Routes in the table.
    pub(crate) fn route_count(&self) -> usize {
        self.table.read().routes.len()
    }
}

impl Table {
    /// The newest claim counts. A server issues a connection ID to another connection once the one that had it has retired it,
    /// so nothing needs the older route any more.
    fn add(&mut self, key: Key, owner: u64, path: PathId) {
        if self.routes.insert(key, (owner, path)).is_none() {
            *self.lengths.entry(key.1.len()).or_default() += 1;
        }
    }

    /// Another connection's route stays.
    fn remove(&mut self, key: &Key, owner: u64) {
        if self.routes.get(key).is_none_or(|(of, _)| *of != owner) {
            return;
        }
        self.routes.remove(key);
        if let Some(count) = self.lengths.get_mut(&key.1.len()) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.lengths.remove(&key.1.len());
            }
        }
    }
}

/// The paths and routes of one connection. They end with it.
#[derive(Debug)]
pub(crate) struct Routes {
    router: Arc<Router>,
    /// This connection's number at the router.
    owner: u64,
    own: Mutex<Own>,
}

#[derive(Debug, Default)]
struct Own {
    believed: Option<SocketAddr>,
    keys: VecDeque<(Key, PathId)>,
    paths: Vec<PathId>,
    /// Where datagrams are held back.
    held: Option<Key>,
    /// Paths whose packets the hook is told of.
    watched: Vec<PathId>,
}

impl Routes {
    /// Keeps what quinn sends with this connection ID back for so long.
    pub(crate) fn hold(&self, id: ConnectionId, time: Duration) {
        let mut own = self.own.lock();
        let Some(believed) = own.believed.filter(|_| !id.is_empty()) else {
            return;
        };
        let (key, until) = ((believed, id), Instant::now() + time);
        if *own.held.get_or_insert(key) != key {
            return;
        }
        let mut held = self.router.held.lock();
        held.entry(key).or_insert_with(|| Hold::until(until)).until = until;
        self.router.any_held.store(true, Ordering::Release);
    }

    /// Lets datagrams go whose time has come, or all of them. Answers when to come again.
    pub(crate) fn release(&self, now: Option<Instant>) -> Option<Instant> {
        let mut own = self.own.lock();
        let key = own.held?;
        let mut held = self.router.held.lock();
        let hold = held.get_mut(&key)?;
        if now.is_some_and(|now| now < hold.until) {
            return Some(hold.until);
        }
        if !hold.release(|transmit| self.router.send(transmit)) && now.is_some() {
            return now.map(|now| now + FULL_SOCKET);
        }
        held.remove(&key);
        own.held = None;
        self.router
            .any_held
            .store(!held.is_empty(), Ordering::Release);
        None
    }

    /// Opens a path to `server` for a connection that quinn believes to be with `believed`.
    pub(crate) fn open(&self, server: SocketAddr, believed: SocketAddr) -> io::Result<PathId> {
        let id = self.router.open(Endpoints { server, believed })?;
        let mut own = self.own.lock();
        own.believed = Some(believed);
        own.paths.push(id);
        Ok(id)
    }

    /// Sends datagrams with this connection ID along `path` from here on.
    pub(crate) fn set(&self, id: ConnectionId, path: PathId) {
        let mut own = self.own.lock();
        let Some(believed) = own.believed.filter(|_| !id.is_empty()) else {
            return;
        };
        let key = (believed, id);
        let mut table = self.router.table.write();
        table.add(key, self.owner, path);
        if let Some((_, old)) = own.keys.iter_mut().find(|(known, _)| *known == key) {
            *old = path;
        } else {
            own.keys.push_back((key, path));
        }
        while own.keys.len() > ROUTES_EACH {
            if let Some((oldest, _)) = own.keys.pop_front() {
                table.remove(&oldest, self.owner);
            }
        }
        self.router.any.store(true, Ordering::Release);
    }

    pub(crate) fn close(&self, path: PathId) {
        let mut own = self.own.lock();
        let mut table = self.router.table.write();
        own.keys.retain(|(key, on)| {
            if *on == path {
                table.remove(key, self.owner);
            }
            *on != path
        });
        own.paths.retain(|open| *open != path);
        table.paths.remove(&path);
        self.router
            .any
            .store(!table.routes.is_empty(), Ordering::Release);
        drop(table);
        self.router.close_former(Some(path), Instant::now());
        self.router.sockets.remove(path);
    }

    pub(crate) fn traffic(&self, path: PathId) -> Traffic {
        self.router.traffic(path)
    }

    /// Whether the path's socket has something that was not read, as far as its signals tell.
    pub(crate) fn has_unread(&self, path: PathId) -> bool {
        self.router.sockets.has_unread(path)
    }

    /// Packets on these paths are to be told from others, and on no more.
    pub(crate) fn watch(&self, paths: Vec<PathId>) {
        let mut own = self.own.lock();
        let before = std::mem::replace(&mut own.watched, paths);
        let came_by = &self.router.came_by;
        if before != own.watched {
            own.watched.iter().for_each(|path| came_by.watch(*path));
            before.iter().for_each(|path| came_by.unwatch(*path));
        }
    }

    /// The path that the packet with this AEAD tag came by, when it is watched.
    pub(crate) fn came_by(&self, tag: &Tag) -> Option<PathId> {
        self.router.came_by.path(tag)
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.release(None);
        self.watch(Vec::new());
        let paths = std::mem::take(&mut self.own.get_mut().paths);
        paths.into_iter().for_each(|path| self.close(path));
        // Those on the endpoint's own path.
        let keys = std::mem::take(&mut self.own.get_mut().keys);
        let mut table = self.router.table.write();
        keys.iter()
            .for_each(|(key, _)| table.remove(key, self.owner));
        self.router
            .any
            .store(!table.routes.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
