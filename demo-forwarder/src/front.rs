//! `demo-forwarder front`.
//!
//! Says `ready` when clients and nodes may come, and nothing else on standard output.

use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use demo_server::program::Failure;
use quic_forwarder::{Front, Node, ServerId, SharedKeys};

use crate::options;

pub(crate) async fn run(options: &options::Front) -> Result<(), Failure> {
    let nodes = options.nodes.iter().map(|node| Node {
        id: ServerId::from(node.number),
        address: node.address,
        takes_new: true,
    });
    let public = bind(options.public)?;
    let inside = bind(options.inside)?;
    let front = Front::new(load_keys(&options.keys)?, public, inside, nodes)
        .map_err(|error| Failure::usage("the front", &error))?;
    tracing::info!(address = %front.address(), "ready");
    say("ready")?;
    let ended = front.run().await;
    ended.map_err(|error| Failure::wrong("the front", &error))
}

pub(crate) fn bind(address: SocketAddr) -> Result<UdpSocket, Failure> {
    UdpSocket::bind(address).map_err(|error| Failure::usage(format!("binding {address}"), &error))
}

pub(crate) fn load_keys(path: &Path) -> Result<SharedKeys, Failure> {
    let name = || format!("--keys {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| Failure::usage(name(), &error))?;
    text.parse()
        .map_err(|error: quic_forwarder::KeyError| Failure::usage(name(), &error))
}

/// One line on standard output.
pub(crate) fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::wrong("standard output", &error))
}
