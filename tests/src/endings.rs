//! How conversations end, and whether the table of `docs/recovery.md` has a row for it.

use std::io;

use rustls_migration::MoveKind;
use rustls_migration::tokio::{ConnectError, Event, HandOffError, MigrateError};

use crate::session::Client;

/// A documented end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// All was said, both ways.
    Whole,
    /// There never was a stream.
    NotConnected,
    /// The server died, and there was no usable checkpoint: the error as without recovery.
    NoCheckpoint,
    /// The same in a hand-off, before the server had ended its side.
    SourceLost,
    /// The checkpoint's target could not be reached.
    TargetNotReached,
    /// It was reached, and died before it had answered.
    TargetDied,
    /// It did not resume the session.
    SessionRefused,
    /// The target of a hand-over died: what the old server handed over is gone.
    TargetLost,
}

/// What became of a conversation.
///
/// # Errors
///
/// What the documentation does not allow.
pub fn ending(client: &Client, events: &[Event]) -> Result<Ending, String> {
    let Some(error) = &client.read_error else {
        let whole = client.ended && client.closed && client.write_error.is_none();
        return whole
            .then_some(Ending::Whole)
            .ok_or_else(|| format!("an end without an error that is not whole: {client:?}"));
    };
    let undocumented = || Err(format!("{error:?} has no row after {events:?}"));
    let inside = error.get_ref();
    if inside.is_some_and(|inside| inside.is::<ConnectError>()) {
        return Ok(Ending::NotConnected);
    }
    match inside.and_then(|inside| inside.downcast_ref()) {
        Some(HandOffError::NotRecovered { error, .. }) => match &**error {
            MigrateError::Unreachable(error) => Ok(unreached(error)),
            _ => undocumented(),
        },
        Some(HandOffError::TargetLost { .. }) => Ok(Ending::TargetLost),
        Some(HandOffError::SourceLost(_)) if !could_recover(events) => Ok(Ending::SourceLost),
        None if is_death(error) && !could_recover(events) => Ok(Ending::NoCheckpoint),
        Some(_) | None => undocumented(),
    }
}

fn unreached(error: &ConnectError) -> Ending {
    match error {
        ConnectError::Dial { .. } => Ending::TargetNotReached,
        ConnectError::SessionRefused { .. } => Ending::SessionRefused,
        _ => Ending::TargetDied,
    }
}

/// Whether a transport has ended or broken.
fn is_death(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::TimedOut
    )
}

/// Whether the stream had a usable checkpoint at the end of these events.
fn could_recover(events: &[Event]) -> bool {
    events.iter().fold(false, |could, event| match event {
        Event::Checkpoint { usable, .. } => could || *usable,
        Event::RecoveryWindowFull { waits } => could && *waits,
        Event::Offered { kind, .. } | Event::Marked { kind } => {
            could && *kind != MoveKind::Connection
        }
        Event::Recovering { .. } | Event::Recovered(_) | Event::Migrated(_) => false,
        _ => could,
    })
}
