//! Every way to a server's stream against every duty of it: whatever the application polls, or if it polls nothing at all,
//! its token is spent, its handshake's time runs, a drain's order is carried out, and a client that stays is given up.
//!
//! Time is tokio's: it passes only when nobody has anything left to do, so what has not happened by then never will.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::peer::{Setting, acceptor};
use migration_tests::watched::Watched;
use rustls_migration::server::{Arrival, Verdict};
use rustls_migration::tokio::{
    ConnectionHandle, DepartureOverdue, DepartureStatus, DrainPlan, HandshakeTimeout,
    MigrationAcceptor, TlsStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// An enum with all its variants, so that a table over it is complete.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($(#[$what:meta])* $variant:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum $name { $($(#[$what])* $variant),* }

        impl $name {
            const ALL: &[Self] = &[$(Self::$variant),*];
        }
    };
}

table! {
    /// What an application does with its stream, again and again, and nothing else.
    Path { Read, Write, Flush, Shutdown, Handshake, Notify, Offer, Checkpoint, MigrateTo, Refresh, Nothing }
}

table! {
    /// What a stream sees to by itself.
    Duty { Commit, HandshakeTime, DrainOrder, DrainDeadline, DepartureDeadline }
}

impl Path {
    /// The method of the stream.
    fn method(self) -> Option<&'static str> {
        Some(match self {
            Self::Read => "poll_read",
            Self::Write => "poll_write",
            Self::Flush => "poll_flush",
            Self::Shutdown => "poll_shutdown",
            Self::Handshake => "handshake",
            Self::Notify => "notify",
            Self::Offer => "offer",
            Self::Checkpoint => "checkpoint",
            Self::MigrateTo => "migrate_to",
            Self::Refresh => "refresh_traffic_keys",
            Self::Nothing => return None,
        })
    }

    /// Whether the application calls the stream again later, and so finds out what has become of it.
    fn calls_again(self) -> bool {
        match self {
            Self::Read
            | Self::Write
            | Self::Flush
            | Self::Handshake
            | Self::Notify
            | Self::Offer
            | Self::Checkpoint
            | Self::MigrateTo => true,
            // The stream has been ended, or nobody asks.
            Self::Shutdown | Self::Refresh | Self::Nothing => false,
        }
    }
}

/// Methods that only look, or speak to the handle: they neither poll the connection nor wait for it.
const LOOKS: [&str; 9] = [
    "arrival",
    "lineage",
    "handle",
    "get_ref",
    "queue_checkpoint",
    "take_received",
    "set_state",
    "withdraw_state",
    "fmt",
];

#[test]
fn every_method_of_the_stream_is_in_the_table() {
    let source = include_str!("../../rustls-migration/src/tokio/server/stream.rs");
    // The stream's own and tokio's methods; what comes after it is another type.
    let (before, _) = source.split_once("/// A look at a [`TlsStream`]").unwrap();
    let mut methods = Vec::new();
    for (start, _) in before.match_indices("fn ") {
        let line_start = before[..start].rfind('\n').map_or(0, |at| at + 1);
        let prefix = before[line_start..start].trim();
        let name = before[start + 3..].split(['(', '<']).next().unwrap();
        let public = matches!(prefix, "pub" | "pub async");
        if public || name.starts_with("poll_") && name != "poll_keep" {
            methods.push(name);
        }
    }
    assert!(methods.contains(&"poll_read") && methods.contains(&"handshake"));
    for method in &methods {
        let known = Path::ALL.iter().any(|path| path.method() == Some(method));
        assert!(
            known || LOOKS.contains(method),
            "{method} is a path without its duties: add it to the table"
        );
    }
    for path in Path::ALL {
        assert!(path.method().is_none_or(|method| methods.contains(&method)));
    }
}

/// Where clients are sent.
fn elsewhere() -> SocketAddr {
    "127.0.0.4:443".parse().unwrap()
}

/// Between two calls of an application that goes on.
const BETWEEN: Duration = Duration::from_millis(250);

/// Does one thing again and again, and holds the stream for ever. Returns what the stream has failed with.
async fn only(
    path: Path,
    stream: &mut TlsStream<DuplexStream>,
) -> Result<std::convert::Infallible, io::Error> {
    loop {
        let done = match path {
            Path::Read => match stream.read(&mut [0; 100]).await {
                Ok(0) => pending().await,
                read => read.map(|_| ()),
            },
            Path::Write => stream.write(b"w").await.map(|_| ()),
            Path::Flush => stream.flush().await,
            Path::Shutdown => {
                stream.shutdown().await?;
                pending().await
            }
            Path::Handshake => stream.handshake().await,
            Path::Notify => stream.notify().await,
            Path::Offer => stream.offer(elsewhere(), None).await,
            Path::Checkpoint => stream.checkpoint(elsewhere(), b"state").await,
            Path::MigrateTo => stream.migrate_to(elsewhere(), None).await,
            Path::Refresh => {
                let _ = stream.refresh_traffic_keys();
                pending().await
            }
            Path::Nothing => pending().await,
        };
        match done {
            // The caller asked for what cannot be done; the connection goes on.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            done => done?,
        }
        sleep(BETWEEN).await;
    }
}

