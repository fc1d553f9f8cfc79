//! What differs on the wire between the dialects (`docs/protocol.md` section 10): what marks a ticket, and what asks the
//! client to move.

pub(crate) mod draft01;
pub(crate) mod draft03;
