//! Redis servers that belong together: a primary with a replica and the Sentinels that watch them, and a cluster of three.
//!
//! The servers are real, and each ends with its value.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;

use crate::ports::unused;
use crate::redis::RedisServer;

/// What the Sentinels call their primary.
pub const PRIMARY: &str = "nonces";

/// A primary, its replica, and three Sentinels, two of which must agree.
pub struct Watched {
    pub primary: RedisServer,
    pub replica: RedisServer,
    pub sentinels: Vec<RedisServer>,
}

impl Watched {
    /// Waits until each Sentinel knows all others, and the replica.
    pub async fn start() -> Self {
        let primary = RedisServer::start(&[]).await;
        let replica = primary.replica().await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let sentinel = RedisServer::sentinel().await;
            let (ip, port) = parts(primary.address());
            sentinel.ask(&["SENTINEL", "MONITOR", PRIMARY, &ip, &port, "2"]);
            for (setting, value) in [
                ("down-after-milliseconds", "500"),
                ("failover-timeout", "3000"),
            ] {
                sentinel.ask(&["SENTINEL", "SET", PRIMARY, setting, value]);
            }
            sentinels.push(sentinel);
        }
        for sentinel in &sentinels {
            let knows_all = || {
                let info = sentinel.ask(&["INFO", "sentinel"]);
                info.contains("status=ok") && info.contains("slaves=1,sentinels=3")
            };
            while !knows_all() {
                sleep(Duration::from_millis(50)).await;
            }
        }
        Self {
            primary,
            replica,
            sentinels,
        }
    }
}

/// Three primaries that share all slots out.
pub struct Cluster(Vec<RedisServer>);

impl Cluster {
    /// Starts each node with `options`, and waits until all agree.
    pub async fn start(options: &[&str]) -> Self {
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        for slots in [["0", "5460"], ["5461", "10922"], ["10923", "16383"]] {
            // It must not be a port that depends on the other.
            let bus = unused("127.0.0.2").port().to_string();
            let mut of_cluster = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
            of_cluster.extend(["--cluster-announce-ip", "127.0.0.2"]);
            of_cluster.extend(["--bind-source-addr", "127.0.0.2"]);
            let node = RedisServer::start(&[&of_cluster[..], options].concat()).await;
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]);
            nodes.push(node);
            buses.push(bus);
        }
        for (node, bus) in nodes.iter().zip(&buses).skip(1) {
            let (ip, port) = parts(node.address());
            nodes[0].ask(&["CLUSTER", "MEET", &ip, &port, bus]);
        }
        for node in &nodes {
            let agrees = || {
                let info = node.ask(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            };
            while !agrees() {
                sleep(Duration::from_millis(50)).await;
            }
        }
        Self(nodes)
    }

    pub fn addresses(&self) -> Vec<String> {
        let nodes = self.0.iter();
        nodes
            .map(|node| format!("redis://{}", node.address()))
            .collect()
    }

    /// Moves the slot of `key` from the node that has it to another, the key with it, as an operator does it: each step while
    /// clients ask. `between` is called when the key is at the new node and the slot is not.
    pub async fn move_slot_of(&self, key: &str, between: impl AsyncFnOnce()) {
        let slot = self.0[0].ask(&["CLUSTER", "KEYSLOT", key]);
        let slot = slot.trim();
        let id = |node: &RedisServer| node.ask(&["CLUSTER", "MYID"]).trim().to_owned();
        let has_it = |node: &RedisServer| node.ask(&["EXISTS", key]).trim() == "1";
        let at = self.0.iter().position(has_it).expect("a node has the key");
        let (from, to) = (&self.0[at], &self.0[(at + 1) % self.0.len()]);
        to.ask(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &id(from)]);
        from.ask(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &id(to)]);
        let (ip, port) = parts(to.address());
        let moved = from.ask(&["MIGRATE", &ip, &port, "", "0", "5000", "KEYS", key]);
        assert!(moved.contains("OK"), "{moved}");
        between().await;
        for node in [to, from] {
            node.ask(&["CLUSTER", "SETSLOT", slot, "NODE", &id(to)]);
        }
        let there = to.ask(&["EXISTS", key]);
        assert_eq!(there.trim(), "1");
    }
}

fn parts(address: SocketAddr) -> (String, String) {
    (address.ip().to_string(), address.port().to_string())
}
