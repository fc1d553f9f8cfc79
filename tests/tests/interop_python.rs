//! The independent client in `tests/python` migrates between our nodes: it recomputes every token from its own secrets,
//! and it is the dishonest client that `docs/protocol.md` section 7 speaks of.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_tests::node::{echo, echo_then_notify};
use migration_tests::program::{Program, python};
use migration_tests::{CountingStore, NAME, Node, Service, stock};
use rustls_migration::SystemClock;
use rustls_migration::server::{AcceptError, Arrival, MigrationServerBuilder, Verdict};
use rustls_migration::tokio::MigrationAcceptor;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python");

/// What an honest run says and waits for.
const HONEST: &str = "--send one --await-bytes 4 --send-early two --finish";

/// A service whose nodes A and B go by the real clock, as the client does.
struct Nodes {
    service: Service,
    a: Node,
    b: Node,
    at_b: MigrationAcceptor,
}

impl Nodes {
    async fn serving() -> Self {
        Self::of(Service::default(), "127.0.0.2", "127.0.0.3").await
    }

    async fn of(service: Service, a: &str, b: &str) -> Self {
        let (mut a, mut b) = (Node::bind(a).await, Node::bind(b).await);
        let settings = || service.node().clock(SystemClock);
        a.serve_echo(settings().target(b.address()));
        let at_b = b.serve(settings(), echo);
        Self {
            service,
            a,
            b,
            at_b,
        }
    }

    fn settings(&self) -> MigrationServerBuilder {
        self.service.node().clock(SystemClock)
    }

    /// Runs the client, which must find no fault, and returns its report.
    async fn run(&self, options: &str) -> Report {
        run(&self.service, self.a.address(), options).await
    }
}

async fn run(service: &Service, a: SocketAddr, options: &str) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, service.pki.ca_pem()).unwrap();
    let mut arguments = vec![
        "-B".to_owned(),
        format!("{CLIENT}/migrating_client.py"),
        "--json".to_owned(),
        "--connect".to_owned(),
        a.to_string(),
        "--server-name".to_owned(),
        NAME.to_owned(),
        "--ca".to_owned(),
        ca.display().to_string(),
    ];
    arguments.extend(options.split_whitespace().map(str::to_owned));
    let said = Program::start(python(), arguments).finish().await;
    Report(serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}")))
}

/// What the client reports; `tests/python/README.md` describes it.
struct Report(Value);

impl Report {
    /// A value of the leg `name`.
    fn leg(&self, name: &str, key: &str) -> Value {
        let legs = self.0["legs"].as_array().unwrap();
        let leg = legs.iter().find(|leg| leg["leg"] == name);
        leg.unwrap_or_else(|| panic!("no leg {name}: {}", self.0))[key].clone()
    }

    /// How the handshake of the leg `name` went, and whether its early data was accepted.
    fn landing(&self, name: &str) -> (Value, Value) {
        (self.leg(name, "handshake"), self.leg(name, "early_data"))
    }

    /// Whether the client's own derivations agree with the token.
    fn assert_token_for(&self, target: SocketAddr) {
        let token = &self.0["token"];
        assert_eq!(token["target"], target.to_string());
        assert_eq!(token["session_id_valid"], true);
        assert_eq!(token["signature_valid"], true);
    }
}

/// Whether early data was accepted of a client that arrived with an accepted token.
fn migrated(arrival: &Arrival) -> Option<bool> {
    if let Arrival::Migrated { early_data, .. } = arrival {
        return Some(*early_data);
    }
    None
}

fn resumed_with_early_data() -> (Value, Value) {
    ("resumed".into(), true.into())
}

#[tokio::test]
async fn it_migrates_with_early_data_in_every_suite() {
    let mut nodes = Nodes::serving().await;
    for suite in [
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    ] {
        let report = nodes.run(&format!("{HONEST} --suite {suite}")).await;
        report.assert_token_for(nodes.b.address());
        assert_eq!(report.landing("a"), ("full".into(), false.into()));
        assert_eq!(report.landing("b"), resumed_with_early_data());
        assert_eq!(report.leg("b", "suite"), suite);
        assert_eq!(report.leg("b", "received_prefix"), "two\n");
        assert_eq!(nodes.a.arrival().await, Arrival::Fresh);
        assert_eq!(migrated(&nodes.b.arrival().await), Some(true));
    }
}

#[tokio::test]
async fn it_migrates_between_ports_of_an_ipv6_address() {
    let mut nodes = Nodes::of(Service::default(), "::1", "::1").await;
    let report = nodes.run(HONEST).await;
    report.assert_token_for(nodes.b.address());
    assert_eq!(report.landing("b"), resumed_with_early_data());
    assert_eq!(migrated(&nodes.b.arrival().await), Some(true));
}

