//! A UDP relay in front of one server address: delay, random loss, chosen losses and silence.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Server;

/// One direction of a relay.
#[derive(Default)]
pub struct Line {
    /// This many of the next datagrams are lost.
    pub lose_next: AtomicU32,
    /// Datagrams that passed.
    pub passed: AtomicU32,
    /// Datagrams that did not.
    pub lost: AtomicU32,
    /// Datagrams of at least [`BULKY`] bytes for which the queue of the rate had no room.
    pub overflowed: AtomicU32,
    silent: AtomicBool,
    /// What kills both lines of a relay; absent unless a test asks for it.
    fuse: Mutex<Option<Fuse>>,
    /// Largest datagram that passes, in bytes; 0 for any size.
    pub largest: AtomicU32,
    /// Bytes in a second; 0 for any number.
    rate: AtomicU32,
    /// Bytes that wait for the rate.
    waiting: AtomicU32,
    /// What came, lost or not; absent unless a test asks for it.
    copies: Mutex<Option<Vec<Vec<u8>>>>,
    /// While this says so, datagrams wait.
    held: watch::Sender<bool>,
    random: Mutex<Option<(f64, u64)>>,
}

/// Datagrams from the server until the relay dies.
#[derive(Clone)]
struct Fuse {
    left: Arc<AtomicU32>,
    burns: bool,
}

impl Fuse {
    fn is_burnt(&self) -> bool {
        if !self.burns {
            return self.left.load(Ordering::SeqCst) == 0;
        }
        let burn = |left: u32| left.checked_sub(1);
        self.left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, burn)
            .is_err()
    }
}

/// Bytes that wait for a line's rate; more are lost.
const QUEUE: u32 = 64 * 1024;
/// What carries more than acknowledgements, in bytes.
pub const BULKY: usize = 1000;

impl Line {
    /// Keeps datagrams back, in order, or lets them go.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Keeps a copy of each datagram that comes from here on, and none of those before.
    pub fn copy(&self) {
        *self.copies.lock() = Some(Vec::new());
    }

    /// The copies so far.
    pub fn copies(&self) -> Vec<Vec<u8>> {
        self.copies.lock().clone().unwrap_or_default()
    }

    fn keep_copy(&self, datagram: &[u8]) {
        if let Some(copies) = self.copies.lock().as_mut() {
            copies.push(datagram.to_vec());
        }
    }

    /// Whether nothing waits for the rate or the delay.
    pub fn is_idle(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    pub fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    fn loses(&self, length: usize) -> bool {
        let length = length as u32;
        let waiting = self.waiting.load(Ordering::SeqCst);
        let full = self.rate.load(Ordering::SeqCst) > 0 && waiting + length > QUEUE;
        let largest = self.largest.load(Ordering::SeqCst);
        if full && length >= BULKY as u32 {
            self.overflowed.fetch_add(1, Ordering::SeqCst);
        }
        if full || (largest > 0 && length > largest) || self.loses_one() {
            return true;
        }
        self.waiting.fetch_add(length, Ordering::SeqCst);
        false
    }

    fn loses_one(&self) -> bool {
        let chosen = self
            .lose_next
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        let unlucky = self.random.lock().as_mut().is_some_and(|(share, state)| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 11) as f64 / (1u64 << 53) as f64 <= *share
        });
        let dead = self.fuse.lock().as_ref().is_some_and(Fuse::is_burnt);
        let lost = chosen || unlucky || dead || self.silent.load(Ordering::SeqCst);
        let counter = if lost { &self.lost } else { &self.passed };
        counter.fetch_add(1, Ordering::SeqCst);
        lost
    }
}

pub struct Relay {
    pub address: SocketAddr,
    pub up: Arc<Line>,
    pub down: Arc<Line>,
}

impl Relay {
    /// `delay` applies in each direction.
    pub async fn start(listen: &str, server: SocketAddr, delay: Duration) -> Self {
        let socket = Arc::new(UdpSocket::bind(listen).await.unwrap());
        let relay = Self {
            address: socket.local_addr().unwrap(),
            up: Arc::default(),
            down: Arc::default(),
        };
        tokio::spawn(pump(
            socket,
            server,
            delay,
            relay.up.clone(),
            relay.down.clone(),
        ));
        relay
    }

