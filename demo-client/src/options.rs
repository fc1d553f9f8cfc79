//! The command line of `demo-client`.
//!
//! It names what is wanted; nothing is opened or checked here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use demo_server::authority;
use demo_server::options::STATE_DIR;

/// Downloads a file over TLS and follows it when the server moves the connection to another node.
#[derive(Debug, Parser)]
#[command(name = "demo-client", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Downloads a file from a demo-server.
    Get(Get),
    /// Shows a hand-off with two nodes of its own, on 127.0.0.2 and 127.0.0.3, and that a used token is refused.
    Handoff(Handoff),
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The file's path below the server's root.
    pub(crate) path: String,

    /// Address of the server.
    #[arg(long, value_name = "ADDR")]
    pub(crate) connect: SocketAddr,

    /// Name that the server's certificate must have.
    #[arg(long, value_name = "NAME", default_value = authority::NAMES[0])]
    pub(crate) server_name: String,

    /// Certificate authority in PEM [default: the development authority of the state folder].
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// Folder that the servers on this machine share.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub(crate) state_dir: PathBuf,

    /// Where to write the file; by default it is only checked.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Move once this many bytes have been received, without being told to.
    #[arg(long, value_name = "BYTES")]
    pub(crate) migrate_after: Option<u64>,

    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Handoff {
    /// File to download, at least 2 bytes long [default: this program's own].
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print one JSON object instead of a timeline.
    #[arg(long)]
    pub(crate) json: bool,

    /// Append the TLS secrets of all connections to this file, for tools that decrypt captured traffic.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_log: Option<PathBuf>,
}
