//! OpenSSL as the peer: the `openssl` command in both roles, which does not migrate, and a client that does by way of
//! OpenSSL's custom extensions.

use std::net::SocketAddr;

use migration_tests::client::expect;
use migration_tests::node::{echo, echo_then_notify};
use migration_tests::openssl::Openssl;
use migration_tests::program::Program;
use migration_tests::stock::{Observed, exchange};
use migration_tests::{NAME, Node, Service, Spoken, server_name};
use openssl_client::{Client, Draft, Offer};
use rustls::{HandshakeKind, ProtocolVersion};
use rustls_migration::server::{Arrival, Verdict};
use rustls_migration::tokio::{MigrateError, MigrationStream};
use tokio::io::AsyncWriteExt as _;

/// What OpenSSL's reason codes for received alerts begin at.
const ALERT_REASONS: i32 = 1000;

/// OpenSSL's reason code for a message that it does not expect.
const UNEXPECTED_MESSAGE: i32 = 244;

/// Types a line, which the server must echo.
async fn typed(client: &mut Program, line: &str) {
    client.say(&format!("{line}\n")).await;
    client.until(line).await;
}

async fn node(service: &Service) -> Observed {
    let elsewhere: SocketAddr = "127.0.0.4:443".parse().unwrap();
    Observed::node(service, "127.0.0.2", service.server_config(), elsewhere).await
}

#[tokio::test]
async fn s_client_is_served_and_resumes_in_both_versions() {
    let service = Service::default();
    let openssl = Openssl::new(&service);
    let mut node = node(&service).await;
    for (option, version) in [
        ("-tls1_3", ProtocolVersion::TLSv1_3),
        ("-tls1_2", ProtocolVersion::TLSv1_2),
    ] {
        for (session, kind, said) in [
            ("-sess_out @session", HandshakeKind::Full, "New, TLSv1."),
            (
                "-sess_in @session",
                HandshakeKind::Resumed,
                "Reused, TLSv1.",
            ),
        ] {
            let options = format!("{option} {session}");
            let mut client = openssl.s_client(node.address, &options);
            client.until(said).await;
            typed(&mut client, "from s_client").await;
            client.finish().await;
            let seen = node.seen().await;
            assert_eq!(seen.version, Some(version));
            assert_eq!(seen.handshake, Some(kind));
            assert!(seen.end.is_ok(), "{:?}", seen.end);
        }
    }
}

#[tokio::test]
async fn s_client_sends_early_data_which_the_server_answers() {
    let service = Service::default();
    let openssl = Openssl::new(&service);
    openssl.write("early", "sent early\n");
    let mut node = node(&service).await;
    let mut client = openssl.s_client(node.address, "-sess_out @session");
    typed(&mut client, "hello").await;
    client.finish().await;
    let options = "-sess_in @session -early_data @early";
    let mut client = openssl.s_client(node.address, options);
    client.until("Early data was accepted").await;
    // The file is not printed when it is sent, so this is the server's answer.
    client.until("sent early").await;
    typed(&mut client, "sent late").await;
    client.finish().await;
    assert_eq!(node.seen().await.handshake, Some(HandshakeKind::Full));
    let seen = node.seen().await;
    assert_eq!(seen.handshake, Some(HandshakeKind::Resumed));
    assert!(seen.end.is_ok(), "{:?}", seen.end);
}

#[tokio::test]
async fn s_client_is_asked_for_another_key_share_and_updates_its_keys() {
    let service = Service::default();
    let openssl = Openssl::new(&service);
    let mut node = node(&service).await;
    let mut client = openssl.s_client(node.address, "-tls1_3 -groups P-521:X25519");
    typed(&mut client, "hello").await;
    // New keys for both sides.
    client.say("K\n").await;
    client.until("KEYUPDATE").await;
    typed(&mut client, "new keys").await;
    client.finish().await;
    let seen = node.seen().await;
    assert_eq!(
        seen.handshake,
        Some(HandshakeKind::FullWithHelloRetryRequest)
    );
    assert!(seen.end.is_ok(), "{:?}", seen.end);
}

