//! Draft -03 with peers that share no code with this project: a client and a server on tlslite-ng (`tests/python/affinity`). Whole
//! moves in both directions, and each rule of the draft broken by the peer.

use std::net::SocketAddr;

use migration_tests::client::{echoed, expect, until_notified};
use migration_tests::node::{ServerStream, echo};
use migration_tests::program::{Program, python};
use migration_tests::{NAME, Node, Pki, Service, Spoken, server_name};
use rustls::HandshakeKind;
use rustls_migration::server::{Arrival, Verdict};
use rustls_migration::tokio::{
    ConnectError, EarlyDataOutcome, MigrationConnector, MigrationStream,
};
use rustls_migration::{Dialect, SystemClock, TicketKeys};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const AFFINITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/affinity");

/// `unexpected_message`, as a server of tlslite-ng reports it.
const UNEXPECTED_MESSAGE: &str = "alert 10";

fn service() -> Service {
    let mut service = Service::speaking(Spoken::Draft03);
    service.pki = Pki::strict();
    service
}

/// Answers the first bytes, and sends the client on, if it can be.
async fn answer_and_send_on(mut stream: ServerStream, target: SocketAddr) -> std::io::Result<()> {
    let mut word = [0; 3];
    stream.read_exact(&mut word).await?;
    stream.write_all(&word).await?;
    stream.flush().await?;
    // A client that did not offer is served all the same.
    let _ = stream.migrate_to(target, None).await;
    echo(stream).await
}

/// Our nodes A and B, by the real clock as the peer's, and another that has other keys.
struct Nodes {
    service: Service,
    a: Node,
    b: Node,
    stranger: Node,
}

impl Nodes {
    async fn serving() -> Self {
        let service = service();
        let mut a = Node::bind("127.0.0.2").await;
        let (mut b, mut stranger) = (Node::bind("127.0.0.3").await, Node::bind("127.0.0.4").await);
        let target = b.address();
        let settings = || service.node().clock(SystemClock);
        a.serve(settings(), move |stream| answer_and_send_on(stream, target));
        b.serve_echo(settings());
        let keys = TicketKeys::generate(service.provider.secure_random).unwrap();
        let foreign = service.node_of(service.server_config(), "files", keys);
        stranger.serve_echo(foreign.clock(SystemClock));
        Self {
            service,
            a,
            b,
            stranger,
        }
    }

    /// What the client reports of itself at A and at its target.
    async fn visited(&self, options: &str) -> (Value, Vec<Value>) {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, self.service.pki.ca_pem()).unwrap();
        let (a, ca) = (self.a.address(), ca.display());
        let client = format!(
            "-B {AFFINITY}/client.py --connect {a} --server-name {NAME} --ca {ca} {options}"
        );
        let said = Program::start(python(), client.split_whitespace());
        let said = said.finish().await;
        let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
        let legs = report["b"].as_array().unwrap().clone();
        (report["a"].clone(), legs)
    }
}

#[tokio::test]
async fn a_client_of_tlslite_moves_once_with_its_marked_ticket() {
    let mut nodes = Nodes::serving().await;
    let (at_a, legs) = nodes.visited("--times 2").await;
    assert_eq!(at_a["echoed"], "one");
    assert_eq!(at_a["requests"][0], nodes.b.address().to_string());
    let marks = at_a["tickets"].as_array().unwrap();
    assert!(marks.contains(&true.into()), "{marks:?}");
    assert_eq!(
        (&legs[0]["resumed"], &legs[0]["echoed"]),
        (&true.into(), &"one".into())
    );
    assert!(matches!(nodes.b.arrival().await, Arrival::Migrated { .. }));
    // Fail closed: it says nothing where it was not resumed.
    assert_eq!(
        (&legs[1]["resumed"], &legs[1]["echoed"]),
        (&false.into(), &Value::Null)
    );
    let again = nodes.b.arrival().await;
    assert_eq!(again, Arrival::Declined(Verdict::Replayed));
}

