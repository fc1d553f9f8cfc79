//! Connections that a server looks after: it knows where each one is, and says when that changes.
//!
//! Never looks at packets: the hook says when a client may be elsewhere, and quinn where.

use std::sync::Arc;

use tokio::task::AbortHandle;

use super::core::Core;
use super::{ClientAddress, MigrationServer, ServerEvent};
use crate::error::AttachError;
use crate::hooks::server::ServerHook;
use crate::session::Handle;

/// A number for an attached connection, unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId(u64);

impl AttachmentId {
    #[cfg(test)]
    pub(super) fn numbered(number: u64) -> Self {
        Self(number)
    }
}

/// A connection that its server looks after, until this is dropped.
///
/// It holds a clone of the connection, so the connection stays open meanwhile.
#[derive(Debug)]
pub struct Attachment {
    id: AttachmentId,
    core: Arc<Core>,
    connection: quinn::Connection,
    task: AbortHandle,
}

impl Attachment {
    /// The number that events name.
    pub fn id(&self) -> AttachmentId {
        self.id
    }

    /// The connection itself.
    pub fn connection(&self) -> &quinn::Connection {
        &self.connection
    }

    /// Where its client is.
    pub fn client(&self) -> ClientAddress {
        self.core.client_of(&self.connection)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.task.abort();
        self.core.registry.remove(self.id);
    }
}

impl MigrationServer {
    /// Looks after a connection from now on: [`MigrationServer::events`] tell of it, and
    /// [`MigrationServer::rotate_all`] and [`MigrationServer::drain_address`] move it.
    ///
    /// # Errors
    ///
    /// The connection is not of this server, or is attached.
    pub fn attach(&self, connection: &quinn::Connection) -> Result<Attachment, AttachError> {
        let core = Arc::clone(&self.core);
        let handle = core
            .handles
            .find(connection)
            .ok_or(AttachError::UnknownConnection)?;
        let id = AttachmentId(handle.number());
        let at = core.client_of(connection);
        if !core.registry.insert(id, connection.clone(), at.server) {
            return Err(AttachError::Attached);
        }
        let watcher = Watcher {
            id,
            core: Arc::clone(&core),
            handle,
            connection: connection.clone(),
            at,
        };
        Ok(Attachment {
            id,
            core,
            connection: connection.clone(),
            task: tokio::spawn(watcher.run()).abort_handle(),
        })
    }
}

struct Watcher {
    id: AttachmentId,
    core: Arc<Core>,
    handle: Handle<ServerHook>,
    connection: quinn::Connection,
    at: ClientAddress,
}

impl Watcher {
    async fn run(mut self) {
        let connection = self.connection.clone();
        let closed = connection.closed();
        tokio::pin!(closed);
        let mut wakes = self.handle.wakes();
        loop {
            wakes.mark_unchanged();
            self.look();
            tokio::select! {
                _ = wakes.changed() => {}
                reason = &mut closed => {
                    self.core.counters.gone.add_one();
                    self.core.registry.remove(self.id);
                    self.core.registry.report(ServerEvent::Gone {
                        connection: self.id,
                        on: self.at.server,
                        reason,
                    });
                    return;
                }
            }
        }
    }

    /// The hook wakes this task under quinn's lock, and quinn has read the packet when it lets go of that. So the hook is
    /// asked first.
    fn look(&mut self) {
        let take_move = || self.handle.with_hook(ServerHook::take_move);
        let moved = take_move();
        let now = self.core.client_of(&self.connection);
        let before = std::mem::replace(&mut self.at, now);
        let (from, to) = (before.server, now.server);
        // quinn may have read a move between the two answers. The hook knew of it first, so it is asked again.
        let moved = moved || from != to && take_move();
        if !moved && from == to {
            return;
        }
        self.core.registry.moved(self.id, to);
        let (connection, client) = (self.id, now.client);
        self.core.registry.report(if moved {
            ServerEvent::Moved {
                connection,
                client,
                from,
                to,
            }
        } else {
            self.core.counters.fell_back.add_one();
            ServerEvent::FellBack {
                connection,
                client,
                from,
                to,
            }
        });
    }
}
