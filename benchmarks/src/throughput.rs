//! How fast bulk data goes over TCP: tokio-rustls' streams, this project's, and these with a checkpoint for each 64 KiB.
//!
//! The two ends run in threads of their own, and the loopback device is the line: what limits it limits them. It judges no figure.

use std::fmt;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::Runtime;

use crate::case::{STREAM_LEN, name};
use crate::error::BenchError;
use crate::peers::Service;
use crate::report::Spread;
use crate::streams::{self, Ends, MigratingEnds, StockEnds};

/// How much is measured.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Plan {
    /// MiB that each transfer moves.
    #[arg(long, default_value_t = 256)]
    mib: usize,
    /// How often each transfer is made.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
}

/// Which way bulk data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Way {
    ToClient,
    ToServer,
}

/// Whose streams carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streams {
    Stock,
    Migrating,
    Checkpoints,
}

/// One way's figures.
#[derive(Clone, Copy, Debug, Serialize)]
struct Row {
    way: Way,
    stock_mb_per_second: f64,
    /// Time to that of tokio-rustls in the same round, without checkpoints.
    migrating: Spread,
    /// Time with checkpoints to that without in the same round.
    checkpoints: Spread,
}

/// All figures of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Throughput {
    rows: Vec<Row>,
}

/// Measures both ways.
pub(crate) fn measure(
    service: &Service,
    quick: bool,
    plan: Plan,
) -> Result<Throughput, BenchError> {
    let plan = if quick {
        Plan { mib: 1, rounds: 1 }
    } else {
        plan
    };
    let ways = Way::value_variants().iter();
    let rows = ways.map(|way| measure_way(service, *way, plan));
    Ok(Throughput {
        rows: rows.collect::<Result<_, _>>()?,
    })
}

fn measure_way(service: &Service, way: Way, plan: Plan) -> Result<Row, BenchError> {
    let transfer = Transfer {
        way,
        units: plan.mib * 1024 * 1024 / STREAM_LEN,
    };
    let (mut stock, mut migrating, mut checkpoints) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let mut order = [Streams::Stock, Streams::Migrating, Streams::Checkpoints];
        order.rotate_left(round % 3);
        let [mut of_stock, mut without, mut with] = [0.0; 3];
        for streams in order {
            let seconds = transfer.run(service, streams)?.as_secs_f64();
            match streams {
                Streams::Stock => of_stock = seconds,
                Streams::Migrating => without = seconds,
                Streams::Checkpoints => with = seconds,
            }
        }
        stock.push(of_stock);
        migrating.push(without / of_stock);
        checkpoints.push(with / without);
    }
    let megabytes = f64::from(u32::try_from(transfer.units * STREAM_LEN / 1000).unwrap_or(0)) / 1e3;
    Ok(Row {
        way,
        stock_mb_per_second: megabytes / Spread::of(stock).median,
        migrating: Spread::of(migrating),
        checkpoints: Spread::of(checkpoints),
    })
}

/// One transfer, in units of [`STREAM_LEN`].
#[derive(Clone, Copy)]
struct Transfer {
    way: Way,
    units: usize,
}

impl Transfer {
    fn run(self, service: &Service, streams: Streams) -> Result<Duration, BenchError> {
        match streams {
            Streams::Stock => self.between(StockEnds::new(service)?, streams::nothing),
            Streams::Migrating => self.between(MigratingEnds::new(service)?, streams::nothing),
            Streams::Checkpoints => {
                let ends = MigratingEnds::new(service)?;
                match self.way {
                    Way::ToClient => self.between(ends, streams::queue_checkpoint),
                    Way::ToServer => self.between(ends, streams::checkpoint),
                }
            }
        }
    }

    /// How long it takes, as its client sees it.
    fn between<E: Ends>(
        self,
        ends: E,
        then: impl AsyncFn(&mut E::Server<tokio::net::TcpStream>) -> Result<(), BenchError>
        + Send
        + 'static,
    ) -> Result<Duration, BenchError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let server = ends.clone();
        let serving = thread::spawn(move || -> Result<(), BenchError> {
            let runtime = runtime()?;
            let io = transport(&runtime, listener.accept()?.0)?;
            runtime.block_on(async {
                let stream = server.accept(io).await?;
                self.serve(stream, then).await
            })
        });
        let runtime = runtime()?;
        let io = transport(&runtime, TcpStream::connect(address)?)?;
        let time = runtime.block_on(async {
            let stream = ends.connect(io).await?;
            self.drive(stream).await
        });
        let served = serving.join();
        served.map_err(|_| BenchError::Unexpected("the server's thread panicked"))??;
        time
    }

    /// The server's part: `then` follows each unit.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        mut stream: S,
        then: impl AsyncFn(&mut S) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let mut unit = vec![0x62; STREAM_LEN];
        let mut word = [0];
        stream.read_exact(&mut word).await?;
        for _ in 0..self.units {
            match self.way {
                Way::ToClient => stream.write_all(&unit).await?,
                Way::ToServer => {
                    stream.read_exact(&mut unit).await?;
                }
            }
            then(&mut stream).await?;
        }
        stream.write_all(&word).await?;
        stream.flush().await?;
        // The client has read all when it is gone.
        while stream.read(&mut word).await? > 0 {}
        Ok(())
    }

    async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        mut stream: S,
    ) -> Result<Duration, BenchError> {
        let mut unit = vec![0x62; STREAM_LEN];
        let start = Instant::now();
        stream.write_all(&[1]).await?;
        stream.flush().await?;
        for _ in 0..self.units {
            match self.way {
                Way::ToClient => {
                    stream.read_exact(&mut unit).await?;
                }
                Way::ToServer => stream.write_all(&unit).await?,
            }
        }
        stream.flush().await?;
        stream.read_exact(&mut [0]).await?;
        let time = start.elapsed();
        stream.shutdown().await?;
        Ok(time)
    }
}

fn runtime() -> Result<Runtime, BenchError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}

fn transport(runtime: &Runtime, socket: TcpStream) -> Result<tokio::net::TcpStream, BenchError> {
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let _inside = runtime.enter();
    Ok(tokio::net::TcpStream::from_std(socket)?)
}

fn shown(ratio: Spread) -> String {
    format!("{:.3} ({})", ratio.median, ratio.range(3))
}

impl fmt::Display for Throughput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12}{:>14}{:>28}{:>28}",
            "way", "stock MB/s", "this project's, in time", "a checkpoint each 64 KiB"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:<12}{:>14.0}{:>28}{:>28}",
                name(&row.way),
                row.stock_mb_per_second,
                shown(row.migrating),
                shown(row.checkpoints),
            )?;
        }
        Ok(())
    }
}
