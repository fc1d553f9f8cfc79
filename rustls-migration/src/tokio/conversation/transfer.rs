//! Downloads and uploads: what is sent comes from a source that can begin anywhere, and what is received goes to a sink
//! that can.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::{Conversation, ConversationError};

/// How much is read from a source or from the client at a time, in bytes.
const CHUNK_LEN: usize = 16 * 1024;

impl<IO> Conversation<'_, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Sends `len` bytes of the answer from a source: a download. The client may be in the middle of it, so `open` is asked for
    /// the source from an offset on, 0 to `len` - 1; it is not asked when the client has all of it.
    ///
    /// Checkpoints are made on the way, also while the source or the client is slow. When the client has been told to move and has
    /// left, nothing more is sent, and the next server goes on.
    ///
    /// Not safe to cancel: the answer is not complete then, so drop the conversation too.
    ///
    /// # Errors
    ///
    /// [`ConversationError::Departed`], [`Source`](ConversationError::Source) and
    /// [`SourceEnded`](ConversationError::SourceEnded); those of the stream.
    pub async fn send<S, F>(&mut self, len: u64, open: impl FnOnce(u64) -> F) -> io::Result<()>
    where
        S: AsyncRead + Unpin,
        F: Future<Output = io::Result<S>>,
    {
        self.stay()?;
        let mut at = self.output.skip(len);
        if at == len {
            return Ok(());
        }
        self.settle().await?;
        let mut source = open(at).await.map_err(ConversationError::Source)?;
        let mut chunk = vec![0; CHUNK_LEN];
        while at < len {
            let want = usize::try_from(len - at).unwrap_or(usize::MAX);
            let want = chunk.get_mut(..want.min(CHUNK_LEN)).unwrap_or_default();
            let mut buf = ReadBuf::new(want);
            self.stay_while(|cx, _| Pin::new(&mut source).poll_read(cx, &mut buf))
                .await?
                .map_err(ConversationError::Source)?;
            if buf.filled().is_empty() {
                return Err(ConversationError::SourceEnded { missing: len - at }.into());
            }
            let mut rest = buf.filled();
            while !rest.is_empty() {
                let written = self
                    .stay_while(|cx, this| Pin::new(&mut this.stream).poll_write(cx, rest))
                    .await??;
                rest = rest.get(written..).unwrap_or_default();
                let written = u64::try_from(written).unwrap_or(u64::MAX);
                self.output.advance(written);
                at += written;
                self.settle().await?;
            }
        }
        Ok(())
    }

    /// Waits for `poll`, and looks after the client meanwhile. Fails when the client has left.
    async fn stay_while<T>(
        &mut self,
        mut poll: impl FnMut(&mut Context<'_>, &mut Self) -> Poll<T>,
    ) -> io::Result<T> {
        poll_fn(|cx| {
            if self.poll_departure(cx)?.is_ready() {
                return Poll::Ready(Err(self.depart()));
            }
            poll(cx, self).map(Ok)
        })
        .await
    }

    /// Receives `len` bytes that come behind the request into a sink: an upload. Some of them may have been kept at another
    /// server, so `open` is asked for the sink from an offset on, 0 to `len`; bytes behind it may be there already,
    /// and come again.
    ///
    /// A checkpoint accounts for what the sink had taken when it was last flushed, so flushing must keep what a server at the
    /// checkpoint's target is to find: let it call `sync_data` where power may fail. It is flushed for each checkpoint, and at the
    /// end.
    ///
    /// Not safe to cancel: some of what was read may be lost then, so drop the conversation too.
    ///
    /// # Errors
    ///
    /// [`ConversationError::Departed`], [`Sink`](ConversationError::Sink) and [`CutShort`](ConversationError::CutShort); those of
    /// the stream.
    pub async fn receive<S, F>(&mut self, len: u64, open: impl FnOnce(u64) -> F) -> io::Result<()>
    where
        S: AsyncWrite + Unpin,
        F: Future<Output = io::Result<S>>,
    {
        self.receive_up_to(Some(len), open).await.map(drop)
    }

    /// As [`receive`](Self::receive), up to the end of what the client says. Returns how much that was in all, in bytes.
    ///
    /// # Errors
    ///
    /// Those of [`receive`](Self::receive), but for `CutShort`.
    pub async fn receive_to_end<S, F>(&mut self, open: impl FnOnce(u64) -> F) -> io::Result<u64>
    where
        S: AsyncWrite + Unpin,
        F: Future<Output = io::Result<S>>,
    {
        self.receive_up_to(None, open).await
    }

    async fn receive_up_to<S, F>(
        &mut self,
        len: Option<u64>,
        open: impl FnOnce(u64) -> F,
    ) -> io::Result<u64>
    where
        S: AsyncWrite + Unpin,
        F: Future<Output = io::Result<S>>,
    {
        self.stay()?;
        let mut at = self.input.skip(len.unwrap_or(u64::MAX));
        let mut sink = open(at).await.map_err(ConversationError::Sink)?;
        // What the sink has taken since it was flushed.
        let mut unflushed: u64 = 0;
        loop {
            let left = len.map_or(u64::MAX, |len| len - at);
            let came = match left {
                0 => Came::End,
                left => self.next_bytes(left, unflushed > 0).await?,
            };
            if let Came::Bytes(bytes) = &came {
                sink.write_all(bytes)
                    .await
                    .map_err(ConversationError::Sink)?;
                let taken = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                unflushed += taken;
                at += taken;
                if !self.stream.is_due() {
                    continue;
                }
            }
            sink.flush().await.map_err(ConversationError::Sink)?;
            self.input.advance(unflushed);
            unflushed = 0;
            self.settle().await?;
            if let Came::End = came {
                return match len {
                    Some(len) if at < len => Err(self.no_more()),
                    None if self.is_departing() => Err(self.depart()),
                    Some(_) | None => Ok(at),
                };
            }
        }
    }

    /// What comes next of an upload, at most `most` bytes of it. While some of it `waits` for a checkpoint, so does this.
    async fn next_bytes(&mut self, most: u64, waits: bool) -> io::Result<Came> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if !self.state.unread.is_empty() {
            let rest = self.state.unread.len().min(most);
            let rest = self.state.unread.split_off(rest);
            let bytes = std::mem::replace(&mut self.state.unread, rest);
            return Ok(Came::Bytes(bytes));
        }
        if self.client_closed {
            return Ok(Came::End);
        }
        let mut bytes = vec![0; most.min(CHUNK_LEN)];
        let read = poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf)? {
                Poll::Ready(()) => Poll::Ready(Ok::<_, io::Error>(Some(buf.filled().len()))),
                Poll::Pending if waits => self.stream.poll_due(cx).map(|()| Ok(None)),
                Poll::Pending => Poll::Pending,
            }
        });
        let Some(len) = read.await? else {
            return Ok(Came::Due);
        };
        self.client_closed = len == 0;
        bytes.truncate(len);
        Ok(match self.client_closed {
            true => Came::End,
            false => Came::Bytes(bytes),
        })
    }
}

/// What came of an upload.
enum Came {
    Bytes(Vec<u8>),
    /// Nothing, and a checkpoint is due.
    Due,
    /// There is no more of it.
    End,
}
