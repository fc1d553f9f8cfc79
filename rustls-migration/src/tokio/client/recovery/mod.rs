//! A stream survives its server (`docs/protocol.md` section 11): it goes on from the newest checkpoint at another one.
//!
//! What is not certain is an error, never a gap or a repeat.

mod account;
mod ahead;
mod first_flight;
mod probe;
mod take_up;

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::task::unconstrained;

pub(super) use self::account::Account;
use self::account::{Noted, Outgrown};
pub(super) use self::ahead::Ahead;
pub(super) use self::probe::{Probe, ProbeTimes};
pub(super) use self::take_up::TakeUp;
use self::take_up::{NotRecovered, Recovered};
use super::connector::HandOff;
use super::error::HandOffError;
use super::event::Event;
use super::phase::{Next, Phase};
use super::stream::MigrationStream;
use crate::client::Checkpoint;
use crate::measure::count;

/// How much a stream keeps unless configured, in bytes.
const WINDOW: usize = 256 * 1024;

/// How much of what a lost server had said is read ahead of the application, in bytes: more than systems keep in a socket's receive buffer
/// (Linux: 6 MiB unless configured).
const READ_OF_LOST: usize = 16 << 20;

/// What becomes of a write past the window that a stream keeps for its recovery
/// ([`MigrationConnector::recovery_window`](super::MigrationConnector::recovery_window)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PastWindow {
    /// It goes on, and the stream cannot recover until the next checkpoint.
    #[default]
    GiveUp,
    /// It waits for the next checkpoint, or until the server takes the former one back: for ever, if the server makes the next one only when
    /// it has read more than the window.
    Wait,
}

/// What is kept for a recovery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) bytes: usize,
    pub(super) past: PastWindow,
    /// Whether something is kept before there is a checkpoint.
    pub(super) from_start: bool,
}

impl Window {
    /// What a stream that moves like this begins with, when its connection was given so many bytes to send first.
    pub(super) fn account(self, hand_off: HandOff, first: usize) -> Account {
        let keeps = self.bytes > 0 && hand_off != HandOff::Manual;
        Account::new(first, self.from_start && keeps)
    }
}

impl Default for Window {
    fn default() -> Self {
        Self {
            bytes: WINDOW,
            past: PastWindow::default(),
            from_start: false,
        }
    }
}

/// Bytes.
impl MigrationStream {
    fn window(&self) -> Window {
        self.control.dialer.window
    }

    /// How much of `buf` may be written now; `None` while it waits for a checkpoint that may come.
    pub(super) fn writable<'a>(&mut self, buf: &'a [u8]) -> Option<&'a [u8]> {
        let Window { bytes, past, .. } = self.window();
        let room = match past {
            PastWindow::Wait if self.may_get_checkpoint() => self.account.room(bytes),
            PastWindow::GiveUp | PastWindow::Wait => None,
        };
        let room = room.unwrap_or(buf.len()).min(buf.len());
        if room == 0 && !buf.is_empty() {
            if self.account.begins_to_wait() {
                let waits = true;
                self.control.tell(Event::RecoveryWindowFull { waits }, None);
            }
            return None;
        }
        buf.get(..room)
    }

    /// Whether a checkpoint may still come, of this server or of the next one.
    fn may_get_checkpoint(&self) -> bool {
        match self.phase {
            Phase::Connected { .. }
            | Phase::ReadingOut { .. }
            | Phase::Resuming { .. }
            | Phase::Recovering { .. }
            | Phase::Switching { .. } => true,
            Phase::Outlived { .. } | Phase::Ended { .. } | Phase::Failed(_) | Phase::Lost(_) => {
                false
            }
        }
    }

    /// The connection that is written to has been given these bytes.
    pub(super) fn note_written(&mut self, bytes: &[u8]) {
        let window = self.window().bytes;
        let outgrown = match self.phase {
            // It is the next one already.
            Phase::Switching { .. } => self.account.carry(bytes, window),
            Phase::Connected { .. }
            | Phase::ReadingOut { .. }
            | Phase::Resuming { .. }
            | Phase::Recovering { .. }
            | Phase::Outlived { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_) => self.account.give(bytes, window),
        };
        self.tell_outgrown(outgrown);
    }

    /// These bytes are held for the next connection.
    pub(super) fn note_held(&mut self, bytes: &[u8]) {
        let outgrown = self.account.carry(bytes, self.window().bytes);
        self.tell_outgrown(outgrown);
    }

    fn tell_outgrown(&self, Outgrown(outgrown): Outgrown) {
        if outgrown {
            let waits = false;
            self.control.tell(Event::RecoveryWindowFull { waits }, None);
        }
    }

    /// The server has made a checkpoint. What there is to tell of it, if that concerns this stream.
    pub(super) fn note_checkpoint(&mut self, checkpoint: Checkpoint) -> Option<Event> {
        // A stream that does not move by itself does not recover by itself.
        if self.control.hand_off == HandOff::Manual || self.window().bytes == 0 {
            return None;
        }
        let target = checkpoint.target();
        let usable = match self.account.note(checkpoint) {
            Noted::Usable => true,
            Noted::TooEarly | Noted::Invalid => false,
        };
        // A write may wait for it.
        self.control.wakers.wake();
        Some(Event::Checkpoint { target, usable })
    }

    /// The server offers no more than its session: the stream is not to go on elsewhere.
    pub(super) fn withdraw_checkpoint(&mut self) {
        self.account.withdraw();
        // A write may wait for the next checkpoint.
        self.control.wakers.wake();
    }
}

