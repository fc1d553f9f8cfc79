//! What a trial prints, and whether it was as it should be.
//!
//! A figure that was not seen is never printed.

use std::net::SocketAddr;

use demo_server::program::Failure;
use serde::Serialize;

use super::Hop;
use super::programs::Seen;
use crate::front::say;

/// Bytes and their SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

#[derive(Debug)]
pub(super) struct Report {
    /// Where the node saw the client first.
    pub(super) first: Seen,
    pub(super) hops: Vec<Hop>,
    /// After the front had been killed.
    pub(super) killed: Hop,
    pub(super) sent: Sum,
    pub(super) received: Sum,
    /// Other connections, by node.
    pub(super) others: [usize; 2],
}

#[derive(Serialize)]
struct Printed {
    began_at: SocketAddr,
    hops: Vec<PrintedHop>,
    after_the_kill: PrintedHop,
    sent: Sum,
    received: Sum,
    other_connections_by_node: [usize; 2],
}

#[derive(Serialize)]
struct PrintedHop {
    to: SocketAddr,
    node_sees_client_at: SocketAddr,
    client: SocketAddr,
    client_as_node_sees_it: SocketAddr,
    advertisements: u32,
}

impl From<&Hop> for PrintedHop {
    fn from(hop: &Hop) -> Self {
        Self {
            to: hop.to,
            node_sees_client_at: hop.seen_at,
            client: hop.client,
            client_as_node_sees_it: hop.seen,
            advertisements: hop.advertisements,
        }
    }
}

impl Report {
    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            let printed = Printed {
                began_at: self.first.front,
                hops: self.hops.iter().map(PrintedHop::from).collect(),
                after_the_kill: (&self.killed).into(),
                sent: self.sent.clone(),
                received: self.received.clone(),
                other_connections_by_node: self.others,
            };
            let text = serde_json::to_string_pretty(&printed);
            say(&text.map_err(|error| Failure::wrong("the report", &error))?)?;
        } else {
            self.tell()?;
        }
        self.judge()
    }

    fn tell(&self) -> Result<(), Failure> {
        say(&format!(
            "began at front {}, seen as {}",
            self.first.front, self.first.client
        ))?;
        for hop in &self.hops {
            say(&format!(
                "moved to front {}: the client is {}, the node sees {} ({} advertisements)",
                hop.to, hop.client, hop.seen, hop.advertisements
            ))?;
        }
        let Hop {
            to, client, seen, ..
        } = &self.killed;
        say(&format!(
            "front killed, back at front {to}: the client is {client}, the node sees {seen}"
        ))?;
        say(&format!(
            "sent     {:>11} {}",
            self.sent.bytes, self.sent.sha256
        ))?;
        say(&format!(
            "received {:>11} {}",
            self.received.bytes, self.received.sha256
        ))?;
        let [first, second] = self.others;
        say(&format!(
            "then {} connections: {first} on one node, {second} on the other, all complete",
            first + second
        ))
    }

    fn judge(&self) -> Result<(), Failure> {
        let hops = self.hops.iter().chain([&self.killed]);
        for hop in hops {
            if hop.client != hop.seen || hop.to != hop.seen_at {
                return Err(Failure::Wrong(format!(
                    "the node sees something else: {hop:?}"
                )));
            }
        }
        if self.sent != self.received {
            return Err(Failure::Wrong("what came is not what was sent".to_owned()));
        }
        Ok(())
    }
}
