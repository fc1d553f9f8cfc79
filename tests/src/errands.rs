//! Errands: a client asks for downloads, uploads, payments and sums, and the nodes answer over
//! [conversations](rustls_migration::tokio::conversation). Every byte of the answers is known, and every effect is counted.
//!
//! What is uploaded is on a disk that the nodes share; what was not flushed there is lost with its node.

use std::collections::{BTreeMap, HashMap};
use std::future::{Future as _, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{self, Context, Poll};
use std::time::Duration;

use migration_token::BoxFuture;
use rustls_migration::tokio::TlsStream;
use rustls_migration::tokio::conversation::{
    Checkpoints, Conversation, End, RequestId, RequestLog, lines,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use crate::content::{Content, Random};

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub enum Errand {
    /// So many bytes of the server's content.
    Get { start: usize, len: usize },
    /// So many bytes of the client's content are to be kept.
    Put { start: usize, len: usize },
    /// Something that is to happen once. The answer has so many bytes, and nobody could say them again.
    Pay { len: usize },
    /// A number, to be added to those before.
    Sum { number: u64 },
}

impl Errand {
    /// What the client writes, `place` being where the errand is among the others.
    fn request(self, place: usize) -> Vec<u8> {
        match self {
            Self::Get { start, len } => format!("get {start} {len}\n").into_bytes(),
            Self::Put { start, len } => {
                let mut request = format!("put {place} {len}\n").into_bytes();
                request.extend(Content::FromClient.piece(start, len));
                request
            }
            Self::Pay { len } => format!("pay {len}\n").into_bytes(),
            Self::Sum { number } => format!("sum {number}\n").into_bytes(),
        }
    }
}

/// What all nodes share.
#[derive(Debug, Default)]
pub struct Shop {
    disk: Mutex<HashMap<u64, Vec<u8>>>,
    /// Responses by their ids, which follow one another in a conversation.
    payments: Mutex<BTreeMap<[u8; 24], Vec<u8>>>,
    /// What must never happen.
    violations: Mutex<Vec<String>>,
    answered_again: Mutex<usize>,
}

/// The log and the payments are one table, so that a payment and its response are there together or not at all.
impl RequestLog for Shop {
    fn get(&self, id: RequestId) -> BoxFuture<'_, io::Result<Option<Vec<u8>>>> {
        let recorded = lock(&self.payments).get(id.as_bytes()).cloned();
        *lock(&self.answered_again) += usize::from(recorded.is_some());
        Box::pin(ready(Ok(recorded)))
    }

    fn put(&self, id: RequestId, _: Vec<u8>) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        let recorded = lock(&self.payments)[id.as_bytes()].clone();
        Box::pin(ready(Ok(recorded)))
    }
}

impl Shop {
    /// What must not have happened, whatever went wrong between client and nodes.
    pub fn judge(&self) -> Result<(), String> {
        let violations = lock(&self.violations);
        let fine = violations.is_empty();
        fine.then_some(()).ok_or_else(|| violations.join("; "))
    }

    /// How often a request was answered from the log.
    pub fn answered_again(&self) -> usize {
        *lock(&self.answered_again)
    }

    /// A server that was cut off may have come first.
    fn pay(&self, id: RequestId, len: usize, random: &mut Random) -> Vec<u8> {
        let mut payments = lock(&self.payments);
        let response = payments.entry(*id.as_bytes()).or_insert_with(|| {
            (0..len)
                .map(|_| u8::try_from(random.below(256)).unwrap())
                .collect()
        });
        response.clone()
    }

    /// What the client is to read for these errands, as far as they have been carried out.
    pub fn answers(&self, errands: &[Errand]) -> Vec<u8> {
        let payments = lock(&self.payments);
        let mut payments = payments.values();
        let (mut answers, mut total) = (Vec::new(), 0);
        for errand in errands {
            match *errand {
                Errand::Get { start, len } => {
                    answers.extend(format!("{len}\n").into_bytes());
                    answers.extend(Content::FromServer.piece(start, len));
                }
                Errand::Put { .. } => answers.extend(b"kept\n"),
                Errand::Pay { .. } => match payments.next() {
                    Some(response) => answers.extend(response),
                    None => break,
                },
                Errand::Sum { number } => {
                    total += number;
                    answers.extend(format!("{total}\n").into_bytes());
                }
            }
        }
        answers
    }

