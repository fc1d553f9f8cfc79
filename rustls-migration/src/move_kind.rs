//! The two kinds of move (`docs/protocol.md` section 4). Which one an offer is, the server's application decides, never
//! the client.

/// What goes on at the target of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MoveKind {
    /// The session only: the client's next connection resumes it there. This connection ends where it is, by its own
    /// rules.
    Connection,
    /// The byte stream itself. The server's application has consented: it can go on at the target in the middle, from
    /// the state that travels with the offer.
    Stream,
}

#[cfg(feature = "tokio")]
impl MoveKind {
    /// What logs and metrics call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Stream => "stream",
        }
    }
}
