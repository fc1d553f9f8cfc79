//! A rolling deploy of three demo nodes under load: each is drained onto the others and comes back with a new certificate, and the ticket keys
//! are rotated on the way.
//!
//! `rolling [--clients N] [--over SECONDS]`. It prints one JSON object, and fails when a byte is lost or repeated, when a client did not
//! follow, or when the nodes' metrics and the clients' tell another story than the clients.

mod client;
mod node;

use std::process::ExitCode;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use migration_tests::metrics::{sum, value};
use migration_tests::place::{Place, text};
use migration_tests::ports::unused;
use migration_tests::programs::demo_server;
use serde_json::{Value, json};
use tokio::time::sleep;

use self::client::{Clients, Talk};
use self::node::{Drained, Node};

/// Where the nodes are.
const HOSTS: [&str; 3] = ["127.0.77.1", "127.0.77.2", "127.0.77.3"];

/// How long clients talk before the first node is drained, and after the last one has come back.
const QUIET: Duration = Duration::from_millis(500);

/// What is asked for on the command line.
struct Plan {
    clients: usize,
    over: String,
}

impl Plan {
    fn from_arguments() -> Option<Self> {
        let mut plan = Self {
            clients: 200,
            over: "5".to_owned(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next()?;
            match &*name {
                "--clients" => plan.clients = value.parse().ok()?,
                "--over" => plan.over = value,
                _ => return None,
            }
        }
        Some(plan)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(plan) = Plan::from_arguments() else {
        eprintln!("usage: rolling [--clients N] [--over SECONDS]");
        return ExitCode::from(2);
    };
    let measured = PrometheusBuilder::new().install_recorder().unwrap();
    let report = run(&plan, &measured).await;
    println!("{report:#}");
    match report["problems"].as_array().is_some_and(Vec::is_empty) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// All of it, with a report of what came of it.
async fn run(plan: &Plan, measured: &PrometheusHandle) -> Value {
    let place = Place::with_file(1);
    let keys = place.path("ticket.keys");
    keys_command("generate", text(&keys)).await;
    let mut nodes = Vec::new();
    for host in HOSTS {
        // It must come back to where others send clients.
        nodes.push(Node::start(&place, &unused(host).to_string(), &plan.over).await);
    }
    let clients = Clients::start(&place, nodes.iter().map(Node::address), plan.clients).await;
    sleep(QUIET).await;
    let mut drained = Vec::new();
    for turn in 0..nodes.len() {
        let others: Vec<_> = nodes.iter().map(Node::address).collect();
        let node = nodes.remove(turn);
        let (address, certificate) = (node.address(), node.certificate(&place).await);
        let targets = others.into_iter().filter(|other| *other != address);
        drained.push(node.drain(targets).await);
        if turn == 0 {
            keys_command("rotate", text(&keys)).await;
            for node in &mut nodes {
                node.reloaded_keys().await;
            }
        }
        let node = Node::start(&place, &address.to_string(), &plan.over).await;
        assert_ne!(
            node.certificate(&place).await,
            certificate,
            "another certificate"
        );
        nodes.insert(turn, node);
    }
    sleep(QUIET).await;
    let talks = clients.finish().await;
    let mut stopped = Vec::new();
    for node in nodes {
        stopped.push(node.drain([]).await);
    }
    report(&talks, &drained, &stopped, &measured.render())
}

async fn keys_command(name: &str, keys: &str) {
    let output = demo_server(["keys", name, "--ticket-keys", keys])
        .output()
        .await;
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The story of the clients, and that of the metrics.
fn report(talks: &[Talk], drained: &[Drained], stopped: &[Drained], of_clients: &str) -> Value {
    let all = || drained.iter().chain(stopped);
    let at_nodes = |name: &str| all().map(|node| sum(&node.metrics, name)).sum::<f64>();
    let sample = |name: &str| {
        let values = all().filter_map(|node| value(&node.metrics, name));
        values.sum::<f64>()
    };
    let moves: usize = talks.iter().map(|talk| talk.moves).sum();
    let failures: Vec<_> = talks
        .iter()
        .filter_map(|talk| talk.failure.clone())
        .collect();
    let stayed = talks.iter().filter(|talk| talk.moves == 0).count();
    let arrivals = at_nodes("rustls_migration_arrivals_total");
    let fresh = sample("rustls_migration_arrivals_total{verdict=\"Fresh\"}");
    let told = [
        (
            "handed over by the nodes",
            sample("rustls_migration_connections_closed_total{departure=\"handed_over\"}"),
        ),
        (
            "handed over in drains",
            sample("rustls_migration_drain_connections{outcome=\"handed_over\"}"),
        ),
        (
            "told to move",
            sample("rustls_migration_notices_total{kind=\"stream\"}"),
        ),
        (
            "arrived with a token",
            sample("rustls_migration_arrivals_total{verdict=\"Migrated\"}"),
        ),
        (
            "tokens spent",
            sample("rustls_migration_commits_total{outcome=\"won\"}"),
        ),
        (
            "moves of clients",
            value(
                of_clients,
                "rustls_migration_client_moves_total{outcome=\"resumed\"}",
            )
            .unwrap_or(0.0),
        ),
    ];
    let expected = f64::from(u32::try_from(moves).unwrap());
    let mut problems: Vec<String> = failures;
    for (what, number) in told {
        if number != expected {
            problems.push(format!("{what}: {number}, and the clients say {expected}"));
        }
    }
    // Each node was looked at twice: that its certificate is another one.
    let looked = f64::from(u32::try_from(2 * HOSTS.len()).unwrap());
    let clients = f64::from(u32::try_from(talks.len()).unwrap());
    if fresh != clients + looked || arrivals != fresh + expected {
        problems.push(format!("{arrivals} arrivals, {fresh} of them fresh"));
    }
    if stayed > 0 {
        problems.push(format!("{stayed} clients were never moved"));
    }
    json!({
        "clients": talks.len(),
        "bytes_each_way": talks.iter().map(|talk| talk.bytes).sum::<u64>(),
        "moves": moves,
        "longest_wait_ms": talks.iter().map(|talk| talk.longest_wait.as_secs_f64() * 1e3).fold(0.0, f64::max),
        "metrics": told.map(|(what, number)| json!({"what": what, "number": number})),
        "drains": drained.iter().map(Drained::to_json).collect::<Vec<_>>(),
        "problems": problems,
    })
}
