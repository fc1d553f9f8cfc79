//! docs/operating.md says what the code does: the defaults of its table are those of the crates.

use std::fmt::Debug;
use std::time::Duration;

use migration_tests::Service;
use quinn_migration::Policy;
use rustls_migration::TicketKeys;
use rustls_migration::client::MigrationLimit;
use rustls_migration::server::MigrationServer;
use rustls_migration::tokio::DrainPlan;

const OPERATING: &str = include_str!("../../docs/operating.md");

/// What nobody but the source tells.
const SERVER: &str = include_str!("../../rustls-migration/src/server/mod.rs");
const ISSUE: &str = include_str!("../../rustls-migration/src/server/issue.rs");
const TICKET: &str = include_str!("../../rustls-migration/src/wire/ticket.rs");
const STREAM: &str = include_str!("../../rustls-migration/src/tokio/client/stream.rs");

/// The number behind `words` in a source: a product, or one with underscores.
fn in_source(source: &str, words: &str) -> u64 {
    let (_, rest) = source
        .split_once(words)
        .unwrap_or_else(|| panic!("no {words}"));
    let number = rest.split([';', ')', ',']).next().unwrap().replace('_', "");
    let factors = number
        .split(" * ")
        .map(|factor| factor.parse::<u64>().unwrap());
    factors.product()
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

/// A duration in seconds, as its debug form shows it.
fn shown(value: &impl Debug, field: &str) -> String {
    let shown = format!("{value:?}");
    let (_, rest) = shown
        .split_once(&format!("{field}: "))
        .unwrap_or_else(|| panic!("{shown}"));
    format!("{} s", rest.split('s').next().unwrap())
}

/// The defaults, by what the table calls them.
fn defaults() -> Vec<(&'static str, String)> {
    let service = Service::default();
    let server = MigrationServer::builder(service.server_config(), "files", service.keys.clone());
    let server = server.build().unwrap();
    let (plan, connector) = (DrainPlan::to([]), service.connector());
    let (limit, policy) = (MigrationLimit::default(), Policy::default());
    let bytes = |source, words| format!("{} bytes", in_source(source, words));
    let lifetime = |words| format!("{} s", in_source(SERVER, words));
    vec![
        (
            "`MigrationServerBuilder::hello_timeout`",
            seconds(server.hello_timeout()),
        ),
        (
            "`MigrationServerBuilder::handshake_timeout`",
            seconds(server.handshake_timeout()),
        ),
        (
            "`MigrationServerBuilder::max_handshakes`",
            server.max_handshakes().to_string(),
        ),
        (
            "`MigrationServerBuilder::max_hello_memory`",
            format!("{} bytes", server.max_hello_memory()),
        ),
        (
            "`MigrationServerBuilder::nonce_store_timeout`",
            seconds(server.nonce_store_timeout()),
        ),
        (
            "`MigrationServerBuilder::max_nonce_store_requests`",
            server.max_nonce_store_requests().to_string(),
        ),
        (
            "`MigrationServerBuilder::token_lifetime`",
            lifetime("token_lifetime: Duration::from_secs("),
        ),
        (
            "`MigrationServerBuilder::session_lifetime`",
            lifetime("session_lifetime: Duration::from_secs("),
        ),
        (
            "`MigrationServerBuilder::clock_skew`",
            lifetime("clock_skew: Duration::from_secs("),
        ),
        (
            "`MigrationServerBuilder::departure_deadline`",
            seconds(server.departure_deadline()),
        ),
        ("`DrainPlan::spread_over`", shown(&plan, "spread_over")),
        ("`DrainPlan::deadline`", shown(&plan, "deadline")),
        (
            "`TicketKeys::seal_limit`",
            TicketKeys::DEFAULT_SEAL_LIMIT.to_string(),
        ),
        (
            "an application's state in an offer",
            bytes(ISSUE, "MAX_STATE_LEN: usize = "),
        ),
        (
            "a ticket",
            bytes(TICKET, "MAX_OFFERED_TICKET_LEN: usize = "),
        ),
        (
            "early data of a client that moves",
            bytes(ISSUE, "MAX_EARLY_DATA_SIZE: u32 = "),
        ),
        (
            "`MigrationConnector::connect_timeout`",
            shown(&connector, "connect_timeout"),
        ),
        (
            "`MigrationConnector::source_timeout`",
            shown(&connector, "source_timeout"),
        ),
        (
            "`MigrationLimit` of a client",
            format!("{} in {} s", limit.count, limit.window.whole_seconds()),
        ),
        (
            "what a client's stream holds back in a move",
            bytes(STREAM, "MAX_HELD: usize = "),
        ),
        (
            "`Policy` of a QUIC client, challenges",
            policy.challenges.to_string(),
        ),
        (
            "`Policy` of a QUIC client, moves",
            format!("{} in {}", policy.moves, seconds(policy.window)),
        ),
    ]
}

#[test]
fn the_table_of_limits_has_the_defaults_that_the_code_has() {
    let (_, table) = OPERATING
        .split_once("| what | default | past it |\n")
        .expect("a table");
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let cells = rows.map(|line| {
        let mut cells = line.trim_start_matches("| ").split(" | ");
        (cells.next().unwrap(), cells.next().unwrap().to_owned())
    });
    assert_eq!(cells.collect::<Vec<_>>(), defaults());
}
