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

use clap::{Args, ValueEnum};
use serde::Serialize;
use tempfile::TempDir;

pub(crate) use self::clients::Clients;
pub(crate) use self::node::Node;
use self::process::{Child, Sample};
use crate::case::{Side, name};
use crate::error::BenchError;
use crate::peers::Suite;
use crate::redis::Redis;

/// Connections that are there before anything is measured.
const WARM_UP: u32 = 64;

/// The most clients of one process. Each has two connections while it goes elsewhere.
const MOST_CLIENTS: u32 = 9_000;

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// With so many connections. Each takes two files of a process while it goes elsewhere.
    #[arg(long, value_delimiter = ',', default_values_t = [4_000])]
    connections: Vec<u32>,
    /// How many clients may be on their way elsewhere at once [default: all of them].
    #[arg(long)]
    moving: Option<u32>,
    /// What moves: streams, or connections, as stock clients' do.
    #[arg(long, value_enum, default_value_t = Moves::Stream)]
    moves: Moves,
    /// Where the nodes spend nonces.
    #[arg(long, value_enum, default_value_t = Store::Memory)]
    store: Store,
}

impl Plan {
    /// One for each measurement; `quick` for as little as shows that everything runs.
    pub(crate) fn loads(&self, quick: bool) -> Vec<Load> {
        let connections = if quick { &[16][..] } else { &self.connections };
        let load = |connections: &u32| Load {
            connections: *connections,
            moving: self.moving.unwrap_or(*connections),
            moves: self.moves,
            store: self.store,
        };
        connections.iter().map(load).collect()
    }
}

/// What the processes have to carry.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) connections: u32,
    /// How many clients may be on their way elsewhere at once.
    pub(crate) moving: u32,
    pub(crate) moves: Moves,
    pub(crate) store: Store,
}

/// What goes on at the other node.
#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Moves {
    Stream,
    Connection,
}

/// Where the nodes of a measurement spend nonces.
#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Store {
    Memory,
    File,
    Redis,
}

/// What one side's process takes for each connection.
#[derive(Clone, Copy, Debug, Serialize)]
struct PerConnection {
    /// Memory of an idle connection, in bytes.
    idle_bytes: f64,
    /// Processor time of a full handshake, in microseconds.
    handshake_us: f64,
    /// Processor time of one more full handshake, in microseconds.
    beside_idle_us: f64,
    /// The same, while the node is in a drain that tells nobody; stock nodes have none.
    in_drain_us: f64,
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
    load: Load,
    stock: Figures,
    migrating: Figures,
}

/// Measures both sides. That a client is lost is an error.
pub(crate) fn measure(suite: Suite, load: Load) -> Result<Sockets, BenchError> {
    let redis = matches!(load.store, Store::Redis).then(Redis::start);
    let redis = redis.transpose()?;
    let store = match &redis {
        Some(redis) => redis.address()?,
        None => name(&load.store),
    };
    Ok(Sockets {
        suite,
        load,
        stock: of_side(suite, load, &store, Side::Stock)?,
        migrating: of_side(suite, load, &store, Side::Migrating)?,
    })
}

