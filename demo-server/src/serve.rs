//! One connection at a node: its request, the answer, and the move away in the middle of it.
//!
//! After a [pull](crate::trigger) of the trigger nothing more is sent: what follows is the next node's to say. In a drain the
//! answer goes on until the client has left, and the next node goes on from there.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls_migration::server::Arrival;
use rustls_migration::tokio::TlsStream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

use crate::files::{Files, Opened};
use crate::program::chain;
use crate::protocol::{LineReader, Request, refusal};
use crate::sync::{Exchanges, Sync};
use crate::trigger::Pulls;

/// How much of a file is read at a time, in bytes.
const CHUNK_LEN: usize = 64 * 1024;
/// How long a client may take to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How long a client may take to close after its answer.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer was sent to its end.
    Answered,
    /// The client was told to move, and went.
    Moved,
    /// The client left before that.
    Left,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answered => "answered",
            Self::Moved => "moved",
            Self::Left => "left",
        })
    }
}

/// A connection that is being served.
pub(crate) struct Exchange<'a, IO> {
    stream: TlsStream<IO>,
    files: &'a Files,
    exchanges: Option<&'a Exchanges>,
    pulls: Pulls,
    /// Move the client once this many bytes of its answer are sent.
    due_at: Option<u64>,
    /// Whether the client can be moved, as far as is known.
    movable: bool,
    sent: u64,
}

/// Why there is no exchange in blocks.
#[derive(Debug, thiserror::Error)]
#[error("this node takes no uploads")]
struct NoUploads;

/// What came of an attempt to send.
enum Sent {
    Bytes(usize),
    /// Nothing was sent, and nothing more should be.
    Ended(End),
}

