//! What connections over real sockets take with both tokio layers: memory of an idle connection, processor time of a
//! handshake, and how fast a node's clients go elsewhere.
//!
//! Node and clients are processes of their own, so that no figure has the other side in it. Stock clients reconnect by
//! resumption when their node closes them; migrating clients are drained.

mod clients;
mod node;
mod process;

use std::fmt;
use std::path::Path;

use clap::{Args, ValueEnum as _};
use serde::Serialize;

pub(crate) use self::clients::Clients;
pub(crate) use self::node::Node;
use self::process::{Child, Sample};
use crate::case::{Side, name};
use crate::error::BenchError;
use crate::peers::Suite;

/// Connections that are there before anything is measured.
const WARM_UP: u32 = 64;

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// With so many connections. Each takes two files of a process while it goes elsewhere.
    #[arg(long, value_delimiter = ',', default_values_t = [4_000])]
    connections: Vec<u32>,
    /// How many clients may be on their way elsewhere at once [default: all of them].
    #[arg(long)]
    moving: Option<u32>,
}

impl Plan {
    /// One for each measurement; `quick` for as little as shows that everything runs.
    pub(crate) fn loads(&self, quick: bool) -> Vec<Load> {
        let connections = if quick { &[16][..] } else { &self.connections };
        let load = |connections: &u32| Load {
            connections: *connections,
            moving: self.moving.unwrap_or(*connections),
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
}

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
    load: Load,
    stock: Figures,
    migrating: Figures,
}

/// Measures both sides.
pub(crate) fn measure(suite: Suite, load: Load) -> Result<Sockets, BenchError> {
    Ok(Sockets {
        suite,
        load,
        stock: of_side(suite, load, Side::Stock)?,
        migrating: of_side(suite, load, Side::Migrating)?,
    })
}

fn of_side(suite: Suite, load: Load, side: Side) -> Result<Figures, BenchError> {
    let folder = tempfile::tempdir()?;
    let root: &Path = &folder.path().join("root.der");
    let (suite, side) = (name(&suite), name(&side));
    let Load {
        connections,
        moving,
    } = load;
    let (total, moving) = ((connections + WARM_UP).to_string(), moving.to_string());
    let root = root.to_string_lossy();
    let mut node = Child::start(&["--suite", &suite, "node", &side, &total, &moving, &root])?;
    let addresses = node.line()?;
    let [here, there] = addresses.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err(BenchError::Unexpected("a node has two addresses"));
    };
    let mut clients = Child::start(&[
        "--suite", &suite, "clients", &side, &moving, here, there, &root,
    ])?;

    clients.ask(&format!("connect {WARM_UP}"))?;
    let before = (node.sample()?, clients.sample()?);
    clients.ask(&format!("connect {connections}"))?;
    let connected = (node.sample()?, clients.sample()?);
    clients.ask("storm")?;
    node.tell("leave")?;
    let seconds: f64 = clients
        .line()?
        .parse()
        .map_err(|_| BenchError::Unexpected("a storm takes a time"))?;
    let moved = (node.sample()?, clients.sample()?);
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
            "{} connections, {} on their way at once, {}\n{:<34}{:>10}{:>12}{:>8}",
            self.load.connections,
            self.load.moving,
            suite.unwrap_or_default(),
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
