//! Clients that begin at an added address: to them and to the application it is like the first one.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use quinn::Connection;
use quinn_migration::MigrationClient;
use quinn_proto::{TokenLog, TokenReuseError, ValidationTokenConfig};

use crate::support::transfer::Transfer;
use crate::support::{
    Identity, Server, World, client, client_with, connect, echo, tireless, within,
};

/// Connects to an address of the server, which answers with Retry first.
async fn with_retry(
    client: &MigrationClient,
    server: &Server,
    index: usize,
) -> (Connection, Connection) {
    let connecting = client
        .endpoint()
        .connect(server.address(index), "localhost")
        .unwrap();
    let accepting = async {
        for validated in [false, true] {
            let incoming = server.inner.endpoint().accept().await.unwrap();
            assert_eq!(incoming.remote_address_validated(), validated);
            assert_eq!(
                server.inner.client_of_incoming(&incoming).server,
                server.id(index)
            );
            if validated {
                return incoming.await.unwrap();
            }
            incoming.retry().unwrap();
        }
        unreachable!()
    };
    let (ours, theirs) = within(async { tokio::join!(connecting, accepting) }).await;
    (ours.unwrap(), theirs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_begins_at_an_added_address_after_a_retry_and_moves_everywhere() {
    for addresses in [
        ["127.0.0.2:0", "127.0.0.3:0", "127.0.0.4:0"],
        ["[::1]:0", "[::1]:0", "[::1]:0"],
        ["0.0.0.0:0", "127.0.0.3:0", "127.0.0.3:0"],
    ] {
        let identity = Identity::new();
        let server = Server::on(&identity, &addresses);
        let local = if addresses[0].starts_with('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let client = client_with(identity.client_tls(), Default::default(), local);
        for index in [1, 2] {
            let (ours, theirs) = with_retry(&client, &server, index).await;
            assert_eq!(server.inner.client_of(&theirs).server, server.id(index));
            echo(&ours, &theirs).await;
            assert_eq!(server.inner.client_of(&theirs).server, server.id(index));
        }
        let ends = with_retry(&client, &server, 2).await;
        let mut world = World::of(server, client, ends, tireless());
        let transfer = Transfer::start(&world.ours, &world.theirs).await;
        for index in [1, 0, 2, 0, 1] {
            let mut to = world.server.address(index);
            if to.ip().is_unspecified() {
                // A wildcard socket answers from the address of the route.
                to.set_ip("127.0.0.1".parse().unwrap());
            }
            world.move_to(to).await;
            transfer.progress(64 << 10).await;
            assert_eq!(
                world.server.inner.client_of(&world.theirs).server,
                world.server.id(index)
            );
        }
        transfer.check().await;
    }
}

/// Remembers tokens, as a server must that takes each once.
#[derive(Default)]
struct Seen(Mutex<HashSet<u128>>);

impl TokenLog for Seen {
    fn check_and_insert(
        &self,
        nonce: u128,
        _: SystemTime,
        _: Duration,
    ) -> Result<(), TokenReuseError> {
        let new = self.0.lock().unwrap().insert(nonce);
        new.then_some(()).ok_or(TokenReuseError)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_from_an_earlier_connection_validates_a_client_at_an_added_address() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let mut config = server.inner.server_config();
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(2).log(Arc::new(Seen::default()));
    config.validation_token_config(tokens);
    server.inner.endpoint().set_server_config(Some(config));
    let client = client(&identity);
    // From one address to the other, too: a token is for the client's address alone.
    for (from, to) in [(1, 1), (0, 1), (1, 0)] {
        let (ours, theirs) = connect(client.endpoint(), &server, server.address(from)).await;
        echo(&ours, &theirs).await;
        let connecting = client
            .endpoint()
            .connect(server.address(to), "localhost")
            .unwrap();
        let incoming = within(server.inner.endpoint().accept()).await.unwrap();
        assert!(incoming.remote_address_validated(), "{from} to {to}");
        let (ours, theirs) = tokio::join!(connecting, async { incoming.await.unwrap() });
        echo(&ours.unwrap(), &theirs).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_sees_a_client_at_an_added_address_under_its_own_address() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let client = client(&identity);
    let mut seen: Vec<SocketAddr> = Vec::new();
    for index in [0, 1] {
        let connecting = client
            .endpoint()
            .connect(server.address(index), "localhost")
            .unwrap();
        let incoming = within(server.inner.endpoint().accept()).await.unwrap();
        seen.push(incoming.remote_address());
        assert_eq!(incoming.local_ip(), Some(server.address(index).ip()));
        let (ours, theirs) = tokio::join!(connecting, async { incoming.await.unwrap() });
        let ours = ours.unwrap();
        echo(&ours, &theirs).await;
        assert_eq!(theirs.remote_address(), seen[0]);
        assert_eq!(server.inner.client_of(&theirs).client, seen[0]);
    }
    assert!(seen[0].is_ipv4());
    assert_eq!(seen[0], seen[1], "a block list matches at both");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_at_an_added_address_reaches_the_client() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let client = client(&identity);
    let connecting = client
        .endpoint()
        .connect(server.address(1), "localhost")
        .unwrap();
    within(server.inner.endpoint().accept())
        .await
        .unwrap()
        .refuse();
    let refused = within(connecting).await.unwrap_err();
    assert!(
        matches!(refused, quinn::ConnectionError::ConnectionClosed(_)),
        "{refused:?}"
    );
}
