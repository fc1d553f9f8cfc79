//! A changing set of sockets behind one: receives from whichever has something, reports writability of those that
//! were not.
//!
//! Never spins. Sockets that have not signalled are asked only while a connection changes sockets and another one keeps the
//! endpoint busy, so idle sockets cost nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::opener::TokioSocket;
use super::{PathId, Traffic, batch, datagrams};
use crate::policy::canonical;

type Socket = Arc<dyn AsyncUdpSocket>;

#[derive(Debug, Default)]
pub(super) struct SocketSet {
    members: RwLock<BTreeMap<PathId, Arc<Member>>>,
    ready: Arc<Ready>,
    /// Sockets whose last send would have blocked.
    blocked: Mutex<BTreeSet<PathId>>,
    /// Packets received since all members were asked.
    run: AtomicU64,
    /// Where packets are expected that others must not overtake, and until when.
    expected: Mutex<BTreeMap<PathId, Instant>>,
    /// Saves a look at them.
    any_expected: AtomicBool,
    /// The member that was asked last without a signal.
    turn: Mutex<PathId>,
    #[cfg(test)]
    asked: AtomicU64,
    /// Segments that every member can send in one batch; 0 before there is one.
    segments: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct Member {
    socket: Socket,
    /// The same, when it can be read without a signal.
    direct: Option<Arc<TokioSocket>>,
    /// Queues the member and wakes the endpoint.
    waker: Waker,
    sent: AtomicU64,
    received: AtomicU64,
    /// Errors in a row at receiving.
    errors: AtomicU64,
}

/// A socket with so many errors in a row at receiving is broken; fewer pass.
const MOST_ERRORS: u64 = 16;
/// Buffers that one member may fill at once while a connection changes sockets. A packet that 128 later ones overtake is lost:
/// quinn takes it for a duplicate. So a busy socket must not run ahead of the others then.
const FAIR_SHARE: usize = 4;
/// After this many packets in a row the sockets that the connection comes from and goes to are asked without a signal: on a
/// busy host the signal itself may be late.
const RUN: u64 = 32;
/// So many of them.
const ASKED: usize = 2;
/// How long a change of sockets may take.
const CHANGE: Duration = Duration::from_secs(30);

/// The members that may have something to receive, in order: those that have just signalled before those that were
/// read already.
#[derive(Debug, Default)]
struct Ready {
    queue: Mutex<ReadyQueue>,
}

#[derive(Debug, Default)]
struct ReadyQueue {
    order: VecDeque<PathId>,
    endpoint: Option<Waker>,
}

#[derive(Debug)]
struct MemberWaker {
    id: PathId,
    ready: Arc<Ready>,
}

impl Wake for MemberWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(endpoint) = self.ready.signal(self.id) {
            endpoint.wake();
        }
    }
}

impl Ready {
    /// Answers with the endpoint's waker when the member was not queued yet.
    fn signal(&self, id: PathId) -> Option<Waker> {
        let mut queue = self.queue.lock();
        if queue.order.contains(&id) {
            return None;
        }
        queue.order.push_front(id);
        queue.endpoint.clone()
    }

    /// The member may have more.
    fn requeue(&self, id: PathId) {
        let mut queue = self.queue.lock();
        if !queue.order.contains(&id) {
            queue.order.push_back(id);
        }
    }

    fn is_queued(&self, id: PathId) -> bool {
        self.queue.lock().order.contains(&id)
    }

    fn pop(&self) -> Option<PathId> {
        self.queue.lock().order.pop_front()
    }

    fn register(&self, endpoint: &Waker) {
        let mut queue = self.queue.lock();
        if !queue
            .endpoint
            .as_ref()
            .is_some_and(|known| known.will_wake(endpoint))
        {
            queue.endpoint = Some(endpoint.clone());
        }
    }
}

impl SocketSet {
    /// Adds a socket.
    pub(super) fn insert(&self, id: PathId, socket: Socket, direct: Option<Arc<TokioSocket>>) {
        self.put(id, socket, direct, Traffic::default());
    }

    /// Puts another socket in the place of member `id`, which goes on receiving as member `former`.
    pub(super) fn replace(&self, id: PathId, socket: Socket, former: PathId) {
        let traffic = self.traffic(id).unwrap_or_default();
        let old = self.member(id).map(|member| Arc::clone(&member.socket));
        self.blocked.lock().remove(&id);
        self.put(id, socket, None, traffic);
        if let Some(old) = old {
            self.put(former, old, None, Traffic::default());
        }
    }

