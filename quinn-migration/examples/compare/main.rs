//! Stock quinn and this crate, in turn, in one run: throughput and processor time of downloads and uploads, with idle
//! addresses and with many connections; and the stall of a move beside the noise of the machine.
//!
//! `cargo run --release -p quinn-migration --example compare -- --rounds 60` takes an hour or two, on a quiet machine.
#![expect(clippy::print_stdout, reason = "a program for the command line")]

mod ends;
mod figures;
#[path = "../local/mod.rs"]
mod local;
mod stall;
mod transfer;

use anyhow::Result;
use clap::Parser;

use transfer::{Case, Direction};

/// Compares this crate with stock quinn, alternating.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds; each one measures stock quinn and this crate with each number of idle addresses.
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// MiB in each measurement, shared by the connections.
    #[arg(long, default_value_t = 512)]
    mib: u32,
    /// Which ways the bytes go.
    #[arg(long, value_delimiter = ',', default_value = "download,upload")]
    directions: Vec<Direction>,
    /// Addresses of the server that nobody uses.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    idle: Vec<u16>,
    /// Connections at once, each number in cases of its own.
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    connections: Vec<u32>,
    /// Moves whose stall is measured.
    #[arg(long, default_value_t = 20)]
    moves: usize,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::parse();
    for connections in &options.connections {
        for direction in &options.directions {
            let case = Case {
                direction: *direction,
                connections: *connections,
                idle: options.idle.clone(),
                rounds: options.rounds,
                mib: options.mib,
            };
            case.run().await?;
        }
    }
    stall::compare_stall(options.moves).await
}
