//! Ticket keys in operation: rotated and reloaded under live connections, limited in seals, removed.

use std::path::PathBuf;
use std::sync::Arc;

use migration_tests::client::{echoed, expect};
use migration_tests::node::{ServerStream, echo};
use migration_tests::{Node, Service, server_name};
use rustls::HandshakeKind;
use rustls_migration::TicketKeys;
use rustls_migration::server::{Arrival, OfferError, Verdict};
use rustls_migration::tokio::MigrationStream;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};

/// The file of a service's ticket keys.
struct KeyFile {
    service: Service,
    path: PathBuf,
    _dir: TempDir,
}

impl KeyFile {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let service = Service::default();
        TicketKeys::create(&path, service.provider.secure_random).unwrap();
        Self {
            service,
            path,
            _dir: dir,
        }
    }

    fn load(&self) -> TicketKeys {
        TicketKeys::load(&self.path).unwrap()
    }

    fn rotate(&self, keep: usize) {
        TicketKeys::rotate(&self.path, keep, self.service.provider.secure_random).unwrap();
    }

    /// A node at A that offers B at the handshake, a node at B, and a client at A.
    async fn nodes(&self, at_a: &TicketKeys, at_b: &TicketKeys) -> (Node, Node, MigrationStream) {
        let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
        let settings = |keys: &TicketKeys| {
            let service = &self.service;
            service.node_of(service.server_config(), "files", keys.clone())
        };
        a.serve_echo(settings(at_a).target(b.address()));
        b.serve_echo(settings(at_b));
        let connector = self.service.connector();
        let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
        echoed(&mut stream, b"at A").await;
        (a, b, stream)
    }
}

#[tokio::test]
async fn a_ticket_of_a_former_key_is_accepted_and_one_of_a_removed_key_lands_in_full() {
    for (keep, accepted) in [(1, true), (0, false)] {
        let file = KeyFile::new();
        let (at_a, at_b) = (file.load(), file.load());
        let (_a, mut b, mut stream) = file.nodes(&at_a, &at_b).await;
        file.rotate(keep);
        at_b.reload().unwrap();
        let landing = stream.migrate(b"first at B").await.unwrap();
        expect(&mut stream, b"first at B").await;
        echoed(&mut stream, b"more at B").await;
        match b.arrival().await {
            Arrival::Migrated { early_data, .. } => {
                assert!(accepted && early_data);
                assert_eq!(landing.handshake, HandshakeKind::Resumed);
            }
            arrival => {
                assert!(!accepted);
                assert_eq!(arrival, Arrival::Declined(Verdict::UnknownTicket));
                assert_eq!(landing.handshake, HandshakeKind::Full);
            }
        }
    }
}

#[tokio::test]
async fn a_node_that_has_not_reloaded_opens_what_one_that_has_seals() {
    let file = KeyFile::new();
    let (at_a, at_b) = (file.load(), file.load());
    file.rotate(1);
    at_a.reload().unwrap();
    let (_a, mut b, mut stream) = file.nodes(&at_a, &at_b).await;
    stream.migrate(b"first at B").await.unwrap();
    expect(&mut stream, b"first at B").await;
    let arrival = b.arrival().await;
    assert!(matches!(arrival, Arrival::Migrated { .. }), "{arrival:?}");
}

/// What came of an attempt to move the client.
async fn failure(stream: &mut ServerStream) -> Option<OfferError> {
    let target = "127.0.0.3:443".parse().unwrap();
    let error = stream.migrate_to(target, Some(&[])).await.err()?;
    let failure = error.get_ref().unwrap().downcast_ref::<OfferError>();
    Some(*failure.unwrap())
}

#[tokio::test]
async fn past_the_seal_limit_no_offer_is_made_until_a_reload_and_connections_go_on() {
    let file = KeyFile::new();
    let keys = file.load().seal_limit(1);
    let mut a = Node::bind("127.0.0.2").await;
    let service = &file.service;
    let settings = service.node_of(service.server_config(), "files", keys.clone());
    let (refused, mut refusals) = mpsc::channel(1);
    let rotated = Arc::new(Semaphore::new(0));
    let go_on = Arc::clone(&rotated);
    a.serve(
        settings.target("127.0.0.3:443".parse().unwrap()),
        move |mut stream| {
            let (refused, go_on) = (refused.clone(), Arc::clone(&go_on));
            async move {
                stream.read_exact(&mut [0; 2]).await?;
                let failed = failure(&mut stream).await;
                refused.send(failed).await.unwrap();
                go_on.acquire().await.unwrap().forget();
                assert_eq!(failure(&mut stream).await, None);
                echo(stream).await
            }
        },
    );
    let (first, second) = (service.connector(), service.connector());
    let mut first = first.connect(server_name(), a.address()).await.unwrap();
    first.write_all(b"go").await.unwrap();
    let failed = refusals.recv().await.unwrap();
    assert_eq!(failed, Some(OfferError::SealLimit));
    assert_eq!(keys.seals_left(), 0, "the handshake took the only one");

    // A handshake without a seal is a handshake without a token.
    let mut second = second.connect(server_name(), a.address()).await.unwrap();
    second.write_all(b"go").await.unwrap();
    let failed = refusals.recv().await.unwrap();
    assert_eq!(failed, Some(OfferError::SealLimit));
    assert!(second.offered_target().is_none());

    file.rotate(1);
    keys.reload().unwrap();
    assert_eq!(keys.seals_left(), 1);
    rotated.add_permits(1);
    echoed(&mut first, b"still at A").await;
    assert!(first.is_notified() && first.offered_target().is_some());
}
