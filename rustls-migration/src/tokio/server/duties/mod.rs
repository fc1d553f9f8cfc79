//! What a server's stream sees to, whatever the application polls or does not: the handshake and its time, the token's
//! commit, the commands of a drain, the client's departure.
//!
//! [`StreamCore::attend`] is the one place where this is done.

mod application;
mod notice;
mod recovery;

use std::future::Future as _;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Instrument as _;

use super::departure::{Departure, DepartureClock, Overdue};
use super::error::{Failure, reason};
use super::handle::{Command, DepartureStatus};
use super::handshake::HandshakeSlot;
use super::nonce_store::{CommitAnswer, NonceStoreGate, Superseded};
use super::registry::Registration;
use crate::MoveKind;
use crate::connection::Connection as _;
use crate::server::ServerConnection;
use crate::tokio::driver::{Driver, Heard};

/// How far the connection has come.
#[derive(Debug)]
enum Stage {
    /// The handshake is under way. Early data may be read, and answered.
    Handshaking { slot: HandshakeSlot },
    /// The client's Finished has been verified, and its token is being spent. Nothing leaves, and nothing but early data
    /// is read.
    Committing {
        slot: HandshakeSlot,
        answer: JoinHandle<CommitAnswer>,
        /// What the client did wrong in the same breath as its Finished. It learns so when the token is spent.
        failure: Option<Failure>,
    },
    /// All is open.
    Established,
    /// The handshake did not come to its end. The permit has been given back.
    Failed,
}

/// Whether the application has taken up its stream. Before, it had no chance to consent to anything.
#[derive(Debug)]
enum Application {
    /// It does not have the stream.
    Absent,
    /// It has had the stream since.
    Awaited(Instant),
    /// Somebody wants the client to move, who waits for so long at the most.
    WaitedFor(Pin<Box<Sleep>>),
    /// It has asked for something, or does not seem to be going to.
    Present,
}

/// How long an application may leave a new stream alone before its client can be told to move.
const TAKING_UP: Duration = Duration::from_secs(1);

/// A connection, its transport and its duties.
pub(super) struct StreamCore<IO> {
    driver: Driver<IO, ServerConnection>,
    gate: Arc<NonceStoreGate>,
    registration: Registration,
    stage: Stage,
    departure: Departure,
    /// The client did not leave in time.
    overdue: Option<Overdue>,
    application: Application,
    /// A former checkpoint that is being spent.
    spending: Option<JoinHandle<Superseded>>,
    /// The newest offer that was made after the handshake.
    offered: Option<(SocketAddr, MoveKind)>,
    /// The application has read to the client's end.
    client_closed: bool,
    failure: Option<Failure>,
}

type Progress = (
    mem::Discriminant<Stage>,
    mem::Discriminant<Departure>,
    bool,
    bool,
    usize,
);

impl<IO> StreamCore<IO> {
    pub(super) fn registration(&self) -> &Registration {
        &self.registration
    }

    /// The transport.
    pub(super) fn io(&self) -> &IO
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.driver.io()
    }

    /// The connection.
    pub(super) fn connection(&self) -> &ServerConnection
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.driver.connection()
    }
}

