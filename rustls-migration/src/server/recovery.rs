//! Checkpoints of a server's connection, and what it leaves out when it goes on from one (`docs/protocol.md` section 11).
//!
//! It counts bytes and keeps none.

use std::mem;
use std::net::SocketAddr;

use super::OfferError;
use super::connection::ServerConnection;
use super::issue::GoesOn;
use crate::lineage::Lineage;

impl ServerConnection {
    /// Sends the client a checkpoint: if this server dies, its stream can go on at `target` from `state`, of 0 to 8192 bytes,
    /// which accounts for all that the application has read so far and for all that it has written so far. It leaves with what
    /// is written next. The newest checkpoint counts, until an [`offer`](Self::offer) without a state takes it back.
    ///
    /// It is no consent to a hand-over, and asks the client for nothing.
    ///
    /// # Errors
    ///
    /// As for [`offer`](Self::offer).
    pub fn checkpoint(&mut self, target: SocketAddr, state: &[u8]) -> Result<(), OfferError> {
        self.checkpoint_at(target, self.positions(), state)
    }

    /// As [`checkpoint`](Self::checkpoint), with a state that accounts for so much of what the application has read and written and for
    /// nothing more: for somebody who knows the state and not when the stream is read and written. The client says again what it has
    /// written from there on. What it has received from there on is discarded at the target, as ever.
    ///
    /// # Errors
    ///
    /// As for [`checkpoint`](Self::checkpoint), and [`OfferError::BadPosition`] when so much has not been read or written, or an
    /// earlier checkpoint of this connection accounts for more of what was read: the client does not have that any more.
    pub fn checkpoint_at(
        &mut self,
        target: SocketAddr,
        positions: Positions,
        state: &[u8],
    ) -> Result<(), OfferError> {
        let (checkpoint, ahead) = self
            .moved
            .checkpoint(positions)
            .ok_or(OfferError::BadPosition)?;
        let goes_on = GoesOn::Checkpoint {
            state,
            position: positions.read,
            ahead: ahead.saturating_add(self.ahead),
        };
        let spends = self.send_ticket(target, goes_on)?;
        self.moved = checkpoint;
        if let Some(spends) = spends {
            self.checkpoint_made(spends);
        }
        Ok(())
    }

    /// How much the application has read and written on this connection. What is discarded counts as written, and a number that was
    /// [taken](Self::take_received) does not count.
    pub fn positions(&self) -> Positions {
        self.moved.now
    }

    /// Which stream this is, and how many connections had it before; `None` for a client that does not support migration. That
    /// of a stream which begins here is there when the handshake is complete, and that of one which goes on here when its
    /// [`arrival`](Self::arrival) is.
    pub fn lineage(&self) -> Option<Lineage> {
        self.hook.lineage()
    }

    /// How many bytes that the application writes next are discarded, since the client has them
    /// ([`Arrival::Recovered`](super::Arrival::Recovered)). A stream that ends before is not the one that the client knows.
    pub fn still_to_discard(&self) -> u64 {
        self.ahead
    }

    /// Takes that number: nothing is discarded, and the application begins so many bytes behind its checkpoint.
    pub fn take_received(&mut self) -> u64 {
        mem::take(&mut self.ahead)
    }

    /// How many of the next `len` bytes are left out; `None` when they are for the client.
    pub(super) fn discard(&mut self, len: usize) -> Option<usize> {
        if self.ahead == 0 {
            return None;
        }
        let discarded = usize::try_from(self.ahead).unwrap_or(usize::MAX).min(len);
        self.ahead = self.ahead.saturating_sub(count(discarded));
        Some(discarded)
    }
}

/// Numbers of bytes of application data on one connection, early data among them: where a state stands in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Positions {
    /// Of the client's bytes.
    pub read: u64,
    /// Of the server application's.
    pub written: u64,
}

/// What an application has done with its stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    now: Positions,
    /// How much of what was read the newest checkpoint accounts for.
    accounted: u64,
}

impl Moved {
    pub(super) fn note_read(&mut self, amount: usize) {
        self.now.read = self.now.read.saturating_add(count(amount));
    }

    pub(super) fn note_written(&mut self, amount: usize) {
        self.now.written = self.now.written.saturating_add(count(amount));
    }

    /// What becomes of this when a checkpoint is made whose state stands here, and how much was written since. `None` when there can be
    /// none.
    fn checkpoint(self, at: Positions) -> Option<(Self, u64)> {
        let since = self.now.written.checked_sub(at.written)?;
        let may_be = (self.accounted..=self.now.read).contains(&at.read);
        let accounted = at.read;
        may_be.then_some((Self { accounted, ..self }, since))
    }
}

/// A number of bytes in memory.
fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
