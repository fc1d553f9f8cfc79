//! Turning the application's sockets into asynchronous ones; tokio's can also be read without a signal, by the same
//! descriptor.
//!
//! Never opens a second descriptor for a socket.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::io::Interest;

/// What wraps sockets.
#[derive(Debug, Clone, Default)]
pub(crate) enum Opener {
    #[default]
    Tokio,
    /// One of the application's. Its sockets are read when they signal, and not before.
    Runtime(Arc<dyn Runtime>),
}

/// A socket, and the way to read it without a signal.
pub(super) type Opened = (Arc<dyn AsyncUdpSocket>, Option<Arc<TokioSocket>>);

impl Opener {
    pub(super) fn open(&self, socket: UdpSocket) -> io::Result<Opened> {
        match self {
            Self::Tokio => {
                let direct = Arc::new(TokioSocket::new(socket)?);
                let socket: Arc<dyn AsyncUdpSocket> = direct.clone();
                Ok((socket, Some(direct)))
            }
            Self::Runtime(runtime) => Ok((runtime.wrap_udp_socket(socket)?, None)),
        }
    }

    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        match self {
            Self::Tokio => Arc::new(TokioRuntime),
            Self::Runtime(runtime) => Arc::clone(runtime),
        }
    }
}

/// quinn has one like it, which cannot be read without a signal.
#[derive(Debug)]
pub(super) struct TokioSocket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
}

impl TokioSocket {
    fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(Self {
            state: UdpSocketState::new((&socket).into())?,
            io: tokio::net::UdpSocket::from_std(socket)?,
        })
    }

    /// What is there now, whether or not it was signalled.
    pub(super) fn receive_now(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> io::Result<usize> {
        self.state.recv((&self.io).into(), buffers, meta)
    }
}

impl AsyncUdpSocket for TokioSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable {
            socket: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let send = || self.state.send((&self.io).into(), transmit);
        self.io.try_io(Interest::WRITABLE, send)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let receive = || self.receive_now(buffers, meta);
            if let Ok(count) = self.io.try_io(Interest::READABLE, receive) {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits until the socket takes datagrams. Each connection has its own, so that none takes another's place.
struct Writable {
    socket: Arc<TokioSocket>,
    waiting: Option<Waiting>,
}

impl std::fmt::Debug for Writable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = Arc::clone(&this.socket);
            Box::pin(async move { socket.io.writable().await })
        });
        let result = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(result)
    }
}
