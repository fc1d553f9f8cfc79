//! The four code points of the protocol (`docs/protocol.md` section 1). Their numbers stand nowhere else.

/// The numbers under which the extensions and the alert travel.
///
/// The draft leaves them to IANA. The defaults are from the private-use ranges; both peers must use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codepoints {
    /// ExtensionType of `migration_support` in the ClientHello; 0xFF4D unless changed.
    pub migration_support: u16,
    /// ExtensionType of `migration_token` in NewSessionTicket and ClientHello; 0xFF4E unless changed.
    pub migration_token: u16,
    /// ExtensionType of `migration_stream` in NewSessionTicket: the offer is a stream's; 0xFF4F unless changed.
    pub migration_stream: u16,
    /// AlertDescription of `migrate_notify`; 224 unless changed.
    pub migrate_notify: u8,
}

impl Default for Codepoints {
    fn default() -> Self {
        Self {
            migration_support: 0xFF4D,
            migration_token: 0xFF4E,
            migration_stream: 0xFF4F,
            migrate_notify: 224,
        }
    }
}
