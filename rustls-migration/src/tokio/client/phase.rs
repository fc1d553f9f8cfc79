//! Where a client's stream stands. Each phase owns what belongs to it, so that what cannot be has no form.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::dialer::{ClientConn, Preconnected};
use super::error::{ConnectError, HandOffError, MigrateError};
use super::idle_timeout::IdleTimeout;
use super::outcome::MigrationOutcome;
use super::recovery::TakeUp;
use crate::tokio::driver::Heard;

/// A future of a hand-off, which belongs to its stream.
pub(super) type Step<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where a stream stands (`docs/protocol.md` section 4).
pub(super) enum Phase {
    /// At one server, with what comes next.
    Connected { conn: Box<ClientConn>, next: Next },
    /// This side has been closed at the old server, which is read to its end. Writes are held.
    ReadingOut {
        conn: Box<ClientConn>,
        preconnected: Preconnected,
        silence: IdleTimeout,
        held: Vec<u8>,
    },
    /// The old server is done; the session is resumed at the target. Writes are held.
    Resuming {
        resume: Step<Resumed>,
        held: Vec<u8>,
    },
    /// The server is lost; the stream is taken up at its checkpoint's target. Writes are held.
    Recovering { take_up: TakeUp, held: Vec<u8> },
    /// Writes go to the target; the old server is read to its end.
    Switching {
        old: Box<ClientConn>,
        ready: Ready,
        silence: IdleTimeout,
    },
    /// The old server is gone, and a ready target waits for the application to go over.
    Outlived { old: Box<ClientConn>, ready: Ready },
    /// The server has ended the stream, or its transport has.
    Ended {
        conn: Box<ClientConn>,
        /// Whether there was something held that nobody got.
        undelivered: bool,
    },
    /// A hand-off failed when there was no way back.
    Failed(HandOffError),
    /// Neither the target nor the first address could be reached; `None` if a panic came in between.
    Lost(Option<MigrateError>),
}

/// What comes next for a stream that is at one server.
pub(super) enum Next {
    /// Nothing.
    Nothing,
    /// The target is dialled, until it answers.
    Dialling {
        target: SocketAddr,
        dial: Step<Preconnected>,
    },
    /// The target has answered.
    Answered(Preconnected),
    /// The session is resumed at the target.
    Overlapping {
        target: SocketAddr,
        resume: Step<Result<ClientConn, ConnectError>>,
    },
    /// The session is resumed at the target, and the application may go over.
    Ready(Ready),
}

/// A target that is ready.
pub(super) struct Ready {
    pub(super) target: SocketAddr,
    pub(super) conn: Box<ClientConn>,
}

/// What came of a resumption that there is no way back from.
pub(super) type Resumed = Result<(ClientConn, MigrationOutcome), Stranded>;

/// Why a stream is nowhere.
pub(super) enum Stranded {
    /// Its hand-off failed.
    HandOff(HandOffError),
    /// Its application asked for more than could be done.
    Lost(MigrateError),
}

impl Ready {
    /// Listens to the target: it may say something, and it may end. Returns why, when it has.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<ConnectError> {
        self.conn.write_in_passing(cx);
        let error = match ready!(self.conn.poll_listen(cx)) {
            // It speaks first, so it is alive.
            Ok(Heard::Plaintext) => return Poll::Pending,
            Ok(Heard::CloseNotify) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => error,
        };
        let address = self.target;
        Poll::Ready(ConnectError::Closed { address, error })
    }
}

impl Phase {
    /// The connection that is read.
    pub(super) fn source(&self) -> Option<&ClientConn> {
        match self {
            Self::Connected { conn, .. }
            | Self::ReadingOut { conn, .. }
            | Self::Switching { old: conn, .. }
            | Self::Outlived { old: conn, .. }
            | Self::Ended { conn, .. } => Some(conn),
            Self::Resuming { .. } | Self::Recovering { .. } | Self::Failed(_) | Self::Lost(_) => {
                None
            }
        }
    }

    /// As [`source`](Self::source).
    pub(super) fn source_mut(&mut self) -> Option<&mut ClientConn> {
        match self {
            Self::Connected { conn, .. }
            | Self::ReadingOut { conn, .. }
            | Self::Switching { old: conn, .. }
            | Self::Outlived { old: conn, .. }
            | Self::Ended { conn, .. } => Some(conn),
            Self::Resuming { .. } | Self::Recovering { .. } | Self::Failed(_) | Self::Lost(_) => {
                None
            }
        }
    }

    /// The connection that is written to; `None` when writes are held.
    pub(super) fn sink(&mut self) -> io::Result<Option<&mut ClientConn>> {
        match self {
            Self::Connected { conn, .. }
            | Self::Switching {
                ready: Ready { conn, .. },
                ..
            }
            | Self::Outlived { old: conn, .. }
            | Self::Ended {
                conn,
                undelivered: false,
            } => Ok(Some(conn)),
            Self::ReadingOut { .. } | Self::Resuming { .. } | Self::Recovering { .. } => Ok(None),
            Self::Ended {
                undelivered: true, ..
            } => Err(io::ErrorKind::BrokenPipe.into()),
            Self::Failed(_) | Self::Lost(_) => Err(self.failure()),
        }
    }

    /// What is held for the target, when writes are held.
    pub(super) fn held(&mut self) -> Option<&mut Vec<u8>> {
        match self {
            Self::ReadingOut { held, .. }
            | Self::Resuming { held, .. }
            | Self::Recovering { held, .. } => Some(held),
            Self::Connected { .. }
            | Self::Switching { .. }
            | Self::Outlived { .. }
            | Self::Ended { .. }
            | Self::Failed(_)
            | Self::Lost(_) => None,
        }
    }

    /// How long the old server has been silent, when its end is awaited.
    pub(super) fn silence(&mut self) -> Option<&mut IdleTimeout> {
        match self {
            Self::ReadingOut { silence, .. } | Self::Switching { silence, .. } => Some(silence),
            Self::Connected { .. }
            | Self::Resuming { .. }
            | Self::Recovering { .. }
            | Self::Outlived { .. }
            | Self::Ended { .. }
            | Self::Failed(_)
            | Self::Lost(_) => None,
        }
    }

    /// Why nothing can be read or written any more.
    pub(super) fn failure(&self) -> io::Error {
        match self {
            Self::Failed(error) => error.clone().into(),
            Self::Lost(Some(error)) => error.clone().into(),
            Self::Lost(None)
            | Self::Connected { .. }
            | Self::ReadingOut { .. }
            | Self::Resuming { .. }
            | Self::Recovering { .. }
            | Self::Switching { .. }
            | Self::Outlived { .. }
            | Self::Ended { .. } => io::ErrorKind::NotConnected.into(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Connected { next, .. } => match next {
                Next::Nothing => "connected",
                Next::Dialling { .. } => "dialling",
                Next::Answered(_) => "answered",
                Next::Overlapping { .. } => "overlapping",
                Next::Ready(_) => "ready",
            },
            Self::ReadingOut { .. } => "reading out",
            Self::Resuming { .. } => "resuming",
            Self::Recovering { .. } => "recovering",
            Self::Switching { .. } => "switching",
            Self::Outlived { .. } => "outlived",
            Self::Ended { .. } => "ended",
            Self::Failed(_) => "failed",
            Self::Lost(_) => "lost",
        }
    }
}

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
