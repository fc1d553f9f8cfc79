//! Tickets that any node of a service can open: what is in them, and the keys that seal them
//! (`docs/protocol.md` section 6).

mod cipher;
mod key_file;
mod keys;
mod ordinary;
mod sealed;
#[cfg(feature = "watch-keys")]
mod watch;

pub use key_file::TicketKeyError;
pub use keys::TicketKeys;
pub(crate) use keys::{Seal, SealError, SealNonce};
pub(crate) use ordinary::{EarlyDataGrant, OrdinarySession};
pub(crate) use sealed::{Authorization, SealedSession};
#[cfg(feature = "watch-keys")]
pub use watch::TicketKeyWatcher;
