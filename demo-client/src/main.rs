//! `demo-client`: downloads a file over TLS and follows it from node to node.
//!
//! It ends with status 0 only when everything was as it should be.

mod connect;
mod download;
mod get;
mod handoff;
mod http;
mod legs;
mod mortal;
mod options;
mod output;
mod quic_handoff;
mod record;
mod replay;
mod report;
mod server_hello;
mod sync;
mod timeline;

use std::process::ExitCode;

use demo_server::program;

use crate::options::{Command, Options};

#[tokio::main]
async fn main() -> ExitCode {
    let options: Options = match program::parse() {
        Ok(options) => options,
        Err(status) => return status,
    };
    // The nodes of a hand-off are in this process, and what is expected of them needs no log.
    let _log = program::log("warn");
    program::end(match &options.command {
        Command::Get(options) => get::run(options).await,
        Command::Handoff(options) => handoff::run(options).await,
        Command::QuicHandoff(options) => quic_handoff::run(options).await,
        Command::MortalNode(options) => mortal::run(options).await,
    })
}
