//! Every course that a stream can take within small bounds: the client's application, the nodes' applications, the network and death take
//! turns in every order, over the real connections.
//!
//! A state is the list of choices that led to it, so each is reached by making them again. What was seen before is not explored again.
//!
//! | module | what it is |
//! |---|---|
//! | `wire` | connections on which nothing moves by itself |
//! | `leg` | a connection, with what both sides have read on it |
//! | `client`, `node` | the applications, and what they promise (`docs/recovery.md`) |
//! | `oracle` | what must hold in every state |
//! | `run` | one course |
//! | `explore` | all of them |
//! | `wander` | some, within larger bounds |
//! | `settings` | within which bounds |

mod client;
mod explore;
mod leg;
mod node;
mod oracle;
mod run;
mod settings;
mod wander;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::time::Duration;

use rustls::ServerConfig;
use rustls_migration::client::MigrationLimit;
use rustls_migration::server::MigrationServer;
use rustls_migration::tokio::{HandOff, MigrationConnector, PastWindow};

pub use self::client::Ended;
pub use self::explore::{Explored, Violation, explore};
pub use self::oracle::Outcome;
pub use self::settings::{LARGE, LONG, SHORT};
pub use self::wander::wander;
use crate::{Service, Spoken};

/// What may happen next. A number is that of a connection, in the order of dialling, or of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The client's application reads a byte.
    Read,
    /// It writes a byte.
    Write,
    /// It goes on with what it writes.
    GoOn,
    /// It closes its side.
    Close,
    /// It goes over to the target that is ready.
    Switch,
    /// A node's application reads.
    NodeRead(u8),
    /// It writes a byte.
    NodeWrite(u8),
    /// It makes a checkpoint for the next node.
    Checkpoint(u8),
    /// It tells the client to go on at the next node, with the stream.
    Tell(u8),
    /// It tells the client to go to the next node, with its next connection.
    TellSession(u8),
    /// It takes back what it has offered.
    TakeBack(u8),
    /// It ends the stream, or hands it over if it can.
    End(u8),
    /// It begins behind what the client has.
    TakeNumber(u8),
    /// The next burst from the client arrives.
    Up(u8),
    /// The next burst from the node arrives.
    Down(u8),
    /// A node dies.
    Die(u8, Cut),
    /// Nothing is delivered for longer than anybody waits.
    Silence,
}

/// How a client learns that a node has died. What was in flight is lost, if nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// The transport ends behind what has arrived.
    Fin,
    /// It breaks at once, and what has arrived and was not read is lost too.
    Reset,
    /// It ends within the next record.
    Torn,
    /// Nothing is lost: what was in flight arrives, and then the transport ends. A client that writes before that finds it broken, and then
    /// all has arrived.
    Late,
}

/// What a burst was said for: a choice, and what belongs to it: how much had been received and sent, and how much was to be discarded.
type Label = (Choice, u8, u8, u64);

/// How often each thing happens at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub nodes: u8,
    /// How many bytes the client writes.
    pub written: u8,
    /// How many bytes the nodes write, all together.
    pub sent: u8,
    /// How many checkpoints each node makes.
    pub checkpoints: u8,
    /// How many nodes die.
    pub deaths: u8,
    /// How many nodes tell the client to go on elsewhere with the stream.
    pub tells: u8,
    /// How many tell it to go with its next connection, or take back what they have offered.
    pub retreats: u8,
    /// How often nothing is delivered for long. The client asks silent servers whether they live, if that can be.
    pub silences: u8,
    /// Whether the client keeps what it writes from the first byte on.
    pub from_start: bool,
    /// How many bytes the client keeps, and what becomes of a write past that; `None` for more than it writes.
    pub window: Option<(u8, PastWindow)>,
    /// Whether applications may end before they have said all.
    pub early_ends: bool,
    /// Whether applications may leave what has come unread, and read byte by byte.
    pub hesitant: bool,
    /// Whether the source goes on while its target is resumed, and the client's application says when to go over.
    pub overlap: bool,
    /// Whether bursts arrive record by record, so that a connection is cut within them.
    pub by_record: bool,
    /// Whether what was in flight may arrive after a death.
    pub late: bool,
    pub spoken: Spoken,
}

impl Bounds {
    /// Two nodes that say nothing.
    pub const NONE: Self = Self {
        nodes: 2,
        written: 0,
        sent: 0,
        checkpoints: 0,
        deaths: 0,
        tells: 0,
        retreats: 0,
        silences: 0,
        from_start: false,
        window: None,
        early_ends: false,
        hesitant: false,
        overlap: false,
        by_record: false,
        late: false,
        spoken: Spoken::Draft01,
    };
}

/// A service and its client, within bounds.
pub struct Setting {
    bounds: Bounds,
    servers: Vec<Arc<MigrationServer>>,
    addresses: Vec<SocketAddr>,
    connector: MigrationConnector,
}

/// How long a client asks a silent server, waits for an old one, or tries to connect.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longer than that.
const SILENCE: Duration = Duration::from_secs(6);

impl Setting {
    pub fn new(bounds: Bounds) -> Self {
        let service = Service::speaking(bounds.spoken).with_ed25519();
        let config = service.server_config();
        let addresses =
            (0..bounds.nodes).map(|node| SocketAddr::from(([127, 0, 0, node + 2], 443)));
        let addresses: Vec<_> = addresses.collect();
        let server = |here: &SocketAddr| server(&service, config.clone(), *here);
        let limit = MigrationLimit {
            count: 100,
            window: time::Duration::HOUR,
        };
        let client = service.client_with(service.client_config()).limit(limit);
        let mut connector = MigrationConnector::from(client.build().unwrap())
            .hand_off(match bounds.overlap {
                true => HandOff::Overlap,
                false => HandOff::Drain,
            })
            .connect_timeout(PATIENCE)
            .source_timeout(PATIENCE);
        if bounds.from_start {
            connector = connector.recover_from_start();
        }
        if let Some((bytes, past)) = bounds.window {
            connector = connector.recovery_window(bytes.into(), past);
        }
        if bounds.silences > 0 {
            connector = connector.probe(PATIENCE, PATIENCE);
        }
        Self {
            bounds,
            servers: addresses.iter().map(server).collect(),
            addresses,
            connector,
        }
    }

    fn node_at(&self, address: SocketAddr) -> Option<u8> {
        let node = self.addresses.iter().position(|here| *here == address)?;
        u8::try_from(node).ok()
    }

    fn after(&self, node: u8) -> Option<SocketAddr> {
        self.addresses.get(usize::from(node) + 1).copied()
    }
}

fn server(service: &Service, config: ServerConfig, here: SocketAddr) -> Arc<MigrationServer> {
    let node = service.node_with(config).own_addresses([here]);
    // Nobody leaves too late: what that means has tests of its own.
    let node = node.departure_deadline(Duration::from_secs(3600));
    let node = node.nonce_store(Arc::new(service.store(1 << 24)));
    Arc::new(node.build().unwrap())
}

/// Whether a task has been woken since it was polled last.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Woken {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, woken: bool) {
        self.0.store(woken, Ordering::Relaxed);
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.set(true);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set(true);
    }
}
