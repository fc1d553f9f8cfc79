//! `migration-bench`: what migration costs against stock rustls, in time and in instructions, and what nonce stores cost.
//!
//! Both sides of a comparison run by turns, with the same settings. Only `sockets` and `throughput` go over TCP, on this machine.

#![expect(clippy::print_stdout, reason = "the figures are this program's output")]

mod aged;
mod case;
mod checkpoint;
mod error;
mod instructions;
mod peers;
mod primitives;
mod redis;
mod report;
mod settings;
mod sockets;
mod stall;
mod stock;
mod stores;
mod streams;
mod throughput;
mod timing;
mod workload;

use std::fmt::Display;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum as _};
use serde::Serialize;

use crate::case::{Case, Side};
use crate::error::BenchError;
use crate::peers::{Service, Suite};
use crate::report::Report;
use crate::settings::Draft;
use crate::timing::Plan;

/// Compares stock rustls with rustls-migration: handshakes, bulk transfer, and the single steps of a migration.
#[derive(Debug, Parser)]
#[command(name = "migration-bench", version)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Options {
    /// As little as shows that everything runs; the figures mean nothing.
    #[arg(long, global = true)]
    quick: bool,
    /// Print one JSON object.
    #[arg(long, global = true)]
    json: bool,
    /// The cipher suite of all connections; rustls prefers aes256 by default.
    #[arg(long, global = true, value_enum, default_value_t)]
    suite: Suite,
    /// The dialect in which connections of `time` and `instructions` migrate, by the revision of the draft.
    #[arg(long, global = true, value_enum, default_value_t)]
    dialect: Draft,
    /// Only these comparisons; all by default.
    #[arg(long, global = true, value_enum, value_delimiter = ',')]
    only: Vec<Case>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compares wall-clock time; the default.
    Time,
    /// Stats instructions under valgrind, which other load on the machine does not change.
    Instructions {
        /// Keep callgrind's files in this directory, for callgrind_annotate.
        #[arg(long)]
        keep: Option<PathBuf>,
    },
    /// Measures how long a client hears nothing when it changes servers, over a line with a delay.
    Stall {
        /// How often each is measured.
        #[arg(long, default_value_t = 5)]
        repetitions: usize,
        /// Let time stand still while there is something to compute: counts round trips, whatever the machine's load.
        #[arg(long)]
        virtual_time: bool,
    },
    /// Measures how fast bulk data goes over TCP, by turns: tokio-rustls' streams, this project's, and these with checkpoints.
    Throughput(throughput::Plan),
    /// Measures the nonce stores: claims in a second, and what a live nonce takes.
    Stores {
        /// Only these stores; all by default.
        #[arg(long, value_enum, value_delimiter = ',')]
        stores: Vec<stores::Kind>,
        /// With so many live nonces.
        #[arg(long, value_delimiter = ',', default_values_t = [10_000, 1_000_000])]
        live: Vec<u64>,
        /// Where the file is, since disks differ [default: the system's folder for temporary files].
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
    },
    /// Measures memory, processor time and a storm of clients that go elsewhere, over real sockets.
    Sockets(sockets::Plan),
    /// Serves the clients of `sockets`.
    #[command(hide = true)]
    Node(sockets::Node),
    /// The clients of `sockets`.
    #[command(hide = true)]
    Clients(sockets::Clients),
    /// Runs one side of one comparison a number of times.
    #[command(hide = true)]
    Work {
        case: Case,
        side: Side,
        iterations: u32,
    },
}

impl Options {
    fn cases(&self) -> Vec<Case> {
        if self.only.is_empty() {
            Case::all()
        } else {
            self.only.clone()
        }
    }
}

fn main() -> Result<(), BenchError> {
    let Cli { options, command } = Cli::parse();
    let mut report = match command.unwrap_or(Command::Time) {
        Command::Time => time(&options)?,
        Command::Instructions { keep } => {
            let cases = options.cases();
            let peers = (options.suite, options.dialect);
            instructions::count(&cases, peers, options.quick, keep.as_deref())?
        }
        Command::Stall {
            repetitions,
            virtual_time,
        } => {
            let stalls = stall::measure(options.suite, repetitions, virtual_time)?;
            return print(&options, &stalls);
        }
        Command::Throughput(plan) => {
            let service = Service::new(options.suite)?.speaking(options.dialect);
            return print(
                &options,
                &throughput::measure(&service, options.quick, plan)?,
            );
        }
        Command::Stores {
            stores,
            live,
            folder,
        } => {
            let figures = measure_stores(options.quick, stores, &live, folder)?;
            return print(&options, &figures);
        }
        Command::Sockets(plan) => {
            for load in plan.loads(options.quick) {
                print(&options, &sockets::measure(options.suite, load)?)?;
            }
            return Ok(());
        }
        Command::Node(node) => return node.run(options.suite),
        Command::Clients(clients) => return clients.run(options.suite),
        Command::Work {
            case,
            side,
            iterations,
        } => {
            let service = Service::new(options.suite)?.speaking(options.dialect);
            let mut run = workload::workload(&service, case, side)?;
            for _ in 0..iterations {
                run()?;
            }
            println!("{}", instructions::cpu_features().join(" "));
            return Ok(());
        }
    };
    let service = Service::new(options.suite)?.speaking(options.dialect);
    report.checkpoint_bytes = Some(checkpoint::bytes(&service)?);
    print(&options, &report)
}

fn print(options: &Options, figures: &(impl Serialize + Display)) -> Result<(), BenchError> {
    if options.json {
        println!("{}", serde_json::to_string_pretty(figures)?);
    } else {
        println!("{figures}");
    }
    Ok(())
}

fn measure_stores(
    quick: bool,
    mut kinds: Vec<stores::Kind>,
    live: &[u64],
    folder: Option<PathBuf>,
) -> Result<stores::Stores, BenchError> {
    if kinds.is_empty() {
        kinds = stores::Kind::value_variants().to_vec();
    }
    let plan = if quick {
        stores::Plan::QUICK
    } else {
        stores::Plan::FULL
    };
    let folder = folder.unwrap_or_else(std::env::temp_dir);
    stores::measure(plan, &kinds, live, &folder)
}

fn time(options: &Options) -> Result<Report, BenchError> {
    let plan = if options.quick {
        Plan::QUICK
    } else {
        Plan::FULL
    };
    let service = Service::new(options.suite)?.speaking(options.dialect);
    let peers = (options.suite, options.dialect);
    let mut report = Report::new("ns", peers, instructions::cpu_features());
    for case in options.cases() {
        let stock = workload::workload(&service, case, Side::Stock)?;
        let migrating = workload::workload(&service, case, Side::Migrating)?;
        report.add(timing::compare(plan, case, stock, migrating)?);
    }
    if options.only.is_empty() {
        report.steps = primitives::measure(plan, options.suite)?;
        report.steps.extend(checkpoint::measure(plan, &service)?);
    }
    Ok(report)
}
