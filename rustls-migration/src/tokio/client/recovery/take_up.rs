//! Taking a stream up at the target of its checkpoint: the target is reached, and then the session is resumed there.
//!
//! What the application writes meanwhile follows what is said again, as early data while that goes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::account::Plan;
use super::first_flight::FirstFlight;
use crate::client::{Checkpoint, Offer};
use crate::tokio::client::dialer::{
    ClientConn, Continuity, Handshake, HandshakeGoal, Preconnected,
};
use crate::tokio::client::error::{ConnectError, MigrateError};
use crate::tokio::client::handle::Control;
use crate::tokio::client::outcome::{EarlyDataOutcome, RecoveryOutcome};
use crate::tokio::client::phase::Step;
use crate::tokio::client::relocation::unresolved;

/// A recovery under way.
pub(in crate::tokio::client) enum TakeUp {
    /// The target is resolved and dialled, unless that has been done ahead.
    Reaching(Step<Result<Box<Resuming>, NotRecovered>>),
    /// The session is resumed there.
    Resuming(Box<Resuming>),
}

/// What came of a recovery.
pub(in crate::tokio::client) struct Recovered {
    pub(super) conn: ClientConn,
    pub(super) outcome: RecoveryOutcome,
}

/// Why there was none.
pub(in crate::tokio::client) struct NotRecovered {
    pub(super) lost: Arc<io::Error>,
    pub(super) error: MigrateError,
}

/// A target that has been reached, where the session is resumed.
pub(in crate::tokio::client) struct Resuming {
    continuity: Continuity,
    lost: Arc<io::Error>,
    handshake: Handshake,
    from: SocketAddr,
    at: SocketAddr,
    /// How many bytes were read since the checkpoint.
    since: u64,
    /// How many bytes are said again.
    resent: usize,
}

impl TakeUp {
    /// Reaches the target of the plan's checkpoint, or goes over the connection that has been dialled ahead.
    pub(super) fn begin(
        control: Arc<Control>,
        continuity: Continuity,
        plan: Plan,
        ahead: Option<Preconnected>,
        lost: Arc<io::Error>,
    ) -> Self {
        Self::Reaching(Box::pin(async move {
            let from = control.address();
            let (since, resend) = (plan.since, plan.resend);
            let reached = reach(&control, plan.checkpoint, since, from, ahead).await;
            let begun = reached.and_then(|(preconnected, offer)| {
                let (dialer, at) = (&control.dialer, offer.target());
                let handshake = dialer.begin_to_resume(&continuity, preconnected, offer, &resend);
                Ok((at, handshake.map_err(unreachable)?))
            });
            match begun {
                Ok((at, handshake)) => Ok(Box::new(Resuming {
                    continuity,
                    lost,
                    handshake,
                    from,
                    at,
                    since,
                    resent: resend.len(),
                })),
                Err(error) => Err(NotRecovered { lost, error }),
            }
        }))
    }
}

fn unreachable(error: ConnectError) -> MigrateError {
    MigrateError::Unreachable(Arc::new(error))
}

async fn reach(
    control: &Control,
    checkpoint: Checkpoint,
    since: u64,
    from: SocketAddr,
    ahead: Option<Preconnected>,
) -> Result<(Preconnected, Offer), MigrateError> {
    let dialer = &control.dialer;
    let ahead = match ahead {
        Some(mut ahead) => ahead.is_open().await.then_some(ahead),
        None => None,
    };
    let known = ahead.as_ref().map(Preconnected::address);
    let checkpoint = lead(control, checkpoint, known, from).await?;
    let offer = checkpoint.into_offer(since);
    let offer = offer.map_err(MigrateError::OfferRefused)?;
    let preconnected = match ahead {
        Some(ahead) => FirstFlight::over(ahead, dialer),
        None => {
            let dialled = dialer.reuse_or_dial(None, offer.target()).await;
            dialled.map_err(unreachable)?
        }
    };
    Ok((preconnected, offer))
}

/// Finds out where a checkpoint leads, unless that is known.
async fn lead(
    control: &Control,
    checkpoint: Checkpoint,
    known: Option<SocketAddr>,
    from: SocketAddr,
) -> Result<Checkpoint, MigrateError> {
    let dialer = &control.dialer;
    let target = match (checkpoint.unresolved(), known) {
        (None, _) => return Ok(checkpoint),
        (Some(_), Some(known)) => known,
        (Some(name), None) => {
            let resolved = dialer.resolver.resolve(name, from).await;
            resolved.map_err(|error| unresolved(&error))?
        }
    };
    let policy = dialer.client().policy();
    checkpoint
        .lead_to(target, from, policy)
        .map_err(MigrateError::OfferRefused)
}

impl Resuming {
    /// Takes the handshake forward. What is `held` leaves as early data, as far as that goes.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        held: &mut Vec<u8>,
    ) -> Poll<Result<(), ConnectError>> {
        let taken = self.handshake.connection_mut().add_early_data(held);
        held.drain(..taken);
        self.handshake.poll(cx, HandshakeGoal::Complete)
    }

    /// The handshake is done.
    pub(super) fn finish(self, done: Result<(), ConnectError>) -> Result<Recovered, NotRecovered> {
        let Self {
            continuity,
            lost,
            handshake,
            from,
            at,
            since,
            resent,
        } = self;
        let resumed = done.and_then(|()| continuity.check_resumed(handshake));
        let conn = resumed.map_err(|error| NotRecovered {
            lost,
            error: unreachable(error),
        })?;
        let accepted = conn.connection().tls().is_early_data_accepted();
        let said = conn.connection().first_data_len() > 0;
        let outcome = RecoveryOutcome {
            from,
            at,
            resent,
            received: since,
            early_data: EarlyDataOutcome::of(said, accepted),
        };
        Ok(Recovered { conn, outcome })
    }
}
