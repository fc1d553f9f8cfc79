//! What a server's tasks share: sockets, hooks, counters, and the attached connections.
//!
//! Never holds the endpoint, so a task does not keep the server up.

use std::sync::Arc;

use super::registry::Registry;
use super::{AddressId, ClientAddress};
use crate::hooks::server::ServerHook;
use crate::session::Handles;
use crate::socket::ServerSocket;
use crate::stats::{ServerCounters, ServerStats};

#[derive(Debug)]
pub(super) struct Core {
    pub(super) handles: Handles<ServerHook>,
    pub(super) socket: Arc<ServerSocket>,
    pub(super) counters: Arc<ServerCounters>,
    pub(super) registry: Registry,
}

impl Core {
    pub(super) fn new(
        handles: Handles<ServerHook>,
        socket: Arc<ServerSocket>,
        counters: Arc<ServerCounters>,
    ) -> Self {
        Self {
            handles,
            socket,
            counters,
            registry: Registry::default(),
        }
    }

    pub(super) fn client_of(&self, connection: &quinn::Connection) -> ClientAddress {
        let (client, at) = self
            .socket
            .client(connection.remote_address(), connection.local_ip());
        ClientAddress {
            client,
            server: AddressId(at),
        }
    }

    pub(super) fn remove(&self, address: AddressId) -> bool {
        let removed = self.socket.remove(address.0);
        if removed {
            self.counters.removed.add_one();
        }
        removed
    }

    pub(super) fn stats(&self) -> ServerStats {
        ServerStats {
            connections_now: self.handles.len(),
            attached_now: self.registry.len(),
            addresses_now: self.socket.address_count(),
            strays: self.socket.strays(),
            ..self.counters.stats()
        }
    }
}