/// An application at work: its stream's handle, and what it finds out.
struct Application {
    handle: ConnectionHandle,
    task: JoinHandle<io::Error>,
    failed: Arc<std::sync::Mutex<Option<(io::Error, Instant)>>>,
}

impl Application {
    fn start(path: Path, mut stream: TlsStream<DuplexStream>) -> Self {
        let failed = Arc::new(std::sync::Mutex::new(None));
        let (handle, found) = (stream.handle(), Arc::clone(&failed));
        let task = tokio::spawn(async move {
            let Err(error) = only(path, &mut stream).await;
            *found.lock().unwrap() = Some((error, Instant::now()));
            // It holds what it has.
            pending().await
        });
        Self {
            handle,
            task,
            failed,
        }
    }

    /// What it has found out, with the time of it.
    fn failure(&self) -> Option<(io::Error, Instant)> {
        assert!(!self.task.is_finished());
        self.failed.lock().unwrap().take()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Checks what an application has found out, if it asked.
fn assert_found<E: std::error::Error + 'static>(path: Path, application: &Application) {
    match application.failure() {
        Some((error, _)) => {
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{path:?}: {error:?}");
            assert!(error.get_ref().unwrap().is::<E>(), "{path:?}: {error:?}");
        }
        None => assert!(!path.calls_again(), "{path:?} learnt nothing"),
    }
}

/// How a node answers a copy of a first flight.
async fn answer_to_a_copy(at: &MigrationAcceptor, flight: &[u8]) -> Arrival {
    let (mut racer, io) = duplex(1 << 20);
    racer.write_all(flight).await.unwrap();
    at.start(io, None, None).await.unwrap().arrival().clone()
}

async fn commits(path: Path) {
    let setting = Setting::new();
    let at_b = acceptor(setting.node().target(elsewhere()));
    let (mut client, io) = setting.moved(b"early").await;
    let flight = client.send().await;
    let stream = at_b.accept(io).await.unwrap();
    assert!(stream.get_ref().tls().is_handshaking(), "after early data");
    let application = Application::start(path, stream);
    let client = Watched::start(client, b"later");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(at_b.stats().committed(), 1, "{path:?}");
    let copy = answer_to_a_copy(&at_b, &flight).await;
    assert_eq!(copy, Arrival::Declined(Verdict::Replayed), "{path:?}");
    assert!(application.failure().is_none());
    // The handshake's time is over for this one, and its client is served.
    sleep(Duration::from_secs(60)).await;
    assert_eq!(at_b.stats().handshakes_timed_out(), 0, "{path:?}");
    let ended_itself = matches!(path, Path::Shutdown);
    let told_to_go = matches!(path, Path::Notify | Path::MigrateTo);
    let gone = ended_itself || told_to_go;
    assert_eq!(client.seen().end.is_some(), gone, "{path:?}");
}

async fn handshake_time(path: Path) {
    let setting = Setting::new();
    let at_b = acceptor(setting.node().target(elsewhere()).max_handshakes(1));
    // What the victim sent reaches B as a copy, without its key.
    let (mut victim, _io) = setting.moved(b"early").await;
    let flight = victim.send().await;
    let (mut racer, io) = duplex(1 << 20);
    racer.write_all(&flight).await.unwrap();
    let began = Instant::now();
    let application = Application::start(path, at_b.accept(io).await.unwrap());
    sleep(Duration::from_secs(5)).await;
    let (mut next, io) = setting.fresh();
    let accepting = tokio::spawn({
        let at_b = at_b.clone();
        async move { at_b.accept(io).await }
    });
    next.say(b"hello").await;
    let mut served = accepting.await.unwrap().unwrap();
    served.read_exact(&mut [0; 5]).await.unwrap();
    let waited = began.elapsed();
    let expected = Duration::from_secs(10)..Duration::from_secs(11);
    assert!(expected.contains(&waited), "{path:?}: {waited:?}");
    let mut said = Vec::new();
    racer.read_to_end(&mut said).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_found::<HandshakeTimeout>(path, &application);
    let counts = at_b.stats();
    assert_eq!(
        (counts.handshakes_timed_out(), counts.committed()),
        (1, 0),
        "{path:?}"
    );
}

/// A client that has said something, at an application that goes on.
async fn established(
    path: Path,
    at: &MigrationAcceptor,
    setting: &Setting,
) -> (Application, Watched) {
    let (peer, io) = setting.fresh();
    let client = Watched::start(peer, b"hello");
    let application = Application::start(path, at.accept(io).await.unwrap());
    (application, client)
}

fn plan(deadline: Duration) -> DrainPlan {
    DrainPlan::to([(elsewhere(), 1)])
        .spread_over(Duration::ZERO)
        .deadline(deadline)
}

async fn drain_order(path: Path) {
    let setting = Setting::new();
    let at_b = acceptor(setting.node().target(elsewhere()));
    let (application, client) = established(path, &at_b, &setting).await;
    let drain = at_b.drain(plan(Duration::from_secs(600)));
    let started = Instant::now();
    sleep(Duration::from_millis(20)).await;
    if path == Path::Shutdown {
        // The application has ended the stream, so there is nothing left to say.
        assert_eq!(application.handle.status(), DepartureStatus::NotMovable);
        assert_eq!(drain.progress().not_movable, 1);
        assert_eq!(client.end().await.0, Ok(()));
        return;
    }
    if path == Path::Nothing {
        // It has a second to take its new stream up, and to consent.
        assert!(client.seen().told.is_none());
        sleep(Duration::from_secs(1)).await;
    }
    let told = client.seen().told.map(|at| at.duration_since(started));
    let expected = Duration::from_secs(u64::from(path == Path::Nothing));
    assert_eq!(told, Some(expected), "{path:?}");
    assert_eq!(application.handle.told().await, DepartureStatus::Told);
    assert_eq!(drain.progress().notified, 1, "{path:?}");
    // The drain's deadline is the one that counts, whoever told the client first.
    sleep(Duration::from_secs(60)).await;
    assert!(application.failure().is_none(), "{path:?}");
    assert_eq!(client.seen().end, None, "{path:?}");
}

/// Checks that a client that stayed was cut without `close_notify`, and when.
async fn assert_cut(
    path: Path,
    application: &Application,
    client: &Watched,
    after: Duration,
    from: Instant,
) {
    sleep(after + Duration::from_secs(2)).await;
    assert_eq!(
        application.handle.status(),
        DepartureStatus::Overdue,
        "{path:?}"
    );
    if path == Path::Shutdown {
        // The application's own word came before.
        assert_eq!(client.end().await.0, Ok(()));
        return;
    }
    let (end, at) = client
        .seen()
        .end
        .unwrap_or_else(|| panic!("{path:?}: it was not cut"));
    assert_eq!(end, Err(io::ErrorKind::UnexpectedEof), "{path:?}");
    let waited = at.duration_since(from);
    let grace = Duration::from_millis(1200);
    assert!(
        (after..after + grace).contains(&waited),
        "{path:?}: {waited:?}"
    );
    assert_found::<DepartureOverdue>(path, application);
}

async fn drain_deadline(path: Path) {
    let setting = Setting::new();
    let at_b = acceptor(setting.node().target(elsewhere()));
    let (application, client) = established(path, &at_b, &setting).await;
    let (deadline, started) = (Duration::from_secs(30), Instant::now());
    let drain = at_b.drain(plan(deadline));
    assert_cut(path, &application, &client, deadline, started).await;
    let progress = drain.finished().await.progress;
    assert_eq!((progress.total, progress.forced), (1, 1), "{path:?}");
}

async fn departure_deadline(path: Path) {
    let setting = Setting::new();
    let at_b = acceptor(setting.node().target(elsewhere()));
    let (peer, io) = setting.fresh();
    let client = Watched::start(peer, b"hello");
    let stream = at_b.accept(io).await.unwrap();
    stream.handle().migrate_to(elsewhere());
    client.until(|seen| seen.told.is_some()).await;
    let told = Instant::now();
    let application = Application::start(path, stream);
    assert_cut(path, &application, &client, Duration::from_secs(10), told).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_the_application_does_each_duty_is_seen_to() {
    for duty in Duty::ALL {
        for path in Path::ALL {
            match duty {
                Duty::Commit => commits(*path).await,
                Duty::HandshakeTime => handshake_time(*path).await,
                Duty::DrainOrder => drain_order(*path).await,
                Duty::DrainDeadline => drain_deadline(*path).await,
                Duty::DepartureDeadline => departure_deadline(*path).await,
            }
        }
    }
}
