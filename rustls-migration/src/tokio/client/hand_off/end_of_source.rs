//! The end of the old server: its hand-over, its own end of the stream, or its loss.

use std::io;
use std::sync::Arc;

use rustls::HandshakeKind;
use tokio::time::timeout;

use crate::tokio::client::connector::HandOff;
use crate::tokio::client::dialer::{ClientConn, Continuity, HandshakeGoal, Preconnected};
use crate::tokio::client::error::{HandOffError, MigrateError};
use crate::tokio::client::handle::Control;
use crate::tokio::client::outcome::{EarlyDataOutcome, MigrationOutcome};
use crate::tokio::client::phase::{Next, Phase, Step, Stranded};
use crate::tokio::client::stream::MigrationStream;

/// A connection to the target, which may be under way.
enum Ahead {
    None,
    Dialling(Step<Preconnected>),
    Answered(Preconnected),
}

impl MigrationStream {
    /// The present server has closed its side. `true` when that is not the end: the stream goes on elsewhere, or has failed.
    pub(in crate::tokio::client) fn on_close_notify(&mut self) -> bool {
        // A writer may wait for what only the reader has seen.
        self.control.wakers.wake();
        match self.take_phase() {
            Phase::Connected { conn, next } => {
                if let Some(accepted) = self.handed_over(&conn) {
                    self.hand_over_came(&conn, next, accepted);
                    return true;
                }
                self.phase = match next {
                    Next::Ready(ready) => Phase::Outlived { old: conn, ready },
                    Next::Nothing
                    | Next::Dialling { .. }
                    | Next::Answered(_)
                    | Next::Overlapping { .. } => Phase::Ended {
                        conn,
                        undelivered: false,
                    },
                };
                false
            }
            Phase::ReadingOut {
                conn,
                preconnected,
                held,
                ..
            } => match self.handed_over(&conn) {
                Some(accepted) => {
                    let ahead = Ahead::Answered(preconnected);
                    self.follow(&conn, ahead, accepted, held);
                    true
                }
                // The server has ended the stream itself.
                None => {
                    let undelivered = !held.is_empty();
                    self.phase = Phase::Ended { conn, undelivered };
                    false
                }
            },
            Phase::Switching { ready, .. } => {
                self.arrive_at_ready(ready);
                true
            }
            other @ (Phase::Resuming { .. }
            | Phase::Recovering { .. }
            | Phase::Outlived { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_)) => {
                self.phase = other;
                false
            }
        }
    }

    /// Whether the stream was handed over at its end, and may follow.
    fn handed_over(&self, conn: &ClientConn) -> Option<Result<(), MigrateError>> {
        let handed_over = conn.connection().handed_over()?;
        Some(match self.control.hand_off {
            // Its application has closed it without moving it, so nobody gets the rest.
            HandOff::Manual => Err(MigrateError::Manual),
            HandOff::Drain | HandOff::Overlap => handed_over.map_err(MigrateError::OfferRefused),
        })
    }

    /// A hand-over came when this side had been closed by the application, maybe before the target has been dialled.
    fn hand_over_came(
        &mut self,
        conn: &ClientConn,
        next: Next,
        accepted: Result<(), MigrateError>,
    ) {
        let (ahead, counted) = match next {
            Next::Dialling { dial, .. } => (Ahead::Dialling(dial), true),
            Next::Answered(preconnected) => (Ahead::Answered(preconnected), true),
            Next::Nothing | Next::Overlapping { .. } | Next::Ready(_) => (Ahead::None, false),
        };
        self.control.set_ready(false);
        self.control.begin_to_hold();
        let accepted = match counted {
            true => accepted,
            false => accepted.and_then(|()| self.admit_hand_over()),
        };
        self.follow(conn, ahead, accepted, Vec::new());
    }

    /// Resumes the session with the old server's last offer, which may lead elsewhere than the one before.
    fn follow(
        &mut self,
        conn: &ClientConn,
        ahead: Ahead,
        accepted: Result<(), MigrateError>,
        held: Vec<u8>,
    ) {
        let accepted = accepted.and_then(|()| match self.control.newest_kind() {
            Some(_) => Ok(()),
            None => Err(MigrateError::NoOffer),
        });
        if let Err(why) = accepted {
            self.fail(HandOffError::NotFollowed(Arc::new(why)));
            return;
        }
        let continuity = Continuity::of(self.control.name.clone(), Some(conn));
        let control = Arc::clone(&self.control);
        self.phase = Phase::Resuming {
            resume: Box::pin(async move {
                resume_handed_over(&control, &continuity, ahead, held)
                    .await
                    .map_err(Stranded::HandOff)
            }),
            held: Vec::new(),
        };
    }

    /// The present connection broke. `Ok` when the stream goes on elsewhere.
    pub(in crate::tokio::client) fn broken(&mut self, error: io::Error) -> io::Result<()> {
        self.control.wakers.wake();
        let error = match self.recover(error) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        Err(match self.take_phase() {
            Phase::ReadingOut { .. } | Phase::Switching { .. } => {
                let failed = HandOffError::SourceLost(Arc::new(error));
                self.fail(failed.clone());
                failed.into()
            }
            Phase::Connected {
                conn: old,
                next: Next::Ready(ready),
            } => {
                self.phase = Phase::Outlived { old, ready };
                error
            }
            // A hand-off that had only begun ends with its source.
            Phase::Connected { conn, .. } => {
                self.phase = Phase::Ended {
                    conn,
                    undelivered: false,
                };
                error
            }
            other @ (Phase::Resuming { .. }
            | Phase::Recovering { .. }
            | Phase::Outlived { .. }
            | Phase::Ended { .. }
            | Phase::Failed(_)
            | Phase::Lost(_)) => {
                self.phase = other;
                error
            }
        })
    }
}

async fn resume_handed_over(
    control: &Control,
    continuity: &Continuity,
    ahead: Ahead,
    held: Vec<u8>,
) -> Result<(ClientConn, MigrationOutcome), HandOffError> {
    let dialer = &control.dialer;
    let offer = control.resolve_offer(|_| true).await;
    let offer = offer.map_err(|why| HandOffError::NotFollowed(Arc::new(why)))?;
    let target = offer.target();
    let ahead = match ahead {
        Ahead::None => None,
        Ahead::Answered(preconnected) => Some(preconnected),
        Ahead::Dialling(dial) => timeout(dialer.connect_timeout, dial).await.ok(),
    };
    let resumed = async {
        let preconnected = dialer.reuse_or_dial(ahead, target).await?;
        dialer
            .resume(
                continuity,
                preconnected,
                offer,
                &held,
                HandshakeGoal::Complete,
            )
            .await
    };
    match resumed.await {
        Ok(conn) => {
            let accepted = conn.connection().tls().is_early_data_accepted();
            let outcome = MigrationOutcome {
                from: control.address(),
                at: target,
                handshake: HandshakeKind::Resumed,
                early_data: EarlyDataOutcome::of(!held.is_empty(), accepted),
                unread: 0,
                fell_back: None,
            };
            Ok((conn, outcome))
        }
        Err(error) => Err(HandOffError::TargetLost {
            written_since: EarlyDataOutcome::after_failure(&error),
            error: Arc::new(error),
        }),
    }
}
