//! Stock quinn and this crate, in turn, in one run: throughput, processor time, and the stall of a move beside the
//! noise of the machine.
//!
//! `cargo run --release --example compare -- --rounds 12`
#![expect(clippy::print_stdout, reason = "a program for the command line")]

mod local;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint};
use quinn_migration::{Alternate, Codepoints, MigrationClient, MigrationServer, Outcome, Policy};

/// Compares this crate with stock quinn, alternating.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds; each one measures both.
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// MiB from server to client in each measurement.
    #[arg(long, default_value_t = 512)]
    mib: usize,
    /// Moves whose stall is measured.
    #[arg(long, default_value_t = 20)]
    moves: usize,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::parse();
    compare_throughput(options.rounds, options.mib << 20).await?;
    compare_stall(options.moves).await
}

/// One connection and what keeps it up.
struct Link {
    ours: Connection,
    theirs: Connection,
    _ends: Ends,
}

enum Ends {
    Stock {
        _server: Endpoint,
        _client: Endpoint,
    },
    Migration {
        server: MigrationServer,
        client: MigrationClient,
        addresses: [SocketAddr; 2],
    },
}

async fn stock() -> Result<Link> {
    let (server_tls, client_tls) = local::tls()?;
    let config =
        quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server_tls)?));
    let runtime = Arc::new(quinn::TokioRuntime);
    let server = Endpoint::new(
        Default::default(),
        Some(config),
        local::bind("127.0.0.2:0")?,
        runtime.clone(),
    )?;
    let mut client = Endpoint::new(Default::default(), None, local::bind("0.0.0.0:0")?, runtime)?;
    client.set_default_client_config(quinn::ClientConfig::new(Arc::new(
        QuicClientConfig::try_from(client_tls)?,
    )));
    let (ours, theirs) = local::connect(&client, &server).await?;
    Ok(Link {
        ours,
        theirs,
        _ends: Ends::Stock {
            _server: server,
            _client: client,
        },
    })
}

async fn migration() -> Result<Link> {
    let (server_tls, client_tls) = local::tls()?;
    let codepoints = Codepoints::default();
    let (first, second) = (local::bind("127.0.0.2:0")?, local::bind("127.0.0.3:0")?);
    let addresses = [first.local_addr()?, second.local_addr()?];
    let server =
        MigrationServer::bind(Arc::new(server_tls), codepoints, Default::default(), first)?;
    server.add_address(second)?;
    let socket = local::bind("0.0.0.0:0")?;
    let client =
        MigrationClient::bind(Arc::new(client_tls), codepoints, Default::default(), socket)?;
    let (ours, theirs) = local::connect(client.endpoint(), server.endpoint()).await?;
    Ok(Link {
        ours,
        theirs,
        _ends: Ends::Migration {
            server,
            client,
            addresses,
        },
    })
}

async fn compare_throughput(rounds: usize, total: usize) -> Result<()> {
    let (mut speeds, mut costs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..rounds {
        // Whoever goes first meets another machine, so they take turns.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            let link = if which == 0 {
                stock().await?
            } else {
                migration().await?
            };
            let (speed, cost) = download(&link, total).await?;
            let (speeds, costs) = (speeds.get_mut(which), costs.get_mut(which));
            speeds
                .into_iter()
                .for_each(|all: &mut Vec<f64>| all.push(speed));
            costs
                .into_iter()
                .for_each(|all: &mut Vec<f64>| all.push(cost));
        }
    }
    let [stock, ours] = speeds.map(|all| median(&all));
    println!(
        "throughput, MiB/s, median of {rounds}: stock {stock:.0}, with hooks {ours:.0}, {:+.1} %",
        (ours / stock - 1.0) * 100.0
    );
    let [stock, ours] = costs.map(|all| median(&all));
    println!(
        "processor time, s/GiB, median: stock {stock:.3}, with hooks {ours:.3}, {:+.1} %",
        (ours / stock - 1.0) * 100.0
    );
    Ok(())
}

