//! A client's and a server's connection joined in memory, for what needs neither sockets nor a runtime.
//!
//! What one writes the other gets at once and whole.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_token::{ClaimOutcome, CommitOutcome};
use rustls_migration::client::{ClientConnection, MigrationClient, Offer, Update};
use rustls_migration::server::{HelloAcceptor, MigrationServer, ServerConnection};
use rustls_migration::{Connection, MoveKind};

use crate::server_name;

/// Both ends of one connection, with the handshake complete and every token spent.
pub struct Joined {
    pub client: ClientConnection,
    pub server: ServerConnection,
}

impl Joined {
    /// A new connection of a client to a server at `here`.
    pub fn new(
        client: &Arc<MigrationClient>,
        server: &Arc<MigrationServer>,
        here: SocketAddr,
    ) -> Self {
        let connection = ClientConnection::new(client, server_name(), here).unwrap();
        Self::join(connection, server, here)
    }

    /// A connection that takes up the offer's session.
    pub fn resume(
        client: &Arc<MigrationClient>,
        server: &Arc<MigrationServer>,
        offer: Offer,
    ) -> Self {
        Self::resume_with(client, server, offer, &[])
    }

    /// As [`resume`](Self::resume), with early data.
    pub fn resume_with(
        client: &Arc<MigrationClient>,
        server: &Arc<MigrationServer>,
        offer: Offer,
        early_data: &[u8],
    ) -> Self {
        let here = offer.target();
        let connection = ClientConnection::resume(client, server_name(), offer, early_data);
        Self::join(connection.unwrap(), server, here)
    }

    /// Goes on until the handshake is complete.
    pub fn join(
        mut client: ClientConnection,
        server: &Arc<MigrationServer>,
        here: SocketAddr,
    ) -> Self {
        let flight = sent(&mut client);
        let mut accepting = HelloAcceptor::new(Arc::clone(server), None, Some(here));
        assert!(accepting.push(&flight), "a hello in one flight");
        let claimed = accepting.examine().unwrap();
        let answer = claimed.claim().map(|_| Ok(ClaimOutcome::First));
        let server = claimed.accept(answer).unwrap();
        let mut joined = Self { client, server };
        joined.exchange();
        assert!(!joined.client.is_handshaking() && !joined.server.is_handshaking());
        joined
    }

    /// As [`take_offer`], of the client.
    pub fn take_offer(&mut self, target: SocketAddr) -> Offer {
        take_offer(&mut self.client, target)
    }

    /// Delivers what either side wants to send until neither does.
    pub fn exchange(&mut self) {
        loop {
            if self.server.commit().is_some() {
                assert!(self.server.committed(&Some(Ok(CommitOutcome::Won))));
            }
            let (from_server, from_client) = (sent(&mut self.server), sent(&mut self.client));
            if from_server.is_empty() && from_client.is_empty() {
                return;
            }
            deliver(&from_server, &mut self.client);
            deliver(&from_client, &mut self.server);
        }
    }
}

/// Takes a client's newest offer. One of draft -03 does not say where it leads, so it is led to `target`.
pub fn take_offer(client: &mut ClientConnection, target: SocketAddr) -> Offer {
    if client.offer().is_none() {
        // As applications resolve them, mapped addresses and others.
        client.lead_to(target).unwrap();
    }
    client.take_offer().unwrap()
}

/// Panics unless each of these updates is an offer of the kind to the target, as far as its dialect says where it leads.
pub fn expect_offers(updates: &[Update], target: SocketAddr, kind: MoveKind) {
    assert!(!updates.is_empty());
    for update in updates {
        assert!(
            [Update::Offered { target, kind }, Update::Marked { kind }].contains(update),
            "{update:?}"
        );
    }
}

/// What a connection wants to send.
pub fn sent(connection: &mut impl Connection) -> Vec<u8> {
    let mut out = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut out).unwrap();
    }
    out
}

/// Gives a connection what its peer has sent.
pub fn deliver(mut bytes: &[u8], connection: &mut impl Connection) {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).unwrap();
        connection.process_new_packets().unwrap();
    }
}
