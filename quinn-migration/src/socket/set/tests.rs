//! The set of sockets with real ones, and with one that fails.

use super::*;
use std::future::poll_fn;

use std::net::UdpSocket;

use super::super::opener::Opener;

fn bound(address: &str) -> (UdpSocket, Socket, Option<Arc<TokioSocket>>) {
    let socket = UdpSocket::bind(address).unwrap();
    let opened = Opener::default().open(socket.try_clone().unwrap());
    let (wrapped, direct) = opened.unwrap();
    (socket, wrapped, direct)
}

fn receive(set: &SocketSet, cx: &Context<'_>) -> Poll<(PathId, usize)> {
    let mut memory = [[0; 64]; 32];
    let mut buffers = memory.each_mut().map(|buffer| IoSliceMut::new(buffer));
    let mut meta = [RecvMeta::default(); 32];
    set.poll_recv(cx, &mut buffers, &mut meta)
        .map(Result::unwrap)
}

/// Fault 11: what a busy socket costs does not grow with the idle ones.
#[tokio::test]
async fn idle_sockets_are_not_asked_and_expected_ones_twice_in_32_packets_at_the_most() {
    for (idle, expected) in [(0, 0), (4, 0), (256, 0), (256, 1), (256, 256)] {
        let set = SocketSet::default();
        let (busy, wrapped, direct) = bound("127.0.0.2:0");
        set.insert(PathId::FIRST, wrapped, direct);
        for number in 1..=idle {
            let (_, wrapped, direct) = bound("127.0.0.3:0");
            set.insert(PathId(number), wrapped, direct);
        }
        (1..=expected).for_each(|number| set.expect(PathId(number)));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (mut packets, mut calls) = (0, 0);
        while packets < 640 {
            sender.send_to(b"x", busy.local_addr().unwrap()).unwrap();
            packets += poll_fn(|cx| receive(&set, cx)).await.1;
            calls += 1;
        }
        let asked = set.asked.load(Ordering::Relaxed);
        let most = if expected > 0 { 2 * 640 / 32 } else { 0 };
        assert!(calls <= 640 && asked <= most, "{idle}: {asked}");
        assert_eq!(asked > 0, expected > 0);
    }
}

/// Fails at receiving as often as it is told to.
#[derive(Debug)]
struct Failing(Socket, AtomicU64);

impl AsyncUdpSocket for Failing {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let less = |left: u64| left.checked_sub(1);
        match self
            .1
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        {
            Ok(_) => Poll::Ready(Err(io::ErrorKind::NetworkDown.into())),
            Err(_) => self.0.poll_recv(cx, buffers, meta),
        }
    }

    fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.0.local_addr()
    }
}

#[tokio::test]
async fn an_error_at_receiving_passes_and_a_broken_socket_is_dropped() {
    for (errors, stays) in [(1, true), (u64::MAX, false)] {
        let set = SocketSet::default();
        let (other, wrapped, _) = bound("127.0.0.3:0");
        let failing = Failing(wrapped, AtomicU64::new(errors));
        set.insert(PathId(1), Arc::new(failing), None);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"x", other.local_addr().unwrap()).unwrap();
        if stays {
            assert_eq!(poll_fn(|cx| receive(&set, cx)).await, (PathId(1), 1));
        } else {
            assert!(receive(&set, &Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(set.len() == 1, stays);
    }
}

/// The runtime reports no socket as readable while the task does not yield.
#[tokio::test]
async fn a_busy_socket_does_not_keep_the_packets_waiting_that_a_move_begins_with() {
    let set = SocketSet::default();
    let (busy, wrapped, direct) = bound("127.0.0.2:0");
    set.insert(PathId::FIRST, wrapped, direct);
    let (other, wrapped, direct) = bound("127.0.0.3:0");
    set.insert(PathId(1), wrapped, direct);
    set.expect(PathId(1));
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |to: &UdpSocket| sender.send_to(b"x", to.local_addr().unwrap()).unwrap();
    send(&busy);
    poll_fn(|cx| receive(&set, cx)).await;
    for _ in 0..200 {
        send(&busy);
    }
    send(&other);
    let cx = Context::from_waker(Waker::noop());
    let mut overtaken = 0;
    let mut received = receive(&set, &cx);
    while let Poll::Ready((PathId::FIRST, packets)) = received {
        overtaken += packets;
        received = receive(&set, &cx);
    }
    assert_eq!(received, Poll::Ready((PathId(1), 1)));
    assert!((1..=64).contains(&overtaken), "{overtaken} packets");
    assert_eq!(set.traffic(PathId(1)).unwrap().received, 1);
}
