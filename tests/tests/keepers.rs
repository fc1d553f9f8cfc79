//! The task that sees to a stream's duties while nobody polls it: it works beside the application on several threads, it rests
//! when there is nothing to do, and it ends with the stream.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use migration_tests::client::echoed;
use migration_tests::node::echo;
use migration_tests::peer::{Peer, Setting, acceptor};
use migration_tests::session::Random;
use migration_tests::watched::Watched;
use migration_tests::{Node, Service, server_name};
use rustls_migration::Connection as _;
use rustls_migration::tokio::{ConnectionHandle, DepartureStatus, HandOff, TlsStream};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

fn elsewhere() -> SocketAddr {
    "127.0.0.4:443".parse().unwrap()
}

/// A transport that counts how often it is polled.
struct Counting {
    io: DuplexStream,
    polls: Arc<AtomicUsize>,
}

impl Counting {
    fn io(&mut self) -> Pin<&mut DuplexStream> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.io)
    }
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buf)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}

fn alive() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// A stream with a duty, and its client. What the keeper waits for does not come.
async fn with_duty(
    setting: &Setting,
    early: bool,
) -> (Peer, TlsStream<Counting>, Arc<AtomicUsize>) {
    let at_b = acceptor(setting.node().departure_deadline(Duration::MAX));
    let polls = Arc::<AtomicUsize>::default();
    let counting = |io| Counting {
        io,
        polls: Arc::clone(&polls),
    };
    if early {
        let (mut peer, io) = setting.moved(b"early").await;
        peer.send().await;
        let stream = at_b.accept(counting(io)).await.unwrap();
        return (peer, stream, polls);
    }
    let (mut peer, io) = setting.fresh();
    let (stream, ()) = tokio::join!(at_b.accept(counting(io)), peer.say(b"hello"));
    let stream = stream.unwrap();
    stream.handle().migrate_to(elsewhere());
    stream.handle().told().await;
    (peer, stream, polls)
}

#[tokio::test(start_paused = true)]
async fn the_keeper_of_a_dropped_stream_ends_and_the_transport_is_closed_at_once() {
    for early in [true, false] {
        let setting = Setting::new();
        let (mut peer, stream, _) = with_duty(&setting, early).await;
        sleep(Duration::from_secs(1)).await;
        let before = alive();
        drop(stream);
        // It is closed before anything else has run.
        let mut said = Vec::new();
        let end = peer.io.read_to_end(&mut said);
        assert!(is_ready_at_once(end), "early: {early}");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(alive(), before - 1, "early: {early}");
    }
}

/// Whether a future is ready at its first poll.
fn is_ready_at_once(future: impl Future) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    std::pin::pin!(future).poll(&mut cx).is_ready()
}

