//! How long a client hears nothing when it changes servers: for each way of changing, over a line with a given delay.
//!
//! The client sends a message each millisecond and the nodes answer each at once. Nobody waits for an answer before the
//! next message, so that the longest time between two answers is the stall.

mod conversation;
mod line;
mod moment;

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use self::moment::Exactness;
use crate::case::name;
use crate::error::BenchError;
use crate::peers::{Service, Suite};
use crate::report::Spread;

/// A way to change servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Change {
    /// None: how long the machine itself stalls the conversation.
    Nothing,
    /// The session is resumed at the target beside the old server.
    Overlap,
    /// The old server is finished before the session goes on at the target, which is dialled meanwhile.
    Drain,
    /// The old server is left at once; the connection to the target has been opened before.
    ImmediateOpened,
    /// The old server is left at once.
    Immediate,
    /// No migration: a new connection to the target, which resumes an ordinary session.
    ReconnectResumed,
    /// No migration: a new connection to the target with a full handshake.
    ReconnectFull,
}

impl Change {
    /// The round trips that it should take; `None` for what is only printed beside.
    fn target(self) -> Option<f64> {
        match self {
            Self::Overlap => Some(0.0),
            Self::Drain | Self::ImmediateOpened => Some(1.0),
            Self::Immediate => Some(2.0),
            Self::Nothing | Self::ReconnectResumed | Self::ReconnectFull => None,
        }
    }
}

/// One row.
#[derive(Clone, Copy, Debug, Serialize)]
struct Row {
    change: Change,
    round_trip_ms: f64,
    stall_ms: Spread,
    round_trips: f64,
    target_round_trips: Option<f64>,
    /// Whether the median is within 10 % and 3 ms of the target.
    within: Option<bool>,
}

/// All figures of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stalls {
    suite: Suite,
    /// Whether time was virtual: it stands still while there is something to compute.
    virtual_time: bool,
    rows: Vec<Row>,
}

/// Measures every way of changing, `repetitions` times at each delay.
pub(crate) fn measure(
    suite: Suite,
    repetitions: usize,
    virtual_time: bool,
) -> Result<Stalls, BenchError> {
    let service = Service::new(suite)?;
    let exactness = match virtual_time {
        true => Exactness::Timer,
        false => Exactness::Exact,
    };
    let mut rows = Vec::new();
    for round_trip in [Duration::from_millis(20), Duration::from_millis(100)] {
        for change in Change::value_variants() {
            let mut stalls = Vec::new();
            for _ in 0..repetitions {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .start_paused(virtual_time)
                    .build()?;
                let run = conversation::run(&service, *change, round_trip, exactness);
                let stall = runtime.block_on(run)?;
                stalls.push(stall.as_secs_f64() * 1e3);
            }
            rows.push(row(*change, round_trip.as_secs_f64() * 1e3, stalls));
        }
    }
    Ok(Stalls {
        suite,
        virtual_time,
        rows,
    })
}

fn row(change: Change, round_trip_ms: f64, stalls: Vec<f64>) -> Row {
    let stall_ms = Spread::of(stalls);
    let target = change.target();
    let most = target.map(|target| target * round_trip_ms * 1.1 + 3.0);
    Row {
        change,
        round_trip_ms,
        stall_ms,
        round_trips: stall_ms.median / round_trip_ms,
        target_round_trips: target,
        within: most.map(|most| stall_ms.median <= most),
    }
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "suite: {}", name(&self.suite))?;
        if self.virtual_time {
            writeln!(f, "virtual time: computation takes none")?;
        }
        writeln!(
            f,
            "\n{:<19}{:>8}{:>10}  {:<13}{:>12}{:>8}",
            "change", "RTT ms", "stall ms", "quartiles", "round trips", "target"
        )?;
        for row in &self.rows {
            let (lower, upper) = row.stall_ms.quartiles.unwrap_or_default();
            write!(
                f,
                "{:<19}{:>8.0}{:>10.1}  {:<13}{:>12.2}",
                name(&row.change),
                row.round_trip_ms,
                row.stall_ms.median,
                format!("{lower:.1}-{upper:.1}"),
                row.round_trips,
            )?;
            match (row.target_round_trips, row.within) {
                (Some(target), Some(true)) => writeln!(f, "{target:>8.0}")?,
                (Some(target), _) => writeln!(f, "{target:>8.0}  missed")?,
                (None, _) => writeln!(f)?,
            }
        }
        Ok(())
    }
}