/// The nodes of one side.
struct Nodes {
    processes: Vec<Child>,
    here: String,
    there: String,
    /// What tells the first to send its clients to the second.
    leave: String,
    /// What begins a drain of the first that stands still; stock nodes do nothing then.
    pause: String,
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
                    pause: "stay".to_owned(),
                })
            }
            Side::Migrating => {
                let mut second = Child::start(arguments)?;
                let there = second.line()?;
                Ok(Self {
                    processes: vec![first, second],
                    here: said,
                    leave: format!("leave {there}"),
                    pause: format!("pause {there}"),
                    there,
                })
            }
        }
    }

    fn leave(&mut self) -> Result<(), BenchError> {
        let first = self.processes.first_mut();
        first.map_or(Ok(()), |first| first.tell(&self.leave))
    }

    fn begin(&mut self) -> Result<(), BenchError> {
        let first = self.processes.first_mut();
        first.map_or(Ok(()), |first| first.tell(&self.pause))
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

/// The processes of one side.
struct Processes {
    nodes: Nodes,
    clients: Vec<Child>,
    /// What the service is made of.
    _folder: TempDir,
}

impl Processes {
    fn start(suite: Suite, load: Load, store: &str, side: Side) -> Result<Self, BenchError> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().to_string_lossy();
        let (suite, of_side) = (name(&suite), name(&side));
        let common = ["--suite", &suite];
        let moving = load.moving.to_string();
        let moves = name(&load.moves);
        let of_node = ["node", &of_side, &moves, &moving, &path, store];
        let nodes = Nodes::start(&[&common[..], &of_node].concat(), side)?;
        let processes = load.connections.div_ceil(MOST_CLIENTS).max(1);
        let moving = load.moving.div_ceil(processes).to_string();
        let of_client = [
            "clients",
            &of_side,
            &moves,
            &moving,
            &nodes.here,
            &nodes.there,
            &path,
        ];
        let of_client = [&common[..], &of_client].concat();
        let clients = (0..processes).map(|_| Child::start(&of_client));
        Ok(Self {
            clients: clients.collect::<Result<_, _>>()?,
            nodes,
            _folder: folder,
        })
    }

    /// What nodes and clients have taken.
    fn sample(&mut self) -> Result<(Sample, Sample), BenchError> {
        Ok((
            sample(&mut self.nodes.processes)?,
            sample(&mut self.clients)?,
        ))
    }

    /// Has the clients' processes share `count` connections.
    fn connect(&mut self, count: u32) -> Result<(), BenchError> {
        let mut left = count;
        let mut processes = u32::try_from(self.clients.len()).unwrap_or(u32::MAX);
        for client in &mut self.clients {
            let share = left.checked_div(processes).unwrap_or_default();
            client.tell(&format!("connect {share}"))?;
            left -= share;
            processes -= 1;
        }
        let mut clients = self.clients.iter_mut();
        clients.try_for_each(|client| client.line().map(drop))
    }
}

fn of_side(suite: Suite, load: Load, store: &str, side: Side) -> Result<Figures, BenchError> {
    let mut all = Processes::start(suite, load, store, side)?;
    let connections = load.connections;
    all.connect(WARM_UP)?;
    let before = all.sample()?;
    all.connect(connections)?;
    let connected = all.sample()?;
    // More come, beside those that are idle: without a drain and in the middle of one.
    let more = connections.div_ceil(8);
    all.connect(more)?;
    let beside = all.sample()?;
    all.nodes.begin()?;
    all.connect(more)?;
    let drained = all.sample()?;
    for client in &mut all.clients {
        client.ask("storm")?;
    }
    all.nodes.leave()?;
    let mut seconds: f64 = 0.0;
    for client in &mut all.clients {
        let took = client.line()?.parse();
        let took = took.map_err(|_| BenchError::Unexpected("a storm takes a time"))?;
        seconds = seconds.max(took);
    }
    let moved = all.sample()?;
    let clients = f64::from(connections + WARM_UP + 2 * more);
    let figures = |of: fn(&(Sample, Sample)) -> Sample| {
        let [before, connected, beside, drained, moved] =
            [&before, &connected, &beside, &drained, &moved].map(of);
        let us = |from: Sample, to: Sample, of: u32| (to.cpu_us - from.cpu_us) / f64::from(of);
        PerConnection {
            idle_bytes: (connected.bytes - before.bytes) / f64::from(connections),
            handshake_us: us(before, connected, connections),
            beside_idle_us: us(connected, beside, more),
            in_drain_us: us(beside, drained, more),
            storm_us: (moved.cpu_us - drained.cpu_us) / clients,
        }
    };
    Ok(Figures {
        server: figures(|of| of.0),
        client: figures(|of| of.1),
        storm_per_second: clients / seconds,
    })
}

impl fmt::Display for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suite = self.suite.to_possible_value();
        let suite = suite.map(|suite| suite.get_name().to_owned());
        writeln!(
            f,
            "{} connections, {} on their way at once, {}, nonces in {}\n{:<34}{:>10}{:>12}{:>8}",
            self.load.connections,
            self.load.moving,
            suite.unwrap_or_default(),
            name(&self.load.store),
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
        row("server, one more handshake, us", |of| {
            of.server.beside_idle_us
        })?;
        row("server, the same in a drain, us", |of| {
            of.server.in_drain_us
        })?;
        row("server, going elsewhere, us", |of| of.server.storm_us)?;
        row("client, going elsewhere, us", |of| of.client.storm_us)?;
        row("clients elsewhere per second", |of| of.storm_per_second)
    }
}
