//! Bad input ends its own connection and nothing else: no panic, no spent nonce, no effect on a connection beside it.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_tests::blocking::BlockingStream;
use migration_tests::client::echoed;
use migration_tests::node::echo;
use migration_tests::{Node, RecordingDialer, Service, server_name};
use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom};
use rustls::{HandshakeKind, ServerConfig};
use rustls_migration::Codepoints;
use rustls_migration::client::ClientConnection;
use rustls_migration::server::{Arrival, Verdict};
use rustls_migration::tokio::MigrationConnector;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends `bytes` as a client would, closes its side, and returns all that the server answers.
async fn present(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    // The server may close before it has read all.
    let _ = tcp.write_all(bytes).await;
    let _ = tcp.shutdown().await;
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer).await;
    answer
}

const ALERT: u8 = 21;

/// The description of the fatal alert that `answer` is.
fn alert(answer: &[u8]) -> u8 {
    match answer {
        [ALERT, 3, _, 0, 2, 2, description] => *description,
        other => panic!("not an alert: {other:?}"),
    }
}

/// A hello with ticket and token for the node, which have not been spent: it never arrived.
async fn unspent_flight(service: &Service, target: SocketAddr) -> Vec<u8> {
    unspent_flight_of(service, service.connector(), target).await
}

async fn unspent_flight_of(
    service: &Service,
    connector: MigrationConnector,
    target: SocketAddr,
) -> Vec<u8> {
    let dialer = RecordingDialer::default();
    let mut a = Node::bind("127.0.0.2").await;
    let mut decoy = Node::bind("127.0.0.4").await;
    a.serve_echo(service.node().target(target));
    decoy.serve_echo(service.node());
    dialer.redirect(target, decoy.address());
    let connector = connector.dialer(dialer.clone());
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    echoed(&mut stream, b"hello").await;
    stream.migrate(b"early").await.unwrap();
    let sent = dialer.last().sent;
    assert!(matches!(
        decoy.arrival().await,
        Arrival::Declined(Verdict::WrongTarget)
    ));
    // The hello's record, without the record of early data behind it.
    let hello = 5 + usize::from(u16::from_be_bytes([sent[3], sent[4]]));
    sent[..hello].to_vec()
}

#[tokio::test]
async fn noise_truncations_and_oversized_hellos_disturb_nobody() {
    let service = Service::default();
    let mut node = Node::bind("127.0.0.3").await;
    node.serve_echo(service.node());
    let mut beside = service
        .connector()
        .connect(server_name(), node.address())
        .await
        .unwrap();
    node.arrival().await;
    let hello = unspent_flight(&service, node.address()).await;

    let mut inputs: Vec<Vec<u8>> = (0..hello.len())
        .step_by(7)
        .map(|len| hello[..len].to_vec())
        .collect();
    inputs.push(b"GET / HTTP/1.1\r\n\r\n".to_vec());
    inputs.push(vec![0; 70_000]);
    inputs.push(vec![22; 70_000]);
    // A hello that says it has 64 KiB and more, and one that never ends.
    inputs.push(vec![22, 3, 1, 0, 4, 1, 1, 0, 0]);
    let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xf0];
    endless.extend(vec![0; 16_380]);
    inputs.push(endless);
    for input in inputs {
        present(node.address(), &input).await;
        assert!(
            node.accepted().await.arrival.is_err(),
            "{} bytes",
            input.len()
        );
        echoed(&mut beside, b"undisturbed").await;
    }
}

#[tokio::test]
async fn a_hello_with_any_byte_changed_spends_nothing() {
    let service = Service::default();
    let mut node = Node::bind("127.0.0.3").await;
    let store = Arc::new(service.store(10));
    node.serve_echo(service.node().nonce_store(store.clone()));
    let hello = unspent_flight(&service, node.address()).await;
    // After the record's header.
    for at in (5..hello.len()).step_by(3) {
        let mut changed = hello.clone();
        changed[at] ^= 1;
        present(node.address(), &changed).await;
        if let Ok(arrival) = node.accepted().await.arrival {
            assert!(!matches!(arrival, Arrival::Migrated { .. }), "byte {at}");
        }
        assert_eq!(store.len(), 0, "byte {at}");
    }
    // And the unchanged one is in order, its early data too.
    present(node.address(), &hello).await;
    assert!(matches!(
        node.arrival().await,
        Arrival::Migrated {
            early_data: true,
            ..
        }
    ));
    assert_eq!(store.len(), 1);
}

