//! How many nonces a store claims and commits in a second, and what a live one costs, with few and with many of them live.
//!
//! Time is injected: while a store is measured, as many nonces expire as are added. A redis server has a clock of its own, so
//! there none expire. It judges no figure.

use std::cell::Cell;
use std::fmt;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use migration_token::{
    Claim, ClaimId, ClaimOutcome, CommitOutcome, FileNonceStore, MemoryNonceStore, NonceKey,
    NonceStore,
};
use serde::Serialize;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use tokio::runtime::Runtime;
use tokio::task::{JoinSet, LocalSet};

use crate::aged::Aged;
use crate::case::name;
use crate::error::BenchError;
use crate::redis::Redis;

/// How many nonces are issued in a second of injected time.
const PER_SECOND: u64 = 100;
/// How many connections ask at a time, where they do not ask one by one.
const TOGETHER: u64 = 256;

/// A kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// In the memory of the process.
    Memory,
    /// In a file, each answer on the disk before it is given.
    File,
    /// On a redis server of this machine, over a unix socket.
    Redis,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How many nonces are claimed and committed one by one.
    one_by_one: u64,
    /// How many by many connections.
    together: u64,
}

impl Plan {
    pub(crate) const FULL: Self = Self {
        one_by_one: 500,
        together: 50_000,
    };
    pub(crate) const QUICK: Self = Self {
        one_by_one: 5,
        together: 50,
    };
}

/// One store with one number of live nonces.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figures {
    store: Kind,
    live: u64,
    one_by_one_per_second: f64,
    together_per_second: f64,
    /// Of memory or of file, whatever the store grows in.
    bytes_per_nonce: f64,
}

/// All figures of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stores {
    together: u64,
    figures: Vec<Figures>,
}

/// Measures `kinds` with each number of live nonces; files are in a new folder in `folder`.
pub(crate) fn measure(
    plan: Plan,
    kinds: &[Kind],
    live: &[u64],
    folder: &Path,
) -> Result<Stores, BenchError> {
    let mut figures = Vec::new();
    for kind in kinds {
        for live in live {
            figures.push(measure_one(plan, *kind, *live, folder)?);
        }
    }
    Ok(Stores {
        together: TOGETHER,
        figures,
    })
}

/// An open store, and what it grows in.
struct Subject {
    store: Arc<dyn NonceStore>,
    place: Place,
}

/// Where a store keeps its nonces.
enum Place {
    Memory,
    Folder(TempDir),
    Redis(Redis),
}

const FILE: &str = "nonces";

impl Subject {
    async fn open(kind: Kind, live: u64, folder: &Path) -> Result<Self, BenchError> {
        let start = OffsetDateTime::UNIX_EPOCH;
        // Nonces stay for a second or two longer than they must.
        let capacity = live + 4 * PER_SECOND + 2 * TOGETHER;
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        Ok(match kind {
            Kind::Memory => Self {
                store: Arc::new(MemoryNonceStore::with_monotonic(
                    capacity,
                    start,
                    Aged::clock(),
                )),
                place: Place::Memory,
            },
            Kind::File => {
                let folder = tempfile::tempdir_in(folder)?;
                let store = FileNonceStore::open_with_monotonic(
                    folder.path().join(FILE),
                    capacity,
                    start,
                    Aged::clock(),
                )?;
                Self {
                    store: Arc::new(store),
                    place: Place::Folder(folder),
                }
            }
            Kind::Redis => {
                let redis = Redis::start()?;
                Self {
                    store: Arc::new(redis.store().await?),
                    place: Place::Redis(redis),
                }
            }
        })
    }

    /// Bytes that it takes, and in a process's memory also what else is there.
    fn size(&self) -> Result<u64, BenchError> {
        match &self.place {
            Place::Memory => resident(),
            Place::Folder(folder) => Ok(fs::metadata(folder.path().join(FILE))?.len()),
            Place::Redis(redis) => redis.used_memory(),
        }
    }

    fn has_own_clock(&self) -> bool {
        matches!(self.place, Place::Redis(_))
    }
}

