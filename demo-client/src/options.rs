//! The command line of `demo-client`.
//!
//! It names what is wanted; nothing is opened or checked here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use demo_server::authority;
use demo_server::dialect::DialectChoice;
use demo_server::options::STATE_DIR;
use rustls_migration::tokio::HandOff;

use crate::mortal::MortalNode;

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
    /// Shows hand-offs between nodes of its own, on 127.0.0.2, 127.0.0.3 and so on, and that a used token is refused.
    Handoff(Handoff),
    /// Moves a QUIC connection between 127.0.0.2 and 127.0.0.3 while data flows in both directions.
    QuicHandoff(QuicHandoff),
    /// Is a node of `handoff --kill`.
    #[command(hide = true)]
    MortalNode(MortalNode),
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

    /// How to follow when the server asks for it.
    #[arg(long, value_enum, default_value_t = GetMode::Immediate)]
    pub(crate) mode: GetMode,

    /// The dialects that are offered to the server, by the revision of the draft. That of 03 is experimental.
    #[arg(long, value_name = "DRAFT", value_enum, default_value_t)]
    pub(crate) dialect: DialectChoice,

    /// Download by HTTP, of this version. Each request goes where the last server asked the client to go.
    #[arg(long, value_enum, value_name = "VERSION", conflicts_with_all = ["migrate_after", "mode"])]
    pub(crate) http: Option<HttpVersion>,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HttpVersion {
    /// HTTP/1.1
    #[value(name = "1.1")]
    V1,
    /// HTTP/2
    #[value(name = "2")]
    V2,
}

impl HttpVersion {
    /// What ALPN calls it.
    pub(crate) fn alpn(self) -> &'static [u8] {
        match self {
            Self::V1 => b"http/1.1",
            Self::V2 => b"h2",
        }
    }
}

/// How a download follows its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GetMode {
    /// Leave at once, and ask the next node for the rest.
    Immediate,
    /// Let the node hand over where it stopped; the download does not notice.
    Drain,
}

/// How a hand-off is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// A download alone: leave at once, and ask the next node for the rest.
    Immediate,
    /// Each node is finished before the next one goes on from its last state.
    Drain,
    /// The next node is ready before the client leaves the present one, between two messages.
    Overlap,
}

impl Mode {
    /// How its streams follow.
    pub(crate) fn hand_off(self) -> HandOff {
        match self {
            Self::Immediate => HandOff::Manual,
            Self::Drain => HandOff::Drain,
            Self::Overlap => HandOff::Overlap,
        }
    }

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::Drain => "drain",
            Self::Overlap => "overlap",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Handoff {
    /// How the client goes from node to node.
    #[arg(long, value_enum, default_value_t = Mode::Drain)]
    pub(crate) mode: Mode,

    /// Kill each node but the last one with SIGKILL in the middle of its share, in place of moving the client: the nodes are
    /// processes of their own, and the client goes on from their checkpoints.
    #[arg(long, conflicts_with = "mode")]
    pub(crate) kill: bool,

    /// The dialects that the client and the nodes speak, by the revision of the draft. That of 03 is experimental.
    #[arg(long, value_name = "DRAFT", value_enum, default_value_t)]
    pub(crate) dialect: DialectChoice,

    /// How often it does, from 1 to 200.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=200))]
    pub(crate) hops: u8,

    /// File to download, and to upload with all its bits inverted; a few bytes for each node at least [default: this program's own].
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct QuicHandoff {
    /// How often the connection moves, from one address to the other, from 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) hops: u32,

    /// MiB to transfer in each direction, at least: data flows until the last move is over.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) mib: u32,

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