#[tokio::test]
async fn a_wrong_binder_is_a_decrypt_error() {
    const DECRYPT_ERROR: u8 = 51;
    let service = Service::default();
    let mut node = Node::bind("127.0.0.3").await;
    let acceptor = node.serve(service.node(), echo);
    let mut hello = unspent_flight(&service, node.address()).await;
    *hello.last_mut().unwrap() ^= 1;
    assert_eq!(alert(&present(node.address(), &hello).await), DECRYPT_ERROR);
    let counts = acceptor.stats();
    assert_eq!((counts.bad_binders(), counts.migrated()), (1, 0));
}

/// Random bytes that are not: a client that has one answer where 32 bytes are asked for, its session id among them.
#[derive(Debug)]
struct Chosen([u8; 32]);

impl SecureRandom for Chosen {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        if buf.len() == self.0.len() {
            buf.copy_from_slice(&self.0);
            return Ok(());
        }
        let honest = rustls::crypto::ring::default_provider().secure_random;
        honest.fill(buf)
    }
}

#[tokio::test]
async fn a_session_of_tls12_does_not_pass_for_the_one_of_the_token() {
    let service = Service::default();
    let mut config = ServerConfig::builder_with_details(
        Arc::clone(&service.provider),
        Arc::new(service.clock.clone()),
    )
    .with_protocol_versions(&[&rustls::version::TLS12])
    .unwrap()
    .with_no_client_auth()
    .with_cert_resolver(Arc::clone(&service.server_config().cert_resolver));
    config.max_early_data_size = 16_384;
    let mut node = Node::bind("127.0.0.3").await;
    let acceptor = node.serve(service.node_with(config), echo);

    // A first session there, and its id.
    let dialer = RecordingDialer::default();
    let connector = service.connector().dialer(dialer.clone());
    let mut stream = connector
        .connect(server_name(), node.address())
        .await
        .unwrap();
    echoed(&mut stream, b"hello").await;
    // Behind the headers of record and message, the version and the random.
    let session_id = dialer.last().received[5 + 4 + 2 + 32..][1..33].try_into();

    // The hello has the id, which the node knows, and a token with its ticket, which is another session's.
    let mut provider = CryptoProvider::clone(&service.provider);
    provider.secure_random = Box::leak(Box::new(Chosen(session_id.unwrap())));
    let config = service.client_config_with(Arc::new(provider));
    let connector = service.client_with(config).build().unwrap().into();
    let hello = unspent_flight_of(&service, connector, node.address()).await;
    present(node.address(), &hello).await;
    node.arrival().await;
    node.accepted().await.arrival.unwrap_err();
    let counts = acceptor.stats();
    assert_eq!(
        (counts.migrated(), counts.declined(Verdict::NotResumed)),
        (0, 1)
    );
}

#[tokio::test]
async fn a_migration_support_that_is_not_empty_is_a_decode_error() {
    const DECODE_ERROR: u8 = 50;
    let service = Service::default();
    let mut node = Node::bind("127.0.0.3").await;
    // To this node, the client's supported_versions extension is migration_support.
    let codepoints = Codepoints {
        migration_support: 43,
        ..Codepoints::default()
    };
    node.serve_echo(service.node().codepoints(codepoints));
    let connector = service.connector();
    let refused = connector.connect(server_name(), node.address()).await;
    let refused = format!("{:?}", refused.unwrap_err());
    assert!(refused.contains("DecodeError"), "{refused}");
    let hello = unspent_flight(&service, node.address()).await;
    node.accepted().await.arrival.unwrap_err();
    assert_eq!(alert(&present(node.address(), &hello).await), DECODE_ERROR);
}

#[tokio::test]
async fn repeated_migration_extensions_end_the_handshake() {
    let service = Service::default();
    let mut node = Node::bind("127.0.0.3").await;
    node.serve_echo(service.node());
    let codepoints = Codepoints {
        migration_support: 0xFF4E,
        ..Codepoints::default()
    };
    let client = service.client_with(service.client_config());
    let connector: MigrationConnector = client.codepoints(codepoints).build().unwrap().into();
    let mut a = Node::bind("127.0.0.2").await;
    a.serve_echo(service.node().codepoints(codepoints).target(node.address()));
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    echoed(&mut stream, b"hello").await;
    // Now both extensions have one code point, so the hello to the node has it twice.
    let landing = stream.migrate(b"twice").await.unwrap();
    assert!(landing.fell_back.is_some());
    assert!(node.accepted().await.arrival.is_err());
}