fn measure_one(plan: Plan, kind: Kind, live: u64, folder: &Path) -> Result<Figures, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let subject = runtime.block_on(Subject::open(kind, live, folder))?;
    let line = Rc::new(Line {
        store: Arc::clone(&subject.store),
        system_time: subject.has_own_clock(),
        live,
        next: Cell::new(0),
    });
    let before = subject.size()?;
    line.run(&runtime, live, TOGETHER)?;
    let bytes = subject.size()?.saturating_sub(before);
    Ok(Figures {
        store: kind,
        live,
        one_by_one_per_second: line.run(&runtime, plan.one_by_one, 1)?,
        together_per_second: line.run(&runtime, plan.together, TOGETHER)?,
        bytes_per_nonce: float(bytes) / float(live),
    })
}

/// Nonces in the order of their issue.
struct Line {
    store: Arc<dyn NonceStore>,
    system_time: bool,
    live: u64,
    next: Cell<u64>,
}

impl Line {
    /// Claims and commits so many nonces, in several tasks at a time. Returns how many of them in a second.
    fn run(self: &Rc<Self>, runtime: &Runtime, nonces: u64, tasks: u64) -> Result<f64, BenchError> {
        let end = self.next.get() + nonces;
        let start = Instant::now();
        let local = LocalSet::new();
        let mut workers = JoinSet::new();
        for _ in 0..tasks {
            workers.spawn_local_on(Rc::clone(self).work(end), &local);
        }
        local.block_on(runtime, async {
            while let Some(worked) = workers.join_next().await {
                worked.map_err(|_| BenchError::Unexpected("a task panicked"))??;
            }
            Ok::<(), BenchError>(())
        })?;
        Ok(float(nonces) / start.elapsed().as_secs_f64())
    }

    async fn work(self: Rc<Self>, end: u64) -> Result<(), BenchError> {
        while self.next.get() < end {
            let claim = self.claim(self.next.replace(self.next.get() + 1));
            if self.store.claim(claim).await? != ClaimOutcome::First {
                return Err(BenchError::Unexpected("a new nonce is not new"));
            }
            if self.store.commit(claim).await? != CommitOutcome::Won {
                return Err(BenchError::Unexpected("a nonce is not spent"));
            }
        }
        Ok(())
    }

    /// Nonce `number` is issued at its moment and kept until `live` more have been.
    fn claim(&self, number: u64) -> Claim {
        let second = |number: u64| {
            let seconds = i64::try_from(number / PER_SECOND).unwrap_or(i64::MAX);
            OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds)
        };
        let (now, keep_until) = match self.system_time {
            true => {
                let now = OffsetDateTime::now_utc();
                (now, now + Duration::DAY)
            }
            false => (second(number), second(number + self.live)),
        };
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        Claim {
            nonce: NonceKey::new(&[0; 32], &[0; 32], &number.to_be_bytes()),
            id: ClaimId::new(id),
            issued_after: now,
            keep_until,
            now,
        }
    }
}

/// Memory of this process, in bytes (`man 5 proc_pid_status`).
fn resident() -> Result<u64, BenchError> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    let kilobytes: u64 = kilobytes.ok_or(BenchError::Unexpected("no VmRSS in its status"))?;
    Ok(kilobytes * 1024)
}

fn float(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

impl fmt::Display for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "claims with their commits, in a second\n")?;
        let together = format!("{} at a time", self.together);
        writeln!(
            f,
            "{:<8}{:>12}{:>14}{:>16}{:>22}",
            "store", "live nonces", "one by one", together, "bytes for each live"
        )?;
        for one in &self.figures {
            let unit = match one.store {
                Kind::Memory | Kind::Redis => "memory",
                Kind::File => "file",
            };
            writeln!(
                f,
                "{:<8}{:>12}{:>14.0}{:>16.0}{:>15.0} {unit}",
                name(&one.store),
                one.live,
                one.one_by_one_per_second,
                one.together_per_second,
                one.bytes_per_nonce,
            )?;
        }
        Ok(())
    }
}
