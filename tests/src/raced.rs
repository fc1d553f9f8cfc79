//! The nodes behind one address as processes of their own: the program `cautious`, and how tests run it.
//!
//! The processes share what nodes of a service share: keys, a certificate, and a nonce store if it can be shared.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::Service;
use crate::folder::ServiceFolder;
use crate::program::Program;

/// Processes that answer for one address.
pub struct Nodes {
    _folder: ServiceFolder,
    processes: Vec<(Program, SocketAddr)>,
}

impl Nodes {
    /// Starts a node for each of `stores`, which are named as on its command line, and gives `service` the nodes'
    /// keys. They answer for `address`.
    pub async fn start(
        program: &str,
        service: &mut Service,
        address: SocketAddr,
        stores: &[String],
    ) -> Self {
        let folder = ServiceFolder::new(service);
        let mut processes = Vec::new();
        for store in stores {
            let arguments = [folder.path(), address.to_string(), store.clone()];
            let mut node = Program::start(program, arguments);
            let listening = node.line_after("listening ").await;
            processes.push((node, listening.parse().unwrap()));
        }
        Self {
            _folder: folder,
            processes,
        }
    }

    /// Where the node with this number, counted round, listens.
    pub fn address(&self, number: usize) -> SocketAddr {
        self.processes[number % self.processes.len()].1
    }

    /// Waits until the node with this number, counted round, has said this about a message.
    pub async fn said(&mut self, number: usize, what: &str, message: u64) {
        let node = number % self.processes.len();
        let line = format!("\n{what} {message}\n");
        self.processes[node].0.until(&line).await;
    }

    /// Ends the nodes, and adds up what they said.
    pub async fn finish(self) -> Seen {
        let mut seen = Seen::default();
        for (process, _) in self.processes {
            seen.add(&process.finish().await);
        }
        seen
    }
}

/// What applications and counters saw at all nodes.
#[derive(Debug, Default)]
pub struct Seen {
    /// How often each message could be read as early data.
    pub early: BTreeMap<u64, u64>,
    /// How often each was acted upon by a node that waits for the handshake.
    pub acted: BTreeMap<u64, u64>,
    /// How often each came after the handshake.
    pub late: BTreeMap<u64, u64>,
    pub replayed: u64,
    pub committed: u64,
    pub lost: u64,
}

impl Seen {
    fn add(&mut self, said: &str) {
        for line in said.lines() {
            let (what, number) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            if what == "listening" {
                continue;
            }
            let number = number.parse().unwrap_or_else(|_| panic!("{line}"));
            let count = |of: &mut BTreeMap<u64, u64>| *of.entry(number).or_default() += 1;
            match what {
                "early" => count(&mut self.early),
                "confirmed" => count(&mut self.acted),
                "late" => {
                    count(&mut self.late);
                    count(&mut self.acted);
                }
                "replayed" => self.replayed += number,
                "committed" => self.committed += number,
                "lost" => self.lost += number,
                _ => panic!("{line}"),
            }
        }
    }
}
