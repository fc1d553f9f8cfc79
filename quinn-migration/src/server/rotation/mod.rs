//! Rotation: connections move to another address of a pool again and again, and the old ones go.
//!
//! Never takes an address away that an attached connection is on, and moves nobody who did not offer to be moved.

mod rounds;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use self::rounds::{Rounds, Timing};
use super::advertise::MoveEnd;
use super::core::Core;
use super::{AddressId, AddressPool, Alternate, MigrationServer};

/// How long a client may take to follow or to refuse, once it was told.
const PATIENCE: Duration = Duration::from_secs(10);

/// When connections move, and where to.
///
/// ```no_run
/// # fn example(server: &quinn_migration::MigrationServer, connection: &quinn::Connection)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use quinn_migration::Rotation;
/// use std::net::UdpSocket;
/// use std::time::Duration;
///
/// let pool = server.add_pool(UdpSocket::bind("[::]:8443")?, &"2001:db8:1:2::/64".parse()?)?;
/// let rotation = Rotation::over([&pool])
///     .every(Duration::from_secs(90))
///     .jitter(Duration::from_secs(30));
/// let rotating = server.rotate(connection, rotation);
/// # drop(rotating);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing rotates until it is given to a server"]
pub struct Rotation {
    pools: Vec<AddressPool>,
    timing: Timing,
    each_its_own: bool,
    max_moving: usize,
}

impl Rotation {
    /// Over the addresses of these pools, of which the first one of the client's family counts. Every 75 to 90 seconds, and
    /// an old address lingers for 30; a client with [`Policy::default`](crate::Policy) follows five moves in 300 seconds.
    pub fn over<'a>(pools: impl IntoIterator<Item = &'a AddressPool>) -> Self {
        Self {
            pools: pools.into_iter().cloned().collect(),
            timing: Timing {
                every: Duration::from_secs(75),
                jitter: Duration::from_secs(15),
                linger: Duration::from_secs(30),
            },
            each_its_own: false,
            max_moving: 256,
        }
    }

    /// The time from the start of one round to that of the next.
    pub fn every(mut self, interval: Duration) -> Self {
        self.timing.every = interval;
        self
    }

    /// A random time, up to this, on top of each interval.
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.timing.jitter = jitter;
        self
    }

    /// How long an address is served on once its round is past, for what is under way and for clients that come back. While
    /// a connection of the rotation is on it, it stays.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.timing.linger = linger;
        self
    }

    /// Gives each connection an address of its own in every round, so that an observer cannot tell by the address who is
    /// with the same server. Default: one address for all.
    pub fn each_its_own(mut self) -> Self {
        self.each_its_own = true;
        self
    }

    /// How many connections move at once; at least one. Default 256.
    pub fn max_moving(mut self, moves: usize) -> Self {
        self.max_moving = moves.max(1);
        self
    }
}

/// What a rotation has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RotationProgress {
    /// Rounds that are over.
    pub rounds: u64,
    /// Moves.
    pub moved: u64,
    /// Times that a client did not follow.
    pub declined: u64,
    /// Times that a client could not be told, or that no address was free for it.
    pub skipped: u64,
    /// Addresses of this rotation that are served.
    pub addresses: usize,
}

/// A rotation under way. Dropping it ends it: connections stay where they are, and the addresses go once nobody of the
/// rotation is on them.
#[derive(Debug)]
pub struct Rotating {
    progress: watch::Receiver<RotationProgress>,
    /// Says it by being dropped.
    _stop: oneshot::Sender<()>,
}

impl Rotating {
    /// What it has done, at this moment.
    pub fn progress(&self) -> RotationProgress {
        *self.progress.borrow()
    }

    /// The same, to be watched: it changes after each round. The sender is gone when the connection has ended.
    pub fn watch(&self) -> watch::Receiver<RotationProgress> {
        self.progress.clone()
    }
}

impl MigrationServer {
    /// Moves one connection again and again, until it ends or the answer is dropped.
    pub fn rotate(&self, connection: &quinn::Connection, rotation: Rotation) -> Rotating {
        self.start_rotation(Who::One(connection.clone()), rotation)
    }

    /// Moves all connections that are [attached](Self::attach) when a round begins.
    pub fn rotate_all(&self, rotation: Rotation) -> Rotating {
        self.start_rotation(Who::Attached, rotation)
    }

    fn start_rotation(&self, who: Who, rotation: Rotation) -> Rotating {
        let (stop, stopped) = oneshot::channel();
        let (sender, progress) = watch::channel(RotationProgress::default());
        let rounds = Rounds::new(rotation.timing, Instant::now(), fraction());
        let task = Task {
            core: Arc::clone(&self.core),
            who,
            rotation,
            rounds,
            progress: sender,
        };
        tokio::spawn(task.run(stopped));
        Rotating {
            progress,
            _stop: stop,
        }
    }
}

