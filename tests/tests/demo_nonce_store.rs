//! A node with its nonces in a file, or on a redis server, that is killed and started again: what was spent stays spent.
//!
//! Nothing is told to the store but through the node.

use std::sync::Arc;
use std::time::Duration;

use migration_tests::client::expect;
use migration_tests::place::{Place, SHORT, text};
use migration_tests::programs::{Server, demo_server};
use migration_tests::redis::RedisServer;
use migration_tests::redis_groups::{Cluster, PRIMARY, Watched};
use migration_tests::{Pki, RecordingDialer};
use migration_token::{NonceStore as _, RedisNonceStore};
use rustls::HandshakeKind;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_migration::client::{MigrationClient, NoWider};
use rustls_migration::provider;
use rustls_migration::tokio::{EarlyDataOutcome, MigrationConnector, MigrationStream};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// A client of the place's service with an echo at A, which has a token for B.
struct Client {
    stream: MigrationStream,
    dialer: RecordingDialer,
}

impl Client {
    async fn at(place: &Place, a: &Server) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(place.path("state/ca.pem")).unwrap();
        roots.add(ca).unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider::ring()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_early_data = true;
        let client = MigrationClient::builder(config).target_policy(NoWider::any_port());
        let client = client.build().unwrap();
        let dialer = RecordingDialer::default();
        let connector = MigrationConnector::from(client).dialer(dialer.clone());
        let name = "localhost".try_into().unwrap();
        let mut stream = connector.connect(name, a.address()).await.unwrap();
        stream.write_all(b"ECHO\nat A").await.unwrap();
        expect(&mut stream, b"at A").await;
        Self { stream, dialer }
    }

    /// Moves to B with early data; says whether the token was spent there for sure.
    async fn goes_to_b(mut self) -> (bool, Vec<u8>) {
        let landed = self.stream.migrate(b"ECHO\nearly").await;
        let resumed = landed.as_ref().is_ok_and(|landing| {
            landing.handshake == HandshakeKind::Resumed
                && landing.early_data == EarlyDataOutcome::Accepted
        });
        let mut echo = [0; 5];
        let answered = resumed
            && self.stream.read_exact(&mut echo).await.is_ok()
            && self.stream.write_all(b"later").await.is_ok()
            && self.stream.read_exact(&mut echo).await.is_ok()
            && &echo == b"later";
        (answered, first_flight(&self.dialer))
    }
}

/// The hello of the last connection, with its token.
fn first_flight(dialer: &RecordingDialer) -> Vec<u8> {
    let sent = dialer.last().sent;
    let len = 5 + usize::from(u16::from_be_bytes([sent[3], sent[4]]));
    sent[..len].to_vec()
}

