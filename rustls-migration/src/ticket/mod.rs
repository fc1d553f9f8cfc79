//! Tickets that any node of a service can open: what is in them, and the keys that seal them
//! (`docs/protocol.md` section 6).

mod keys;
mod sealed;

pub use keys::{TicketKeyError, TicketKeys};
pub(crate) use sealed::SealedSession;
