//! `demo-forwarder`: a front, a node behind fronts, and a trial of two of each as processes (docs/forwarding.md).
//!
//! The trial ends with status 0 only when everything was as it should be.

mod front;
mod node;
mod options;
mod trial;

use std::process::ExitCode;

use demo_server::program;

use crate::options::{Command, Options};

#[tokio::main]
async fn main() -> ExitCode {
    let options: Options = match program::parse() {
        Ok(options) => options,
        Err(status) => return status,
    };
    let _log = program::log("warn");
    program::end(match &options.command {
        Command::Front(options) => front::run(options).await,
        Command::Node(options) => node::run(options).await,
        Command::Trial(options) => trial::run(options).await,
    })
}