#[tokio::test]
async fn a_client_of_tlslite_that_breaks_a_rule_does_not_resume() {
    for (options, expected) in [
        ("--psk-ke", Arrival::Declined(Verdict::NoPsk)),
        ("--corrupt", Arrival::Fresh),
    ] {
        let mut nodes = Nodes::serving().await;
        let (_, legs) = nodes.visited(options).await;
        assert_eq!(legs[0]["resumed"], false, "{options}");
        assert_eq!(nodes.b.arrival().await, expected, "{options}");
    }
}

#[tokio::test]
async fn a_client_of_tlslite_out_of_scope_or_at_a_stranger_is_not_resumed() {
    let nodes = Nodes::serving().await;
    let a = format!("--connect-b {}", nodes.a.address());
    let stranger = format!("--connect-b {}", nodes.stranger.address());
    for elsewhere in [a, stranger] {
        let (_, legs) = nodes.visited(&elsewhere).await;
        let leg = &legs[0];
        assert_eq!(
            (&leg["resumed"], &leg["echoed"]),
            (&false.into(), &Value::Null),
            "{elsewhere}"
        );
    }
}

#[tokio::test]
async fn a_client_of_tlslite_that_did_not_offer_gets_neither_mark_nor_request() {
    let mut nodes = Nodes::serving().await;
    let options = format!("--no-offer --connect-b {}", nodes.b.address());
    let (at_a, legs) = nodes.visited(&options).await;
    assert_eq!(at_a["requests"], Value::Array(Vec::new()));
    let marks = at_a["tickets"].as_array().unwrap();
    assert!(
        !marks.is_empty() && !marks.contains(&true.into()),
        "{marks:?}"
    );
    // Its tickets are ordinary ones, which resume at every node.
    assert_eq!(legs[0]["resumed"], true);
    assert_eq!(nodes.b.arrival().await, Arrival::Fresh);
}

/// A server on tlslite-ng.
struct Tlslite {
    program: Program,
    address: SocketAddr,
    /// How many of its connections have been looked at.
    seen: usize,
    _folder: tempfile::TempDir,
}

const KEY: [&str; 2] = [
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
];

impl Tlslite {
    async fn serving(service: &Service, ip: &str, key: &str, options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (chain, secret) = service.pki.issue_pem(NAME);
        let [chain_at, key_at] = ["chain.pem", "key.pem"].map(|name| folder.path().join(name));
        std::fs::write(&chain_at, chain).unwrap();
        std::fs::write(&key_at, secret).unwrap();
        let (chain, secret) = (chain_at.display(), key_at.display());
        let server = format!(
            "-B {AFFINITY}/server.py --listen {ip}:0 --chain {chain} --key {secret} --ticket-key {key} {options}"
        );
        let mut program = Program::start(python(), server.split_whitespace());
        let port: u16 = program.line_after("listening ").await.parse().unwrap();
        Self {
            program,
            address: (ip.parse::<std::net::IpAddr>().unwrap(), port).into(),
            seen: 0,
            _folder: folder,
        }
    }

    /// What became of its next connection.
    async fn seen(&mut self) -> Value {
        self.seen += 1;
        self.program.until_lines(1 + self.seen).await;
        let said = self.program.until("listening").await;
        serde_json::from_str(said.lines().nth(self.seen).unwrap()).unwrap()
    }
}

async fn connect(service: &Service, at: &Tlslite) -> MigrationStream {
    let connected = service.connector().connect(server_name(), at.address).await;
    connected.unwrap()
}

#[tokio::test]
async fn our_client_moves_between_servers_of_tlslite() {
    for options in [
        "",
        "--key-update",
        "--before 127.0.0.9:1 --key-update",
        "--before nowhere",
    ] {
        let service = service();
        let mut b = Tlslite::serving(&service, "127.0.0.3", KEY[0], "").await;
        let options = format!("--target {} {options}", b.address);
        let mut a = Tlslite::serving(&service, "127.0.0.2", KEY[0], &options).await;
        let mut stream = connect(&service, &a).await;
        let mut events = stream.events();
        echoed(&mut stream, b"one").await;
        // What it asked for before may have been resolved, or not.
        while stream.offered_target() != Some(b.address) {
            tokio::select! {
                read = stream.read_u8() => panic!("unexpected: {read:?}"),
                event = events.next() => assert!(event.is_some(), "{options}"),
            }
        }
        let landing = stream.migrate(b"two").await.unwrap();
        assert_eq!(
            (landing.at, landing.handshake),
            (b.address, HandshakeKind::Resumed)
        );
        // tlslite takes no early data.
        assert_eq!(landing.early_data, EarlyDataOutcome::AfterHandshake);
        expect(&mut stream, b"two").await;
        stream.shutdown().await.unwrap();
        let at_a = a.seen().await;
        assert_eq!(
            (&at_a["offered"], &at_a["end"]),
            (&true.into(), &"close_notify".into())
        );
        let at_b = b.seen().await;
        assert_eq!(
            (&at_b["offered"], &at_b["resumed"]),
            (&true.into(), &true.into()),
            "{options}"
        );
    }
}

