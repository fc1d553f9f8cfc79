//! The client's side of a conversation.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rustls_migration::tokio::HandOffError;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{Content, Random, Script};

/// What the client saw.
#[derive(Debug, Default)]
pub struct Client {
    /// How many bytes its writes took.
    pub written: usize,
    pub write_error: Option<io::Error>,
    /// Whether it closed its side.
    pub closed: bool,
    pub read: usize,
    pub read_error: Option<io::Error>,
    /// Whether it read to an end without an error.
    pub ended: bool,
}

impl Client {
    /// The hand-off's failure, if that ended the stream.
    pub fn hand_off_error(&self) -> Option<&HandOffError> {
        let error = self.read_error.as_ref()?.get_ref()?;
        error.downcast_ref()
    }
}

/// Polls a future a few times and then drops it, if it is one of the times for that.
pub(super) async fn perhaps<F: Future>(
    random: &mut Random,
    impatient: bool,
    future: F,
) -> Option<F::Output> {
    if !impatient || random.once_in(2) {
        return Some(future.await);
    }
    let mut future = pin!(future);
    let mut polls = random.below(4);
    let limited = std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if polls == 0 => Poll::Ready(None),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    });
    // A task that gave up looks again after a while.
    match timeout(Duration::from_millis(7), limited).await {
        Ok(Some(output)) => Some(output),
        Ok(None) | Err(_) => {
            sleep(Duration::from_millis(1)).await;
            None
        }
    }
}

/// The client's reading.
struct Reading {
    seed: u64,
    largest: usize,
    random: Random,
    impatient: bool,
    client: Client,
}

impl Reading {
    /// One read, or the attempt at one. `false` when there is nothing more to read.
    async fn step(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> bool {
        // Now and then into no room at all.
        let room = match self.random.once_in(8) {
            true => 0,
            false => 1 + self.random.below(self.largest.max(1500)),
        };
        let mut buf = vec![0; room];
        let read = perhaps(&mut self.random, self.impatient, stream.read(&mut buf)).await;
        match read {
            None => true,
            Some(Ok(0)) if buf.is_empty() => true,
            Some(Ok(0)) => {
                self.client.ended = true;
                false
            }
            Some(Ok(len)) => {
                let at = self.client.read;
                let right = Content::FromServer.is_at(at, &buf[..len]);
                assert!(right, "seed {}: what was read is not at {at}", self.seed);
                self.client.read += len;
                true
            }
            Some(Err(error)) => {
                self.client.read_error = Some(error);
                false
            }
        }
    }
}

impl Reading {
    /// Reads until so much has been read, or there is nothing more to read.
    async fn read_up_to(&mut self, position: usize, stream: &mut (impl AsyncRead + Unpin)) {
        while self.client.read < position && self.step(stream).await {}
    }
}

/// The client's writing.
struct Writing {
    random: Random,
    impatient: bool,
    uploaded: usize,
    largest: usize,
    client: Client,
}

impl Writing {
    /// Writes all that it has, and leaves its side open.
    async fn write_all(&mut self, stream: &mut (impl AsyncWrite + Unpin)) {
        while self.client.written < self.uploaded && self.step(stream).await {}
        if self.client.write_error.is_none()
            && let Err(error) = stream.flush().await
        {
            self.client.write_error = Some(error);
        }
    }

