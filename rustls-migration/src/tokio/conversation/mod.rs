//! Conversations that survive their server, in a few lines: downloads, uploads, requests that are carried out once.
//!
//! A [`Conversation`] is a stream on which a client asks and the server answers. It reads for the application, remembers what has been answered
//! and how far the request under way is, and makes [`Checkpoints`] of that. An application that is asked again at another server,
//! after a death or a hand-over, does what it did before: the request is the same one, and what the client has of the answer is left
//! out.
//!
//! ```no_run
//! use std::io::{self, SeekFrom};
//! use std::net::SocketAddr;
//!
//! use rustls_migration::tokio::TlsStream;
//! use rustls_migration::tokio::conversation::{Checkpoints, Conversation, lines};
//! use tokio::fs::File;
//! use tokio::io::AsyncSeekExt as _;
//! use tokio::net::TcpStream;
//!
//! /// Serves one client, who goes on at `next` if this node dies.
//! async fn serve(mut stream: TlsStream<TcpStream>, next: SocketAddr) -> io::Result<()> {
//!     let mut conversation = Conversation::begin(&mut stream, Checkpoints::to(next)).await?;
//!     let answered = answer(&mut conversation).await;
//!     conversation.finish(answered).await.map(drop)
//! }
//!
//! async fn answer(conversation: &mut Conversation<'_, TcpStream>) -> io::Result<()> {
//!     while let Some(request) = conversation.request(lines(1000)).await? {
//!         match request.as_slice() {
//!             // A download.
//!             b"get\n" => {
//!                 let len = tokio::fs::metadata("file").await?.len();
//!                 conversation.write_all(format!("{len}\n").as_bytes()).await?;
//!                 let from = async |offset| {
//!                     let mut file = File::open("file").await?;
//!                     file.seek(SeekFrom::Start(offset)).await?;
//!                     Ok(file)
//!                 };
//!                 conversation.send(len, from).await?;
//!             }
//!             // An upload of a million bytes, to where the next node finds it.
//!             b"put\n" => {
//!                 let to = async |offset| {
//!                     let mut options = File::options();
//!                     let mut file = options.write(true).create(true).open("upload").await?;
//!                     file.seek(SeekFrom::Start(offset)).await?;
//!                     Ok(file)
//!                 };
//!                 conversation.receive(1_000_000, to).await?;
//!                 conversation.write_all(b"kept\n").await?;
//!             }
//!             _ => return Err(io::ErrorKind::InvalidData.into()),
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Where an answer does not follow from the request, or carrying it out changes something, a [`RequestLog`] has it done once:
//!
//! ```no_run
//! # use rustls_migration::tokio::conversation::{Conversation, RequestId, RequestLog, lines};
//! # use tokio::net::TcpStream;
//! # async fn pay(id: RequestId, request: &[u8]) -> std::io::Result<Vec<u8>> { Ok(vec![]) }
//! async fn answer(
//!     conversation: &mut Conversation<'_, TcpStream>,
//!     log: &dyn RequestLog,
//! ) -> std::io::Result<()> {
//!     while let Some(request) = conversation.request(lines(1000)).await? {
//!         conversation.answer_once(log, |id| pay(id, &request)).await?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # What it asks of an application
//!
//! - It does the same for a request wherever that is answered: the same writes before and after what it [sends](Conversation::send), the same
//!   uploads in the same order. What may differ goes through the log.
//! - What it changes besides may be changed twice, unless the log or its own transaction knows the [`RequestId`].
//! - A request has a place in a checkpoint beside the application's state and what was read ahead: 2000 bytes of it always, and 6000 where there
//!   is no such state. While a longer one is under way there is no checkpoint, and a hand-over in its middle is an error. What is long
//!   comes behind a request, as an upload.
//! - Clients follow with [`HandOff::Drain`](crate::tokio::HandOff). With `Overlap` a state is taken before the client has gone over, which
//!   is not what such an application expects.
//!
//! An application of another kind, whose server speaks by itself for instance, has [`Checkpointed`].

mod checkpointed;
mod error;
mod frame;
mod identity;
mod pace;
mod progress;
mod request_log;
mod state;
mod transfer;

