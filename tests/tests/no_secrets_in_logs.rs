//! No token, nonce, session, key, ticket or application state shows in a log of these crates, at whatever level, or in the debug form of a
//! public type: whole hand-offs, accepted and refused, are searched for the very bytes that went over the wire and for
//! what was sealed.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use migration_tests::client::{expect, until_notified};
use migration_tests::hello::{extension, ticket};
use migration_tests::log::Log;
use migration_tests::node::{ServerStream, echo};
use migration_tests::{FailingStore, Node, RecordingDialer, Service, TestClock, server_name};
use migration_token::MigrationToken;
use rustls_migration::server::{HelloAcceptor, MigrationServerBuilder};
use rustls_migration::{Codepoints, TicketKeys};
use time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What the application hands over.
const STATE: &[u8] = b"state of the application, for nobody's eyes";

/// The forms in which 16 bytes may show.
fn forms(bytes: &[u8]) -> Vec<String> {
    let decimal = format!("{bytes:?}");
    let mut forms = vec![
        base16ct::lower::encode_string(bytes),
        base16ct::upper::encode_string(bytes),
        decimal.trim_matches(['[', ']']).to_owned(),
        decimal.trim_matches(['[', ']']).replace(' ', ""),
        bytes.escape_ascii().to_string(),
        String::from_utf8_lossy(bytes).into_owned(),
    ];
    // In the middle of something else, base64 has one of three alignments. The characters at both ends may mix with it.
    for skipped in 0..3 {
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let whole = engine.encode(&bytes[skipped..]);
            forms.push(whole[..whole.len() - 1].to_owned());
        }
    }
    forms
}

/// Where `secret`, or 16 bytes of it, shows in `text`.
fn found<'a>(text: &'a str, secret: &[u8]) -> Option<&'a str> {
    assert!(secret.len() >= 16);
    let pieces = secret.chunks_exact(16).flat_map(forms);
    let at = pieces.filter_map(|form| text.find(&form)).next()?;
    text[..at].lines().last().or(Some(text))
}

