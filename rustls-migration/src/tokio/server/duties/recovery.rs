//! What a stream sees to for its checkpoints (`docs/protocol.md` section 11): those that are made from outside, and former ones that are
//! spent in the store.
//!
//! A stream never waits for the store.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tracing::Instrument as _;

use super::{Stage, StreamCore};
use crate::measure::count;
use crate::tokio::server::error::Failure;
use crate::tokio::server::handle::WantedCheckpoint;
use crate::tokio::server::nonce_store::Superseded;

impl<IO> StreamCore<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Makes the checkpoints that somebody outside wants. Of a stream that has failed there are none any more.
    pub(super) fn attend_checkpoint(&mut self, cx: &mut Context<'_>) {
        match self.stage {
            Stage::Handshaking { .. } | Stage::Committing { .. } => return,
            Stage::Established | Stage::Failed => {}
        }
        while let Some(wanted) = self.registration.control().take_checkpoint() {
            self.make_wanted(cx, wanted);
        }
    }

    fn make_wanted(&mut self, cx: &mut Context<'_>, wanted: WantedCheckpoint) {
        let made = match (&mut self.failure, self.overdue.is_some()) {
            (Some(failure), _) => Err(failure.kind().into()),
            (None, true) => Err(std::io::ErrorKind::TimedOut.into()),
            (None, false) => {
                let connection = self.driver.connection_mut();
                let made = connection.checkpoint_at(wanted.target, wanted.positions, &wanted.state);
                made.map_err(std::io::Error::from)
            }
        };
        self.driver.write_in_passing(cx);
        // Nobody may wait any more.
        let _ = wanted.made.send(made);
    }

    /// Has former checkpoints spent, and learns whether one of them has been used.
    pub(super) fn attend_superseded(&mut self, cx: &mut Context<'_>) {
        if self.failure.is_some() || self.overdue.is_some() {
            return;
        }
        if self.driver.connection().awaits_answer() {
            self.driver.write_in_passing(cx);
            if let Err(error) = self.look_for_end(cx) {
                self.failure = Some(error.into());
                return;
            }
        }
        loop {
            if self.spending.is_none()
                && let Some(checkpoint) = self.driver.connection_mut().take_superseded()
            {
                let gate = std::sync::Arc::clone(&self.gate);
                let span = self.registration.control().span().clone();
                let spend = async move { gate.supersede(checkpoint).await };
                self.spending = Some(tokio::spawn(spend.instrument(span)));
            }
            let Some(spending) = &mut self.spending else {
                return;
            };
            let Poll::Ready(spent) = Pin::new(spending).poll(cx) else {
                return;
            };
            self.spending = None;
            // A task that did not come to its end says nothing.
            self.superseded(cx, spent.unwrap_or(Superseded::NotSpent));
        }
    }

    fn superseded(&mut self, cx: &mut Context<'_>, outcome: Superseded) {
        count!(CHECKPOINTS_SUPERSEDED, "outcome" => outcome.name());
        let control = self.registration.control();
        control.tell_superseded(outcome.name());
        match outcome {
            Superseded::Spent | Superseded::NotSpent => {}
            Superseded::GoesOnElsewhere => {
                self.failure = Some(Failure::GoesOnElsewhere);
                self.close_transport(cx);
            }
        }
    }

    /// Whether nothing is to be learned of checkpoints.
    pub(super) fn checkpoints_are_at_rest(&self) -> bool {
        let learns = self.driver.connection().awaits_answer() || self.spending.is_some();
        let waits = self.registration.control().has_checkpoint();
        self.failure.is_some() || !(learns || waits)
    }
}
