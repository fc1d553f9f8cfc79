//! Draft -01 (`docs/protocol.md` sections 1 and 3): a ticket is marked by its token, which names the target; an alert asks.

use rustls::ContentType;

use crate::codepoints::Codepoints;

/// The level of `migrate_notify`.
const LEVEL_WARNING: u8 = 1;

/// The extension of a ticket with this token.
pub(crate) fn mark(codepoints: Codepoints, token: &[u8]) -> (u16, &[u8]) {
    (codepoints.migration_token, token)
}

/// The alert that asks the client to move.
pub(crate) fn notice(codepoints: Codepoints) -> (ContentType, Vec<u8>) {
    let alert = vec![LEVEL_WARNING, codepoints.migrate_notify];
    (ContentType::Alert, alert)
}

/// Whether an alert is that one. Its level does not matter.
pub(crate) fn is_notice(codepoints: Codepoints, alert: &[u8]) -> bool {
    matches!(alert, [_, description] if *description == codepoints.migrate_notify)
}