    /// One write, flush or shutdown, or the attempt at one. `false` when there is nothing more to do.
    async fn step(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> bool {
        let random = &mut self.random;
        let left = self.uploaded - self.client.written;
        let done = if left == 0 {
            let shutdown = perhaps(random, self.impatient, stream.shutdown()).await;
            self.client.closed |= matches!(shutdown, Some(Ok(())));
            shutdown
        } else if random.once_in(6) {
            perhaps(random, self.impatient, stream.flush()).await
        } else {
            let len = left.min(1 + random.below(self.largest));
            let piece = Content::FromClient.piece(self.client.written, len);
            let written = perhaps(random, self.impatient, stream.write(&piece)).await;
            written.map(|written| written.map(|len| self.client.written += len))
        };
        if random.once_in(3) {
            sleep(Duration::from_millis(
                u64::try_from(random.below(6)).unwrap(),
            ))
            .await;
        }
        match done {
            Some(Err(error)) => {
                self.client.write_error = Some(error);
                false
            }
            Some(Ok(())) | None => !self.client.closed,
        }
    }
}

/// What a client does of a conversation, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// It reads and writes, as the script says.
    Both,
    /// It does not read before it has written all and closed its side.
    WritesFirst,
    /// It writes nothing, and closes its side when it has read all that is pushed.
    ReadsOnly,
    /// It stops so often in the middle, when all that was said has been read, and waits for a word that does not come.
    Idles(usize),
}

/// How a client that idles and who disturbs it speak to each other.
#[derive(Debug, Default)]
pub struct Lull {
    /// It is quiet now.
    pub begun: Notify,
    /// The client is to go on.
    pub over: Notify,
}

/// The client's side of the conversation. Panics at a gap or a repeat.
pub async fn converse<S>(script: &Script, stream: S) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    converse_as(Habit::Both, script, stream, &Lull::default()).await
}

/// As [`converse`], with this habit.
pub async fn converse_as<S>(habit: Habit, script: &Script, mut stream: S, lull: &Lull) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut reading = Reading {
        seed: script.seed,
        largest: script.largest,
        random: Random::new(script.seed ^ 0xc1),
        impatient: script.impatient,
        client: Client::default(),
    };
    let mut writing = Writing {
        random: Random::new(script.seed ^ 0xc2),
        impatient: script.impatient,
        uploaded: script.uploaded,
        largest: script.largest,
        client: Client::default(),
    };
    match habit {
        Habit::Both if script.halves => (reading, writing) = halves(stream, reading, writing).await,
        Habit::Both => alternate(stream, &mut reading, &mut writing).await,
        Habit::WritesFirst | Habit::ReadsOnly | Habit::Idles(_) => {
            if habit == Habit::ReadsOnly {
                reading.read_up_to(script.pushed, &mut stream).await;
            }
            if let Habit::Idles(times) = habit {
                for lulls in 1..=times {
                    writing.uploaded = script.uploaded * lulls / (times + 1);
                    writing.write_all(&mut stream).await;
                    let said = script.said(writing.client.written);
                    reading.read_up_to(said, &mut stream).await;
                    lull.begun.notify_one();
                    let mut over = pin!(lull.over.notified());
                    while tokio::select! {
                        more = reading.step(&mut stream) => more,
                        () = &mut over => false,
                    } {}
                }
                writing.uploaded = script.uploaded;
            }
            while writing.step(&mut stream).await {}
            while reading.step(&mut stream).await {}
        }
    }
    Client {
        written: writing.client.written,
        write_error: writing.client.write_error,
        closed: writing.client.closed,
        ..reading.client
    }
}

/// Reads and writes in two tasks.
async fn halves<S>(stream: S, mut reading: Reading, mut writing: Writing) -> (Reading, Writing)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reader = tokio::spawn(async move {
        while reading.step(&mut reader).await {}
        reading
    });
    let writer = tokio::spawn(async move {
        while writing.step(&mut writer).await {}
        writing
    });
    (reader.await.unwrap(), writer.await.unwrap())
}

/// Reads and writes in turn.
async fn alternate<S>(mut stream: S, reading: &mut Reading, writing: &mut Writing)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // One task can do only one thing at a time, so it never waits for long.
    (reading.impatient, writing.impatient) = (true, true);
    let (mut reads, mut writes) = (true, true);
    while reads || writes {
        reads = reads
            && step_a_while(reading.step(&mut stream))
                .await
                .unwrap_or(true);
        writes = writes
            && step_a_while(writing.step(&mut stream))
                .await
                .unwrap_or(true);
    }
}

/// Drops what takes longer than a few milliseconds.
async fn step_a_while<F: Future>(step: F) -> Option<F::Output> {
    timeout(Duration::from_millis(5), step).await.ok()
}
