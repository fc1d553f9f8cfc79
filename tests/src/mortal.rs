//! A chain of nodes that are processes of their own, to be killed one after the other: the program `mortal`, and how tests run it.
//!
//! Each has one conversation. What it reads is checked in the process, which says what is wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::time_provider::DefaultTimeProvider;
use rustls_migration::SystemClock;
use rustls_migration::client::MigrationLimit;
use rustls_migration::tokio::{HandOff, MigrationConnector, PastWindow};
use tokio::time::sleep;

use crate::Service;
use crate::folder::ServiceFolder;
use crate::hosts::Site;
use crate::program::Program;
use crate::session::{Random, Script};

/// What the program says before whatever must never happen.
pub const VIOLATION: &str = "violation";

/// The nodes of one conversation.
pub struct Chain {
    nodes: Vec<Option<Program>>,
    first: SocketAddr,
}

impl Chain {
    /// Starts a node of the service in `folder` at each of these sites. Their stores have these names as on the command line.
    pub async fn start(
        sites: &[Site],
        folder: &ServiceFolder,
        stores: impl Fn(usize) -> String,
        script: &Script,
    ) -> Self {
        let mut nodes = Vec::new();
        let mut next: Option<SocketAddr> = None;
        for (here, site) in sites.iter().enumerate().rev() {
            let to = next.map_or_else(String::new, |next| next.to_string());
            let listen = site.address.to_string();
            let place = [folder.path(), stores(here), here.to_string(), listen, to];
            let (program, before) = site.command.split_first().expect("a program");
            let arguments = before.iter().cloned().chain(place);
            let mut node = Program::start(program, arguments.chain(script.arguments()));
            next = Some(node.line_after("listening ").await.parse().unwrap());
            nodes.push(Some(node));
        }
        nodes.reverse();
        let first = next.expect("a node");
        Self { nodes, first }
    }

    /// Where the first one listens.
    pub fn first(&self) -> SocketAddr {
        self.first
    }

    /// Kills a node with SIGKILL.
    pub async fn kill(&mut self, node: usize) {
        self.kill_soon(node, Duration::ZERO).await;
    }

    /// Kills a node with SIGKILL after a while, beside others.
    pub fn kill_soon(
        &mut self,
        node: usize,
        after: Duration,
    ) -> impl Future<Output = ()> + 'static {
        let node = self.nodes.get_mut(node).and_then(Option::take);
        async move {
            sleep(after).await;
            if let Some(node) = node {
                let said = node.kill().await;
                assert!(!said.contains(VIOLATION), "{said}");
            }
        }
    }

    /// Kills all that are left.
    pub async fn end(mut self) {
        for node in 0..self.nodes.len() {
            self.kill(node).await;
        }
    }
}

/// A connector whose streams recover as often as they must, to nodes whose clock is the system's.
pub fn enduring(service: &Service) -> MigrationConnector {
    let mut config = service.client_config();
    config.time_provider = Arc::new(DefaultTimeProvider);
    let limit = MigrationLimit {
        count: 100,
        window: time::Duration::HOUR,
    };
    let client = service
        .client_with(config)
        .clock(SystemClock)
        .limit(limit)
        .build();
    MigrationConnector::from(client.unwrap())
        .hand_off(HandOff::Drain)
        .recovery_window(256 * 1024, PastWindow::Wait)
        .recover_from_start()
}

/// A number that the environment may say otherwise.
pub fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap())
}

/// A moment within some 130 ms, and more often a very early one.
pub fn moment(random: &mut Random) -> Duration {
    let most = 1 << random.below(18);
    Duration::from_micros(u64::try_from(random.below(most)).unwrap())
}