/// Sends a hello that another connection has sent before.
async fn replay(hello: &[u8], b: &Server) {
    let mut tcp = TcpStream::connect(b.address()).await.unwrap();
    tcp.write_all(hello).await.unwrap();
    tcp.shutdown().await.unwrap();
    let _ = tcp.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn a_token_spent_before_the_node_was_killed_is_refused_after_and_another_is_not() {
    let place = Place::with_file(SHORT);
    let store = format!("file:{}", text(&place.path("nonces")));
    killed_and_started_again(place, store).await;
}

#[tokio::test]
async fn so_is_a_token_whose_nonce_a_redis_server_has() {
    let redis = RedisServer::start(&[]).await;
    let address = format!("redis://{}", redis.address());
    let store = RedisNonceStore::builder(&address).build().unwrap();
    store.check(OffsetDateTime::now_utc()).await.unwrap();
    // Tokens count that are issued when the server's memory has begun, by any clock.
    while OffsetDateTime::now_utc() <= store.remembers_since().unwrap() {
        sleep(Duration::from_millis(1)).await;
    }
    killed_and_started_again(Place::with_file(SHORT), address).await;
}

async fn killed_and_started_again(place: Place, store: String) {
    let b = place.node("127.0.0.3", &["--nonce-store", &store]).await;
    let address = b.address();
    let to_b = address.to_string();
    let a = place.node("127.0.0.2", &["--migrate-to", &to_b]).await;

    let mut later = Vec::new();
    for _ in 0..4 {
        later.push(Client::at(&place, &a).await);
    }
    let mut arriving = Vec::new();
    for _ in 0..24 {
        arriving.push(Client::at(&place, &a).await);
    }
    let mut arriving: JoinSet<_> = arriving.into_iter().map(Client::goes_to_b).collect();
    // In the middle of them.
    let mut ended = Vec::new();
    while ended.iter().filter(|(spent, _)| *spent).count() < 4 {
        ended.push(arriving.join_next().await.unwrap().unwrap());
    }
    b.signal("KILL").await;
    b.ended().await;
    while let Some(client) = arriving.join_next().await {
        ended.push(client.unwrap());
    }

    // Tokens name the old address.
    let more = ["--nonce-store", &store, "--answers-for", &to_b];
    let mut b = place.node("127.0.0.3", &more).await;
    let mut accepted = false;
    for client in later {
        client.dialer.redirect(address, b.address());
        // Where the disk takes too long, a client lands in full.
        accepted = accepted || client.goes_to_b().await.0;
    }
    assert!(accepted, "an unspent token is accepted");
    b.logged("arrived with a token, with early data").await;
    let spent = ended.iter().filter(|(spent, _)| *spent);
    assert!(spent.clone().count() >= 1);
    for (_, hello) in spent {
        replay(hello, &b).await;
        b.logged("refused: the token has been spent").await;
    }
}

/// A client moves to a node that is started with these arguments, and resumes there: its token was spent in the store.
async fn a_client_moves_to_a_node_with(more: &[&str]) {
    let place = Place::with_file(SHORT);
    let b = place.node("127.0.0.3", more).await;
    let to_b = b.address().to_string();
    let a = place.node("127.0.0.2", &["--migrate-to", &to_b]).await;
    let hello = loop {
        let (spent, hello) = Client::at(&place, &a).await.goes_to_b().await;
        // Where the store takes too long, a client lands in full.
        if spent {
            break hello;
        }
    };
    replay(&hello, &b).await;
    let mut b = b;
    b.logged("refused: the token has been spent").await;
}

#[tokio::test]
async fn a_redis_server_may_ask_for_tls_and_a_user_with_a_password_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (server, address) = RedisServer::with_tls(&Pki::new(), folder.path()).await;
    let user = [
        "ACL",
        "SETUSER",
        "nonces",
        "on",
        ">pass/word@",
        "~*",
        "+@all",
    ];
    assert!(server.ask(&user).contains("OK"));
    let password = folder.path().join("password");
    std::fs::write(&password, "pass/word@\n").unwrap();
    let store = address.replace("://", "://nonces@");
    let ca = folder.path().join("ca");
    let arguments = [
        ["--nonce-store", &store],
        ["--redis-ca", text(&ca)],
        ["--redis-password-file", text(&password)],
    ];
    a_client_moves_to_a_node_with(arguments.as_flattened()).await;
}

#[tokio::test]
async fn sentinels_may_say_which_redis_server_it_is() {
    let watched = Watched::start().await;
    let sentinels = watched.sentinels.iter();
    let sentinels: Vec<_> = sentinels.map(|one| one.address().to_string()).collect();
    let store = format!("redis+sentinel://{}/{PRIMARY}", sentinels.join(","));
    a_client_moves_to_a_node_with(&["--nonce-store", &store]).await;
}

#[tokio::test]
async fn it_may_be_a_node_of_a_redis_cluster() {
    let cluster = Cluster::start(&[]).await;
    let nodes = cluster.addresses().join(",").replace("redis://", "");
    let store = format!("redis+cluster://{nodes}");
    a_client_moves_to_a_node_with(&["--nonce-store", &store]).await;
}

#[tokio::test]
async fn a_second_node_on_the_same_file_does_not_start() {
    let place = Place::with_file(SHORT);
    let store = format!("file:{}", text(&place.path("nonces")));
    let _node = place.node("127.0.0.3", &["--nonce-store", &store]).await;
    let (root, state) = (place.path("root"), place.path("state"));
    let mut second = demo_server(["--listen", "127.0.0.2:0", "--nonce-store", &store]);
    second.args(["--root", text(&root), "--state-dir", text(&state)]);
    let output = second.output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("in use by another process"), "{said}");
}
