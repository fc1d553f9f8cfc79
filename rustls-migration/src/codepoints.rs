//! The code points of the protocol (`docs/protocol.md` sections 1 and 10). Their numbers stand nowhere else.

/// The numbers under which the extensions, the alert and the message travel.
///
/// The draft leaves them to IANA. Those of draft -01 are from the private-use ranges by default; both peers must use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codepoints {
    /// ExtensionType of `migration_support` in the ClientHello; 0xFF4D unless changed.
    pub migration_support: u16,
    /// ExtensionType of `migration_token` in NewSessionTicket and ClientHello; 0xFF4E unless changed.
    pub migration_token: u16,
    /// ExtensionType of `migration_stream` in NewSessionTicket: the offer is a stream's; 0xFF4F unless changed. Both dialects
    /// have it.
    pub migration_stream: u16,
    /// AlertDescription of `migrate_notify`; 224 unless changed.
    pub migrate_notify: u8,
    /// Those of [`Dialect::Draft03`](crate::Dialect::Draft03).
    pub experimental: ExperimentalCodepoints,
}

impl Default for Codepoints {
    fn default() -> Self {
        Self {
            migration_support: 0xFF4D,
            migration_token: 0xFF4E,
            migration_stream: 0xFF4F,
            migrate_notify: 224,
            experimental: ExperimentalCodepoints::default(),
        }
    }
}

/// The code points of draft -03, which are **experimental**: its section 9 says that the placeholders must not be shipped in
/// production until IANA has assigned others. They are used only where
/// [`Dialect::Draft03`](crate::Dialect::Draft03) is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExperimentalCodepoints {
    /// ExtensionType of `migration_support` in the ClientHello; 0xFE4D unless changed.
    pub migration_support: u16,
    /// ExtensionType of `migration_allowed` in NewSessionTicket; 0xFE4E unless changed.
    pub migration_allowed: u16,
    /// HandshakeType of `migrate_request`; 0xFD unless changed.
    pub migrate_request: u8,
}

impl Default for ExperimentalCodepoints {
    fn default() -> Self {
        Self {
            migration_support: 0xFE4D,
            migration_allowed: 0xFE4E,
            migrate_request: 0xFD,
        }
    }
}
