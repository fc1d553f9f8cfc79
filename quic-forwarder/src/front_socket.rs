//! A node's end of the tunnel to a front: to quinn, a socket that is bound to the front's address.
//!
//! quinn sees and gives the clients' own addresses. Never shows quinn a datagram that the front has not sealed.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};

use crate::address::{canonical, for_family};
use crate::batch::Arrivals;
use crate::envelope::{Carried, ENVELOPE_OVERHEAD, Tunnel};
use crate::keys::Direction;
use crate::{FrontError, ServerId, SharedKeys, now};

/// Reads in a row of which everything was refused, before other tasks have their turn.
const REFUSED_READS: usize = 8;

/// Where a front is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrontAddress {
    /// What clients know it by.
    pub public: SocketAddr,
    /// Where its inside socket is bound.
    pub inside: SocketAddr,
}

/// A socket for one front, at a node: for `quinn::Endpoint::new_with_abstract_socket`, or for `add_socket` of
/// quinn-migration's `MigrationServer`, which takes one for each front.
pub struct FrontSocket {
    front: FrontAddress,
    inside: Arc<dyn AsyncUdpSocket>,
    tunnel: Tunnel,
    arrivals: Mutex<Arrivals>,
    taken: AtomicU64,
    refused: AtomicU64,
}

/// What has become of datagrams from a front so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrontSocketStats {
    /// Given to quinn.
    pub taken: u64,
    /// Not from this front, or old, or come before: dropped.
    pub refused: u64,
}

