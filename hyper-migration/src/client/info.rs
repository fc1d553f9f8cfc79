//! What is known of one connection of a client, and that it is left when its server asks.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper_util::client::legacy::connect::CaptureConnection;
use rustls::HandshakeKind;
use rustls_migration::tokio::{MigrationStream, StreamHandle};

/// One connection of a client. Each response has it among its extensions, with
/// [`HttpInfo`](hyper_util::client::legacy::connect::HttpInfo) if the inner connector was asked.
#[derive(Clone)]
pub struct ConnectionInfo(Arc<Info>);

struct Info {
    handle: StreamHandle,
    successor: bool,
    handshake: Option<HandshakeKind>,
    use_: Mutex<Use>,
}

/// Whether the connection takes requests.
enum Use {
    /// It does. What was captured of it can change that.
    Open(Option<CaptureConnection>),
    /// Its server has asked the client to move.
    Leaving,
}

impl ConnectionInfo {
    pub(super) fn of(stream: &MigrationStream, successor: bool) -> Self {
        Self(Arc::new(Info {
            handle: stream.handle(),
            successor,
            handshake: stream.get_ref().and_then(|tls| tls.handshake_kind()),
            use_: Mutex::new(Use::Open(None)),
        }))
    }

    /// The address at which the connection is.
    pub fn peer_addr(&self) -> SocketAddr {
        self.0.handle.peer_addr()
    }

    /// Whether the connection began where the server of an earlier one had asked the client to go.
    pub fn is_successor(&self) -> bool {
        self.0.successor
    }

    /// What kind of handshake the connection began with: [`HandshakeKind::Resumed`] where its server resumed the session of an
    /// earlier one. `None` when it was already over.
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.0.handshake
    }

    /// Speaks to the stream beneath.
    pub fn handle(&self) -> &StreamHandle {
        &self.0.handle
    }

    fn use_(&self) -> MutexGuard<'_, Use> {
        self.0.use_.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is being sent on this connection, as `captured` shows.
    pub(super) fn watch(&self, captured: &CaptureConnection) {
        match &mut *self.use_() {
            Use::Open(Some(_)) => {}
            Use::Open(none) => *none = Some(captured.clone()),
            Use::Leaving => poison(captured),
        }
    }

    /// The connection takes no more requests.
    pub(super) fn leave(&self) {
        let former = std::mem::replace(&mut *self.use_(), Use::Leaving);
        if let Use::Open(Some(captured)) = former {
            poison(&captured);
        }
    }
}

/// The pool gives the connection to nobody any more.
fn poison(captured: &CaptureConnection) {
    if let Some(connected) = &*captured.connection_metadata() {
        connected.poison();
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionInfo")
            .field("handle", &self.0.handle)
            .field("successor", &self.0.successor)
            .finish_non_exhaustive()
    }
}
