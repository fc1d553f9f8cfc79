//! What connections over real sockets take with both tokio layers: memory of an idle connection, processor time of a
//! handshake, and how fast a node's clients go elsewhere.
//!
//! Node and clients are processes of their own, so that no figure has the other side in it. Stock clients reconnect by
//! resumption when their node closes them; migrating clients are drained.

mod clients;
mod node;
mod process;
mod service;

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

pub(crate) use self::clients::run as run_clients;
pub(crate) use self::node::run as run_node;
use self::process::{Child, Sample};
use crate::case::{Side, name};
use crate::error::BenchError;
use crate::peers::Suite;
use crate::redis::Redis;

/// Connections that are there before anything is measured.
const WARM_UP: u32 = 64;

/// The most clients of one process. Each has two connections while it goes elsewhere.
const MOST_CLIENTS: u32 = 6_000;

/// What one side's process takes for each connection.
#[derive(Clone, Copy, Debug, Serialize)]
struct PerConnection {
    /// Memory of an idle connection, in bytes.
    idle_bytes: f64,
    /// Processor time of a full handshake, in microseconds.
    handshake_us: f64,
    /// Processor time of going to another node, in microseconds.
    storm_us: f64,
}

/// The figures of one side.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figures {
    server: PerConnection,
    client: PerConnection,
    /// Clients that are at the other node, per second.
    storm_per_second: f64,
}

/// All figures of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sockets {
    suite: Suite,
    connections: u32,
    store: Store,
    stock: Figures,
    migrating: Figures,
}

/// Where the nodes of a measurement spend nonces.
#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Store {
    Memory,
    File,
    Redis,
}

/// Measures both sides with so many connections. That a client is lost is an error.
pub(crate) fn measure(suite: Suite, connections: u32, store: Store) -> Result<Sockets, BenchError> {
    let redis = matches!(store, Store::Redis)
        .then(Redis::start)
        .transpose()?;
    let place = match &redis {
        Some(redis) => redis.address()?,
        None => name(&store),
    };
    Ok(Sockets {
        suite,
        connections,
        store,
        stock: of_side(suite, connections, &place, Side::Stock)?,
        migrating: of_side(suite, connections, &place, Side::Migrating)?,
    })
}

/// The nodes of one side.
struct Nodes {
    processes: Vec<Child>,
    here: String,
    there: String,
    /// What tells the first to send its clients to the second.
    leave: String,
}

impl Nodes {
    fn start(arguments: &[&str], side: Side) -> Result<Self, BenchError> {
        let mut first = Child::start(arguments)?;
        let said = first.line()?;
        match side {
            Side::Stock => {
                let two = BenchError::Unexpected("stock nodes have two addresses");
                let (here, there) = said.split_once(' ').ok_or(two)?;
                Ok(Self {
                    processes: vec![first],
                    here: here.to_owned(),
                    there: there.to_owned(),
                    leave: "leave".to_owned(),
                })
            }
            Side::Migrating => {
                let mut second = Child::start(arguments)?;
                let there = second.line()?;
                Ok(Self {
                    processes: vec![first, second],
                    here: said,
                    leave: there.clone(),
                    there,
                })
            }
        }
    }

    fn leave(&mut self) -> Result<(), BenchError> {
        let first = self.processes.first_mut();
        first.map_or(Ok(()), |first| first.tell(&self.leave))
    }
}

/// What all of them have taken.
fn sample(processes: &mut [Child]) -> Result<Sample, BenchError> {
    let mut all = Sample::default();
    for process in processes {
        let one = process.sample()?;
        all.bytes += one.bytes;
        all.cpu_us += one.cpu_us;
    }
    Ok(all)
}

/// Has the processes share `count` connections.
fn connect(clients: &mut [Child], count: u32) -> Result<(), BenchError> {
    let mut left = count;
    let mut processes = u32::try_from(clients.len()).unwrap_or(u32::MAX);
    for client in &mut *clients {
        let share = left.checked_div(processes).unwrap_or_default();
        client.tell(&format!("connect {share}"))?;
        left -= share;
        processes -= 1;
    }
    clients
        .iter_mut()
        .try_for_each(|client| client.line().map(drop))
}

fn of_side(suite: Suite, connections: u32, store: &str, side: Side) -> Result<Figures, BenchError> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path().to_string_lossy();
    let suite = name(&suite);
    let common = ["--suite", &suite];
    let of_node = ["node", &name(&side), &folder, store];
    let mut nodes = Nodes::start(&[&common[..], &of_node].concat(), side)?;
    let of_client = ["clients", &name(&side), &nodes.here, &nodes.there, &folder];
    let of_client = [&common[..], &of_client].concat();
    let processes = 0..connections.div_ceil(MOST_CLIENTS).max(1);
    let clients = processes.map(|_| Child::start(&of_client));
    let mut clients = clients.collect::<Result<Vec<_>, _>>()?;

    connect(&mut clients, WARM_UP)?;
    let before = (sample(&mut nodes.processes)?, sample(&mut clients)?);
    connect(&mut clients, connections)?;
    let connected = (sample(&mut nodes.processes)?, sample(&mut clients)?);
    for client in &mut clients {
        client.ask("storm")?;
    }
    nodes.leave()?;
    let mut seconds: f64 = 0.0;
    for client in &mut clients {
        let took = client.line()?.parse();
        let took = took.map_err(|_| BenchError::Unexpected("a storm takes a time"))?;
        seconds = seconds.max(took);
    }
    let moved = (sample(&mut nodes.processes)?, sample(&mut clients)?);
    let all = f64::from(connections + WARM_UP);
    let figures = |before: &Sample, connected: &Sample, moved: &Sample| PerConnection {
        idle_bytes: (connected.bytes - before.bytes) / f64::from(connections),
        handshake_us: (connected.cpu_us - before.cpu_us) / f64::from(connections),
        storm_us: (moved.cpu_us - connected.cpu_us) / all,
    };
    Ok(Figures {
        server: figures(&before.0, &connected.0, &moved.0),
        client: figures(&before.1, &connected.1, &moved.1),
        storm_per_second: all / seconds,
    })
}

impl fmt::Display for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suite = self.suite.to_possible_value();
        let suite = suite.map(|suite| suite.get_name().to_owned());
        writeln!(
            f,
            "{} connections, {}, nonces in {}\n{:<34}{:>10}{:>12}{:>8}",
            self.connections,
            suite.unwrap_or_default(),
            name(&self.store),
            "",
            "stock",
            "migrating",
            "ratio"
        )?;
        let mut row = |what: &str, of: fn(&Figures) -> f64| {
            let (stock, migrating) = (of(&self.stock), of(&self.migrating));
            let ratio = migrating / stock;
            writeln!(f, "{what:<34}{stock:>10.0}{migrating:>12.0}{ratio:>8.3}")
        };
        row("server, idle connection, bytes", |of| of.server.idle_bytes)?;
        row("client, idle stream, bytes", |of| of.client.idle_bytes)?;
        row("server, full handshake, us", |of| of.server.handshake_us)?;
        row("client, full handshake, us", |of| of.client.handshake_us)?;
        row("server, going elsewhere, us", |of| of.server.storm_us)?;
        row("client, going elsewhere, us", |of| of.client.storm_us)?;
        row("clients elsewhere per second", |of| of.storm_per_second)
    }
}
