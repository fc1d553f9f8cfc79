//! A tunnel as MASQUE makes it: datagrams in both directions, as many as the path takes, while the connection moves. What is
//! lost near a move is counted beside what the path loses by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quinn::{Connection, TransportConfig};
use quinn_migration::PerPathCongestion;
use tokio::task::JoinHandle;

use crate::support::relay::Relay;
use crate::support::{Identity, Server, World, client, connect_with, tireless, until, within};

const RATE: u32 = 20_000_000;
const DELAY: Duration = Duration::from_millis(10);
/// One in each packet.
const SIZE: usize = 1100;
const MOVES: usize = 20;
/// Datagrams that a move may cost in one direction, above what the queues in the path have dropped.
const COST: u64 = 3;
/// Moves that cost no more than that.
const CHEAP: usize = 15;
/// Small, so that a direction is soon saturated and soon empty.
const BUFFER: usize = 64 * 1024;

/// One direction of the tunnel.
struct Way {
    from: Connection,
    arrived: Arc<AtomicU64>,
    /// The same for each move: datagrams bear its number.
    arrived_by_move: Arc<[AtomicU64; MOVES]>,
}

impl Way {
    fn new(from: &Connection, to: &Connection) -> Self {
        let way = Self {
            from: from.clone(),
            arrived: Arc::default(),
            arrived_by_move: Arc::default(),
        };
        let (all, by_move) = (way.arrived.clone(), way.arrived_by_move.clone());
        let to = to.clone();
        tokio::spawn(async move {
            while let Ok(datagram) = to.read_datagram().await {
                all.fetch_add(1, Ordering::SeqCst);
                by_move[usize::from(datagram[0])].fetch_add(1, Ordering::SeqCst);
            }
        });
        way
    }

    /// Keeps the buffer full until `stop`; ends with the number of datagrams that went in.
    fn saturate(&self, hop: usize, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
        let (from, stop) = (self.from.clone(), Arc::clone(stop));
        tokio::spawn(async move {
            let mut sent = 0;
            while !stop.load(Ordering::SeqCst) {
                from.send_datagram_wait(vec![hop as u8; SIZE].into())
                    .await
                    .unwrap();
                sent += 1;
            }
            sent
        })
    }

    fn is_saturated(&self) -> bool {
        self.from.datagram_send_buffer_space() < 2 * SIZE
    }

    fn is_empty(&self) -> bool {
        self.from.datagram_send_buffer_space() > BUFFER - SIZE
    }

    fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::SeqCst)
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .datagram_send_buffer_size(BUFFER)
        .congestion_controller_factory(Arc::new(PerPathCongestion::default()));
    Arc::new(transport)
}

/// A connection through two lines, which begins at the first.
async fn tunnel() -> (World, [Relay; 2]) {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let mut config = server.inner.server_config();
    config.transport_config(transport());
    server.inner.endpoint().set_server_config(Some(config));
    let relays = Relay::pair(&server, [DELAY; 2]).await;
    relays.iter().for_each(|relay| relay.limit(RATE));
    let client = client(&identity);
    let mut config = client.client_config();
    config.transport_config(transport());
    let ends = connect_with(config, client.endpoint(), &server, relays[0].address).await;
    (World::of(server, client, ends, tireless()), relays)
}

/// What the queues of both lines have dropped so far, up and down.
fn dropped(relays: &[Relay; 2]) -> [u64; 2] {
    let sum = |of: fn(&Relay) -> u32| relays.iter().map(|relay| u64::from(of(relay))).sum();
    [
        sum(|relay| relay.up.overflowed.load(Ordering::SeqCst)),
        sum(|relay| relay.down.overflowed.load(Ordering::SeqCst)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saturated_tunnel_loses_hardly_a_datagram_when_it_moves() {
    let (mut world, relays) = tunnel().await;
    let ways = [
        Way::new(&world.ours, &world.theirs),
        Way::new(&world.theirs, &world.ours),
    ];
    // What went in at each move, without what the queues in the path have dropped.
    let mut expected = [[0; MOVES]; 2];
    for hop in 0..MOVES {
        let to = relays[(hop + 1) % 2].address;
        let before = dropped(&relays);
        let stop = Arc::new(AtomicBool::new(false));
        let senders = ways.each_ref().map(|way| way.saturate(hop, &stop));
        until("both directions are saturated", || {
            ways.iter().all(Way::is_saturated)
        })
        .await;
        world.move_to(to).await;
        let reached = ways.each_ref().map(|way| way.arrived() + 200);
        until("the tunnel is in use on the new path", || {
            ways.iter()
                .zip(reached)
                .all(|(way, goal)| way.arrived() > goal)
        })
        .await;
        stop.store(true, Ordering::SeqCst);
        let [up, down] = senders;
        let sent = [within(up).await.unwrap(), within(down).await.unwrap()];
        let lines = relays.iter().flat_map(|relay| [&relay.up, &relay.down]);
        let lines: Vec<_> = lines.collect();
        until("everything has arrived or is lost", || {
            ways.iter().all(Way::is_empty) && lines.iter().all(|line| line.is_idle())
        })
        .await;
        // Behind the last of them on the path.
        world.echo().await;
        let after = dropped(&relays);
        for direction in [0, 1] {
            expected[direction][hop] = sent[direction] - (after[direction] - before[direction]);
        }
    }
    // A host that is busy drops some by itself now and then, so most moves count.
    for (name, way, expected) in [
        ("up", &ways[0], &expected[0]),
        ("down", &ways[1], &expected[1]),
    ] {
        let cheap = || {
            let arrived = way.arrived_by_move.iter().zip(expected);
            let cheap = arrived
                .filter(|(arrived, expected)| arrived.load(Ordering::SeqCst) + COST >= **expected);
            cheap.count()
        };
        until(
            &format!("{name}: {COST} lost at most in {CHEAP} of {MOVES} moves"),
            || cheap() >= CHEAP,
        )
        .await;
    }
}
