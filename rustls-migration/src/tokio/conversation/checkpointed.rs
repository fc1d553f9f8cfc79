//! A stream whose checkpoints are made when they are due.
//!
//! None is made unless the application has settled all that moved.

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use zeroize::Zeroizing;

use super::pace::{Checkpoints, Due, Schedule};
use crate::server::OfferError;
use crate::tokio::TlsStream;

/// A server's stream with [`Checkpoints`], for an application with a state of its own. [`Conversation`](super::Conversation) is
/// shorter where a client asks and the server answers.
///
/// The application says at each moment at which it could go on elsewhere, [`settle`](Self::settle), from which state. Whether a checkpoint is made of it
/// is decided here, then or while the application waits in a read. A read or a write makes the stream unsettled until
/// the next such moment, and there is no checkpoint until then.
///
/// Reading and writing are those of the [`TlsStream`]. A reader that reads ahead must not stand before it, unless its buffer is in
/// the state: what has been read here is what the state accounts for.
pub struct Checkpointed<'a, IO> {
    stream: &'a mut TlsStream<IO>,
    schedule: Schedule,
    /// What was settled last.
    state: Zeroizing<Vec<u8>>,
    /// Whether nothing has moved since.
    settled: bool,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the handshake is known to be complete.
    established: bool,
    not_made: Option<OfferError>,
}

impl<'a, IO> Checkpointed<'a, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Nothing has been read from `stream` or written to it. Settle at once: that makes the first checkpoint.
    pub fn new(stream: &'a mut TlsStream<IO>, checkpoints: Checkpoints) -> Self {
        let lifetime = stream.token_lifetime();
        let begins = stream.arrival().state().is_none();
        Self {
            stream,
            schedule: Schedule::new(checkpoints, lifetime, begins),
            state: Zeroizing::default(),
            settled: false,
            timer: None,
            established: false,
            not_made: None,
        }
    }

    /// Says that the stream could go on from `state`, of at most 8192 bytes: it accounts for all that was read and written so
    /// far. Makes a checkpoint of it if one is due. Completes the handshake first if there are checkpoints, and waits for nothing else.
    ///
    /// It is no consent to a hand-over; [`TlsStream::set_state`] is.
    ///
    /// Safe to cancel: what was settled before counts then.
    ///
    /// # Errors
    ///
    /// [`OfferError::StateTooLong`] inside an `InvalidInput` error; those of the transport. Where there can be no checkpoint for
    /// another reason, as with a client that knows nothing of them, the stream goes on without: see
    /// [`not_made`](Self::not_made).
    pub async fn settle(&mut self, state: &[u8]) -> io::Result<()> {
        if self.schedule.target().is_none() {
            return Ok(());
        }
        if !self.established {
            self.stream.handshake().await?;
            self.established = true;
        }
        poll_fn(|cx| Poll::Ready(self.settle_now(cx, state))).await
    }

    /// As [`settle`](Self::settle), when the handshake is complete.
    pub(super) fn settle_now(&mut self, cx: &mut Context<'_>, state: &[u8]) -> io::Result<()> {
        self.state.clear();
        self.state.extend_from_slice(state);
        self.settled = true;
        match self.is_due() {
            true => self.make(cx),
            false => Ok(()),
        }
    }

    /// Whether a checkpoint will be made of what is settled next. To be asked before work that is done for a checkpoint alone.
    pub fn is_due(&self) -> bool {
        self.schedule.due().is_over(Instant::now())
    }

    /// Ready when a checkpoint is due.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let at = match self.schedule.due() {
            Due::Now => return Poll::Ready(()),
            Due::Never => return Poll::Pending,
            Due::At(at) => at,
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx)
    }

    /// Makes a checkpoint of what is settled when its time has come, for who waits for something else.
    pub(super) fn poll_keep(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.settled && self.poll_due(cx).is_ready() {
            self.make(cx)?;
        }
        Ok(())
    }

    /// Why the newest checkpoint that was due was not made. Where that may change, it is tried again at the same pace.
    pub fn not_made(&self) -> Option<OfferError> {
        self.not_made
    }

    /// The stream: how the client came, what it is told, its end. Nothing is to be read from it or written to it here, which would not be
    /// noticed.
    pub fn tls(&mut self) -> &mut TlsStream<IO> {
        self.stream
    }

    /// Makes a checkpoint, which leaves now or with what moves next: it is among that as a whole, or not at all.
    fn make(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(target) = self.schedule.target() else {
            return Ok(());
        };
        let made = pin!(self.stream.checkpoint(target, &self.state)).poll(cx);
        let refusal = match made {
            Poll::Ready(Err(error)) => Some(refusal(error)?),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        };
        self.not_made = refusal;
        self.schedule.note_made(Instant::now());
        if let Some(OfferError::NotSupported | OfferError::NoTicket | OfferError::UnknownSession) =
            refusal
        {
            self.schedule.end();
        }
        Ok(())
    }
}

/// Why there is no checkpoint, if the stream can go on without.
fn refusal(error: io::Error) -> io::Result<OfferError> {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner.copied() {
        None | Some(OfferError::StateTooLong { .. } | OfferError::BadPosition) => Err(error),
        Some(
            refusal @ (OfferError::NotSupported
            | OfferError::Handshaking
            | OfferError::NoTicket
            | OfferError::UnderWay
            | OfferError::TicketTooLong { .. }
            | OfferError::UnknownSession
            | OfferError::SealLimit
            | OfferError::Closed
            | OfferError::Failed),
        ) => Ok(refusal),
    }
}

impl<IO> AsyncRead for Checkpointed<'_, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut *this.stream).poll_read(cx, buf);
        match read {
            Poll::Ready(_) => {
                let len = buf.filled().len() - before;
                this.settled &= len == 0;
                this.schedule.note_read(len);
            }
            Poll::Pending => this.poll_keep(cx)?,
        }
        read
    }
}

impl<IO> AsyncWrite for Checkpointed<'_, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut *this.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(len)) = &written {
            this.settled &= *len == 0;
            this.schedule.note_moved(*len);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<IO> fmt::Debug for Checkpointed<'_, IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpointed")
            .field("stream", &self.stream)
            .field("schedule", &self.schedule)
            .field("settled", &self.settled)
            .field("not_made", &self.not_made)
            .finish_non_exhaustive()
    }
}