use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use zeroize::Zeroizing;

pub use self::checkpointed::Checkpointed;
pub use self::error::ConversationError;
pub use self::frame::{RequestTooLong, length_delimited, lines};
use self::identity::new_identity;
pub use self::pace::Checkpoints;
use self::progress::Progress;
pub use self::request_log::{MemoryRequestLog, RequestId, RequestLog};
use self::state::{Request, State};
use super::{ConnectionHandle, EndsTooEarly, TlsStream};
use crate::MoveKind;
use crate::server::{MAX_STATE_LEN, OfferError};

/// How much is read before it is asked for, in bytes: it has a place in the state.
const READ_AHEAD: usize = 2048;

/// Largest state of an application, in bytes. With what is read ahead it leaves room for a request.
const MAX_APPLICATION_LEN: usize = 4096;

/// A stream on which a client asks and the server answers, and which goes on elsewhere should the server die or be drained. See the
/// [module](self).
pub struct Conversation<'a, IO> {
    stream: Checkpointed<'a, IO>,
    state: State,
    /// The application's state once the request under way has been answered.
    next_application: Option<Vec<u8>>,
    /// Whether the request under way is for [`request`](Self::request) to return.
    to_return: bool,
    /// Whether the request under way has its recorded answer.
    recorded: bool,
    /// Of the answer to the request under way.
    output: Progress,
    /// Of what comes behind the request under way.
    input: Progress,
    client_closed: bool,
    /// The client has left, and nothing is done for it any more.
    departed: bool,
}

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is complete.
    Ended,
    /// It goes on at another server.
    HandedOver,
}