    fn put(&self, id: PathId, socket: Socket, direct: Option<Arc<TokioSocket>>, before: Traffic) {
        let waker = Waker::from(Arc::new(MemberWaker {
            id,
            ready: Arc::clone(&self.ready),
        }));
        let member = Member {
            socket,
            direct,
            waker: waker.clone(),
            sent: AtomicU64::new(before.sent),
            received: AtomicU64::new(before.received),
            errors: AtomicU64::new(0),
        };
        self.members.write().insert(id, Arc::new(member));
        self.refresh_segments();
        waker.wake();
    }

    pub(super) fn remove(&self, id: PathId) -> bool {
        self.blocked.lock().remove(&id);
        let removed = self.members.write().remove(&id).is_some();
        self.refresh_segments();
        removed
    }

    /// Segments that a batch may have now. A member lowers its own limit when its device does not segment.
    pub(super) fn max_transmit_segments(&self) -> usize {
        self.segments.load(Ordering::Relaxed).max(1)
    }

    fn refresh_segments(&self) {
        let members = self.members.read();
        let limits = members
            .values()
            .map(|member| member.socket.max_transmit_segments());
        self.segments
            .store(limits.min().unwrap_or_default(), Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.members.read().len()
    }

    pub(super) fn has(&self, id: PathId) -> bool {
        self.members.read().contains_key(&id)
    }

    /// A connection may change to this socket, or from it: for a while no other one runs ahead of it.
    pub(super) fn expect(&self, id: PathId) {
        self.expected.lock().insert(id, Instant::now() + CHANGE);
        self.any_expected.store(true, Ordering::Release);
    }

    /// The same for all sockets: where the connection comes from or goes to is not known.
    pub(super) fn expect_all(&self) {
        let all: Vec<PathId> = self.members.read().keys().copied().collect();
        all.into_iter().for_each(|id| self.expect(id));
    }

    fn is_expecting(&self) -> bool {
        if !self.any_expected.load(Ordering::Acquire) {
            return false;
        }
        let now = Instant::now();
        let mut expected = self.expected.lock();
        expected.retain(|_, until| now < *until);
        self.any_expected
            .store(!expected.is_empty(), Ordering::Release);
        !expected.is_empty()
    }

    /// The member that is bound to this address and port.
    pub(super) fn bound_to(&self, address: SocketAddr) -> Option<PathId> {
        let members = self.members.read();
        let bound = |member: &Member| member.socket.local_addr().map(canonical).ok();
        let mut found = members.iter();
        let found = found.find(|(_, member)| bound(member) == Some(address));
        found.map(|(id, _)| *id)
    }

    /// Whether a member is bound to this address, on any port.
    pub(super) fn has_ip(&self, ip: IpAddr) -> bool {
        let members = self.members.read();
        let mut bound = members.values().map(|member| member.socket.local_addr());
        bound.any(|address| address.is_ok_and(|address| address.ip().to_canonical() == ip))
    }

    pub(super) fn socket(&self, id: PathId) -> Option<Socket> {
        self.member(id).map(|member| Arc::clone(&member.socket))
    }

    pub(super) fn traffic(&self, id: PathId) -> Option<Traffic> {
        let member = self.member(id)?;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Some(Traffic {
            sent: count(&member.sent),
            received: count(&member.received),
        })
    }

    /// Whether the socket has signalled something that was not read, or may have more of what was.
    pub(super) fn has_unread(&self, id: PathId) -> bool {
        self.ready.is_queued(id)
    }

    fn member(&self, id: PathId) -> Option<Arc<Member>> {
        self.members.read().get(&id).map(Arc::clone)
    }

    /// Sends through one member. Nothing but a full buffer is an error here: a datagram that a socket cannot send is
    /// lost, as on any network, and must not end the connection.
    pub(super) fn try_send(&self, id: PathId, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(member) = self.member(id) else {
            return Ok(());
        };
        let limit = member.socket.max_transmit_segments();
        let sent = batch::send(&*member.socket, transmit);
        if member.socket.max_transmit_segments() != limit {
            self.refresh_segments();
        }
        match sent {
            Ok(()) => {
                let length = transmit.contents.len();
                let count = datagrams(length, transmit.segment_size.unwrap_or(length));
                member.sent.fetch_add(count, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked.lock().insert(id);
                Err(error)
            }
            Err(error) => {
                tracing::debug!(%error, to = %transmit.destination, "datagram not sent");
                Ok(())
            }
        }
    }

    /// Receives from the next member that has something.
    pub(super) fn poll_recv(
        &self,
        cx: &Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<(PathId, usize)>> {
        self.ready.register(cx.waker());
        let expecting = self.is_expecting();
        let share = if expecting {
            buffers.len().min(meta.len()).min(FAIR_SHARE)
        } else {
            buffers.len().min(meta.len())
        };
        let (buffers, meta) = match (buffers.get_mut(..share), meta.get_mut(..share)) {
            (Some(buffers), Some(meta)) => (buffers, meta),
            _ => return Poll::Pending,
        };
        if expecting && let Some(received) = self.receive_unsignalled(buffers, meta) {
            return Poll::Ready(Ok(received));
        }
        while let Some(id) = self.ready.pop() {
            let Some(member) = self.member(id) else {
                continue;
            };
            match member
                .socket
                .poll_recv(&mut Context::from_waker(&member.waker), buffers, meta)
            {
                Poll::Pending => {}
                Poll::Ready(Ok(count)) => {
                    // There may be more; the caller comes back until everything is pending.
                    self.ready.requeue(id);
                    self.count(&member, meta, count);
                    return Poll::Ready(Ok((id, count)));
                }
                Poll::Ready(Err(error))
                    if id == PathId::FIRST || error.kind() == io::ErrorKind::ConnectionReset =>
                {
                    self.ready.requeue(id);
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Err(error)) => {
                    if member.errors.fetch_add(1, Ordering::Relaxed) < MOST_ERRORS {
                        tracing::debug!(%error, "receiving failed; again");
                        self.ready.requeue(id);
                    } else {
                        tracing::warn!(%error, "socket dropped");
                        self.remove(id);
                    }
                }
            }
        }
        self.run.store(0, Ordering::Relaxed);
        Poll::Pending
    }

    fn count(&self, member: &Member, meta: &[RecvMeta], count: usize) {
        member.errors.store(0, Ordering::Relaxed);
        let packets = meta.iter().take(count);
        let packets = packets.map(|one| datagrams(one.len, one.stride)).sum();
        member.received.fetch_add(packets, Ordering::Relaxed);
        self.run.fetch_add(packets, Ordering::Relaxed);
    }

    /// After a long run on some sockets, receives from one where packets are expected. Asks a few of them, in turns, however
    /// many there are: their signal comes too, only later.
    fn receive_unsignalled(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Option<(PathId, usize)> {
        if self.run.load(Ordering::Relaxed) < RUN {
            return None;
        }
        self.run.store(0, Ordering::Relaxed);
        let (members, expected) = (self.members.read(), self.expected.lock());
        let mut turn = self.turn.lock();
        for _ in 0..ASKED.min(expected.len()) {
            let next = expected.range((Bound::Excluded(*turn), Bound::Unbounded));
            let (id, _) = next.chain(expected.iter()).next()?;
            *turn = *id;
            let Some(member) = members.get(id).filter(|_| !self.ready.is_queued(*id)) else {
                continue;
            };
            let Some(direct) = member.direct.as_ref() else {
                continue;
            };
            #[cfg(test)]
            self.asked.fetch_add(1, Ordering::Relaxed);
            // An error shows when the socket signals.
            if let Ok(count) = direct.receive_now(buffers, meta) {
                self.count(member, meta, count);
                self.ready.requeue(*id);
                return Some((*id, count));
            }
        }
        None
    }

    pub(super) fn poller(self: &Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(SetPoller {
            set: Arc::clone(self),
            pollers: BTreeMap::new(),
        })
    }
}

/// Ready when no member is blocked.
struct SetPoller {
    set: Arc<SocketSet>,
    pollers: BTreeMap<PathId, Pin<Box<dyn UdpPoller>>>,
}

impl fmt::Debug for SetPoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetPoller").finish_non_exhaustive()
    }
}

impl UdpPoller for SetPoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let blocked: Vec<PathId> = this.set.blocked.lock().iter().copied().collect();
        this.pollers.retain(|id, _| blocked.contains(id));
        let mut pending = false;
        for id in blocked {
            let Some(socket) = this.set.socket(id) else {
                continue;
            };
            let poller = this
                .pollers
                .entry(id)
                .or_insert_with(|| socket.create_io_poller());
            match poller.as_mut().poll_writable(cx) {
                Poll::Pending => pending = true,
                // An error shows on the next send.
                Poll::Ready(_) => drop(this.set.blocked.lock().remove(&id)),
            }
        }
        if pending {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

#[cfg(test)]
mod tests;