impl FrontSocket {
    /// The end of the tunnel at node `node`. `inside` is for this front alone; only fronts should reach it, but envelopes are
    /// authenticated all the same. Must be used inside of a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn new(
        keys: &SharedKeys,
        node: ServerId,
        front: FrontAddress,
        inside: UdpSocket,
    ) -> Result<Self, FrontError> {
        let public = canonical(front.public);
        if public.ip().is_unspecified() {
            return Err(FrontError::Unspecified);
        }
        let v6 = inside.local_addr()?.is_ipv6();
        Ok(Self {
            front: FrontAddress {
                public,
                inside: for_family(front.inside, v6),
            },
            inside: TokioRuntime.wrap_udp_socket(inside)?,
            tunnel: Tunnel::new(keys, Direction::ToFront, public, node, now())?,
            arrivals: Mutex::new(Arrivals::new()),
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// What has become of datagrams from the front so far.
    pub fn stats(&self) -> FrontSocketStats {
        FrontSocketStats {
            taken: self.taken.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Moves datagrams from what has arrived to quinn's buffers; answers with the number of buffers in use.
    fn unpack(
        &self,
        arrivals: &mut Arrivals,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> usize {
        let (mut used, now) = (0, now());
        while used < buffers.len().min(meta.len()) {
            let Some(arrival) = arrivals.next() else {
                break;
            };
            match self.tunnel.open(now, arrival.ecn, arrival.datagram) {
                Ok(carried) => {
                    self.taken.fetch_add(1, Ordering::Relaxed);
                    let last = used.checked_sub(1);
                    let joined = last.is_some_and(|last| put(&carried, last, buffers, meta, true));
                    if !joined && put(&carried, used, buffers, meta, false) {
                        used = used.saturating_add(1);
                    }
                }
                Err(why) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(from = %arrival.from, %why, "envelope refused");
                }
            }
        }
        used
    }
}

/// Puts a datagram into a buffer, or behind those of the same kind that are in it. `false` when it does not fit there.
fn put(
    carried: &Carried<'_>,
    index: usize,
    buffers: &mut [IoSliceMut<'_>],
    meta: &mut [RecvMeta],
    behind: bool,
) -> bool {
    let (Some(buffer), Some(meta)) = (buffers.get_mut(index), meta.get_mut(index)) else {
        return false;
    };
    let length = carried.datagram.len();
    if behind {
        let like_it = meta.addr == carried.client && meta.ecn == carried.ecn;
        if !like_it || length > meta.stride || !meta.len.is_multiple_of(meta.stride) {
            return false;
        }
    } else {
        *meta = RecvMeta::default();
        (meta.addr, meta.ecn, meta.len, meta.stride) = (carried.client, carried.ecn, 0, length);
    }
    let end = meta.len.saturating_add(length);
    let Some(room) = buffer.get_mut(meta.len..end) else {
        return false;
    };
    room.copy_from_slice(carried.datagram);
    meta.len = end;
    true
}

impl AsyncUdpSocket for FrontSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inside).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let length = transmit.contents.len();
        let segment = transmit.segment_size.unwrap_or(length).max(1);
        let now = now();
        let mut contents = Vec::new();
        for datagram in transmit.contents.chunks(segment) {
            let carried = Carried {
                client: transmit.destination,
                ecn: transmit.ecn,
                datagram,
            };
            self.tunnel.seal(now, &carried, &mut contents);
        }
        self.inside.try_send(&Transmit {
            destination: self.front.inside,
            ecn: transmit.ecn,
            contents: &contents,
            segment_size: (segment < length).then_some(segment.saturating_add(ENVELOPE_OVERHEAD)),
            src_ip: None,
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut arrivals = self.arrivals.lock();
        for _ in 0..REFUSED_READS {
            let used = self.unpack(&mut arrivals, buffers, meta);
            if used > 0 {
                return Poll::Ready(Ok(used));
            }
            match arrivals.poll_fill(cx, &*self.inside) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The front's address: to clients, packets come from there.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.front.public)
    }

    fn max_transmit_segments(&self) -> usize {
        self.inside.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inside.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inside.may_fragment()
    }
}

impl fmt::Debug for FrontSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontSocket")
            .field("front", &self.front)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::tests::keys;
    use std::net::Ipv4Addr;

    fn bind() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    /// quinn's side: datagrams with their clients, as they come out of the buffers.
    async fn received(socket: &FrontSocket, expected: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut all = Vec::new();
        let (mut one, mut other) = (vec![0; 4000], vec![0; 4000]);
        while all.len() < expected {
            let mut meta = [RecvMeta::default(); 2];
            let count = std::future::poll_fn(|cx| {
                let mut buffers = [&mut one, &mut other].map(|b| IoSliceMut::new(b));
                socket.poll_recv(cx, &mut buffers, &mut meta)
            });
            let count = count.await.unwrap();
            for (meta, buffer) in meta.iter().zip([&one, &other]).take(count) {
                let chunks = buffer[..meta.len].chunks(meta.stride);
                all.extend(chunks.map(|datagram| (meta.addr, datagram.to_vec())));
            }
        }
        all
    }

    #[tokio::test]
    async fn quinn_receives_each_sealed_datagram_once_with_its_client_and_nothing_else() {
        let public = "192.0.2.1:443".parse().unwrap();
        let (front, at_front) = bind();
        let (inside, at_node) = bind();
        let address = FrontAddress {
            public,
            inside: at_front,
        };
        let socket = FrontSocket::new(&keys(1, 9), 4.into(), address, inside).unwrap();
        assert_eq!(socket.local_addr().unwrap(), public);
        let tunnel = Tunnel::new(&keys(1, 9), Direction::ToNode, public, 4.into(), now()).unwrap();
        let mut sent = Vec::new();
        for number in 0..50u16 {
            // Runs of one client with one length, so that some are put together.
            let client = SocketAddr::from(([198, 51, 100, 7], 1000 + number / 7));
            let datagram = vec![number.to_be_bytes()[1]; 300 - usize::from(number / 5)];
            let carried = Carried {
                client,
                ecn: None,
                datagram: &datagram,
            };
            let mut envelope = Vec::new();
            tunnel.seal(now(), &carried, &mut envelope);
            let mut forged = envelope.clone();
            forged[60] ^= 1;
            for bytes in [&forged, &envelope, &envelope] {
                front.send_to(bytes, at_node).unwrap();
            }
            sent.push((client, datagram));
        }
        assert_eq!(received(&socket, sent.len()).await, sent);
        let empty = received(&socket, 1);
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(50), empty).await;
        assert!(nothing.is_err(), "{nothing:?}");
        let stats = socket.stats();
        assert_eq!((stats.taken, stats.refused), (50, 100));
    }

    #[tokio::test]
    async fn a_batch_leaves_in_envelopes_for_its_client() {
        let public = "192.0.2.1:443".parse().unwrap();
        let (front, at_front) = bind();
        let address = FrontAddress {
            public,
            inside: at_front,
        };
        let socket = FrontSocket::new(&keys(1, 9), 4.into(), address, bind().0).unwrap();
        let socket = Arc::new(socket);
        let mut poller = Arc::clone(&socket).create_io_poller();
        std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx))
            .await
            .unwrap();
        let tunnel = Tunnel::new(&keys(1, 9), Direction::ToNode, public, 4.into(), now()).unwrap();
        let client = "198.51.100.7:1000".parse().unwrap();
        let transmit = Transmit {
            destination: client,
            ecn: None,
            contents: b"one,two,3",
            segment_size: Some(4),
            src_ip: None,
        };
        socket.try_send(&transmit).unwrap();
        for expected in [&b"one,"[..], b"two,", b"3"] {
            let mut buffer = [0; 200];
            let (length, _) = front.recv_from(&mut buffer).unwrap();
            let carried = tunnel.open(now(), None, &buffer[..length]).unwrap();
            assert_eq!((carried.client, carried.datagram), (client, expected));
        }
    }
}
