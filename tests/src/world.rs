//! Conversations on a network in memory, between a client and its nodes, each in a runtime of its own: a seed decides everything,
//! and a hang shows at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls_migration::server::{MigrationServer, MigrationServerBuilder};
use rustls_migration::tokio::{Event, HandOff, MigrationAcceptor, MigrationConnector};
use tokio::time::{Instant, timeout};

use crate::network::{At, Delivered, Direction, Fault, Incident, Network};
use crate::session::{Client, Log, Nodes, Random, Script, converse};
use crate::{Service, server_name};

/// No conversation takes so long, in virtual time, unless it hangs.
pub const LONG: Duration = Duration::from_secs(600);

/// A runtime whose time goes on when there is nothing else to do.
pub fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// A service whose nodes are at addresses in memory.
pub struct World {
    pub service: Service,
    pub acceptors: Vec<MigrationAcceptor>,
    pub addresses: Vec<SocketAddr>,
    pub connector: MigrationConnector,
}

impl World {
    pub fn new(nodes: usize) -> Self {
        Self::with(nodes, |_, settings| settings)
    }

    /// With other settings of its nodes.
    pub fn with(
        nodes: usize,
        set: impl Fn(&Service, MigrationServerBuilder) -> MigrationServerBuilder,
    ) -> Self {
        // Signatures of one length make records of one length.
        let service = Service::default().with_ed25519();
        let addresses: Vec<SocketAddr> = (0..nodes)
            .map(|i| format!("127.0.0.{}:443", i + 2).parse().unwrap())
            .collect();
        let acceptor = |address: &SocketAddr| {
            let settings = service.node().own_addresses([*address]);
            let server: MigrationServer = set(&service, settings).build().unwrap();
            MigrationAcceptor::from(server)
        };
        Self {
            acceptors: addresses.iter().map(acceptor).collect(),
            addresses,
            connector: service.connector().hand_off(HandOff::Drain),
            service,
        }
    }

    pub fn run(&self, case: &Case) -> Outcome {
        paused().block_on(self.converse(case))
    }

    /// Runs all cases on all processors. Panics with the first that comes to what `judge` does not allow.
    pub fn run_all(
        &self,
        cases: &[Case],
        judge: impl Fn(&Case, &Outcome) -> Result<(), String> + Sync,
        count: impl Fn(&Outcome) + Sync,
    ) {
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().unwrap().get();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = self.run(case);
                        if let Err(why) = judge(case, &outcome) {
                            panic!("{why}\n{case:#?}\n{outcome:#?}");
                        }
                        count(&outcome);
                    }
                });
            }
        });
    }

    async fn converse(&self, case: &Case) -> Outcome {
        let network = Network::new(case.latency, case.capacity, case.incidents.clone());
        let nodes = Nodes::new(case.script.clone(), self.addresses.clone());
        let mut serving = Vec::new();
        for (i, acceptor) in self.acceptors.iter().enumerate() {
            let incoming = network.listen(self.addresses[i]);
            let node = Arc::clone(&nodes).serve(i, acceptor.clone(), incoming);
            serving.push(tokio::spawn(node));
        }
        let connector = self.connector.clone().dialer(network.clone());
        let connected = connector.connect(server_name(), self.addresses[0]).await;
        let begun = Instant::now();
        let mut events = Vec::new();
        let client = match connected {
            Ok(stream) => {
                let mut incoming = stream.events();
                let noting = async {
                    while let Some(event) = incoming.next().await {
                        events.push(event);
                    }
                };
                let conversing = timeout(LONG, converse(&case.script, stream));
                tokio::join!(conversing, timeout(LONG, noting)).0.ok()
            }
            Err(failure) => Some(Client {
                read_error: Some(failure.into()),
                ..Client::default()
            }),
        };
        let (took, delivered) = (begun.elapsed(), network.delivered());
        network.close();
        let mut quiet = true;
        for node in serving {
            quiet &= timeout(LONG, node).await.is_ok();
        }
        let log = std::mem::take(&mut *nodes.log());
        Outcome {
            client,
            events,
            log,
            quiet,
            took,
            delivered,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Case {
    pub script: Script,
    pub latency: Duration,
    /// What each end of a connection buffers, in bytes.
    pub capacity: usize,
    pub incidents: Vec<Incident>,
}

impl Case {
    /// A conversation over a line that is drawn.
    pub fn over_random_line(random: &mut Random, script: Script, incidents: Vec<Incident>) -> Self {
        Self {
            script,
            latency: Duration::from_millis(u64::try_from(random.below(20)).unwrap()),
            capacity: [64, 1000, 4096, 65_536][random.below(4)],
            incidents,
        }
    }
}

#[derive(Debug)]
pub struct Outcome {
    /// `None` when it hung.
    pub client: Option<Client>,
    /// What the client was told.
    pub events: Vec<Event>,
    pub log: Log,
    /// Whether the nodes came to an end too.
    pub quiet: bool,
    /// How long the client was at it.
    pub took: Duration,
    pub delivered: Vec<Delivered>,
}

impl Outcome {
    /// Whether what either application read is a prefix of what the other wrote, and an end without an error is the end.
    pub fn is_consistent(&self, case: &Case) -> Result<(), String> {
        let client = self.client.as_ref().ok_or("the client hangs")?;
        require(self.quiet, "a node hangs")?;
        require(self.log.violations.is_empty(), "a node saw a violation")?;
        let nodes = &self.log.nodes;
        let received = nodes.iter().map(|node| node.reached.received).max();
        let tried = nodes.iter().map(|node| node.tried).max();
        require(
            received <= Some(client.written),
            "read more than was written",
        )?;
        require(
            Some(client.read) <= tried,
            "the client read more than was written",
        )?;
        let script = &case.script;
        if client.ended {
            let all = client.read == script.said(script.uploaded) && client.closed;
            require(
                all && received == Some(script.uploaded),
                "an end that is not the end",
            )?;
        }
        Ok(())
    }
}

pub fn require(holds: bool, otherwise: &str) -> Result<(), String> {
    holds.then_some(()).ok_or_else(|| otherwise.to_owned())
}

/// What may happen to a connection.
pub const FAULTS: [Fault; 6] = [
    Fault::Fin,
    Fault::Reset,
    Fault::HalfClose,
    Fault::Hold(Duration::from_millis(40)),
    Fault::Hold(Duration::from_secs(3)),
    Fault::Trickle(3),
];

/// One of [`FAULTS`], in either direction of connection `leg`, at one of the first `bytes` bytes.
pub fn random_incident(random: &mut Random, leg: usize, bytes: usize) -> Incident {
    Incident {
        leg,
        direction: [Direction::ToServer, Direction::ToClient][random.below(2)],
        at: At::Byte(random.below(bytes)),
        fault: FAULTS[random.below(FAULTS.len())],
    }
}

/// A conversation over a quick network on which nothing goes wrong.
pub fn undisturbed(script: Script) -> Case {
    Case {
        script,
        latency: Duration::from_millis(5),
        capacity: 65_536,
        incidents: Vec::new(),
    }
}
