//! Throughput and processor time of bulk transfers, stock quinn and this crate in turn.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quinn::Connection;
use tokio::task::JoinSet;

use super::ends::Ends;
use super::figures::{median, quantile};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Direction {
    /// From server to client.
    Download,
    /// From client to server.
    Upload,
}

/// What is compared.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) direction: Direction,
    /// Connections that share the bytes.
    pub(super) connections: u32,
    /// Idle addresses of this crate's server; each number is a contender of its own.
    pub(super) idle: Vec<u16>,
    pub(super) rounds: usize,
    pub(super) mib: u32,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// MiB in a second.
    speed: f64,
    /// Seconds of processor time for a GiB, of both ends.
    cost: f64,
}

/// `None` is stock quinn.
#[derive(Debug, Clone, Copy)]
struct Contender(Option<u16>);

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("stock quinn"),
            Some(idle) => write!(f, "with hooks, {idle} idle"),
        }
    }
}

impl Contender {
    async fn measure(self, case: &Case) -> Result<Figures> {
        let ends = match self.0 {
            None => Ends::stock()?,
            Some(idle) => Ends::migration(idle)?,
        };
        let mut links = Vec::new();
        for _ in 0..case.connections {
            links.push(ends.connect().await?);
        }
        let (start, processor) = (Instant::now(), processor_time()?);
        let mut transfers = JoinSet::new();
        let mib = case.mib / case.connections.max(1);
        for (ours, theirs) in &links {
            let (from, to) = match case.direction {
                Direction::Download => (theirs.clone(), ours.clone()),
                Direction::Upload => (ours.clone(), theirs.clone()),
            };
            transfers.spawn(transfer(from, to, mib));
        }
        while let Some(ended) = transfers.join_next().await {
            ended??;
        }
        let (seconds, processor) = (start.elapsed().as_secs_f64(), processor_time()? - processor);
        let mib = f64::from(mib * case.connections);
        Ok(Figures {
            speed: mib / seconds,
            cost: processor.as_secs_f64() / (mib / 1024.0),
        })
    }
}

impl Case {
    pub(super) async fn run(&self) -> Result<()> {
        let hooked = self.idle.iter().map(|idle| Contender(Some(*idle)));
        let contenders: Vec<_> = std::iter::once(Contender(None)).chain(hooked).collect();
        let mut all = vec![Vec::new(); contenders.len()];
        for round in 0..self.rounds {
            // Whoever goes first meets another machine, so they take turns.
            for turn in 0..contenders.len() {
                let which = (round + turn) % contenders.len();
                if let (Some(contender), Some(figures)) =
                    (contenders.get(which), all.get_mut(which))
                {
                    figures.push(contender.measure(self).await?);
                }
            }
        }
        self.report(&contenders, &all);
        Ok(())
    }

    fn report(&self, contenders: &[Contender], all: &[Vec<Figures>]) {
        println!(
            "{:?}, {} MiB on {} connection(s), {} rounds, medians; beside stock quinn: the median of the rounds' ratios, and their quartiles",
            self.direction, self.mib, self.connections, self.rounds
        );
        let stock = all.first().map(Vec::as_slice).unwrap_or_default();
        for (contender, figures) in contenders.iter().zip(all) {
            let name = contender.to_string();
            let row = [
                ("MiB/s", column(figures, stock, |figures| figures.speed)),
                ("s/GiB", column(figures, stock, |figures| figures.cost)),
            ];
            for (unit, [middle, ratio, low, high]) in row {
                println!(
                    "  {name:24} {middle:8.3} {unit}  {ratio:+6.2} % ({low:+.2} to {high:+.2})"
                );
            }
        }
    }
}

/// The median, and how the rounds differ from stock quinn's: median and quartiles, in percent.
fn column(figures: &[Figures], stock: &[Figures], of: fn(&Figures) -> f64) -> [f64; 4] {
    let values: Vec<f64> = figures.iter().map(of).collect();
    let both = figures.iter().zip(stock);
    let ratios: Vec<f64> = both
        .map(|(one, stock)| (of(one) / of(stock) - 1.0) * 100.0)
        .collect();
    [
        median(&values),
        median(&ratios),
        quantile(&ratios, 1, 4),
        quantile(&ratios, 3, 4),
    ]
}

async fn transfer(from: Connection, to: Connection, mib: u32) -> Result<()> {
    let sending = async {
        let mut stream = from.open_uni().await?;
        let block = bytes::Bytes::from(vec![7; 1 << 20]);
        for _ in 0..mib {
            stream.write_chunk(block.clone()).await?;
        }
        stream.finish()?;
        stream.stopped().await?;
        anyhow::Ok(())
    };
    let receiving = async {
        let mut stream = to.accept_uni().await?;
        let mut received = 0;
        while let Some(chunk) = stream.read_chunk(usize::MAX, false).await? {
            received += chunk.bytes.len();
        }
        let total = usize::try_from(mib)? << 20;
        ensure!(received == total, "{received} of {total} bytes arrived");
        anyhow::Ok(())
    };
    tokio::try_join!(sending, receiving)?;
    Ok(())
}

/// Processor time of this process so far (Linux: first field of every task's schedstat, in nanoseconds).
fn processor_time() -> Result<Duration> {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds: u64 = stat
            .split_whitespace()
            .next()
            .context("empty schedstat")?
            .parse()?;
        total += nanoseconds;
    }
    Ok(Duration::from_nanos(total))
}
