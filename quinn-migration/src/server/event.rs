//! What a server hears of its attached connections.
//!
//! Never carries a secret: no connection ID, no reset token.

use std::net::SocketAddr;

use quinn::ConnectionError;
use tokio::sync::broadcast::{self, error::RecvError};

use super::{AddressId, AttachmentId, MigrationServer};

/// Something that happened to an attached connection.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// The client has followed an advertisement.
    Moved {
        /// The connection.
        connection: AttachmentId,
        /// The client's address.
        client: SocketAddr,
        /// The server address that it left.
        from: AddressId,
        /// The one that it is on now. The same as `from` when the advertised address is one that something else forwards.
        to: AddressId,
    },
    /// The client has gone to another address by itself: the one that it was on has stopped answering it.
    FellBack {
        /// The connection.
        connection: AttachmentId,
        /// The client's address.
        client: SocketAddr,
        /// The server address that it left.
        from: AddressId,
        /// The one that it is on now.
        to: AddressId,
    },
    /// The connection has ended.
    Gone {
        /// The connection.
        connection: AttachmentId,
        /// The server address that the client was on.
        on: AddressId,
        /// Why.
        reason: ConnectionError,
    },
    /// The application did not read events fast enough; this many were dropped.
    Missed(u64),
}

/// The events of a server's attached connections, from [`MigrationServer::events`].
#[derive(Debug)]
pub struct ServerEvents(broadcast::Receiver<ServerEvent>);

impl ServerEvents {
    /// The next event; `None` when the server is gone. Safe to cancel.
    pub async fn next(&mut self) -> Option<ServerEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(ServerEvent::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}

impl MigrationServer {
    /// What happens to attached connections from now on. Each receiver hears all; events need not be read.
    pub fn events(&self) -> ServerEvents {
        ServerEvents(self.core.registry.events())
    }
}