#[tokio::test]
async fn it_migrates_through_retries_which_cost_early_data_on_their_own_leg_alone() {
    let service = Service::with_provider(stock::retrying(stock::provider()));
    let mut nodes = Nodes::of(service, "127.0.0.2", "127.0.0.3").await;
    for (first, suite) in [
        ("x25519", "TLS_AES_128_GCM_SHA256"),
        ("none", "TLS_AES_256_GCM_SHA384"),
    ] {
        for (leg, on_a, on_b) in [("a", true, false), ("b", false, true), ("both", true, true)] {
            let options = format!(
                "{HONEST} --suite {suite} --group secp384r1 --offer-group-first {first} --retry-leg {leg}"
            );
            let report = nodes.run(&options).await;
            report.assert_token_for(nodes.b.address());
            assert_eq!(report.leg("a", "hello_retry"), on_a);
            assert_eq!(report.leg("b", "hello_retry"), on_b);
            assert_eq!(report.landing("b"), ("resumed".into(), (!on_b).into()));
            assert_eq!(report.leg("b", "received_prefix"), "two\n");
            assert_eq!(migrated(&nodes.b.arrival().await), Some(!on_b));
        }
    }
}

#[tokio::test]
async fn its_hellos_may_be_split_over_many_records_and_segments() {
    let mut nodes = Nodes::serving().await;
    let report = nodes.run(&format!("{HONEST} --hello-fragments 50")).await;
    assert_eq!(report.landing("b"), resumed_with_early_data());
    assert_eq!(migrated(&nodes.b.arrival().await), Some(true));
}

#[tokio::test]
async fn it_moves_when_it_is_notified() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let settings = || service.node().clock(SystemClock);
    a.serve(settings().target(b.address()), echo_then_notify);
    b.serve(settings(), echo);
    let report = run(&service, a.address(), &format!("{HONEST} --until-notify")).await;
    assert_eq!(report.0["notified"], true);
    assert_eq!(report.leg("a", "received_prefix"), "one\n");
    assert_eq!(report.landing("b"), resumed_with_early_data());
    assert_eq!(migrated(&b.arrival().await), Some(true));
}

#[tokio::test]
async fn it_drains_a_to_the_end_before_it_moves() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let (settings, target) = (|| service.node().clock(SystemClock), b.address());
    a.serve(settings(), move |mut stream| async move {
        stream.migrate_to(target, Some(b"first")).await?;
        stream.set_state(b"last")?;
        echo(stream).await
    });
    b.serve(settings(), echo);
    let options = format!("{HONEST} --until-notify --drain");
    let report = run(&service, a.address(), &options).await;
    assert_eq!(report.0["token"]["kind"], "stream");
    assert_eq!(report.leg("a", "end"), "close_notify");
    assert_eq!(report.landing("b"), resumed_with_early_data());
    let Arrival::Migrated { state, .. } = b.arrival().await else {
        panic!("not migrated");
    };
    assert_eq!(
        state.as_deref().map(Vec::as_slice),
        Some(&b"last"[..]),
        "the stream's"
    );
}

#[tokio::test]
async fn its_next_connection_moves_without_the_stream_that_the_server_ends() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let settings = || service.node().clock(SystemClock);
    a.serve(settings().target(b.address()), |mut stream| async move {
        let mut request = [0; 4];
        stream.read_exact(&mut request).await?;
        stream.write_all(b"answered").await?;
        stream.shutdown().await
    });
    b.serve(settings(), echo);
    let options = "--send one --await-bytes 8 --drain --send-early two --finish";
    let report = run(&service, a.address(), options).await;
    assert_eq!(report.0["token"]["kind"], "connection");
    assert_eq!(report.leg("a", "received_prefix"), "answered");
    assert_eq!(report.leg("a", "end"), "close_notify");
    assert_eq!(report.leg("b", "received_prefix"), "two\n");
    let arrival = b.arrival().await;
    assert!(
        matches!(
            arrival,
            Arrival::Migrated {
                early_data: true,
                state: None
            }
        ),
        "{arrival:?}"
    );
}