/// What must not show, by its name.
type Secrets = Vec<(&'static str, Vec<u8>)>;

/// Everything in a recorded flight that must not show, and what its ticket seals.
fn secrets(sent: &[u8], keys: &Path) -> Secrets {
    let encoded = extension(sent, Codepoints::default().migration_token).unwrap();
    let ticket = ticket(sent).unwrap();
    let token = MigrationToken::decode(encoded).unwrap();
    let mut secrets: Secrets = vec![
        ("token", encoded.to_vec()),
        ("nonce", token.nonce().to_vec()),
        ("session_id", token.session_id().to_vec()),
        ("signature", token.signature().to_vec()),
        ("ticket", ticket.to_vec()),
    ];
    let plain = std::fs::read_to_string(keys)
        .unwrap()
        .lines()
        .find_map(|line| {
            let secret = base16ct::mixed::decode_vec(line.split_once(' ')?.1).unwrap();
            let cipher = XChaCha20Poly1305::new_from_slice(&secret).unwrap();
            let (header, rest) = ticket.split_at(9);
            let (nonce, msg) = rest.split_first_chunk::<24>()?;
            let payload = Payload { msg, aad: header };
            let plain = cipher.decrypt(&XNonce::from(*nonce), payload).ok()?;
            secrets.push(("ticket key", secret));
            Some(plain)
        })
        .expect("a key of the file opens the ticket");
    // The fields of docs/protocol.md section 6.
    let (hash, rest) = plain[1 + 8 + 32 + 32 + 32..].split_first().unwrap();
    let len = if *hash == 0 { 32 } else { 48 };
    secrets.push(("mac key", rest[..len].to_vec()));
    secrets.push(("pre-shared key", rest[len..2 * len].to_vec()));
    secrets.push(("session", rest[2 * len + 2..].to_vec()));
    secrets.push(("state", STATE.to_vec()));
    secrets
}

/// Sends each client on to `target` with the application's state when it says something.
async fn send_on(mut stream: ServerStream, target: SocketAddr, log: Log) -> io::Result<()> {
    stream.read_exact(&mut [0; 5]).await?;
    log.note(&stream);
    stream.migrate_to(target, Some(STATE)).await?;
    stream.write_all(b"moved").await?;
    echo(stream).await
}

/// A hand-off to a node with these settings, and copies of it. Returns what must not show.
async fn handed_off(
    service: &Service,
    keys: &Path,
    log: &Log,
    at_b: MigrationServerBuilder,
) -> Secrets {
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let (target, noted) = (b.address(), log.clone());
    a.serve(service.node(), move |stream| {
        send_on(stream, target, noted.clone())
    });
    let noted = log.clone();
    let acceptor = b.serve(at_b, move |stream| {
        noted.note(&stream.arrival());
        echo(stream)
    });
    let dialer = RecordingDialer::default();
    let connector = service.connector().dialer(dialer.clone());
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    let mut events = stream.events();
    stream.write_all(b"hello").await.unwrap();
    expect(&mut stream, b"moved").await;
    until_notified(&mut stream).await;
    log.note(&(&stream, stream.offer()));
    let landing = stream.migrate(b"early").await.unwrap();
    let read = stream.read(&mut [0; 5]).await;
    log.note(&(&landing, &stream, read));
    while let Some(event) = events.try_next() {
        log.note(&event);
    }
    log.note(&(&acceptor, acceptor.stats(), service.connector()));
    log.note(&b.accepted().await);

    let sent = dialer.last().sent;
    let hello = 5 + usize::from(u16::from_be_bytes([sent[3], sent[4]]));
    // The same again, then with a wrong binder, and cut.
    let mut changed = sent[..hello].to_vec();
    changed[hello - 1] ^= 1;
    for copy in [&sent[..hello], &changed, &sent[..hello / 2]] {
        let mut tcp = TcpStream::connect(b.address()).await.unwrap();
        tcp.write_all(copy).await.unwrap();
        tcp.shutdown().await.unwrap();
        let _ = tcp.read_to_end(&mut Vec::new()).await;
        log.note(&b.accepted().await);
    }
    let server = service.node().own_addresses([b.address()]).build().unwrap();
    let mut accepting = HelloAcceptor::new(Arc::new(server), None, None);
    accepting.push(&sent);
    log.note(&accepting);
    let claimed = accepting.examine().unwrap();
    log.note(&(&claimed, claimed.claim()));
    log.note(&claimed.accept(None).unwrap());
    secrets(&sent, keys)
}

#[tokio::test]
async fn no_secret_of_any_hand_off_shows_in_a_log_or_a_debug_form() {
    let log = Log::default();
    let writer = log.clone();
    // What rustls says at this level, with migration and without, shows hellos.
    let ours = "off,migration_token=trace,rustls_migration=trace";
    tracing_subscriber::fmt()
        .with_env_filter(ours)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();

    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let random = rustls::crypto::ring::default_provider().secure_random;
    TicketKeys::create(&keys, random).unwrap();
    let mut service = Service::default();
    service.keys = TicketKeys::load(&keys).unwrap();
    log.note(&service.keys);
    let ahead = TestClock::new();
    ahead.advance(Duration::hours(2));
    let other = TicketKeys::generate(random).unwrap();
    let config = || service.server_config();
    let failing = |store| service.node().nonce_store(Arc::new(store));
    let mut all = Secrets::new();
    for at_b in [
        service.node(),
        service.node_of(config(), "other", service.keys.clone()),
        service.node_of(config(), "files", other),
        service.node().clock(ahead),
        failing(FailingStore::Broken),
        failing(FailingStore::FailingCommits),
        failing(FailingStore::LostToAnother),
    ] {
        all.extend(handed_off(&service, &keys, &log, at_b).await);
    }

    let text = log.text();
    for verdict in [
        "Migrated",
        "EarlyData",
        "Fresh",
        "BadBinder",
        "WrongScope",
        "UnknownTicket",
        "Expired",
        "Replayed",
        "StoreUnavailable",
        "could not be committed",
        "HelloAcceptor",
    ] {
        assert!(text.contains(verdict), "{verdict} is not in the log");
    }
    assert_eq!(all.len(), 7 * 10);
    for (name, secret) in &all {
        assert_eq!(found(&text, secret), None, "{name}");
    }
}

#[test]
fn the_search_finds_bytes_in_every_form_and_wherever_they_are() {
    let secret: Vec<u8> = (100..148).map(|byte: u8| byte.wrapping_mul(37)).collect();
    for before in 0..3 {
        let around = [&vec![7; before][..], &secret[16..32], &[9; 3]].concat();
        for shown in [
            format!("{around:?}"),
            base16ct::lower::encode_string(&around),
            base16ct::upper::encode_string(&around),
            STANDARD_NO_PAD.encode(&around),
            URL_SAFE_NO_PAD.encode(&around),
            around.escape_ascii().to_string(),
        ] {
            assert!(found(&format!("x {shown} y"), &secret).is_some(), "{shown}");
        }
    }
    assert_eq!(found("nothing [1, 2, 3]", &secret), None);
}