#[tokio::test]
async fn a_token_without_a_pre_shared_key_is_refused() {
    let service = Service::default();
    let mut node = Node::bind("127.0.0.3").await;
    node.serve_echo(service.node());
    let mut stream = presenting_an_empty_token(&service)
        .connect(server_name(), node.address())
        .await
        .unwrap();
    echoed(&mut stream, b"at B").await;
    assert_eq!(node.arrival().await, Arrival::Declined(Verdict::NoPsk));
}

#[tokio::test]
async fn a_malformed_token_is_refused() {
    let service = Service::default();
    let mut node = Node::bind("127.0.0.3").await;
    let acceptor = node.serve(service.node(), echo);
    let connector = presenting_an_empty_token(&service);
    for verdict in [Verdict::NoPsk, Verdict::Malformed] {
        // The first connection brings an ordinary ticket, which the second offers beside its empty token.
        let mut stream = connector
            .connect(server_name(), node.address())
            .await
            .unwrap();
        echoed(&mut stream, b"at B").await;
        assert_eq!(node.arrival().await, Arrival::Declined(verdict));
        let handshake = stream.get_ref().unwrap().handshake_kind();
        assert_eq!(handshake, Some(HandshakeKind::Full));
    }
    let counts = acceptor.stats();
    for verdict in Verdict::ALL {
        let refused = [Verdict::NoPsk, Verdict::Malformed].contains(&verdict);
        assert_eq!(counts.declined(verdict), u64::from(refused), "{verdict:?}");
    }
    assert_eq!((counts.fresh(), counts.migrated()), (0, 0));
    assert_eq!((counts.committed(), counts.offers()), (0, 0));
}

/// A client whose `migration_support` has the code point of `migration_token`, so that its token is empty.
fn presenting_an_empty_token(service: &Service) -> MigrationConnector {
    let codepoints = Codepoints {
        migration_support: Codepoints::default().migration_token,
        migration_token: 0xFFAA,
        ..Codepoints::default()
    };
    let client = service.client_with(service.client_config());
    client.codepoints(codepoints).build().unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_hello_costs_the_early_data_and_never_the_session() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve_echo(service.node().target(b.address()));
    let at_b = b.serve(service.node(), echo);

    let client = Arc::new(
        service
            .client_with(service.client_config())
            .build()
            .unwrap(),
    );
    let at_a = ClientConnection::new(&client, server_name(), a.address()).unwrap();
    let mut at_a = BlockingStream::connect(a.address(), at_a);
    at_a.write(b"hello");
    assert_eq!(at_a.read(5), b"hello");
    let offer = at_a.connection.take_offer().unwrap();

    let victim = ClientConnection::resume(&client, server_name(), offer, b"early").unwrap();
    let mut victim = BlockingStream::connect(b.address(), victim);
    let flight = victim.first_flight();
    // The racer's copy comes first: B resumes the session for it and even runs the early data, once.
    let mut racer = TcpStream::connect(b.address()).await.unwrap();
    racer.write_all(&flight).await.unwrap();
    assert!(matches!(
        b.arrival().await,
        Arrival::Migrated {
            early_data: true,
            ..
        }
    ));
    victim.send(&flight);
    assert_eq!(victim.read(5), b"early");
    assert!(matches!(
        b.arrival().await,
        Arrival::Migrated {
            early_data: false,
            ..
        }
    ));
    let tls = victim.connection.tls();
    assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Resumed));
    assert!(!tls.is_early_data_accepted());

    // Now that the token is spent, a copy gets nothing at all.
    let answer = present(b.address(), &flight).await;
    assert!(!resumes(&answer), "a spent token resumed a session");
    assert!(b.accepted().await.arrival.is_err());
    let counts = at_b.stats();
    assert_eq!(
        (counts.migrated(), counts.migrated_with_early_data()),
        (2, 1)
    );
    assert_eq!(
        (counts.committed(), counts.declined(Verdict::Replayed)),
        (1, 1)
    );
}

/// Whether the ServerHello at the start of `answer` has a `pre_shared_key` extension.
fn resumes(answer: &[u8]) -> bool {
    const PRE_SHARED_KEY: u16 = 41;
    let u16_at = |at: usize| u16::from_be_bytes([answer[at], answer[at + 1]]);
    assert_eq!((answer[0], answer[5]), (22, 2), "a ServerHello");
    // Record and message headers, version, random, session id, suite, compression.
    let session_id_len = usize::from(answer[5 + 4 + 2 + 32]);
    let mut at = 5 + 4 + 2 + 32 + 1 + session_id_len + 2 + 1 + 2;
    let end = at + usize::from(u16_at(at - 2));
    while at < end {
        if u16_at(at) == PRE_SHARED_KEY {
            return true;
        }
        at += 4 + usize::from(u16_at(at + 2));
    }
    false
}