#[tokio::test]
async fn each_dishonest_hello_gets_its_verdict_and_a_full_handshake() {
    let mut nodes = Nodes::serving().await;
    for (change, arrival) in [
        ("--no-psk", Arrival::Declined(Verdict::NoPsk)),
        (
            "--corrupt token-truncate",
            Arrival::Declined(Verdict::Malformed),
        ),
        (
            "--corrupt token-trailing",
            Arrival::Declined(Verdict::Malformed),
        ),
        (
            "--corrupt ticket",
            Arrival::Declined(Verdict::UnknownTicket),
        ),
        (
            "--corrupt token-signature",
            Arrival::Declined(Verdict::BadSignature),
        ),
        // Signed by the client, which has the secret that it takes.
        (
            "--forge target=127.0.0.9:443",
            Arrival::Declined(Verdict::NotIssued),
        ),
        (
            "--forge expiry=86400",
            Arrival::Declined(Verdict::NotIssued),
        ),
        ("--forge nonce", Arrival::Declined(Verdict::NotIssued)),
        ("--no-token", Arrival::Fresh),
    ] {
        let report = nodes.run(&format!("{HONEST} {change}")).await;
        assert_eq!(nodes.b.arrival().await, arrival, "{change}");
        assert_eq!(
            report.landing("b"),
            ("full".into(), false.into()),
            "{change}"
        );
        // Its line arrived once, after the handshake.
        assert_eq!(report.leg("b", "received_prefix"), "two\n", "{change}");
    }
    let counts = nodes.at_b.stats();
    for (verdict, times) in [
        (Verdict::NoPsk, 1),
        (Verdict::Malformed, 2),
        (Verdict::UnknownTicket, 1),
        (Verdict::BadSignature, 1),
        (Verdict::NotIssued, 3),
    ] {
        assert_eq!(counts.declined(verdict), times, "{verdict:?}");
    }
    assert_eq!((counts.fresh(), counts.migrated()), (1, 0));
}

#[tokio::test]
async fn a_token_for_b_is_worth_nothing_at_c() {
    let nodes = Nodes::serving().await;
    let mut c = Node::bind("127.0.0.4").await;
    c.serve_echo(nodes.settings());
    let report = nodes
        .run(&format!("{HONEST} --connect-b {}", c.address()))
        .await;
    assert_eq!(c.arrival().await, Arrival::Declined(Verdict::WrongTarget));
    assert_eq!(report.landing("b"), ("full".into(), false.into()));
}

#[tokio::test]
async fn a_used_token_lands_by_a_full_handshake() {
    let mut nodes = Nodes::serving().await;
    let report = nodes.run(&format!("{HONEST} --replay")).await;
    assert_eq!(report.landing("b"), resumed_with_early_data());
    assert_eq!(report.landing("replay"), ("full".into(), false.into()));
    assert_eq!(report.leg("replay", "received_prefix"), "two\n");
    assert_eq!(migrated(&nodes.b.arrival().await), Some(true));
    assert_eq!(
        nodes.b.arrival().await,
        Arrival::Declined(Verdict::Replayed)
    );
}

#[tokio::test]
async fn a_copy_of_its_hello_costs_a_client_its_early_data_but_not_its_session() {
    let mut nodes = Nodes::serving().await;
    let report = nodes.run(&format!("{HONEST} --raw-hello-copy")).await;
    assert_eq!(report.leg("copy", "handshake"), "resumed");
    assert_eq!(report.landing("b"), ("resumed".into(), false.into()));
    assert_eq!(report.leg("b", "received_prefix"), "two\n");
    assert_eq!(migrated(&nodes.b.arrival().await), Some(true));
    assert_eq!(migrated(&nodes.b.arrival().await), Some(false));
}

#[tokio::test]
async fn a_wrong_binder_is_a_decrypt_error_and_claims_no_nonce() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let settings = || service.node().clock(SystemClock);
    a.serve_echo(settings().target(b.address()));
    let store = Arc::new(CountingStore::new(service.store(10)));
    b.serve_echo(settings().nonce_store(store.clone()));

    let report = run(&service, a.address(), &format!("{HONEST} --corrupt binder")).await;
    assert_eq!(report.leg("b", "handshake"), Value::Null);
    assert_eq!(report.leg("b", "alert"), 51);
    let error = b.accepted().await.arrival.unwrap_err();
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    assert!(matches!(error, Some(AcceptError::BadBinder)), "{error:?}");
    assert_eq!(store.claims(), 0);

    run(&service, a.address(), HONEST).await;
    assert_eq!(migrated(&b.arrival().await), Some(true));
    assert_eq!(store.claims(), 1);
}

#[tokio::test]
async fn its_own_tests_pass() {
    let arguments = ["-B", "-m", "unittest", "discover", "-s", CLIENT];
    let said = Program::start(python(), arguments).finish().await;
    assert!(said.trim_end().ends_with("OK"), "{said}");
}
