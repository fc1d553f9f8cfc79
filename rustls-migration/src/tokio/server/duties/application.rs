//! What the application asks for: it comes after the duties, and finds out here whether it may.
//!
//! Nothing is sent to the client here without the application's word.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Stage, StreamCore};
use crate::connection::Connection as _;
use crate::tokio::server::departure::Departure;
use crate::tokio::server::error::{DepartureOverdue, EndsTooEarly, Failure};

/// What the application asks for.
impl<IO> StreamCore<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Ready when the handshake is complete and the token spent.
    pub(in crate::tokio::server) fn poll_established(&mut self) -> Poll<io::Result<()>> {
        self.check()?;
        match self.stage {
            Stage::Established => Poll::Ready(Ok(())),
            Stage::Handshaking { .. } | Stage::Committing { .. } | Stage::Failed => Poll::Pending,
        }
    }

    /// Ready when the application can begin: at once with early data, else when the handshake is complete.
    pub(in crate::tokio::server) fn poll_accepted(&mut self) -> Poll<io::Result<()>> {
        let handshaking = matches!(self.stage, Stage::Handshaking { .. });
        if handshaking && self.driver.connection_mut().early_data_accepted() {
            return Poll::Ready(Ok(()));
        }
        self.poll_established()
    }

    /// Fails when the stream has.
    fn check(&mut self) -> io::Result<()> {
        if let Some(failure) = &mut self.failure {
            return Err(failure.report());
        }
        match self.overdue {
            Some(_) => Err(DepartureOverdue.into()),
            None => Ok(()),
        }
    }

    pub(in crate::tokio::server) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(failure @ Failure::GoesOnElsewhere) = &mut self.failure {
            // What has come is for the server where the stream goes on.
            return Poll::Ready(Err(failure.report()));
        }
        loop {
            self.driver.write_in_passing(cx);
            let before = buf.filled().len();
            // What has come counts before what went wrong later.
            if let Some(result) = self.driver.take_plaintext(buf) {
                let nothing = result.is_ok() && buf.filled().len() == before;
                if nothing && buf.remaining() > 0 {
                    self.client_closed = true;
                    self.client_left();
                }
                return Poll::Ready(result);
            }
            ready!(self.poll_established())?;
            ready!(self.driver.poll_read_tls(cx))?;
        }
    }

    pub(in crate::tokio::server) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        plaintext: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_may_write())?;
        self.driver.poll_write(cx, plaintext)
    }

    /// Between the client's Finished and the commit nothing is said.
    fn poll_may_write(&mut self) -> Poll<io::Result<()>> {
        self.check()?;
        match self.stage {
            Stage::Handshaking { .. } | Stage::Established => Poll::Ready(Ok(())),
            Stage::Committing { .. } | Stage::Failed => Poll::Pending,
        }
    }

    /// Ready when all plaintext has left in protected records.
    pub(in crate::tokio::server) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_may_write())?;
        if self.driver.connection().holds_plaintext() {
            return Poll::Pending;
        }
        self.driver.poll_flush(cx)
    }

    /// Hands the stream over if that is due, and ends it.
    pub(in crate::tokio::server) fn poll_shutdown(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(failure) = &mut self.failure {
            return Poll::Ready(Err(failure.report()));
        }
        match self.stage {
            Stage::Committing { .. } | Stage::Failed => return Poll::Pending,
            Stage::Handshaking { .. } if self.driver.connection().holds_plaintext() => {
                return Poll::Pending;
            }
            Stage::Handshaking { .. } | Stage::Established => {}
        }
        let missing = self.driver.connection().still_to_discard();
        if missing > 0 {
            return Poll::Ready(Err(EndsTooEarly { missing }.into()));
        }
        self.hand_over()?;
        self.driver.poll_shutdown(cx)
    }

    /// Makes the last offer to a client that was told to go on elsewhere with the stream, and that has closed its side.
    fn hand_over(&mut self) -> io::Result<()> {
        let target = match &self.departure {
            Departure::Left {
                hand_over_to: Some(target),
            } => *target,
            Departure::HandOverFailed(error) => return Err((*error).into()),
            Departure::Left { hand_over_to: None }
            | Departure::Staying
            | Departure::NotMovable
            | Departure::Told { .. }
            | Departure::HandedOver => return Ok(()),
        };
        // Without consent the application has ended the stream here.
        let Some(state) = self.registration.control().consent() else {
            return Ok(());
        };
        let offered = self.driver.connection_mut().hand_over(target, &state);
        self.set_departure(match &offered {
            Ok(()) => Departure::HandedOver,
            Err(error) => Departure::HandOverFailed(*error),
        });
        Ok(offered?)
    }

    /// How many bytes the client has that the application writes next; from now on they are not discarded.
    pub(in crate::tokio::server) fn take_received(&mut self) -> u64 {
        self.driver.connection_mut().take_received()
    }

    /// Asks for new traffic keys.
    pub(in crate::tokio::server) fn refresh_traffic_keys(&mut self) -> Result<(), rustls::Error> {
        self.driver.connection_mut().refresh_traffic_keys()
    }
}
