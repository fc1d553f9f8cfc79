//! What is known of one connection of a server: how its client came, whether it is to move, and what it does.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls_migration::server::Arrival;
use rustls_migration::tokio::{ConnectionHandle, DepartureStatus, TlsStream, Transport};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::io::linger;

/// What a connection's requests have come to.
#[derive(Clone, Copy, Debug, Default)]
struct Requests {
    /// Whether one of them came by HTTP/2.
    h2: bool,
    /// How many are not answered to the end.
    under_way: usize,
}

/// One connection of a server. Each request has it among its extensions.
///
/// A handler can await [`told`](Self::told), and end what it does at a boundary of its own.
#[derive(Clone)]
pub struct ConnectionInfo(Arc<Info>);

struct Info {
    handle: ConnectionHandle,
    local: Option<SocketAddr>,
    requests: watch::Sender<Requests>,
    /// Who wants the stream when its framework has let it go.
    heir: Mutex<Option<oneshot::Sender<Box<dyn Transport>>>>,
}

impl ConnectionInfo {
    pub(super) fn of(stream: &TlsStream<TcpStream>) -> Self {
        Self(Arc::new(Info {
            handle: stream.handle(),
            local: stream.get_ref().io().local_addr().ok(),
            requests: watch::Sender::default(),
            heir: Mutex::default(),
        }))
    }

    /// How the client came here.
    pub fn arrival(&self) -> &Arrival {
        self.0.handle.arrival()
    }

    /// The state from which the client goes on here in the middle of a stream ([`Serve::resumed`](super::Serve::resumed)).
    pub fn state(&self) -> Option<&[u8]> {
        self.arrival().state()
    }

    /// The client's address.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.0.handle.peer()
    }

    /// The address that the client connected to.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.0.local
    }

    /// Speaks to the stream beneath.
    pub fn handle(&self) -> &ConnectionHandle {
        &self.0.handle
    }

    /// Resolves when the client has been asked to move, or should move and cannot be asked: end what does not end by itself.
    /// It resolves too when the connection is gone. Safe to cancel.
    pub async fn told(&self) -> DepartureStatus {
        self.0.handle.told().await
    }

    /// Whether the client has been asked to move, or should move and cannot be asked.
    pub fn is_told(&self) -> bool {
        self.0.handle.status() != DepartureStatus::Staying
    }

    /// Ends a stream that is no HTTP any more. When its client has ended its side, after it was asked to move with the stream, this hands
    /// it over to the server that the client goes to, from the state that was said last ([`ConnectionHandle::set_state`]).
    /// Otherwise it is a clean end.
    ///
    /// `user` is what uses the stream: a WebSocket, an [`Upgraded`](hyper::upgrade::Upgraded), a [`ServerIo`](super::ServerIo). It
    /// is dropped, and must have flushed what it wrote.
    ///
    /// # Errors
    ///
    /// `NotConnected` when `user` does not have the stream; otherwise those of the stream's end, such as a hand-over that could
    /// not be made.
    pub async fn hand_over<T>(&self, user: T) -> io::Result<()> {
        let (heir, stream) = oneshot::channel();
        *self.0.heir.lock().unwrap_or_else(PoisonError::into_inner) = Some(heir);
        drop(user);
        // Nobody else is to get it when it was dropped before.
        self.take_heir();
        let mut stream = stream.await.map_err(|_| io::ErrorKind::NotConnected)?;
        stream.shutdown().await?;
        linger(stream);
        Ok(())
    }

    /// Takes the one who waits for the stream.
    pub(super) fn take_heir(&self) -> Option<oneshot::Sender<Box<dyn Transport>>> {
        let mut heir = self.0.heir.lock().unwrap_or_else(PoisonError::into_inner);
        heir.take()
    }

    /// A request has come. It is under way while what is returned lives.
    pub(super) fn begin_request(&self, h2: bool) -> UnderWay {
        self.0.requests.send_modify(|requests| {
            requests.h2 = h2;
            requests.under_way += 1;
        });
        UnderWay(self.clone())
    }

    /// Resolves when the connection is to take no more requests: the client has been asked to move, and has had the time of `grace` to
    /// take note. Neither protocol says so without the risk that a request which is just being sent fails.
    ///
    /// - HTTP/2 goes on for the grace, in which a client that moves sends its requests elsewhere already. Then GOAWAY finds none on its
    ///   way. A client that cannot be asked gets it at once.
    /// - HTTP/1 goes on until nothing has been under way for the grace. Answers that begin meanwhile say `Connection: close`.
    pub(super) async fn may_end(&self, grace: Duration) {
        let movable = self.told().await != DepartureStatus::NotMovable;
        let told = Instant::now();
        let mut requests = self.0.requests.subscribe();
        loop {
            let seen = *requests.borrow_and_update();
            if seen.h2 {
                if movable {
                    sleep_until(told + grace).await;
                }
                return;
            }
            // The sender is in this very information, so this fails by time alone.
            let time = match seen.under_way {
                0 => grace,
                _ => Duration::MAX,
            };
            if timeout(time, requests.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionInfo")
            .field("handle", &self.0.handle)
            .field("requests", &*self.0.requests.borrow())
            .finish_non_exhaustive()
    }
}

/// A request that is not answered to the end.
#[derive(Debug)]
pub(super) struct UnderWay(ConnectionInfo);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0
            .0
            .requests
            .send_modify(|requests| requests.under_way -= 1);
    }
}
