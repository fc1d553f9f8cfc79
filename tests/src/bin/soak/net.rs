//! The line between hosts: packets are delayed, reordered, doubled and lost.
//!
//! The line works on IP packets in user space, over a TUN device for each host, since not every kernel has netem. The hosts'
//! own TCP sees to what it loses, as it would on a real line.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use migration_tests::hosts::Host;
use migration_tests::session::Random;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tun::Tun;

type Packet = Vec<u8>;

/// What happens to packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// How long each is under way.
    pub(crate) delay: Duration,
    /// How much longer it may be.
    pub(crate) jitter: Duration,
    /// One in so many is lost.
    pub(crate) lost_one_in: usize,
    /// One in so many is overtaken.
    pub(crate) late_one_in: usize,
    /// One in so many comes twice.
    pub(crate) twice_one_in: usize,
    /// One in so many begins a time in which all are lost.
    pub(crate) gap_one_in: usize,
}

/// What the line did.
#[derive(Debug, Default)]
pub(crate) struct LineFigures {
    pub(crate) packets: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) late: AtomicU64,
    pub(crate) twice: AtomicU64,
    pub(crate) gaps: AtomicU64,
}

/// Makes the host's end of the line. Packets are moved by `runtime`.
fn plug(host: &Host, runtime: &Handle) -> io::Result<Tun> {
    std::thread::scope(|scope| {
        let plugged = scope.spawn(|| {
            host.enter()?;
            let _runtime = runtime.enter();
            let made = Tun::builder()
                .name("line")
                .address(host.address())
                .netmask(Ipv4Addr::new(255, 255, 255, 0))
                .mtu(1500)
                .up()
                .build()
                .map_err(io::Error::other)?;
            made.into_iter()
                .next()
                .ok_or_else(|| io::Error::other("no device"))
        });
        plugged
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")))
    })
}

/// Connects all hosts with each other. Goes on in the background of the present runtime.
pub(crate) fn connect(
    hosts: &[Host],
    line: Line,
    seed: u64,
    figures: &Arc<LineFigures>,
) -> io::Result<()> {
    let runtime = Handle::current();
    let mut devices = Vec::new();
    for host in hosts {
        devices.push((host.address(), Arc::new(plug(host, &runtime)?)));
    }
    for (i, (_, from)) in devices.iter().enumerate() {
        let mut ways = HashMap::new();
        for (address, to) in &devices {
            let (queue, delivered) = mpsc::unbounded_channel();
            tokio::spawn(deliver(delivered, Arc::clone(to)));
            let seed = seed ^ u64::from(address.to_bits()) ^ (u64::try_from(i).unwrap() << 40);
            ways.insert(*address, Way::new(line, queue, Arc::clone(to), seed));
        }
        tokio::spawn(collect(Arc::clone(from), ways, Arc::clone(figures)));
    }
    Ok(())
}

/// The way from one host to another.
struct Way {
    line: Line,
    random: Random,
    queue: mpsc::UnboundedSender<(Instant, Packet)>,
    to: Arc<Tun>,
    /// When the last one arrives.
    last: Instant,
    /// Until when all is lost.
    gap: Instant,
}

impl Way {
    fn new(
        line: Line,
        queue: mpsc::UnboundedSender<(Instant, Packet)>,
        to: Arc<Tun>,
        seed: u64,
    ) -> Self {
        Self {
            line,
            random: Random::new(seed),
            queue,
            to,
            last: Instant::now(),
            gap: Instant::now(),
        }
    }

    /// A part of `time`.
    fn part(&mut self, time: Duration) -> Duration {
        time * u32::try_from(self.random.below(1000)).unwrap() / 1000
    }

    fn send(&mut self, packet: Packet, figures: &LineFigures) {
        let now = Instant::now();
        figures.packets.fetch_add(1, Ordering::Relaxed);
        if self.random.once_in(self.line.gap_one_in) {
            figures.gaps.fetch_add(1, Ordering::Relaxed);
            self.gap = now + Duration::from_millis(50) + self.part(Duration::from_millis(250));
        }
        if now < self.gap || self.random.once_in(self.line.lost_one_in) {
            figures.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let due = now + self.line.delay + self.part(self.line.jitter);
        if self.random.once_in(self.line.late_one_in) {
            figures.late.fetch_add(1, Ordering::Relaxed);
            let due = due + self.line.jitter * 2;
            let to = Arc::clone(&self.to);
            tokio::spawn(async move {
                sleep_until(due).await;
                let _ = to.send(&packet).await;
            });
            return;
        }
        // Jitter alone reorders nothing, as behind one router.
        self.last = self.last.max(due);
        if self.random.once_in(self.line.twice_one_in) {
            figures.twice.fetch_add(1, Ordering::Relaxed);
            let _ = self.queue.send((self.last, packet.clone()));
        }
        let _ = self.queue.send((self.last, packet));
    }
}

async fn collect(from: Arc<Tun>, mut ways: HashMap<Ipv4Addr, Way>, figures: Arc<LineFigures>) {
    let mut buf = vec![0; 65_536];
    loop {
        let Ok(len) = from.recv(&mut buf).await else {
            // A device that is not up for a moment.
            sleep(Duration::from_millis(1)).await;
            continue;
        };
        let packet = &buf[..len];
        // IPv4 only, and to somebody who is there.
        let destination = match packet {
            [first, ..] if first >> 4 == 4 => packet.get(16..20),
            _ => None,
        };
        let destination = destination.and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        let way = destination.and_then(|bytes| ways.get_mut(&Ipv4Addr::from(bytes)));
        if let Some(way) = way {
            way.send(packet.to_vec(), &figures);
        }
    }
}

async fn deliver(mut packets: mpsc::UnboundedReceiver<(Instant, Packet)>, to: Arc<Tun>) {
    while let Some((due, packet)) = packets.recv().await {
        sleep_until(due).await;
        let _ = to.send(&packet).await;
    }
}
