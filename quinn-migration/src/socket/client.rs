//! The client's socket: quinn sees one, datagrams leave through the path of their connection ID.
//!
//! Never shows quinn a server address other than the one that it connected to.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::router::Router;
use super::{PathId, datagrams};

#[derive(Debug)]
pub(crate) struct ClientSocket {
    router: Arc<Router>,
    /// The endpoint's own socket, which quinn asks for once.
    first: Arc<dyn AsyncUdpSocket>,
}

impl ClientSocket {
    pub(crate) fn new(router: Arc<Router>) -> io::Result<Self> {
        let first = router.sockets.socket(PathId::FIRST);
        let first = first.ok_or(io::ErrorKind::NotConnected)?;
        Ok(Self { router, first })
    }

    /// Sends the run of segments from `start` on that go the same way; answers with its end.
    fn send_run(&self, transmit: &Transmit<'_>, start: usize, segment: usize) -> io::Result<usize> {
        let contents = transmit.contents;
        let path_at = |at: usize| {
            self.router
                .lookup(transmit.destination, contents.get(at..).unwrap_or_default())
        };
        let path = path_at(start);
        let mut end = start.saturating_add(segment).min(contents.len());
        while end < contents.len() && path_at(end) == path {
            end = end.saturating_add(segment).min(contents.len());
        }
        let run = contents.get(start..end).unwrap_or_default();
        let part = Transmit {
            contents: run,
            segment_size: (datagrams(run.len(), segment) > 1).then_some(segment),
            ..transmit.clone()
        };
        if !self.router.keeps(&part) {
            self.router.send_on(path, &part)?;
        }
        Ok(end)
    }
}

impl AsyncUdpSocket for ClientSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.router.sockets.poller()
    }

    /// A batch whose connection IDs differ is split. When the second part would block, quinn sends the whole batch
    /// again: the first part arrives twice, which QUIC takes care of, and nothing is lost.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.router.is_empty() {
            return self.router.sockets.try_send(PathId::FIRST, transmit);
        }
        let segment = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        let mut at = 0;
        while at < transmit.contents.len() {
            at = self.send_run(transmit, at, segment)?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (path, count) = match self.router.sockets.poll_recv(cx, buffers, meta) {
            Poll::Ready(Ok(received)) => received,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        self.router.on_received();
        for (one, buffer) in meta.iter().zip(buffers.iter()).take(count) {
            self.router.came_by.note(path, buffer, one);
        }
        if let Some(endpoints) = self.router.endpoints(path) {
            for one in meta
                .iter_mut()
                .take(count)
                .filter(|one| one.addr == endpoints.server)
            {
                one.addr = endpoints.believed;
                one.dst_ip = None;
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.first.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.router.sockets.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.first.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.first.may_fragment()
    }
}