    /// One before each of the server's first two addresses.
    pub async fn pair(server: &Server, [first, second]: [Duration; 2]) -> [Self; 2] {
        [
            Self::start("127.0.1.2:0", server.address(0), first).await,
            Self::start("127.0.1.3:0", server.address(1), second).await,
        ]
    }

    /// Random loss in both directions, reproducible.
    pub fn lose(&self, share: f64) {
        *self.up.random.lock() = Some((share, 0x9e37_79b9_7f4a_7c15));
        *self.down.random.lock() = Some((share, 0xd1b5_4a32_d192_ed03));
    }

    /// Lets so many bits pass in a second, in each direction.
    pub fn limit(&self, bits: u32) {
        for line in [&self.down, &self.up] {
            line.rate.store(bits / 8, Ordering::SeqCst);
        }
    }

    /// Lets so many more datagrams of the server pass, and then nothing in either direction, for ever.
    pub fn die_after(&self, datagrams: u32) {
        let left = Arc::new(AtomicU32::new(datagrams));
        for (line, burns) in [(&self.down, true), (&self.up, false)] {
            let left = Arc::clone(&left);
            *line.fuse.lock() = Some(Fuse { left, burns });
        }
    }

    /// Nothing passes, in either direction, until [`Relay::restore`].
    pub fn silence(&self) {
        self.up.silence(true);
        self.down.silence(true);
    }

    /// Everything passes again.
    pub fn restore(&self) {
        self.up.silence(false);
        self.down.silence(false);
    }
}

type Delayed = (Instant, Vec<u8>, SocketAddr);

fn delayed_sender(socket: Arc<UdpSocket>, line: Arc<Line>) -> UnboundedSender<Delayed> {
    let (sender, mut queue) = unbounded_channel::<Delayed>();
    tokio::spawn(async move {
        let mut held = line.held.subscribe();
        let mut free = Instant::now();
        while let Some((at, bytes, to)) = queue.recv().await {
            let rate = line.rate.load(Ordering::SeqCst);
            if rate > 0 {
                free = free.max(at) + Duration::from_secs_f64(bytes.len() as f64 / rate as f64);
            }
            sleep_until(free.max(at)).await;
            line.waiting.fetch_sub(bytes.len() as u32, Ordering::SeqCst);
            held.wait_for(|held| !held).await.unwrap();
            let _ = socket.send_to(&bytes, to).await;
        }
    });
    sender
}

async fn pump(
    socket: Arc<UdpSocket>,
    server: SocketAddr,
    delay: Duration,
    up: Arc<Line>,
    down: Arc<Line>,
) {
    let to_clients = delayed_sender(socket.clone(), down.clone());
    let mut to_server: HashMap<SocketAddr, UnboundedSender<Delayed>> = HashMap::new();
    let mut buffer = vec![0; 65536];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        up.keep_copy(&buffer[..length]);
        if up.loses(length) {
            continue;
        }
        let sender = to_server.entry(client).or_insert_with(|| {
            let near = Arc::new(near_socket(server));
            tokio::spawn(pump_back(
                near.clone(),
                client,
                delay,
                down.clone(),
                to_clients.clone(),
            ));
            delayed_sender(near, up.clone())
        });
        let _ = sender.send((Instant::now() + delay, buffer[..length].to_vec(), server));
    }
}

/// The relay's own address toward the server, one for each client address.
fn near_socket(server: SocketAddr) -> UdpSocket {
    let socket = super::bind(if server.is_ipv4() {
        "127.0.0.1:0"
    } else {
        "[::1]:0"
    });
    socket.set_nonblocking(true).unwrap();
    UdpSocket::from_std(socket).unwrap()
}

async fn pump_back(
    near: Arc<UdpSocket>,
    client: SocketAddr,
    delay: Duration,
    down: Arc<Line>,
    out: UnboundedSender<Delayed>,
) {
    let mut buffer = vec![0; 65536];
    while let Ok((length, _)) = near.recv_from(&mut buffer).await {
        down.keep_copy(&buffer[..length]);
        if !down.loses(length)
            && out
                .send((Instant::now() + delay, buffer[..length].to_vec(), client))
                .is_err()
        {
            return;
        }
    }
}