#[tokio::test]
async fn a_request_in_the_record_of_the_tickets_is_taken_out_of_it() {
    let service = service();
    let b = Tlslite::serving(&service, "127.0.0.3", KEY[0], "").await;
    let options = format!("--with-tickets {}", b.address);
    let a = Tlslite::serving(&service, "127.0.0.2", KEY[0], &options).await;
    let mut stream = connect(&service, &a).await;
    echoed(&mut stream, b"one").await;
    until_notified(&mut stream).await;
    assert_eq!(stream.offered_target(), Some(b.address));
    let mut next = stream.handle().successor().await.unwrap();
    let kind = next.get_ref().unwrap().handshake_kind();
    assert_eq!(kind, Some(HandshakeKind::Resumed));
    echoed(&mut next, b"at B").await;
    echoed(&mut stream, b"still at A").await;
}

#[tokio::test]
async fn a_request_before_finished_is_an_unexpected_message() {
    let service = service();
    let mut a = Tlslite::serving(&service, "127.0.0.2", KEY[0], "--early 127.0.0.3:443").await;
    let refused = service.connector().connect(server_name(), a.address).await;
    assert!(
        matches!(refused, Err(ConnectError::Handshake { .. })),
        "{refused:?}"
    );
    assert_eq!(a.seen().await["end"], UNEXPECTED_MESSAGE);
}

#[tokio::test]
async fn a_client_that_did_not_offer_answers_a_request_with_unexpected_message_and_ignores_marks() {
    let service = service();
    let options = "--unsolicited --marks always --after 6 --target 127.0.0.3:443";
    let mut a = Tlslite::serving(&service, "127.0.0.2", KEY[0], options).await;
    let client = service.client_with(service.client_config());
    let client = client.dialects([Dialect::Draft01]).build().unwrap();
    let connector = MigrationConnector::from(client);
    let mut stream = connector.connect(server_name(), a.address).await.unwrap();
    let mut events = stream.events();
    echoed(&mut stream, b"one").await;
    // A mark that it does not know is none: the ticket is an ordinary one.
    assert!(events.try_next().is_none());
    stream.write_all(b"two").await.unwrap();
    // The echo and the request may come with one read, and then rustls gives the error first.
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap_err();
    assert!(heard.is_empty() || heard == b"two", "{heard:?}");
    let _ = stream.shutdown().await;
    assert_eq!(a.seen().await["end"], UNEXPECTED_MESSAGE);
}

#[tokio::test]
async fn a_foreign_server_of_tlslite_hears_nothing_and_our_client_is_back_at_the_first_address() {
    let service = service();
    let mut b = Tlslite::serving(&service, "127.0.0.3", KEY[1], "").await;
    let options = format!("--target {}", b.address);
    let a = Tlslite::serving(&service, "127.0.0.2", KEY[0], &options).await;
    let mut stream = connect(&service, &a).await;
    echoed(&mut stream, b"one").await;
    until_notified(&mut stream).await;
    let landing = stream.migrate(b"two").await.unwrap();
    assert_eq!(landing.at, a.address);
    let why = landing.fell_back.unwrap();
    assert!(matches!(why.error(), ConnectError::SessionRefused { .. }));
    expect(&mut stream, b"two").await;
    let at_b = b.seen().await;
    assert_eq!(
        (&at_b["resumed"], &at_b["received"]),
        (&false.into(), &0.into())
    );
}