/// Duties.
impl<IO> StreamCore<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(
        driver: Driver<IO, ServerConnection>,
        gate: Arc<NonceStoreGate>,
        registration: Registration,
        slot: HandshakeSlot,
    ) -> Self {
        Self {
            driver,
            gate,
            registration,
            stage: Stage::Handshaking { slot },
            departure: Departure::Staying,
            overdue: None,
            application: Application::Absent,
            spending: None,
            offered: None,
            client_closed: false,
            failure: None,
        }
    }

    /// Does what is due. Whoever the stream is shared with is to be woken when this returns `true`.
    pub(super) fn attend(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.progress();
        self.attend_handshake(cx);
        self.attend_application(cx);
        self.attend_commands();
        self.attend_departure(cx);
        self.attend_checkpoint(cx);
        self.attend_superseded(cx);
        if let Some(overdue) = &mut self.overdue
            && overdue.poll_abort(cx).is_ready()
        {
            self.close_transport(cx);
        }
        before != self.progress()
    }

    /// Whether nothing is due, and nothing will be unless somebody asks for it.
    pub(super) fn is_at_rest(&self) -> bool {
        let settled = matches!(self.stage, Stage::Established | Stage::Failed);
        let waits = !self.application_is_present() && self.registration.control().has_command();
        let departed = match &self.overdue {
            Some(overdue) => overdue.is_at_rest(),
            None => self.departure.is_at_rest() || self.failure.is_some(),
        };
        settled && !waits && departed && self.checkpoints_are_at_rest()
    }

    /// What others may wait for.
    fn progress(&self) -> Progress {
        (
            mem::discriminant(&self.stage),
            mem::discriminant(&self.departure),
            self.overdue.is_some(),
            self.failure.is_some(),
            self.driver.reads(),
        )
    }

    fn attend_handshake(&mut self, cx: &mut Context<'_>) {
        if matches!(self.stage, Stage::Established | Stage::Failed) {
            return;
        }
        let control = Arc::clone(self.registration.control());
        let _in_span = control.span().enter();
        loop {
            let moved_on = match &mut self.stage {
                Stage::Handshaking { .. } => self.poll_handshaking(cx),
                Stage::Committing { .. } => self.poll_committing(cx),
                Stage::Established | Stage::Failed => return,
            };
            if moved_on.is_pending() {
                // What has come counts before the time.
                return self.attend_handshake_time(cx);
            }
        }
    }

    /// Ready when the handshake is complete, or has failed.
    fn poll_handshaking(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self
            .driver
            .poll_handshake(cx, |connection| !connection.is_handshaking());
        let failure = ready!(polled).err().map(Failure::from);
        let Stage::Handshaking { slot } = mem::replace(&mut self.stage, Stage::Failed) else {
            return Poll::Ready(());
        };
        self.stage = match (self.driver.connection().commit(), failure) {
            (Some(claim), failure) => {
                let gate = Arc::clone(&self.gate);
                let kind = self.driver.connection().arrived_as();
                // A task of its own: it goes on although nobody polls the stream.
                let commit = async move { gate.commit(claim, kind).await };
                let answer = tokio::spawn(commit.in_current_span());
                Stage::Committing {
                    slot,
                    answer,
                    failure,
                }
            }
            (None, None) => self.establish(),
            (None, failure) => {
                self.failure = failure;
                Stage::Failed
            }
        };
        Poll::Ready(())
    }

    /// Ready when the token has been spent, or could not be.
    fn poll_committing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Stage::Committing {
            answer, failure, ..
        } = &mut self.stage
        else {
            return Poll::Ready(());
        };
        // A task that did not come to its end has no answer.
        let answer = ready!(Pin::new(answer).poll(cx)).ok().flatten();
        let failure = failure.take();
        self.stage = self.establish();
        if self.driver.connection_mut().committed(&answer) {
            // The tickets have waited for this, and an alert may have.
            self.driver.write_in_passing(cx);
            self.failure = failure;
        } else {
            self.fail_handshake(cx, Failure::TokenNotSpent);
        }
        Poll::Ready(())
    }

    /// The handshake is complete, and no stage stands between the peers.
    fn establish(&self) -> Stage {
        let lineage = self.driver.connection().lineage();
        self.registration.control().set_lineage(lineage);
        Stage::Established
    }

    fn attend_handshake_time(&mut self, cx: &mut Context<'_>) {
        let (Stage::Handshaking { slot } | Stage::Committing { slot, .. }) = &mut self.stage else {
            return;
        };
        if slot.poll_timeout(cx).is_ready() {
            self.driver.connection().timed_out();
            self.fail_handshake(cx, Failure::HandshakeTimeout);
        }
    }

    /// Nothing more may be said to this client.
    fn fail_handshake(&mut self, cx: &mut Context<'_>, failure: Failure) {
        self.stage = Stage::Failed;
        self.failure = Some(failure);
        self.close_transport(cx);
    }

    /// Closes the transport without a word, so that a client that waits learns that nothing will come.
    fn close_transport(&mut self, cx: &mut Context<'_>) {
        // If it cannot close now, dropping the stream closes it.
        let _ = Pin::new(self.driver.io_mut()).poll_shutdown(cx);
    }

    /// The application has the stream.
    pub(super) fn await_application(&mut self) {
        self.application = Application::Awaited(Instant::now());
    }

    /// The application has asked for something: it has consented by now, or does not mean to.
    pub(super) fn meet_application(&mut self) {
        self.application = Application::Present;
    }

    fn application_is_present(&self) -> bool {
        matches!(self.application, Application::Present)
    }

    /// Waits for the application when there is something to tell its client, and not for ever.
    fn attend_application(&mut self, cx: &mut Context<'_>) {
        if let Application::Awaited(since) = self.application
            && self.registration.control().has_command()
        {
            self.application = Application::WaitedFor(Box::pin(sleep_until(since + TAKING_UP)));
        }
        if let Application::WaitedFor(time) = &mut self.application
            && time.as_mut().poll(cx).is_ready()
        {
            self.application = Application::Present;
        }
    }

    fn attend_commands(&mut self) {
        let handshaking = matches!(
            self.stage,
            Stage::Handshaking { .. } | Stage::Committing { .. }
        );
        let only_close = handshaking || !self.application_is_present();
        match self.registration.control().take_command(only_close) {
            Some(Command::MoveTo { target, governed }) => {
                self.obey(target, governed);
                self.registration.control().set_asked();
            }
            Some(Command::Finish) => {
                if self.may_be_told() {
                    self.cannot_tell("no_target");
                }
                self.registration.control().set_asked();
            }
            Some(Command::CloseOverdue) => self.give_up(),
            None => {}
        }
    }

    /// Somebody outside wants the client to move.
    fn obey(&mut self, target: SocketAddr, governed: bool) {
        if self.may_be_told() {
            let state = self.registration.control().consent();
            let state = state.as_ref().map(|state| state.as_slice());
            if let Err(error) = self.tell(target, state, governed) {
                self.cannot_tell(reason(&error));
            }
        } else if let Departure::Told { clock, .. } = &mut self.departure
            && governed
            && self.overdue.is_none()
        {
            *clock = DepartureClock::Governed;
        }
    }

    /// Whether the client is there, and was not told.
    fn may_be_told(&self) -> bool {
        // A client that has closed its side is about to be gone, and so is a stream that has failed.
        let going = self.overdue.is_some() || self.client_closed || self.failure.is_some();
        match self.departure {
            Departure::Staying | Departure::NotMovable => !going,
            Departure::Told { .. }
            | Departure::Left { .. }
            | Departure::HandedOver
            | Departure::HandOverFailed(_) => false,
        }
    }

    fn cannot_tell(&mut self, reason: &'static str) {
        self.registration.control().set_not_told(reason);
        self.set_departure(Departure::NotMovable);
    }

    /// Writes the notice out, looks for the client's end, and counts the time.
    fn attend_departure(&mut self, cx: &mut Context<'_>) {
        let told = matches!(self.departure, Departure::Told { .. });
        if !told || self.failure.is_some() || self.overdue.is_some() {
            return;
        }
        self.driver.write_in_passing(cx);
        // What has come counts before the deadline: a client that left in time has left.
        if let Err(error) = self.look_for_end(cx) {
            self.failure = Some(error.into());
            return;
        }
        let written = self.driver.written();
        if self.departure.poll_overdue(cx, written).is_ready() {
            self.give_up();
        }
    }

    /// The client did not leave in time.
    fn give_up(&mut self) {
        if self.overdue.is_none() {
            self.overdue = Some(Overdue::new());
            self.publish_status();
        }
    }

    /// Looks for the client's end, as far as nothing that waits for the application stands before it.
    fn look_for_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.driver.poll_listen(cx) {
            Poll::Ready(Ok(Heard::CloseNotify)) => self.client_left(),
            // The application reads it. A transport that has ended can still be written to.
            Poll::Ready(Ok(Heard::Plaintext)) | Poll::Pending => {}
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Poll::Ready(Err(error)) => return Err(error),
        }
        Ok(())
    }

    /// The client has closed its side.
    fn client_left(&mut self) {
        if let Departure::Told { hand_over_to, .. } = &self.departure {
            let hand_over_to = *hand_over_to;
            self.set_departure(Departure::Left { hand_over_to });
        }
    }

    fn set_departure(&mut self, departure: Departure) {
        self.departure = departure;
        self.publish_status();
    }

    fn publish_status(&self) {
        let status = match (self.departure.status(), &self.overdue) {
            // It has got what it came for, however late.
            (DepartureStatus::HandedOver, _) => DepartureStatus::HandedOver,
            (_, Some(_)) => DepartureStatus::Overdue,
            (status, None) => status,
        };
        self.registration.control().set_status(status);
    }
}
