//! A client's departure: told, gone, handed over, or too late (`docs/protocol.md` sections 4 and 9).
//!
//! The clock of a departure starts when the notice has left. While the notice waits behind other bytes, only a client that
//! takes none of them is out of time. A drain has a deadline of its own, and then there is no other.

use std::future::Future as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::handle::DepartureStatus;
use crate::server::OfferError;

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
    HandOverFailed(OfferError),
}

/// Who counts the time that a client has to leave.
#[derive(Debug)]
pub(super) enum DepartureClock {
    /// A drain.
    Governed,
    /// This stream.
    Own(Countdown),
}

/// The time since the transport last took something of what ends with the notice.
#[derive(Debug)]
pub(super) struct Countdown {
    /// How many bytes the transport has taken in all when the notice has left.
    notice: u64,
    limit: Duration,
    /// How many it had taken when the timer was started.
    taken: Option<u64>,
    /// `None` before it is started, or when there is no limit.
    timer: Option<Timer>,
}

impl Countdown {
    pub(super) fn new(notice: u64, limit: Duration) -> Self {
        Self {
            notice,
            limit,
            taken: None,
            timer: None,
        }
    }

    /// What is left of it. It is not to be polled here any more.
    fn take(&mut self) -> Self {
        Self {
            notice: self.notice,
            limit: self.limit,
            taken: self.taken,
            timer: self.timer.take(),
        }
    }

    /// Ready when the time is over. `written` is how much the transport has taken so far.
    fn poll(&mut self, cx: &mut Context<'_>, written: u64) -> Poll<()> {
        let taken = Some(written.min(self.notice));
        if self.taken != taken {
            self.taken = taken;
            let deadline = Instant::now().checked_add(self.limit);
            self.timer = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// A client that did not leave in time. The application's calls fail, but what it says of the stream's end still counts.
#[derive(Debug)]
pub(super) struct Overdue {
    /// When the transport is closed; `None` when it has been.
    abort: Option<Timer>,
}

impl Overdue {
    pub(super) fn new() -> Self {
        Self {
            abort: Some(Box::pin(sleep(GRACE))),
        }
    }

    /// Ready, once, when the transport is to be closed.
    pub(super) fn poll_abort(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timer) = &mut self.abort else {
            return Poll::Pending;
        };
        let elapsed = timer.as_mut().poll(cx);
        if elapsed.is_ready() {
            self.abort = None;
        }
        elapsed
    }

    /// Whether the transport has been closed.
    pub(super) fn is_at_rest(&self) -> bool {
        self.abort.is_none()
    }
}

impl Departure {
    pub(super) fn status(&self) -> DepartureStatus {
        match self {
            Self::Staying => DepartureStatus::Staying,
            Self::NotMovable => DepartureStatus::NotMovable,
            Self::Told { .. } => DepartureStatus::Told,
            Self::Left { .. } | Self::HandOverFailed(_) => DepartureStatus::Left,
            Self::HandedOver => DepartureStatus::HandedOver,
        }
    }

    /// Whether a drain sees to the deadline.
    pub(super) fn is_governed(&self) -> bool {
        matches!(
            self,
            Self::Told {
                clock: DepartureClock::Governed,
                ..
            }
        )
    }

    /// The time that a client has left which was told before, for the departure that takes the place of this one.
    pub(super) fn take_countdown(&mut self) -> Option<Countdown> {
        match self {
            Self::Told {
                clock: DepartureClock::Own(countdown),
                ..
            } => Some(countdown.take()),
            Self::Told { .. }
            | Self::Staying
            | Self::NotMovable
            | Self::Left { .. }
            | Self::HandedOver
            | Self::HandOverFailed(_) => None,
        }
    }

    /// Ready when a client that was told is out of time. `written` is how much the transport has taken so far.
    pub(super) fn poll_overdue(&mut self, cx: &mut Context<'_>, written: u64) -> Poll<()> {
        match self {
            Self::Told {
                clock: DepartureClock::Own(countdown),
                ..
            } => countdown.poll(cx, written),
            Self::Told {
                clock: DepartureClock::Governed,
                ..
            }
            | Self::Staying
            | Self::NotMovable
            | Self::Left { .. }
            | Self::HandedOver
            | Self::HandOverFailed(_) => Poll::Pending,
        }
    }

    /// Whether neither time decides what comes next, nor the client's end is looked for.
    pub(super) fn is_at_rest(&self) -> bool {
        match self {
            Self::Told { .. } => false,
            Self::Staying
            | Self::NotMovable
            | Self::Left { .. }
            | Self::HandedOver
            | Self::HandOverFailed(_) => true,
        }
    }
}
