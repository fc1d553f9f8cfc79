//! What everybody in a long run knows: where the nodes are and when they were away, how far each stream was handed over, and the
//! figures.
//!
//! An end or an error that nothing written here explains is a fault.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustls_migration::tokio::{ConnectError, HandOffError, MigrateError};

use super::wire::{Mode, Position, Service};

/// For how long a node that was away explains what goes wrong there: a client has ten seconds to connect.
const AFTERMATH: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) nodes: Vec<SocketAddr>,
    streams: Mutex<HashMap<u64, Record>>,
    /// For each node since when it is away, and what it was before.
    away: Mutex<HashMap<SocketAddr, Away>>,
    figures: Mutex<Figures>,
}

#[derive(Debug, Default)]
struct Record {
    /// How far the stream was when it was handed over, until the next node has taken it up.
    handed_over: Option<Position>,
    /// A node has given its client up.
    cut: bool,
    /// A node has read all and has ended the stream.
    finished: bool,
}

#[derive(Debug, Default)]
struct Away {
    now: bool,
    until: Option<Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) streams: BTreeMap<(Service, Mode), u64>,
    pub(crate) moves: BTreeMap<Mode, u64>,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
    pub(crate) stalls: BTreeMap<Mode, Vec<Duration>>,
    /// What happened and is no fault.
    pub(crate) events: BTreeMap<String, u64>,
    /// What must never happen.
    pub(crate) faults: Vec<String>,
}

impl World {
    pub(crate) fn new(nodes: Vec<SocketAddr>) -> Self {
        Self {
            nodes,
            streams: Mutex::default(),
            away: Mutex::default(),
            figures: Mutex::default(),
        }
    }

    pub(crate) fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap()
    }

    pub(crate) fn fault(&self, what: impl Into<String>) {
        let what = what.into();
        eprintln!("soak: fault: {what}");
        self.figures().faults.push(what);
    }

    pub(crate) fn event(&self, what: impl Into<String>) {
        *self.figures().events.entry(what.into()).or_default() += 1;
    }

    fn record<R>(&self, id: u64, with: impl FnOnce(&mut Record) -> R) -> R {
        with(self.streams.lock().unwrap().entry(id).or_default())
    }

    /// A node hands a stream over.
    pub(crate) fn hand_over(&self, position: Position) {
        let before = self.record(position.plan.id, |record| {
            record.handed_over.replace(position)
        });
        if before.is_some() {
            self.fault(format!("handed over twice: {position:?}"));
        }
    }

    /// A node takes a stream up.
    pub(crate) fn take_up(&self, position: Position) {
        let expected = self.record(position.plan.id, |record| record.handed_over.take());
        if expected != Some(position) {
            self.fault(format!("{expected:?} was handed over, {position:?} came"));
        }
    }

    /// A node has given a stream's client up.
    pub(crate) fn cut(&self, id: u64) {
        self.record(id, |record| record.cut = true);
    }

    /// A node has read all of a stream, and ends it.
    pub(crate) fn finish(&self, id: u64) {
        self.record(id, |record| record.finished = true);
    }

    pub(crate) fn is_finished(&self, id: u64) -> bool {
        self.record(id, |record| record.finished)
    }

    /// A stream is over, and nothing more is asked about it.
    pub(crate) fn forget(&self, id: u64) {
        self.streams.lock().unwrap().remove(&id);
    }

    pub(crate) fn set_away(&self, node: SocketAddr, now: bool) {
        let mut away = self.away.lock().unwrap();
        let away = away.entry(node).or_default();
        away.now = now;
        away.until = Some(Instant::now());
    }

    pub(crate) fn was_away(&self, node: SocketAddr) -> bool {
        let away = self.away.lock().unwrap();
        away.get(&node).is_some_and(|away| {
            away.now || away.until.is_some_and(|until| until.elapsed() < AFTERMATH)
        })
    }

    /// Why a connection could not be made, when that is no fault.
    pub(crate) fn explain_connect(&self, error: &ConnectError) -> Option<&'static str> {
        let (ConnectError::Dial { address, .. }
        | ConnectError::Handshake { address, .. }
        | ConnectError::Closed { address, .. }) = error
        else {
            return None;
        };
        self.was_away(*address)
            .then_some("the node was away: refused, or reset when it went")
    }

    /// As [`explain_connect`](Self::explain_connect).
    pub(crate) fn explain_migrate(&self, error: &MigrateError) -> Option<&'static str> {
        match error {
            MigrateError::Unreachable(error) => self.explain_connect(error),
            MigrateError::Lost { target, origin } => self
                .explain_connect(target)
                .and(self.explain_connect(origin)),
            _ => None,
        }
    }

    /// Why a stream failed, when that is no fault.
    pub(crate) fn explain(&self, id: u64, error: &io::Error) -> Option<&'static str> {
        if self.record(id, |record| record.cut) {
            return Some("cut: the node gave its client up at the drain's deadline");
        }
        let inside = error.get_ref();
        if let Some(HandOffError::TargetLost { error, .. }) =
            inside.and_then(|inside| inside.downcast_ref())
        {
            return self.explain_connect(error);
        }
        self.explain_migrate(inside?.downcast_ref()?)
    }
}

/// An error with all that is behind it.
pub(crate) fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        told = format!("{told}: {source}");
        next = source.source();
    }
    told
}

/// The middle and the last hundredth.
fn spread(times: &[Duration]) -> Option<(Duration, Duration)> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let median = times.get(times.len() / 2)?;
    let last = times.get((times.len() * 99 / 100).min(times.len() - 1))?;
    Some((*median, *last))
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams: u64 = self.streams.values().sum();
        let moves: u64 = self.moves.values().sum();
        writeln!(f, "streams {streams}, moves {moves}")?;
        writeln!(
            f,
            "bytes: {} up, {} down, all checked",
            self.bytes_up, self.bytes_down
        )?;
        for ((service, mode), count) in &self.streams {
            let what = format!("{service:?} {mode:?}");
            writeln!(f, "  {what:<22}{count:>7}")?;
        }
        writeln!(
            f,
            "moves, and the longest time without progress around each:"
        )?;
        for (mode, count) in &self.moves {
            let stalls = self.stalls.get(mode).map(Vec::as_slice).unwrap_or_default();
            let (median, last) = spread(stalls).unwrap_or_default();
            let mode = format!("{mode:?}");
            writeln!(
                f,
                "  {mode:<12}{count:>7}  median {:>7.1} ms, p99 {:>7.1} ms",
                median.as_secs_f64() * 1e3,
                last.as_secs_f64() * 1e3,
            )?;
        }
        writeln!(f, "what happened and is explained:")?;
        for (what, count) in &self.events {
            writeln!(f, "  {count:>7}  {what}")?;
        }
        writeln!(f, "faults: {}", self.faults.len())?;
        for fault in &self.faults {
            writeln!(f, "  {fault}")?;
        }
        Ok(())
    }
}
