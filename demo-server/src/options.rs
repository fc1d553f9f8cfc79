//! The command line of `demo-server`.
//!
//! It names what is wanted; nothing is opened or checked here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use url::Url;

use crate::dialect::DialectChoice;
use crate::keys::KeysCommand;
use crate::leave::Target;
use crate::nonces::Choice;
use crate::redis_address::RedisOptions;

/// The folder that nodes and clients on one machine share unless told otherwise.
pub const STATE_DIR: &str = "demo-state";

/// Serves files over TLS, by a line protocol and by HTTP, and moves its clients to another node while they download.
///
/// A line on standard output tells each address that it listens on. SIGUSR1, or the word `migrate` on standard input,
/// moves all live connections to the node of --migrate-to. SIGTERM, or `drain ADDR[=WEIGHT]...` on standard input, empties
/// the node and ends it; SIGINT ends it at once. SIGHUP reads the ticket keys again.
#[derive(Debug, Parser)]
#[command(name = "demo-server", version)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub struct Options {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Address to listen on, with its port; 0 takes a free one. Can be repeated.
    #[arg(long, value_name = "ADDR", required = true)]
    pub listen: Vec<SocketAddr>,

    /// Folder to serve.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub root: PathBuf,

    /// Folder for the development authority and the ticket keys, which are made on first use.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,

    /// File with the ticket keys that the nodes share; made on first use [default: ticket.keys in the state folder].
    #[arg(long, value_name = "FILE")]
    pub ticket_keys: Option<PathBuf>,

    /// Read the ticket keys again whenever their file changes, as at SIGHUP.
    #[arg(long)]
    pub watch_ticket_keys: bool,

    /// Certificate chain in PEM [default: one of the development authority, for demo.example and localhost].
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,

    /// Private key of the certificate in PEM, RSA or EC.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,

    /// The dialects in which clients are moved, by the revision of the draft. That of 03 is experimental.
    #[arg(long, value_name = "DRAFT", value_enum, default_value_t)]
    pub dialect: DialectChoice,

    /// Append the TLS secrets of all connections to this file, for tools that decrypt captured traffic.
    #[arg(long, value_name = "FILE")]
    pub key_log: Option<PathBuf>,

    /// Where arriving tokens are spent, each once: memory, which the node forgets when it ends; file:PATH, made on first use
    /// and for this node alone; or redis, which nodes share: `redis://[USER:PASSWORD@]HOST[:PORT]` or `unix:///PATH`,
    /// `redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,...]/PRIMARY` for the primary that Sentinels know, or
    /// `redis+cluster://[USER:PASSWORD@]HOST[:PORT][,...]`. With rediss in the place of redis it is over TLS.
    #[arg(long, value_name = "STORE", default_value = "memory")]
    pub nonce_store: Choice,

    /// What else redis needs.
    #[command(flatten)]
    pub redis: RedisOptions,

    /// Address of the node that clients are moved to. Without it, none gets a token.
    #[arg(long, value_name = "ADDR")]
    pub migrate_to: Option<SocketAddr>,

    /// Address in tokens with which clients arrive here [default: the addresses listened on]. Can be repeated.
    #[arg(long = "answers-for", value_name = "ADDR")]
    pub own_addresses: Vec<SocketAddr>,

    /// Move each client of the line protocol once this many bytes of its answer have been sent.
    #[arg(long, value_name = "BYTES", requires = "migrate_to")]
    pub migrate_after: Option<u64>,

    /// Node that clients are moved to at SIGTERM, and its share of them. Can be repeated. Without it, clients may finish.
    #[arg(long, value_name = "ADDR[=WEIGHT]")]
    pub drain_to: Vec<Target>,

    /// Over how long the notices of a drain are spread.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub drain_over: u32,

    /// When a drain cuts the connections that are left, counted from its start. Their clients see an error.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub drain_deadline: u32,

    /// How far the clocks of the nodes may differ. A node refuses tokens until its nonce store has existed for this long.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub clock_skew: u32,

    /// Address for the node's operator, with its port; 0 takes a free one. It has /metrics for Prometheus, /ready for health checks,
    /// and a page that shows the clients and drains the node. A line on standard output tells its URL.
    #[arg(long, value_name = "ADDR")]
    pub operator: Option<SocketAddr>,

    /// Let the operator's address be another than a loopback one. Everybody who reaches it can read the metrics.
    #[arg(long, requires = "operator")]
    pub operator_anywhere: bool,

    /// URL that another node tells as its operator's: this node's page shows that node too. Can be repeated.
    #[arg(long, value_name = "URL", requires = "operator")]
    pub operator_peer: Vec<Url>,

    /// How long the operator's address stays when the node has been drained, so that the last numbers are read.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        requires = "operator"
    )]
    pub operator_linger: u32,
}

/// What the program does besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make or rotate the ticket keys that nodes share.
    #[command(subcommand)]
    Keys(KeysCommand),
}
