//! What the application gave a client's connection to say first: as early data as far as that goes, and the rest behind the
//! handshake.

use std::io::Write as _;

use rustls::{ClientConnection, HandshakeKind};

/// The first of the application data.
#[derive(Default)]
pub(super) struct FirstData {
    /// Empty when all is said.
    data: Vec<u8>,
    len: usize,
    /// How much of it left as early data.
    sent: usize,
    /// Whether the rest has been given to the connection.
    finished: bool,
    /// Whether it is meant for the resumed session only.
    pub(super) for_session: bool,
    /// The application protocol that it is meant for, if it matters.
    pub(super) for_alpn: Option<Option<Vec<u8>>>,
}

impl FirstData {
    pub(super) fn set(&mut self, data: &[u8]) {
        self.data = data.to_vec();
        self.len = data.len();
    }

    /// How many bytes it had.
    #[cfg(feature = "tokio")]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How much of it left as early data.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// Whether the server may have got anything of it.
    #[cfg(feature = "tokio")]
    pub(super) fn may_have_left(&self) -> bool {
        self.sent > 0 || self.finished
    }

    /// Gives the connection as much of it as it takes for early data.
    pub(super) fn send_early(&mut self, tls: &mut ClientConnection) {
        if let Some(mut writer) = tls.early_data() {
            self.sent = writer.write(&self.data).unwrap_or(0);
        }
    }

    /// Adds as much as can leave as early data now: nothing when some of what was given before cannot. Returns how much was taken.
    #[cfg(feature = "tokio")]
    pub(super) fn add_early(&mut self, tls: &mut ClientConnection, more: &[u8]) -> usize {
        if self.sent < self.data.len() || more.is_empty() {
            return 0;
        }
        let Some(mut writer) = tls.early_data() else {
            return 0;
        };
        let taken = writer.write(more).unwrap_or(0);
        self.sent += taken;
        self.len += taken;
        let added = more.get(..taken).unwrap_or_default();
        self.data.extend_from_slice(added);
        taken
    }

    /// The handshake is complete: what early data did not carry, as far as this server may have it. There is nothing the next time.
    pub(super) fn take_rest(&mut self, tls: &ClientConnection) -> Vec<u8> {
        let mut data = std::mem::take(&mut self.data);
        let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let other_alpn = self
            .for_alpn
            .as_ref()
            .is_some_and(|protocol| protocol.as_deref() != tls.alpn_protocol());
        let withheld = (self.for_session && !resumed) || other_alpn;
        let from = match (tls.is_early_data_accepted(), withheld) {
            (true, _) => self.sent,
            (false, false) => 0,
            (false, true) => data.len(),
        };
        let rest = data.split_off(from.min(data.len()));
        self.finished |= !rest.is_empty();
        rest
    }
}