    /// Whether all that was to be kept is there, and each payment was made, once.
    pub fn has_done(&self, errands: &[Errand]) -> bool {
        let (disk, payments) = (lock(&self.disk), lock(&self.payments));
        let kept = |(place, errand): (usize, &Errand)| match *errand {
            Errand::Put { start, len } => {
                let kept = disk.get(&u64::try_from(place).unwrap());
                kept == Some(&Content::FromClient.piece(start, len))
            }
            Errand::Get { .. } | Errand::Pay { .. } | Errand::Sum { .. } => true,
        };
        let paid = errands.iter();
        let paid = paid.filter(|errand| matches!(errand, Errand::Pay { .. }));
        errands.iter().enumerate().all(kept) && paid.count() == payments.len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// How one node does it.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub seed: u64,
    /// Where its clients go on if it dies.
    pub checkpoints: Checkpoints,
    /// Sources and sinks fail at this byte.
    pub fails_at: Option<usize>,
    /// How much a source gives at the most at once, in bytes, and how long it takes for that.
    pub piece: (usize, Duration),
}

impl Habits {
    /// A node whose clients go on at `next`, from checkpoints every so many bytes.
    pub fn new(next: Option<SocketAddr>, bytes: u64) -> Self {
        let checkpoints = next.map_or_else(Checkpoints::none, Checkpoints::to);
        Self {
            seed: 0,
            checkpoints: checkpoints.every(bytes, Duration::from_secs(1)),
            fails_at: None,
            piece: (8192, Duration::ZERO),
        }
    }
}

/// Serves one client.
pub async fn serve<IO>(
    shop: &Arc<Shop>,
    mut stream: TlsStream<IO>,
    habits: Habits,
) -> io::Result<End>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut conversation = Conversation::begin(&mut stream, habits.checkpoints).await?;
    let answered = answer(shop, &mut conversation, habits).await;
    conversation.finish(answered).await
}

async fn answer<IO>(
    shop: &Arc<Shop>,
    conversation: &mut Conversation<'_, IO>,
    habits: Habits,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // Each node would answer a payment in another way.
    let mut random = Random::new(habits.seed ^ 0x9a);
    let total = conversation.state().try_into();
    let mut total = total.map_or(0, u64::from_be_bytes);
    while let Some(line) = conversation.request(lines(100)).await? {
        let line = String::from_utf8(line).map_err(io::Error::other)?;
        match *line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["get", start, len] => {
                let (start, len) = (number(start)?, number(len)?);
                let header = format!("{len}\n");
                conversation.write_all(header.as_bytes()).await?;
                let from = async |at| Ok(Source::new(start, size(at), habits));
                conversation.send(u64::try_from(len).unwrap(), from).await?;
            }
            ["put", place, len] => {
                let place = u64::try_from(number(place)?).unwrap();
                let len = u64::try_from(number(len)?).unwrap();
                let to = async |at| Ok(Sink::new(shop, place, size(at), habits));
                conversation.receive(len, to).await?;
                conversation.write_all(b"kept\n").await?;
            }
            ["pay", len] => {
                let len = number(len)?;
                let pay = async |id| Ok(shop.pay(id, len, &mut random));
                conversation.answer_once(&**shop, pay).await?;
            }
            ["sum", summand] => {
                total += summand.parse::<u64>().map_err(io::Error::other)?;
                let answer = format!("{total}\n");
                conversation.write_all(answer.as_bytes()).await?;
                conversation.set_state(&total.to_be_bytes())?;
            }
            _ => lock(&shop.violations).push(format!("asked for {line:?}")),
        }
    }
    Ok(())
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(io::Error::other)
}

fn size(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

/// What breaks says so.
fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "broken")
}