impl<'a, IO> Exchange<'a, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    pub(crate) fn new(
        stream: TlsStream<IO>,
        files: &'a Files,
        exchanges: Option<&'a Exchanges>,
        pulls: Pulls,
        due_at: Option<u64>,
    ) -> Self {
        Self {
            stream,
            files,
            exchanges,
            pulls,
            due_at,
            movable: true,
            sent: 0,
        }
    }

    /// How many bytes of the answer have been sent, its header aside.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Serves the connection to its end.
    pub(crate) async fn run(&mut self) -> io::Result<End> {
        // This node's answers can go on elsewhere. From where, is said when the client leaves.
        self.stream.set_state(&[])?;
        let end = self.answer().await?;
        match end {
            // The departure deadline is the stream's own.
            End::Moved => {
                self.read_to_end().await?;
                self.stream.shutdown().await?;
            }
            // Closing with something unread would reset the connection, and with it what is still on its way.
            End::Answered | End::Left => {
                self.stream.shutdown().await?;
                timeout(CLOSE_LIMIT, self.read_to_end()).await??;
            }
        }
        Ok(end)
    }

    async fn answer(&mut self) -> io::Result<End> {
        let mut line = LineReader::default();
        let mut buf = [0; 4096];
        let mut read = Vec::new();
        if let Arrival::Migrated {
            state: Some(state), ..
        }
        | Arrival::Recovered { state, .. } = self.stream.arrival()
        {
            read.extend_from_slice(state);
        }
        // What another node hands over with its client has been asked there, and is not answered from the beginning.
        let mut goes_on = true;
        loop {
            let request = match line.push(&read) {
                Ok(None) => None,
                Ok(Some((line, rest))) => {
                    Some(Request::parse(&line).map(|request| (request, rest.to_vec())))
                }
                Err(error) => Some(Err(error)),
            };
            match request {
                None => {}
                Some(Ok((request, rest))) => return self.serve(request, &rest, goes_on).await,
                Some(Err(error)) => return self.refuse(&error).await,
            }
            goes_on = false;
            let len = tokio::select! {
                () = self.pulls.next(), if self.movable => {
                    if self.notify().await? {
                        self.stream.set_state(line.partial())?;
                        return Ok(End::Moved);
                    }
                    read.clear();
                    continue;
                }
                read = timeout(REQUEST_LIMIT, self.stream.read(&mut buf)) => read??,
            };
            if len == 0 {
                self.stream.set_state(line.partial())?;
                return Ok(End::Left);
            }
            read = buf.get(..len).unwrap_or_default().to_vec();
        }
    }

    async fn serve(&mut self, request: Request, rest: &[u8], goes_on: bool) -> io::Result<End> {
        match request {
            Request::Get { path, offset } => self.get(&path, offset, goes_on).await,
            Request::Echo => self.echo(rest).await,
            Request::Sync { path } => self.sync(path, rest, goes_on).await,
        }
    }

    async fn sync(&mut self, path: String, rest: &[u8], goes_on: bool) -> io::Result<End> {
        let Some(exchanges) = self.exchanges else {
            return self.refuse(&NoUploads).await;
        };
        let opened = match self.files.open(&path, 0).await {
            Ok(opened) => opened,
            Err(error) => return self.refuse(&error).await,
        };
        if !goes_on {
            let header = opened.header.to_string();
            self.stream.write_all(header.as_bytes()).await?;
        }
        let mut sync = Sync::new(&mut self.stream, exchanges, path, opened);
        let end = sync.run(rest).await;
        self.sent = sync.sent();
        end
    }

    async fn get(&mut self, path: &str, offset: u64, goes_on: bool) -> io::Result<End> {
        let Opened { header, mut file } = match self.files.open(path, offset).await {
            Ok(opened) => opened,
            Err(error) => return self.refuse(&error).await,
        };
        if !goes_on {
            self.stream.write_all(header.to_string().as_bytes()).await?;
        }
        let mut left = header.size - offset;
        let mut buf = vec![0; CHUNK_LEN];
        while left > 0 {
            if self.is_due() && self.notify().await? {
                let (path, offset) = (path.to_owned(), header.size - left);
                self.go_on_with(&Request::Get { path, offset })?;
                return Ok(End::Moved);
            }
            let until_due = self.due_at.map_or(u64::MAX, |due| due - self.sent);
            let want = usize::try_from(left.min(until_due)).unwrap_or(usize::MAX);
            let len = file
                .read(buf.get_mut(..want.min(CHUNK_LEN)).unwrap_or_default())
                .await?;
            if len == 0 {
                let shrunk = "the file has shrunk";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, shrunk));
            }
            let mut chunk = buf.get(..len).unwrap_or_default();
            while !chunk.is_empty() {
                match self.send(chunk).await? {
                    Sent::Bytes(sent) => {
                        chunk = chunk.get(sent..).unwrap_or_default();
                        left = left.saturating_sub(u64::try_from(sent).unwrap_or(u64::MAX));
                    }
                    Sent::Ended(end) => {
                        let (path, offset) = (path.to_owned(), header.size - left);
                        self.go_on_with(&Request::Get { path, offset })?;
                        return Ok(end);
                    }
                }
            }
        }
        // There is nothing left to go on with.
        self.stream.withdraw_state();
        Ok(End::Answered)
    }

    /// What the next node has to do if the client is handed over now. It is not said before: a client that does not wait
    /// for the hand-over says itself what it wants there.
    fn go_on_with(&mut self, request: &Request) -> io::Result<()> {
        Ok(self.stream.set_state(request.to_string().as_bytes())?)
    }

    async fn echo(&mut self, mut received: &[u8]) -> io::Result<End> {
        let mut buf = vec![0; CHUNK_LEN];
        loop {
            self.stream.write_all(received).await?;
            self.stream.flush().await?;
            self.count(received.len());
            if self.is_due() && self.notify().await? {
                self.go_on_with(&Request::Echo)?;
                return Ok(End::Moved);
            }
            tokio::select! {
                () = self.pulls.next(), if self.movable => {
                    if self.notify().await? {
                        self.go_on_with(&Request::Echo)?;
                        return Ok(End::Moved);
                    }
                    received = &[];
                }
                read = self.stream.read(&mut buf) => match read? {
                    0 => {
                        self.go_on_with(&Request::Echo)?;
                        return Ok(End::Left);
                    }
                    len => received = buf.get(..len).unwrap_or_default(),
                },
            }
        }
    }

    async fn refuse(&mut self, error: &(impl std::error::Error + 'static)) -> io::Result<End> {
        tracing::info!(reason = chain(error), "refused");
        self.stream.write_all(refusal(error).as_bytes()).await?;
        Ok(End::Answered)
    }

    /// Sends some of `chunk`, unless the node's trigger is pulled or the client leaves.
    async fn send(&mut self, chunk: &[u8]) -> io::Result<Sent> {
        let sent = tokio::select! {
            () = self.pulls.next(), if self.movable => match self.notify().await? {
                true => Sent::Ended(End::Moved),
                false => Sent::Bytes(0),
            },
            sent = std::future::poll_fn(|cx| poll_send(&mut self.stream, cx, chunk)) => sent?,
        };
        if let Sent::Bytes(sent) = sent {
            self.count(sent);
        }
        Ok(sent)
    }

    /// Tells the client to move. `false` when it cannot be moved; the connection goes on.
    async fn notify(&mut self) -> io::Result<bool> {
        self.due_at = None;
        match self.stream.notify().await {
            Ok(()) => {
                tracing::info!(sent = self.sent, "told to move");
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                tracing::info!(reason = %error, "cannot be moved");
                self.movable = false;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn read_to_end(&mut self) -> io::Result<()> {
        let mut ignored = [0; 4096];
        while self.stream.read(&mut ignored).await? > 0 {}
        Ok(())
    }

    fn is_due(&self) -> bool {
        self.due_at.is_some_and(|due| self.sent >= due)
    }

    fn count(&mut self, sent: usize) {
        self.sent += u64::try_from(sent).unwrap_or(u64::MAX);
    }
}

/// Writes some of `chunk`, and reads at the same time: that completes the handshake behind an answer to early data, and
/// shows when the client leaves. What it sends besides is ignored.
fn poll_send<IO>(
    stream: &mut TlsStream<IO>,
    cx: &mut Context<'_>,
    chunk: &[u8],
) -> Poll<io::Result<Sent>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut ignored = [0; 4096];
    loop {
        let mut buf = ReadBuf::new(&mut ignored);
        match Pin::new(&mut *stream).poll_read(cx, &mut buf)? {
            Poll::Ready(()) if buf.filled().is_empty() => {
                return Poll::Ready(Ok(Sent::Ended(End::Left)));
            }
            Poll::Ready(()) => {}
            Poll::Pending => break,
        }
    }
    let written = Pin::new(stream).poll_write(cx, chunk)?;
    written.map(|len| Ok(Sent::Bytes(len)))
}
