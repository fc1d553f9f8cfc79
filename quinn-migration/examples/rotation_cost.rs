//! What rotation costs: the throughput of a download whose connection moves to another address of a prefix again and again,
//! beside one that stays, in turn; and what the process holds meanwhile.
//!
//! `tools/rotation-cost` runs it in a network namespace of its own, over a /64.
#![expect(clippy::print_stdout, reason = "a program for the command line")]

mod local;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use quinn::Connection;
use quinn_migration::{
    AddressPool, AddressRange, Codepoints, MigrationClient, MigrationServer, Policy, Rotation,
};

/// Measures downloads with and without rotation, alternating.
#[derive(Debug, Parser)]
struct Options {
    /// The server's first address.
    #[arg(long, default_value = "127.0.0.2")]
    address: IpAddr,
    /// What it rotates over; all of it must reach this host.
    #[arg(long, default_value = "127.64.0.0/10")]
    prefix: AddressRange,
    /// Milliseconds from one move to the next.
    #[arg(long, default_value_t = 200)]
    every: u64,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Rounds; each one measures both.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::parse();
    let bench = Bench::new(options)?;
    let mut speeds = [Vec::new(), Vec::new()];
    let mut held = Vec::new();
    for round in 0..bench.options.rounds {
        // Whoever goes first meets another machine, so they take turns.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            let speed = bench.measure(which == 1, &mut held).await?;
            if let Some(speeds) = speeds.get_mut(which) {
                speeds.push(speed);
            }
        }
    }
    let [staying, rotating] = speeds.map(|mut all| median(&mut all));
    println!(
        "download, MiB/s, median of {}: staying {staying:.0}, rotating every {} ms {rotating:.0}, {:+.1} %",
        bench.options.rounds,
        bench.options.every,
        (rotating / staying - 1.0) * 100.0
    );
    if let (Some(first), Some(last)) = (held.first(), held.last()) {
        println!("held by the process while it rotates, first and last sample: {first}; {last}");
    }
    let most = held
        .iter()
        .map(|sample| (sample.memory, sample.files))
        .max();
    let stats = bench.server.stats();
    println!(
        "most: {most:?}; addresses drawn {}, served now {}, moves {}, declined {}, strays {}",
        stats.addresses_added, stats.addresses_now, stats.moved, stats.declined, stats.strays
    );
    Ok(())
}

struct Bench {
    options: Options,
    server: MigrationServer,
    client: MigrationClient,
    pool: AddressPool,
}

/// What the process holds.
struct Sample {
    /// Resident, in KiB.
    memory: u64,
    files: usize,
    addresses: usize,
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            memory,
            files,
            addresses,
        } = self;
        write!(
            f,
            "{memory} KiB, {files} descriptors, {addresses} addresses"
        )
    }
}

impl Bench {
    fn new(options: Options) -> Result<Self> {
        let (server_tls, client_tls) = local::tls()?;
        let any = match options.address {
            IpAddr::V4(_) => "0.0.0.0:0",
            IpAddr::V6(_) => "[::]:0",
        };
        let codepoints = Codepoints::default();
        let first = SocketAddr::new(options.address, 0).to_string();
        let server = MigrationServer::bind(
            Arc::new(server_tls),
            codepoints,
            Default::default(),
            local::bind(&first)?,
        )?;
        let pool = server.add_pool(local::bind(any)?, &options.prefix)?;
        let client = MigrationClient::bind(
            Arc::new(client_tls),
            codepoints,
            Default::default(),
            local::bind(any)?,
        )?;
        Ok(Self {
            options,
            server,
            client,
            pool,
        })
    }

    /// MiB per second of one connection's download.
    async fn measure(&self, rotates: bool, held: &mut Vec<Sample>) -> Result<f64> {
        let (ours, theirs) = local::connect(self.client.endpoint(), self.server.endpoint()).await?;
        let mut policy = Policy::default();
        policy.moves = u32::MAX;
        let _migrator = self.client.attach(&ours, policy)?;
        let sending = tokio::spawn(send(theirs.clone()));
        let rotation = Rotation::over([&self.pool])
            .every(Duration::from_millis(self.options.every))
            .jitter(Duration::ZERO)
            .linger(Duration::from_secs(1));
        let rotating = rotates.then(|| self.server.rotate(&theirs, rotation));
        let mut stream = ours.accept_uni().await?;
        let started = Instant::now();
        let (mut received, mut next) = (0u64, Duration::from_secs(2));
        let time = Duration::from_secs(self.options.seconds);
        while started.elapsed() < time {
            let chunk = stream.read_chunk(usize::MAX, false).await?;
            let chunk = chunk.context("the stream has ended")?;
            received += u64::try_from(chunk.bytes.len())?;
            if rotates && started.elapsed() >= next {
                next += Duration::from_secs(1);
                held.push(self.sample()?);
            }
        }
        let mib = f64::from(u32::try_from(received >> 20)?);
        let speed = mib / started.elapsed().as_secs_f64();
        if let Some(rotating) = rotating {
            let progress = rotating.progress();
            println!("rotating: {speed:.0} MiB/s, {} moves", progress.moved);
            ensure!(progress.moved > 0, "nothing moved: {progress:?}");
        } else {
            println!("staying: {speed:.0} MiB/s");
        }
        ours.close(0u32.into(), b"");
        sending.abort();
        Ok(speed)
    }

    fn sample(&self) -> Result<Sample> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.and_then(|rest| rest.split_whitespace().next());
        Ok(Sample {
            memory: memory.context("no VmRSS")?.parse()?,
            files: std::fs::read_dir("/proc/self/fd")?.count(),
            addresses: self.server.stats().addresses_now,
        })
    }
}

/// Sends for as long as somebody takes it.
async fn send(connection: Connection) -> Result<()> {
    let mut stream = connection.open_uni().await?;
    let block = bytes::Bytes::from(vec![7; 1 << 20]);
    loop {
        stream.write_chunk(block.clone()).await?;
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len().saturating_sub(1) / 2;
    values.get(middle).copied().unwrap_or(f64::NAN)
}