/// The server's content, in pieces that take time.
struct Source {
    start: usize,
    at: usize,
    random: Random,
    habits: Habits,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Source {
    fn new(start: usize, at: usize, habits: Habits) -> Self {
        Self {
            start,
            at,
            random: Random::new(habits.seed ^ 0x50),
            habits,
            pause: None,
        }
    }
}

impl AsyncRead for Source {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (most, time) = self.habits.piece;
        if !time.is_zero() {
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(time)));
            task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let len = (1 + self.random.below(most)).min(buf.remaining());
        let left = self.habits.fails_at.map(|at| at.saturating_sub(self.at));
        let len = left.map_or(len, |left| len.min(left));
        if len == 0 {
            return Poll::Ready(Err(broken()));
        }
        buf.put_slice(&Content::FromServer.piece(self.start + self.at, len));
        self.at += len;
        Poll::Ready(Ok(()))
    }
}

/// A file of the disk, from an offset on.
struct Sink {
    shop: Arc<Shop>,
    place: u64,
    at: usize,
    pending: Vec<u8>,
    habits: Habits,
}

impl Sink {
    fn new(shop: &Arc<Shop>, place: u64, at: usize, habits: Habits) -> Self {
        Self {
            shop: Arc::clone(shop),
            place,
            at,
            pending: Vec::new(),
            habits,
        }
    }
}

impl AsyncWrite for Sink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let end = self.at + self.pending.len() + buf.len();
        if self.habits.fails_at.is_some_and(|at| at < end) {
            return Poll::Ready(Err(broken()));
        }
        self.pending.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut disk = lock(&this.shop.disk);
        let file = disk.entry(this.place).or_default();
        if this.at > file.len() {
            lock(&this.shop.violations).push(format!("a gap of an upload at {}", file.len()));
            return Poll::Ready(Ok(()));
        }
        let again = (file.len() - this.at).min(this.pending.len());
        if file[this.at..][..again] != this.pending[..again] {
            lock(&this.shop.violations)
                .push(format!("another byte of an upload after {}", this.at));
        }
        file.extend_from_slice(&this.pending[again..]);
        this.at += this.pending.len();
        this.pending.clear();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// How a client does it.
#[derive(Clone, Copy, Debug)]
pub struct ClientHabits {
    pub seed: u64,
    /// The most that it writes or reads at once, in bytes.
    pub piece: usize,
    /// Whether it asks for nothing before it has its last answer.
    pub waits: bool,
    /// How long it waits before each read.
    pub slow: Duration,
}

/// What the client saw.
#[derive(Debug)]
pub struct Answers {
    pub read: Vec<u8>,
    /// Why there was no end.
    pub error: Option<io::Error>,
}

/// The client's side of the conversation.
pub async fn ask<S>(stream: S, errands: &[Errand], habits: ClientHabits) -> Answers
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (count, mut counted) = watch::channel(0_usize);
    let errands = errands.to_vec();
    let writing = tokio::spawn(async move {
        let mut random = Random::new(habits.seed ^ 0x3);
        let (mut expected, mut total) = (0, 0);
        for (place, errand) in errands.into_iter().enumerate() {
            let request = errand.request(place);
            let mut rest = request.as_slice();
            while !rest.is_empty() {
                let len = (1 + random.below(habits.piece)).min(rest.len());
                writer.write_all(&rest[..len]).await?;
                rest = &rest[len..];
            }
            expected += match errand {
                Errand::Get { len, .. } => format!("{len}\n").len() + len,
                Errand::Put { .. } => b"kept\n".len(),
                Errand::Pay { len } => len,
                Errand::Sum { number } => {
                    total += number;
                    format!("{total}\n").len()
                }
            };
            if habits.waits {
                writer.flush().await?;
                let answered = counted.wait_for(|count| *count >= expected).await;
                answered.map_err(io::Error::other)?;
            }
        }
        writer.shutdown().await
    });
    let mut answers = Answers {
        read: Vec::new(),
        error: None,
    };
    let mut buf = vec![0; habits.piece];
    loop {
        sleep(habits.slow).await;
        match reader.read(&mut buf).await {
            Ok(0) => break,
            Ok(len) => answers.read.extend_from_slice(&buf[..len]),
            Err(error) => {
                answers.error = Some(error);
                break;
            }
        }
        count.send_replace(answers.read.len());
    }
    drop(count);
    if answers.error.is_none() {
        let written = writing.await.unwrap();
        answers.error = written.err();
    }
    answers
}
