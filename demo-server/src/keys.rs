//! The commands that make and rotate a file of ticket keys.
//!
//! They touch no running node: a node reads its file again at SIGHUP.

use std::path::PathBuf;

use clap::Subcommand;
use rustls_migration::{TicketKeyError, TicketKeys, provider};

/// What to do with a file of ticket keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a file with a current and a next key, for its owner alone.
    Generate {
        /// The file, which does not exist yet.
        #[arg(long, value_name = "FILE")]
        ticket_keys: PathBuf,
    },
    /// Make the next key the current one and add a new next key. Then send SIGHUP to every node, before the next rotation.
    Rotate {
        /// The file.
        #[arg(long, value_name = "FILE")]
        ticket_keys: PathBuf,

        /// How many of the keys that were current before to keep, for tickets that they sealed.
        #[arg(long, value_name = "KEYS", default_value_t = 2)]
        keep: usize,
    },
}

impl KeysCommand {
    /// Does it.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError`]; the file is as it was then.
    pub fn run(&self) -> Result<(), TicketKeyError> {
        let random = provider::ring().secure_random;
        match self {
            Self::Generate { ticket_keys } => TicketKeys::create(ticket_keys, random),
            Self::Rotate { ticket_keys, keep } => TicketKeys::rotate(ticket_keys, *keep, random),
        }
    }
}
