//! A client's departure: told, gone, handed over, or too late (`docs/protocol.md` sections 4 and 9).
//!
//! The clock of a departure starts when the notice has left, never while it waits behind other bytes. A drain has a
//! deadline of its own, and then there is no other.

use std::future::Future as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::handle::DepartureStatus;
use crate::server::OfferFailure;

/// How long an application may take to end a stream whose client is overdue, before its transport is closed.
const GRACE: Duration = Duration::from_secs(1);

type Timer = Pin<Box<Sleep>>;

/// Where a departure stands.
#[derive(Debug)]
pub(super) enum Departure {
    /// Nobody has asked the client to move.
    Staying,
    /// It should move, and cannot be told.
    NotMovable,
    /// The notice has been written, at least into the connection's buffer.
    Told {
        /// Where the stream is handed over to, when it was offered as one.
        hand_over_to: Option<SocketAddr>,
        clock: DepartureClock,
    },
    /// The client has closed its side.
    Left {
        /// As above.
        hand_over_to: Option<SocketAddr>,
    },
    /// The last offer has been made.
    HandedOver,
    /// There could be no last offer, so the stream must not end as if it were complete.
    HandOverFailed(OfferFailure),
    /// The client did not leave in time.
    Overdue {
        /// When the transport is closed; `None` when it has been.
        abort: Option<Timer>,
    },
}

/// Who counts the time that a client has to leave.
#[derive(Debug)]
pub(super) enum DepartureClock {
    /// A drain.
    Governed,
    /// This stream, as soon as the transport has taken so many bytes in all: the notice is the last of them.
    WhenWritten { written: u64, limit: Duration },
    /// The notice has left.
    Running(Timer),
    /// The notice has left, and there is no limit.
    Unlimited,
}

impl DepartureClock {
    /// Ready when the time is over. `written` is how much the transport has taken so far.
    fn poll(&mut self, cx: &mut Context<'_>, written: u64) -> Poll<()> {
        if let Self::WhenWritten {
            written: notice,
            limit,
        } = self
            && written >= *notice
        {
            *self = match Instant::now().checked_add(*limit) {
                Some(deadline) => Self::Running(Box::pin(sleep_until(deadline))),
                None => Self::Unlimited,
            };
        }
        match self {
            Self::Running(timer) => timer.as_mut().poll(cx),
            Self::Governed | Self::WhenWritten { .. } | Self::Unlimited => Poll::Pending,
        }
    }
}

impl Departure {
    /// A departure that is overdue from now on.
    pub(super) fn overdue() -> Self {
        Self::Overdue {
            abort: Some(Box::pin(sleep(GRACE))),
        }
    }

    pub(super) fn status(&self) -> DepartureStatus {
        match self {
            Self::Staying => DepartureStatus::Staying,
            Self::NotMovable => DepartureStatus::NotMovable,
            Self::Told { .. } => DepartureStatus::Told,
            Self::Left { .. } | Self::HandOverFailed(_) => DepartureStatus::Left,
            Self::HandedOver => DepartureStatus::HandedOver,
            Self::Overdue { .. } => DepartureStatus::Overdue,
        }
    }

    /// Ready when a client that was told is out of time.
    pub(super) fn poll_overdue(&mut self, cx: &mut Context<'_>, written: u64) -> Poll<()> {
        match self {
            Self::Told { clock, .. } => clock.poll(cx, written),
            Self::Staying
            | Self::NotMovable
            | Self::Left { .. }
            | Self::HandedOver
            | Self::HandOverFailed(_)
            | Self::Overdue { .. } => Poll::Pending,
        }
    }

    /// Ready, once, when the transport of an overdue client is to be closed.
    pub(super) fn poll_abort(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self::Overdue { abort } = self else {
            return Poll::Pending;
        };
        let Some(timer) = abort else {
            return Poll::Pending;
        };
        let elapsed = timer.as_mut().poll(cx);
        if elapsed.is_ready() {
            *abort = None;
        }
        elapsed
    }

    /// Whether time decides what comes next, or the client's end is looked for.
    pub(super) fn is_at_rest(&self) -> bool {
        match self {
            Self::Told { .. } | Self::Overdue { abort: Some(_) } => false,
            Self::Staying
            | Self::NotMovable
            | Self::Left { .. }
            | Self::HandedOver
            | Self::HandOverFailed(_)
            | Self::Overdue { abort: None } => true,
        }
    }
}