#[tokio::test(start_paused = true)]
async fn a_keeper_that_waits_polls_nothing() {
    let setting = Setting::new();
    let (_peer, _stream, polls) = with_duty(&setting, false).await;
    sleep(Duration::from_secs(1)).await;
    let before = polls.load(Ordering::Relaxed);
    sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(polls.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn what_comes_costs_a_few_polls_and_not_more() {
    let setting = Setting::new();
    let (mut peer, mut stream, polls) = with_duty(&setting, false).await;
    stream.read_exact(&mut [0; 5]).await.unwrap();
    let before = polls.load(Ordering::Relaxed);
    for _ in 0..100 {
        peer.connection.write(b"word").unwrap();
        peer.send().await;
        stream.read_exact(&mut [0; 4]).await.unwrap();
    }
    let polls = polls.load(Ordering::Relaxed) - before;
    assert!(polls < 1500, "{polls} polls for 100 messages");
}

#[tokio::test]
async fn a_keeper_does_not_spin_while_the_application_looks_at_its_stream() {
    let setting = Setting::new();
    let (_peer, stream, _) = with_duty(&setting, false).await;
    let runtime = Handle::current().metrics();
    let look = stream.get_ref();
    stream.handle().migrate_to(elsewhere());
    let busy = runtime.worker_total_busy_duration(0);
    let looked = Duration::from_millis(500);
    sleep(looked).await;
    let busy = runtime.worker_total_busy_duration(0) - busy;
    drop(look);
    assert!(busy < looked / 2, "busy for {busy:?} of {looked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_came_while_the_application_looked_is_carried_out_afterwards() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (peer, io) = setting.fresh();
    let client = Watched::start(peer, b"hello");
    let stream = at_b.accept(io).await.unwrap();
    let look = stream.get_ref();
    stream.handle().migrate_to(elsewhere());
    sleep(Duration::from_secs(1)).await;
    assert!(client.seen().told.is_none());
    drop(look);
    sleep(Duration::from_secs(1)).await;
    assert!(client.seen().told.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_command_from_a_thread_without_a_runtime_is_carried_out() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (peer, io) = setting.fresh();
    let client = Watched::start(peer, b"hello");
    let stream = at_b.accept(io).await.unwrap();
    let handle = stream.handle();
    let outside = std::thread::spawn(move || handle.migrate_to(elsewhere()));
    outside.join().expect("it needs no runtime");
    client.until(|seen| seen.told.is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn a_writer_goes_on_when_the_transport_takes_all_that_waited_at_once() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (mut peer, io) = setting.fresh();
    let (stream, ()) = tokio::join!(at_b.accept(io), peer.say(b"hello"));
    let mut stream = stream.unwrap();
    let answer = vec![7; 8 << 20];
    let writing = tokio::spawn(async move {
        stream.write_all(&answer).await.unwrap();
        stream.flush().await.unwrap();
        stream
    });
    let (mut read, mut len) = (vec![0; 2 << 20], 0);
    while len < 8 << 20 {
        // All that the transport has, and more room than is waiting.
        sleep(Duration::from_millis(1)).await;
        let some = peer.io.read(&mut read);
        let some = tokio::time::timeout(Duration::from_secs(1), some).await;
        len += some.expect("the writer sleeps").unwrap();
    }
    writing.await.unwrap();
}

const STREAMS: usize = 100;

/// Commands from other threads, to streams whose applications read and write all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commands_from_everywhere_reach_busy_streams_and_none_is_lost() {
    let service = Arc::new(Service::default());
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let (sender, mut handles) = mpsc::unbounded_channel::<ConnectionHandle>();
    a.serve(service.node(), move |mut stream| {
        sender.send(stream.handle()).unwrap();
        async move {
            stream.set_state(b"state")?;
            echo(stream).await
        }
    });
    b.serve_echo(service.node());
    let (at_a, at_b) = (a.address(), b.address());
    let commands = std::thread::spawn(move || {
        let mut handles = std::iter::from_fn(|| handles.blocking_recv());
        let handles: Vec<_> = handles.by_ref().take(STREAMS).collect();
        for handle in &handles {
            handle.migrate_to(at_b);
            // Nor does asking disturb anything.
            assert_ne!(handle.status(), DepartureStatus::Overdue);
            handle.migrate_to(at_b);
        }
        handles
    });
    let mut clients = JoinSet::new();
    for _ in 0..STREAMS {
        let service = Arc::clone(&service);
        clients.spawn(async move {
            let connector = service.connector().hand_off(HandOff::Drain);
            let mut stream = connector.connect(server_name(), at_a).await.unwrap();
            while stream.peer_addr() == at_a {
                echoed(&mut stream, b"word").await;
            }
            echoed(&mut stream, b"at B").await;
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    for handle in commands.join().unwrap() {
        assert_eq!(handle.ended().await, DepartureStatus::HandedOver);
    }
}

/// Streams that are dropped at any time, with and without duties.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_may_be_dropped_at_any_time_and_leaves_nothing_behind() {
    let before = alive();
    let mut all = JoinSet::new();
    for seed in 0..200 {
        all.spawn(async move {
            let setting = Setting::new();
            let at_b = acceptor(setting.node());
            let mut random = Random::new(seed);
            let (mut peer, io) = match random.once_in(2) {
                true => setting.moved(b"early").await,
                false => setting.fresh(),
            };
            let client = tokio::spawn(async move {
                peer.send().await;
                // The server may go at any moment.
                while peer.receive_some(16_384).await.is_ok_and(|len| len > 0) {
                    peer.send().await;
                }
            });
            let mut stream = at_b.accept(io).await.unwrap();
            let handle = stream.handle();
            if random.once_in(2) {
                let handle = handle.clone();
                std::thread::spawn(move || handle.migrate_to(elsewhere()));
            }
            for _ in 0..random.below(20) {
                let work = async {
                    let _ = stream.write(b"word").await;
                    let _ = stream.flush().await;
                };
                tokio::select! {
                    () = work => {}
                    () = tokio::task::yield_now() => {}
                }
            }
            drop(stream);
            // The keeper may be at the stream in this very moment. It lets go at the end of its turn.
            handle.ended().await;
            assert_eq!(at_b.connections(), 0);
            client.await.unwrap();
        });
    }
    while let Some(one) = all.join_next().await {
        one.unwrap();
    }
    // The last of them are on their way out.
    while alive() > before {
        tokio::task::yield_now().await;
    }
}
