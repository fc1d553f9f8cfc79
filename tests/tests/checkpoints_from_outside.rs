//! Checkpoints of a stream that a framework owns: what is said of it from outside names the bytes that the state accounts for, however
//! far the framework has read ahead, and whatever was written since (`docs/recovery.md`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::peer::{Setting, acceptor};
use migration_tests::simulated::{Pair, run};
use rustls_migration::server::{OfferError, Positions};
use rustls_migration::tokio::{ConnectionHandle, Event, HandOff};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
    BufWriter,
};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{sleep, timeout};

/// A framework that knows nothing of this: it reads lines ahead, has `answer` say something to each, and writes that when it likes.
async fn framework<IO>(
    stream: IO,
    mut answer: impl FnMut(&str) -> Option<String>,
    handled: mpsc::Sender<()>,
    mut goes_on: mpsc::Receiver<()>,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufWriter::new(BufReader::with_capacity(4096, stream));
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let Some(said) = answer(&line) else {
            return Ok(());
        };
        stream.write_all(said.as_bytes()).await?;
        stream.flush().await?;
        line.clear();
        let _ = handled.send(()).await;
        let _ = goes_on.recv().await;
    }
    stream.shutdown().await
}

/// What the application knows of its stream: how many lines it has answered, and how many bytes these were.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    lines: u64,
    positions: Positions,
}

impl Known {
    fn answer(&mut self, line: &str) -> String {
        let said = format!("{} {line}", self.lines);
        self.lines += 1;
        self.positions.read += u64::try_from(line.len()).unwrap();
        self.positions.written += u64::try_from(said.len()).unwrap();
        said
    }

    fn of(state: &[u8]) -> Self {
        Self {
            lines: u64::from_be_bytes(state.try_into().unwrap()),
            positions: Positions::default(),
        }
    }

    async fn checkpoint(&self, handle: &ConnectionHandle, b: SocketAddr) -> io::Result<()> {
        let state = self.lines.to_be_bytes();
        handle.checkpoint_at(b, self.positions, &state).await
    }
}

fn is_bad(error: &io::Error) -> bool {
    let inside = error.get_ref().and_then(|inside| inside.downcast_ref());
    inside == Some(&OfferError::BadPosition)
}

/// Serves A by a framework that dies at line `dies`, and makes a checkpoint behind line `made`, of what was known behind line `known`.
async fn at_a<IO>(
    stream: IO,
    handle: ConnectionHandle,
    b: SocketAddr,
    (known, made, dies): (u64, u64, u64),
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (handled, mut has_handled) = mpsc::channel(1);
    let (go_on, goes_on) = mpsc::channel(1);
    let now = Arc::new(std::sync::Mutex::new(Known::default()));
    let answering = Arc::clone(&now);
    let answer = move |line: &str| {
        let mut now = answering.lock().unwrap();
        (now.lines < dies).then(|| now.answer(line))
    };
    let served = tokio::spawn(framework(stream, answer, handled, goes_on));
    Known::default().checkpoint(&handle, b).await?;
    let mut then = Known::default();
    while has_handled.recv().await.is_some() {
        let now = *now.lock().unwrap();
        if now.lines == known {
            then = now;
        }
        if now.lines == made {
            let mut too_far = now;
            too_far.positions.written += 1;
            assert!(is_bad(&too_far.checkpoint(&handle, b).await.unwrap_err()));
            then.checkpoint(&handle, b).await?;
            // The client does not have this any more.
            let back = Known::default().checkpoint(&handle, b).await;
            assert_eq!(back.is_err_and(|error| is_bad(&error)), known > 0);
        }
        let _ = go_on.send(()).await;
    }
    served.await.unwrap()?;
    let gone = then.checkpoint(&handle, b).await.unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::NotConnected);
    Ok(())
}

/// All the lines that a client gets for its own, and whether it has recovered.
async fn conversation(lines: u64, places: (u64, u64, u64)) -> (String, bool) {
    let pair = Pair::new(65_536);
    let b = pair.b;
    // Its time is that of its assertions.
    let judged = Arc::new(Mutex::new(()));
    let judging = Arc::clone(&judged);
    pair.serve(pair.a, pair.service.node(), move |stream| {
        let judging = Arc::clone(&judging);
        async move {
            let _judging = judging.lock().await;
            let handle = stream.handle();
            let judged = tokio::spawn(at_a(stream, handle, b, places));
            judged.await.unwrap()
        }
    });
    pair.serve(b, pair.service.node(), move |stream| async move {
        let mut known = Known::of(stream.arrival().state().unwrap());
        let (handled, _) = mpsc::channel(1);
        let (_, goes_on) = mpsc::channel(1);
        framework(stream, |line| Some(known.answer(line)), handled, goes_on).await
    });
    let connector = pair.connector(HandOff::Drain).recover_from_start();
    let connected = connector.connect(migration_tests::server_name(), pair.a);
    let mut stream = connected.await.unwrap();
    let mut events = stream.events();
    let all: String = (0..lines).map(|line| format!("line {line}\n")).collect();
    // In one piece, so that the framework reads ahead.
    stream.write_all(all.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let expected: usize = (0..lines)
        .map(|line| format!("{line} line {line}\n").len())
        .sum();
    let mut read = vec![0; expected];
    stream.read_exact(&mut read).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    drop(stream);
    let mut recovered = false;
    while let Some(event) = events.next().await {
        recovered |= matches!(event, Event::Recovered(_));
    }
    drop(judged.lock().await);
    (String::from_utf8(read).unwrap(), recovered)
}

#[test]
fn a_stream_that_a_framework_owns_goes_on_from_a_checkpoint_of_some_time_ago() {
    let expected: String = (0..20)
        .map(|line| format!("{line} line {line}\n"))
        .collect();
    for places in [(7, 7, 8), (7, 9, 12), (0, 5, 6), (1, 19, 19), (3, 4, 4)] {
        let (read, recovered) = run(conversation(20, places));
        assert!(recovered, "{places:?}");
        assert_eq!(read, expected, "{places:?}");
    }
}

fn elsewhere() -> SocketAddr {
    "127.0.0.4:443".parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_waits_for_a_handshake_in_vain_is_an_error_and_others_go_on() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    let (mut client, io) = setting.moved(b"early").await;
    client.send().await;
    let stream = at_b.accept(io).await.unwrap();
    assert!(stream.get_ref().tls().is_handshaking(), "after early data");
    let handle = stream.handle();
    // It waits until the handshake's time is over, and after that there is nothing to wait for.
    for _ in 0..2 {
        let made = handle.checkpoint_at(elsewhere(), Positions::default(), b"state");
        let failed = made.await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        sleep(Duration::from_secs(1)).await;
    }
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn checkpoints_that_are_wanted_together_are_all_made() {
    let setting = Setting::new();
    let at_a = acceptor(setting.node());
    let (mut client, io) = setting.fresh();
    let accepting = tokio::spawn(async move { at_a.accept(io).await });
    client.say(b"hello").await;
    let mut stream = accepting.await.unwrap().unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    let handle = stream.handle();
    let make = || handle.checkpoint_at(elsewhere(), Positions::default(), b"state");
    let all = async { tokio::try_join!(make(), make(), make()) };
    let all = timeout(Duration::from_secs(60), all).await;
    all.expect("one waits for ever").unwrap();
}
