//! The command line of `demo-forwarder`.
//!
//! It names what is wanted; nothing is opened or checked here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use demo_server::options::STATE_DIR;
use quic_forwarder::FrontAddress;

/// Carries QUIC datagrams from an address to the node that holds the connection.
#[derive(Debug, Parser)]
#[command(name = "demo-forwarder", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Owns an address and carries its datagrams to nodes.
    Front(Front),
    /// Serves bytes behind fronts. Reads `move ADDR` and `where` from its standard input.
    Node(Node),
    /// Two fronts and two nodes as processes: a download moves from front to front, and one front is killed.
    Trial(Trial),
}

#[derive(Debug, Args)]
pub(crate) struct Front {
    /// Address that this front owns.
    #[arg(long, value_name = "ADDR")]
    pub(crate) public: SocketAddr,

    /// Address for envelopes to and from nodes.
    #[arg(long, value_name = "ADDR")]
    pub(crate) inside: SocketAddr,

    /// A node: its number, and where it takes this front's envelopes. May be given more than once.
    #[arg(long = "node", value_name = "NUMBER=ADDR", required = true)]
    pub(crate) nodes: Vec<NodeAddress>,

    /// File with the shared keys: lines of a number from 0 to 6, a space and 64 hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Node {
    /// What this node is known by in connection IDs.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) number: u64,

    /// A front: its address, where its envelopes come from, and where to take them. May be given more than once.
    #[arg(long = "front", value_name = "PUBLIC=INSIDE=ADDR", required = true)]
    pub(crate) fronts: Vec<FrontLink>,

    /// File with the shared keys.
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: PathBuf,

    /// Folder with the development authority.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub(crate) state_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Trial {
    /// Bytes to download at least, in MiB.
    #[arg(long, default_value_t = 100)]
    pub(crate) mib: u32,

    /// How often the connection moves from one front to the other.
    #[arg(long, default_value_t = 10)]
    pub(crate) moves: u32,

    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A node, as a front knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeAddress {
    pub(crate) number: u64,
    pub(crate) address: SocketAddr,
}

impl FromStr for NodeAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, address) = text.split_once('=').ok_or("it is NUMBER=ADDR")?;
        Ok(Self {
            number: number.parse().map_err(|error| format!("{error}"))?,
            address: parse_address(address)?,
        })
    }
}

/// A front, as a node knows it, and the node's address for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrontLink {
    pub(crate) front: FrontAddress,
    pub(crate) listen: SocketAddr,
}

impl FromStr for FrontLink {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('=').collect();
        let [public, inside, listen] = *parts else {
            return Err("it is PUBLIC=INSIDE=ADDR".to_owned());
        };
        Ok(Self {
            front: FrontAddress {
                public: parse_address(public)?,
                inside: parse_address(inside)?,
            },
            listen: parse_address(listen)?,
        })
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}
