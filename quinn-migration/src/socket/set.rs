//! A changing set of sockets behind one: receives from whichever has something, reports writability of those that
//! were not.
//!
//! Never spins and never polls a socket that has not signalled, so idle sockets cost nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::{Mutex, RwLock};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::{PathId, Traffic, datagrams};

type Socket = Arc<dyn AsyncUdpSocket>;

#[derive(Debug, Default)]
pub(super) struct SocketSet {
    members: RwLock<BTreeMap<PathId, Arc<Member>>>,
    ready: Arc<Ready>,
    /// Sockets whose last send would have blocked.
    blocked: Mutex<BTreeSet<PathId>>,
}

#[derive(Debug)]
pub(super) struct Member {
    socket: Socket,
    waker: Arc<MemberWaker>,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Buffers that one member may fill at once while there are others. A packet that 128 later ones overtake is lost:
/// quinn takes it for a duplicate. So a busy socket must not run ahead of the others.
const FAIR_SHARE: usize = 4;

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
    /// Adds a socket, or replaces the one with this number.
    pub(super) fn insert(&self, id: PathId, socket: Socket) {
        let waker = Arc::new(MemberWaker {
            id,
            ready: Arc::clone(&self.ready),
        });
        let member = Member {
            socket,
            waker: Arc::clone(&waker),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        };
        self.members.write().insert(id, Arc::new(member));
        waker.wake();
    }

    pub(super) fn remove(&self, id: PathId) -> bool {
        self.blocked.lock().remove(&id);
        self.members.write().remove(&id).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.members.read().len()
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

    fn member(&self, id: PathId) -> Option<Arc<Member>> {
        self.members.read().get(&id).map(Arc::clone)
    }

    /// Sends through one member. Nothing but a full buffer is an error here: a datagram that a socket cannot send is
    /// lost, as on any network, and must not end the connection.
    pub(super) fn try_send(&self, id: PathId, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(member) = self.member(id) else {
            return Ok(());
        };
        match member.socket.try_send(transmit) {
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
        let share = if self.len() > 1 {
            buffers.len().min(meta.len()).min(FAIR_SHARE)
        } else {
            buffers.len().min(meta.len())
        };
        let (buffers, meta) = match (buffers.get_mut(..share), meta.get_mut(..share)) {
            (Some(buffers), Some(meta)) => (buffers, meta),
            _ => return Poll::Pending,
        };
        while let Some(id) = self.ready.pop() {
            let Some(member) = self.member(id) else {
                continue;
            };
            let waker = Waker::from(Arc::clone(&member.waker));
            match member
                .socket
                .poll_recv(&mut Context::from_waker(&waker), buffers, meta)
            {
                Poll::Pending => {}
                Poll::Ready(Ok(count)) => {
                    // There may be more; the caller comes back until everything is pending.
                    self.ready.requeue(id);
                    let received = meta
                        .iter()
                        .take(count)
                        .map(|one| datagrams(one.len, one.stride))
                        .sum();
                    member.received.fetch_add(received, Ordering::Relaxed);
                    return Poll::Ready(Ok((id, count)));
                }
                Poll::Ready(Err(error))
                    if id == PathId::FIRST || error.kind() == io::ErrorKind::ConnectionReset =>
                {
                    self.ready.requeue(id);
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "socket dropped");
                    self.remove(id);
                }
            }
        }
        Poll::Pending
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