/// A line each way with `s_server`.
async fn talk(stream: &mut MigrationStream, server: &mut Program, line: &str) {
    stream
        .write_all(format!("{line}\n").as_bytes())
        .await
        .unwrap();
    server.until(line).await;
    server.say(&format!("answer to {line}\n")).await;
    expect(stream, format!("answer to {line}\n").as_bytes()).await;
}

#[tokio::test]
async fn our_client_is_served_by_s_server_resumes_and_sees_no_offer() {
    let service = Service::default();
    let openssl = Openssl::new(&service);
    for options in [
        "-tls1_3",
        "-tls1_3 -no_ticket",
        "-tls1_3 -early_data",
        "-tls1_2",
        "-tls1_2 -no_ticket",
    ] {
        let (mut server, address) = openssl.s_server(options).await;
        let connector = service.connector();
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = connector.connect(server_name(), address).await.unwrap();
            talk(&mut stream, &mut server, &format!("hello, {kind:?}")).await;
            assert_eq!(stream.get_ref().unwrap().handshake_kind(), Some(kind));
            assert!(stream.offer().is_none());
            let refused = stream.migrate(b"lost").await.unwrap_err();
            assert!(matches!(refused, MigrateError::NoOffer), "{refused:?}");
            talk(&mut stream, &mut server, &format!("still there, {kind:?}")).await;
            exchange(stream, b"").await;
        }
        let said = server.until("Reused session-id").await;
        assert!(!said.contains("lost"), "{said}");
    }
}

#[tokio::test]
async fn s_server_sees_the_empty_extension_in_both_hellos_and_updates_its_keys() {
    let service = Service::default();
    let openssl = Openssl::new(&service);
    let options = "-tls1_3 -groups P-384 -msg";
    let (mut server, address) = openssl.s_server(options).await;
    let connector = service.connector();
    let mut stream = connector.connect(server_name(), address).await.unwrap();
    talk(&mut stream, &mut server, "hello").await;
    let kind = stream.get_ref().unwrap().handshake_kind();
    assert_eq!(kind, Some(HandshakeKind::FullWithHelloRetryRequest));
    // New keys for both sides.
    server.say("K\n").await;
    server.until("KeyUpdate").await;
    talk(&mut stream, &mut server, "new keys").await;
    let said = server.until("new keys").await;
    let offered: &[&str] = match service.spoken {
        Spoken::Draft01 => &[" ff 4d 00 00"],
        Spoken::Draft03 => &[" fe 4d 00 00"],
        Spoken::Mixed => &[" ff 4d 00 00 fe 4d 00 00"],
    };
    for hello in hellos(&said) {
        assert!(offered.iter().all(|one| hello.contains(one)), "{hello}");
    }
    assert_eq!(hellos(&said).count(), 2);
}

/// The hexadecimal dumps of the hellos in what `s_server -msg` said.
fn hellos(said: &str) -> impl Iterator<Item = String> {
    said.split("ClientHello\n").skip(1).map(|dump| {
        let lines = dump.lines().take_while(|line| line.starts_with(' '));
        lines.map(str::trim).collect::<Vec<_>>().join(" ")
    })
}

/// Runs a client that blocks.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> openssl_client::Result<T> + Send + 'static,
) -> T {
    tokio::task::spawn_blocking(run).await.unwrap().unwrap()
}

fn openssl_client(service: &Service, groups: &str) -> Client {
    let draft = match service.spoken {
        Spoken::Draft01 | Spoken::Mixed => Draft::Revision01,
        Spoken::Draft03 => Draft::Revision03,
    };
    Client::speaking(draft, &service.pki.ca_pem(), NAME, groups).unwrap()
}