/// MiB per second, and seconds of processor time per GiB.
async fn download(link: &Link, total: usize) -> Result<(f64, f64)> {
    let mut stream = link.theirs.open_uni().await?;
    let sending = tokio::spawn(async move {
        let block = bytes::Bytes::from(vec![7; 1 << 20]);
        for _ in 0..total >> 20 {
            stream.write_chunk(block.clone()).await?;
        }
        stream.finish()?;
        stream.stopped().await?;
        anyhow::Ok(())
    });
    let mut stream = link.ours.accept_uni().await?;
    let (start, processor) = (Instant::now(), processor_time()?);
    let mut received = 0;
    while let Some(chunk) = stream.read_chunk(usize::MAX, false).await? {
        received += chunk.bytes.len();
    }
    let (seconds, processor) = (start.elapsed().as_secs_f64(), processor_time()? - processor);
    sending.await??;
    ensure!(received == total, "{received} of {total} bytes arrived");
    let mib = Duration::from_secs(u64::try_from(total >> 20)?).as_secs_f64();
    Ok((mib / seconds, processor.as_secs_f64() / (mib / 1024.0)))
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

/// Worst echo in a window around each move, and in windows just before without one.
async fn compare_stall(moves: usize) -> Result<()> {
    const WINDOW: Duration = Duration::from_millis(100);
    let link = migration().await?;
    let Ends::Migration {
        server,
        client,
        addresses,
    } = &link._ends
    else {
        return Ok(());
    };
    let mut policy = Policy::default();
    policy.moves = u32::try_from(moves)?;
    let _migrator = client.attach(&link.ours, policy)?;
    let echoes = Echoes::start(&link).await?;
    tokio::time::sleep(WINDOW * 5).await;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for number in 1..=moves {
        without.push(echoes.worst_in(tokio::time::sleep(WINDOW)).await);
        let target = addresses.get(number % 2).context("no address")?;
        let moving = async {
            let advertised = server
                .advertise(&link.theirs, Alternate::from(*target))
                .await?;
            ensure!(
                advertised.outcome().await? == Outcome::Moved,
                "the client did not move"
            );
            anyhow::Ok(())
        };
        let both = async { tokio::join!(moving, tokio::time::sleep(WINDOW)).0 };
        let (worst, moved) = echoes.worst_while(both).await;
        moved?;
        with.push(worst);
    }
    for (name, worst) in [("with a move", with), ("without", without)] {
        println!(
            "worst echo in {WINDOW:?}, ms, {moves} windows {name}: median {:.2}, p90 {:.2}, max {:.2}",
            median(&worst),
            quantile(&worst, 9, 10),
            quantile(&worst, 1, 1)
        );
    }
    Ok(())
}

/// An echo every millisecond, beside a download at a steady rate.
struct Echoes {
    worst: Arc<parking_lot::Mutex<Duration>>,
}

impl Echoes {
    async fn start(link: &Link) -> Result<Self> {
        let worst = Arc::new(parking_lot::Mutex::new(Duration::ZERO));
        let mut load = link.theirs.open_uni().await?;
        tokio::spawn(async move {
            let block = vec![7; 64 * 1024];
            let mut tick = tokio::time::interval(Duration::from_millis(2));
            while load.write_all(&block).await.is_ok() {
                tick.tick().await;
            }
        });
        let mut load = link.ours.accept_uni().await?;
        tokio::spawn(
            async move { while let Ok(Some(_)) = load.read_chunk(usize::MAX, false).await {} },
        );
        let (mut ask, mut answer) = link.ours.open_bi().await?;
        ask.write_all(&[0]).await?;
        let (mut back, mut there) = link.theirs.accept_bi().await?;
        tokio::spawn(async move {
            let mut byte = [0];
            while there.read_exact(&mut byte).await.is_ok() && back.write_all(&byte).await.is_ok() {
            }
        });
        answer.read_exact(&mut [0]).await?;
        let seen = Arc::clone(&worst);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let start = Instant::now();
                if ask.write_all(&[0]).await.is_err() || answer.read_exact(&mut [0]).await.is_err()
                {
                    return;
                }
                let mut worst = seen.lock();
                *worst = worst.max(start.elapsed());
            }
        });
        Ok(Self { worst })
    }

    async fn worst_in(&self, work: impl Future<Output = ()>) -> f64 {
        self.worst_while(work).await.0
    }

    /// The worst echo, in milliseconds, while `work` went on.
    async fn worst_while<T>(&self, work: impl Future<Output = T>) -> (f64, T) {
        *self.worst.lock() = Duration::ZERO;
        let done = work.await;
        (self.worst.lock().as_secs_f64() * 1000.0, done)
    }
}

fn median(values: &[f64]) -> f64 {
    quantile(values, 1, 2)
}

fn quantile(values: &[f64], numerator: usize, denominator: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(last * numerator / denominator)
        .copied()
        .unwrap_or(f64::NAN)
}