enum Who {
    One(quinn::Connection),
    Attached,
}

struct Task {
    core: Arc<Core>,
    who: Who,
    rotation: Rotation,
    rounds: Rounds,
    progress: watch::Sender<RotationProgress>,
}

impl Task {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let ended = self.ended();
        tokio::pin!(ended);
        let mut running = true;
        while let Some(next) = self.rounds.next() {
            tokio::select! {
                () = &mut ended => break,
                _ = &mut stopped, if running => {
                    running = false;
                    self.rounds.stop(Instant::now());
                }
                () = sleep_until(next.into()) => self.turn().await,
            }
        }
        self.rounds.into_addresses().for_each(|address| {
            self.core.remove(address);
        });
    }

    /// Resolves when there is nobody left to move.
    fn ended(&self) -> impl Future<Output = ()> + use<> {
        let one = match &self.who {
            Who::One(connection) => Some(connection.clone()),
            Who::Attached => None,
        };
        async move {
            match one {
                Some(connection) => drop(connection.closed().await),
                None => std::future::pending().await,
            }
        }
    }

    async fn turn(&mut self) {
        let now = Instant::now();
        for address in self.rounds.take_over(now) {
            if self.is_in_use(address) {
                self.rounds.keep(now, address);
            } else {
                self.core.remove(address);
            }
        }
        if self.rounds.is_round_due(now) {
            self.rounds.begin(now, fraction());
            let drawn = self.round().await;
            self.rounds.end(Instant::now(), drawn);
            self.progress.send_modify(|progress| progress.rounds += 1);
        }
        let addresses = self.rounds.addresses();
        self.progress
            .send_modify(|progress| progress.addresses = addresses);
    }

    fn is_in_use(&self, address: AddressId) -> bool {
        match &self.who {
            Who::One(connection) => self.core.client_of(connection).server == address,
            Who::Attached => self.core.registry.anybody_on(address),
        }
    }

    /// Tells everybody of another address. Answers with the addresses.
    async fn round(&self) -> Vec<AddressId> {
        let connections = match &self.who {
            Who::One(connection) => vec![connection.clone()],
            Who::Attached => self.core.registry.all(),
        };
        let mut drawn = Drawn::default();
        let mut moving = JoinSet::new();
        for connection in connections {
            let Some(address) = self.address_for(&connection, &mut drawn) else {
                self.progress.send_modify(|progress| progress.skipped += 1);
                continue;
            };
            if moving.len() >= self.rotation.max_moving {
                self.count(moving.join_next().await);
            }
            let core = Arc::clone(&self.core);
            moving.spawn(async move {
                let alternate = Alternate::from(address);
                core.move_connection(&connection, alternate, PATIENCE, || {})
                    .await
            });
        }
        while !moving.is_empty() {
            self.count(moving.join_next().await);
        }
        drawn.all
    }

    fn address_for(&self, connection: &quinn::Connection, drawn: &mut Drawn) -> Option<AddressId> {
        let v4 = self.core.client_of(connection).client.is_ipv4();
        if let Some(address) = drawn.for_all.get(&v4) {
            return Some(*address);
        }
        let mut pools = self.rotation.pools.iter();
        let pool = pools.find(|pool| pool.is_ipv4() == v4)?;
        let drawing = self.core.draw(pool);
        let address = drawing
            .inspect_err(|error| tracing::warn!(%error, "rotation"))
            .ok()?;
        drawn.all.push(address);
        if !self.rotation.each_its_own {
            drawn.for_all.insert(v4, address);
        }
        Some(address)
    }

    fn count(&self, ended: Option<Result<MoveEnd, tokio::task::JoinError>>) {
        self.progress.send_modify(|progress| match ended {
            Some(Ok(MoveEnd::Moved)) => progress.moved += 1,
            Some(Ok(MoveEnd::Declined)) => progress.declined += 1,
            Some(Ok(MoveEnd::NotMovable)) => progress.skipped += 1,
            Some(Ok(MoveEnd::Gone) | Err(_)) | None => {}
        });
    }
}

/// The addresses of one round.
#[derive(Default)]
struct Drawn {
    all: Vec<AddressId>,
    /// By family: whether it is IPv4.
    for_all: HashMap<bool, AddressId>,
}

/// From 0 to 1. Without randomness there is no jitter, which is no reason to stop.
pub(super) fn fraction() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.0,
    }
}