/// An offer names its target in draft -01 alone.
fn expect_target(client: &Client, offer: &Offer, target: SocketAddr) -> openssl_client::Result<()> {
    if client.draft() == Draft::Revision01 {
        assert_eq!(offer.target()?, target);
    }
    Ok(())
}

#[tokio::test]
async fn an_openssl_client_migrates_with_early_data() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve_echo(service.node().target(b.address()));
    b.serve_echo(service.node());
    let client = openssl_client(&service, "X25519");
    let (from, to) = (a.address(), b.address());
    blocking(move || {
        let mut stream = client.connect(from)?;
        openssl_client::echoed(&mut stream, b"at A")?;
        let offers = client.take_offers();
        let [offer] = &offers[..] else {
            return Err(format!("{} offers", offers.len()).into());
        };
        expect_target(&client, offer, to)?;
        stream.shutdown()?;

        let mut stream = client.migrate_to(to, offer, b"early at B")?;
        assert!(stream.ssl().session_reused());
        openssl_client::expect(&mut stream, b"early at B")?;
        openssl_client::echoed(&mut stream, b"late at B")?;
        stream.shutdown()?;

        // The session is good once more to OpenSSL, but not to B: the client lands by a full handshake.
        let mut stream = client.migrate_to(to, offer, b"")?;
        assert!(!stream.ssl().session_reused());
        openssl_client::echoed(&mut stream, b"again at B")
    })
    .await;
    assert_eq!(a.arrival().await, Arrival::Fresh);
    assert!(matches!(
        b.arrival().await,
        Arrival::Migrated {
            early_data: true,
            ..
        }
    ));
    assert_eq!(b.arrival().await, Arrival::Declined(Verdict::Replayed));
}

#[tokio::test]
async fn an_openssl_client_migrates_through_retries() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve_echo(service.node().target(b.address()));
    b.serve_echo(service.node());
    let client = openssl_client(&service, "P-521:X25519");
    let (from, to) = (a.address(), b.address());
    blocking(move || {
        let mut stream = client.connect(from)?;
        openssl_client::echoed(&mut stream, b"at A")?;
        let offers = client.take_offers();
        let offer = offers.first().ok_or("no offer")?;
        let mut stream = client.migrate_to(to, offer, b"")?;
        assert!(stream.ssl().session_reused());
        openssl_client::echoed(&mut stream, b"at B")
    })
    .await;
    assert!(matches!(
        b.arrival().await,
        Arrival::Migrated {
            early_data: false,
            ..
        }
    ));
}

#[tokio::test]
async fn a_notice_ends_an_openssl_connection_and_its_session_still_migrates() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve(service.node().target(b.address()), echo_then_notify);
    b.serve(service.node(), echo);
    let client = openssl_client(&service, "X25519");
    let (from, to) = (a.address(), b.address());
    let expected = match service.spoken {
        Spoken::Draft01 | Spoken::Mixed => ALERT_REASONS + 224,
        // A message that OpenSSL does not know, and answers with `unexpected_message`.
        Spoken::Draft03 => UNEXPECTED_MESSAGE,
    };
    let reason = blocking(move || {
        let mut stream = client.connect(from)?;
        openssl_client::echoed(&mut stream, b"at A")?;
        let error = match stream.ssl_read(&mut [0]) {
            Ok(len) => return Err(format!("{len} bytes instead of an alert").into()),
            Err(error) => error,
        };
        let reason = error
            .ssl_error()
            .and_then(|stack| Some(stack.errors().first()?.reason_code()));
        let offers = client.take_offers();
        let mut stream = client.migrate_to(to, offers.first().ok_or("no offer")?, b"early at B")?;
        openssl_client::expect(&mut stream, b"early at B")?;
        Ok(reason)
    })
    .await;
    assert_eq!(reason, Some(expected));
    assert!(matches!(
        b.arrival().await,
        Arrival::Migrated {
            early_data: true,
            ..
        }
    ));
}