impl<'a, IO> Conversation<'a, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Begins a conversation, or goes on with one that came from another server. Nothing has been read from `stream` or written to
    /// it.
    ///
    /// The application consents to hand-overs by this. The handshake is completed, so nothing that a copy of early data asks for
    /// is carried out, and the first checkpoint is made.
    ///
    /// Not safe to cancel: drop the stream too.
    ///
    /// # Errors
    ///
    /// [`ConversationError::ForeignState`]; those of the handshake and of the transport.
    pub async fn begin(
        stream: &'a mut TlsStream<IO>,
        checkpoints: Checkpoints,
    ) -> io::Result<Self> {
        let state = stream.arrival().state().unwrap_or_default();
        // An empty state is that of a conversation which has not begun.
        let arrived = (!state.is_empty())
            .then(|| State::decode(state).ok_or(ConversationError::ForeignState))
            .transpose()?;
        stream.handle().set_state(state)?;
        stream.handshake().await?;
        let state = match arrived {
            Some(state) => state,
            None => State {
                identity: new_identity(stream)?,
                ..State::default()
            },
        };
        let received = stream.take_received();
        let mut conversation = Self {
            output: Progress::after(state.sent.saturating_add(received)),
            input: Progress::after(state.request.as_ref().map_or(0, |request| request.received)),
            to_return: state.request.is_some(),
            state,
            stream: Checkpointed::new(stream, checkpoints),
            next_application: None,
            recorded: false,
            client_closed: false,
            departed: false,
        };
        conversation.settle().await?;
        Ok(conversation)
    }

    /// The client's next request: so many bytes as `frame` says of those that have come, once it finds the end of a request among them
    /// ([`lines`], [`length_delimited`]). A request of no bytes may be one too. `None` when the client asks for nothing more, or goes on
    /// elsewhere.
    ///
    /// This says that the request before it has been answered. After an arrival it returns the request that was under way.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    ///
    /// [`ConversationError::Malformed`] with the error of `frame`, [`CutShort`](ConversationError::CutShort),
    /// [`Diverged`](ConversationError::Diverged); those of the stream.
    pub async fn request<E>(
        &mut self,
        mut frame: impl FnMut(&[u8]) -> Result<Option<usize>, E>,
    ) -> io::Result<Option<Vec<u8>>>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        if std::mem::take(&mut self.to_return) {
            return Ok(self
                .state
                .request
                .as_ref()
                .map(|under_way| under_way.head.clone()));
        }
        self.complete()?;
        loop {
            self.settle().await?;
            let framed = frame(&self.state.unread);
            let framed = framed.map_err(|error| ConversationError::Malformed(error.into()))?;
            if let Some(len) = framed.filter(|len| *len <= self.state.unread.len()) {
                let head: Vec<u8> = self.state.unread.drain(..len).collect();
                self.state.request = Some(Request {
                    head: head.clone(),
                    received: 0,
                });
                return Ok(Some(head));
            }
            self.stream.flush().await?;
            if self.client_closed && self.is_departing() {
                self.departed = true;
                return Ok(None);
            }
            if self.client_closed {
                return match self.state.unread.is_empty() {
                    true => Ok(None),
                    false => Err(ConversationError::CutShort.into()),
                };
            }
            poll_fn(|cx| self.poll_read_ahead(cx, READ_AHEAD)).await?;
        }
    }

    /// Writes a part of the answer. It must be the same wherever the request is answered: what the client has of it is left out.
    ///
    /// Not safe to cancel: the answer is not complete then, so drop the conversation too.
    ///
    /// # Errors
    ///
    /// [`ConversationError::Departed`], when the client is known to have left; those of the stream.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stay()?;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let skipped = self.output.skip(len);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let rest = bytes.get(skipped..).unwrap_or_default();
        self.stream.write_all(rest).await?;
        let written = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        self.output.advance(written);
        Ok(())
    }

    /// Answers the request under way by what `execute` returns, and has it executed once, whatever server it comes to: when `log`
    /// has a response already, that is the answer.
    ///
    /// The response is recorded when `execute` has returned. A server that dies before that leaves a request that is executed again, so an
    /// `execute` that must not be done twice writes its id, or the response to it, in the same transaction as what it
    /// changes, and returns the earlier response when the id is there already.
    ///
    /// Not safe to cancel: drop the conversation too.
    ///
    /// # Errors
    ///
    /// [`ConversationError::AnsweredAlready`]; those of `log`, of `execute`, and of [`write_all`](Self::write_all).
    pub async fn answer_once<F>(
        &mut self,
        log: &dyn RequestLog,
        execute: impl FnOnce(RequestId) -> F,
    ) -> io::Result<()>
    where
        F: Future<Output = io::Result<Vec<u8>>>,
    {
        self.stay()?;
        if std::mem::replace(&mut self.recorded, true) {
            return Err(ConversationError::AnsweredAlready.into());
        }
        let id = self.request_id();
        let response = match log.get(id).await? {
            Some(recorded) => recorded,
            None => log.put(id, execute(id).await?).await?,
        };
        self.write_all(&response).await
    }

    /// Which request is under way, for transactions of the application's own.
    pub fn request_id(&self) -> RequestId {
        RequestId::new(self.state.identity, self.state.answered)
    }

    /// The application's own state, as of the last request that has been answered; empty at first.
    pub fn state(&self) -> &[u8] {
        &self.state.application
    }

    /// Says what the application's own state is when the request under way has been answered, of at most 4096 bytes.
    ///
    /// # Errors
    ///
    /// [`OfferError::StateTooLong`]; what was said before stays.
    pub fn set_state(&mut self, state: &[u8]) -> Result<(), OfferError> {
        let len = state.len();
        if len > MAX_APPLICATION_LEN {
            return Err(OfferError::StateTooLong { len });
        }
        self.next_application = Some(state.to_vec());
        Ok(())
    }

    /// Speaks to this connection from elsewhere.
    pub fn handle(&mut self) -> ConnectionHandle {
        self.stream.tls().handle()
    }

    /// Why the newest checkpoint that was due was not made, if that is so.
    pub fn not_made(&self) -> Option<OfferError> {
        self.stream.not_made()
    }

    /// Ends the conversation, after all that the application has to say when `served` is good: hands it over when the client has
    /// left for another server, and else ends the stream.
    ///
    /// With an error the stream has no end: the client goes on from the last checkpoint elsewhere, as if this
    /// server had died, and sees an error when there is none. Answer what no server can do, and return no error for it.
    ///
    /// Dropped before it is ready, it leaves a stream that has no end either. As ever, a stream that is dropped with something unread may
    /// destroy what is on its way.
    ///
    /// # Errors
    ///
    /// That in `served`, unless it is that of a departure. [`EndsTooEarly`] inside an `InvalidData` error, when the client has more of
    /// the answers than this application has written; [`OfferError::StateTooLong`] inside an `InvalidInput` error, when a request
    /// is too long to be handed over; those of the stream.
    pub async fn finish(mut self, served: io::Result<()>) -> io::Result<End> {
        if !self.departed {
            served?;
            let missing = self.output.ahead();
            if missing > 0 {
                return Err(EndsTooEarly { missing }.into());
            }
            self.stream.tls().withdraw_state();
            self.stream.shutdown().await?;
            return Ok(End::Ended);
        }
        let state = self.encode()?;
        self.stream.tls().set_state(&state)?;
        self.stream.shutdown().await?;
        Ok(End::HandedOver)
    }

    /// The request under way has been answered.
    fn complete(&mut self) -> io::Result<()> {
        if self.departed || self.state.request.is_none() {
            return Ok(());
        }
        if self.input.ahead() > 0 {
            return Err(ConversationError::Diverged.into());
        }
        self.state.request = None;
        self.state.answered = self.state.answered.saturating_add(1);
        if let Some(application) = self.next_application.take() {
            self.state.application = application;
        }
        self.recorded = false;
        self.input = Progress::default();
        self.output = Progress::after(self.output.ahead());
        Ok(())
    }

    /// The state here and now.
    fn encode(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        self.state.sent = self.output.total();
        if let Some(under_way) = &mut self.state.request {
            under_way.received = self.input.total();
        }
        let len = self.state.encoded_len();
        let encoded = match len <= MAX_STATE_LEN {
            true => self.state.encode(),
            false => None,
        };
        encoded.ok_or_else(|| OfferError::StateTooLong { len }.into())
    }

    /// All that was read is in the state, and all that was written follows from it.
    async fn settle(&mut self) -> io::Result<()> {
        poll_fn(|cx| Poll::Ready(self.settle_now(cx))).await
    }

    fn settle_now(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // A state that is too long for now is none: the stream stays unsettled.
        let Ok(state) = self.encode() else {
            return Ok(());
        };
        self.stream.tls().set_state(&state)?;
        self.stream.settle_now(cx, &state)
    }

    /// Reads up to `most` bytes more. Ready when something has come.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ_AHEAD];
        let room = bytes.get_mut(..most.min(READ_AHEAD)).unwrap_or_default();
        let mut buf = ReadBuf::new(room);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        self.client_closed |= buf.filled().is_empty();
        self.state.unread.extend_from_slice(buf.filled());
        Poll::Ready(Ok(()))
    }

    /// Looks after the client while an answer is under way. Ready when the client has left.
    fn poll_departure(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let room = READ_AHEAD.saturating_sub(self.state.unread.len());
            if self.client_closed || room == 0 {
                self.stream.poll_keep(cx)?;
                break;
            }
            if self.poll_read_ahead(cx, room)?.is_pending() {
                break;
            }
            self.settle_now(cx)?;
        }
        match self.is_departing() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// Whether the client has closed its side to go on elsewhere.
    fn is_departing(&mut self) -> bool {
        self.client_closed && self.handle().told_to_move() == Some(MoveKind::Stream)
    }

    fn depart(&mut self) -> io::Error {
        self.departed = true;
        ConversationError::Departed.into()
    }

    /// Why nothing more comes behind the request under way.
    fn no_more(&mut self) -> io::Error {
        match self.is_departing() {
            true => self.depart(),
            false => ConversationError::CutShort.into(),
        }
    }

    /// Fails when the client has left.
    fn stay(&self) -> io::Result<()> {
        match self.departed {
            true => Err(ConversationError::Departed.into()),
            false => Ok(()),
        }
    }
}

impl<IO> fmt::Debug for Conversation<'_, IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation")
            .field("stream", &self.stream)
            .field("answered", &self.state.answered)
            .field("output", &self.output)
            .field("input", &self.input)
            .field("departed", &self.departed)
            .finish_non_exhaustive()
    }
}