/// Loss.
impl MigrationStream {
    /// The server is lost in this way. Goes on from its newest checkpoint, if that is possible; else gives the error back.
    pub(super) fn recover(&mut self, lost: io::Error) -> Result<(), io::Error> {
        if !self.can_recover(&lost) || self.admit_recovery().is_err() {
            return Err(lost);
        }
        let continuity = self.continuity();
        let Some(plan) = self.account.plan() else {
            return Err(lost);
        };
        let lost = Arc::new(lost);
        let event = Event::Recovering {
            lost: Arc::clone(&lost),
        };
        self.control.tell(event, self.phase.source());
        self.control.begin_to_hold();
        self.control.set_ready(false);
        let ahead = self.ahead.as_mut();
        let ahead = ahead.and_then(|ahead| ahead.take(&plan.checkpoint));
        let control = Arc::clone(&self.control);
        self.phase = Phase::Recovering {
            take_up: TakeUp::begin(control, continuity, plan, ahead, lost),
            held: Vec::new(),
        };
        Ok(())
    }

    /// Takes a recovery forward. Ready when it has come one step further, or to its end.
    pub(super) fn poll_recovering(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Phase::Recovering { take_up, held } = &mut self.phase else {
            return Poll::Pending;
        };
        match take_up {
            TakeUp::Reaching(reach) => match ready!(reach.as_mut().poll(cx)) {
                Ok(resuming) => *take_up = TakeUp::Resuming(resuming),
                Err(error) => self.recovered(Err(error), &[]),
            },
            TakeUp::Resuming(resuming) => {
                let before = held.len();
                let polled = resuming.poll(cx, held);
                if held.len() < before {
                    // There is room for what is written next.
                    self.control.wakers.wake();
                }
                let done = ready!(polled);
                if let Phase::Recovering {
                    take_up: TakeUp::Resuming(resuming),
                    held,
                } = self.take_phase()
                {
                    self.recovered(resuming.finish(done), &held);
                }
            }
        }
        Poll::Ready(())
    }

    /// Sees to the connection that is dialled ahead, where that is wanted.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        let Some(mut ahead) = self.ahead.take() else {
            return;
        };
        ahead.poll(cx, self.usable_checkpoint(), &self.control);
        self.ahead = Some(ahead);
    }

    /// Ready when the present server is dead: it has been silent for too long, and has not answered either.
    pub(super) fn poll_probe(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Some(probe), Phase::Connected { conn, .. }) = (&mut self.probe, &mut self.phase)
        else {
            return Poll::Pending;
        };
        match self.account.checkpoint() {
            Some(_) => probe.poll_dead(cx, conn, &self.account),
            None => Poll::Pending,
        }
    }

    /// Whether a stream that is lost like this goes on from a checkpoint.
    fn can_recover(&self, lost: &io::Error) -> bool {
        // A peer that breaks the protocol is not dead.
        self.usable_checkpoint().is_some() && lost.kind() != io::ErrorKind::InvalidData
    }

    /// From where the stream would go on now.
    fn usable_checkpoint(&self) -> Option<&Checkpoint> {
        let phase = match &self.phase {
            Phase::Connected {
                next: Next::Ready(_),
                ..
            } => false,
            Phase::Connected { .. } | Phase::ReadingOut { .. } => true,
            Phase::Resuming { .. }
            | Phase::Recovering { .. }
            | Phase::Switching { .. }
            | Phase::Outlived { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_) => false,
        };
        let checkpoint = self.account.checkpoint().filter(|_| phase)?;
        let now = self.control.dialer.client().clock().instant();
        (!checkpoint.is_expired(now)).then_some(checkpoint)
    }

    /// Writing has failed. `Ok` when the stream goes on elsewhere, and writes are held. What the server had said before it was lost
    /// comes first: it may have ended the stream. An error when that is more than may wait for the application.
    pub(super) fn write_failed(
        &mut self,
        cx: &mut Context<'_>,
        error: io::Error,
    ) -> Result<(), io::Error> {
        if !self.can_recover(&error) {
            return Err(error);
        }
        let mut buf = [0; 4096];
        while self.inbox.len() < READ_OF_LOST {
            let held = self.phase.held().is_some();
            let mut buf = ReadBuf::new(&mut buf);
            match poll_to_the_end(cx, |cx| self.poll_source(cx, &mut buf)) {
                Poll::Ready(Ok(true)) if buf.filled().is_empty() => break,
                Poll::Ready(Ok(true)) => self.inbox.extend(buf.filled()),
                Poll::Ready(Ok(false)) => return Ok(()),
                Poll::Ready(Err(lost)) => {
                    self.read_error = Some(lost);
                    return Err(error);
                }
                // A hand-off has begun, and there may be more to read.
                Poll::Pending if self.phase.held().is_some() != held => {}
                Poll::Pending => {
                    self.control.wakers.wake();
                    return self.recover(error);
                }
            }
            self.control.wakers.wake();
        }
        Err(error)
    }

    /// The recovery has come to its end.
    fn recovered(&mut self, recovered: Result<Recovered, NotRecovered>, held: &[u8]) {
        self.control.wakers.wake();
        match recovered {
            Ok(Recovered { conn, outcome }) => {
                let event = Event::Recovered(outcome.clone());
                self.go_on(Box::new(conn), outcome.at, held, event);
            }
            Err(NotRecovered { lost, error }) => {
                count!(CLIENT_RECOVERIES, "outcome" => error.name());
                let error = Arc::new(error);
                self.phase = Phase::Failed(HandOffError::NotRecovered { lost, error });
            }
        }
    }
}

/// Polls what is not ready only when there is nothing: tokio would have a task that has read much wait for its next turn.
fn poll_to_the_end<T>(
    cx: &mut Context<'_>,
    poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    pin!(unconstrained(poll_fn(poll))).poll(cx)
}
