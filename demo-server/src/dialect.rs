//! The command line's choice of dialects, for nodes and clients.

use clap::ValueEnum;
use rustls_migration::Dialect;

/// The dialects that are spoken, by the revision of the draft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DialectChoice {
    /// Draft -01: a token in the ticket, and an alert that asks.
    #[default]
    #[value(name = "01")]
    Draft01,
    /// Draft -03, which is experimental: the ticket alone, and a message that asks.
    #[value(name = "03")]
    Draft03,
    /// Both; a node prefers draft -03.
    Both,
}

impl DialectChoice {
    /// The dialects, the preferred one first.
    pub fn dialects(self) -> Vec<Dialect> {
        match self {
            Self::Draft01 => vec![Dialect::Draft01],
            Self::Draft03 => vec![Dialect::Draft03],
            Self::Both => vec![Dialect::Draft03, Dialect::Draft01],
        }
    }
}
