//! What the demo programs have in common: reading their command line, logging, and failing with one line.
//!
//! A program that uses it never shows a panic or a backtrace for what its user did.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Why a program ends with another status than 0.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Its user asked for what cannot be: exit status 2.
    #[error("{0}")]
    Usage(String),
    /// Something went wrong on the way, or is not as it should be: exit status 1.
    #[error("{0}")]
    Wrong(String),
}

impl Failure {
    /// The user is at fault: `what` went wrong because of `error`.
    pub fn usage(what: impl Display, error: &dyn Error) -> Self {
        Self::Usage(format!("{what}: {}", chain(error)))
    }

    /// The user is not at fault: `what` went wrong because of `error`.
    pub fn wrong(what: impl Display, error: &dyn Error) -> Self {
        Self::Wrong(format!("{what}: {}", chain(error)))
    }

    fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Wrong(_) => 1,
        }
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some errors repeat their cause.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line.replace('\n', " ")
}

/// Reads the command line. `Err` has the exit status: help was asked for, or there is a mistake, which one line on
/// standard error describes.
///
/// # Errors
///
/// The status with which the program must end.
pub fn parse<T: Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        if !error.use_stderr() {
            return match error.print() {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        let text = error.render().to_string();
        let paragraph = text.split("\n\n").next().unwrap_or_default();
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        say(&format!("{} (try --help)", words.join(" ")));
        ExitCode::from(2)
    })
}

/// Sends log lines to standard error; `RUST_LOG` chooses which, else those of `default` and above. It goes on until what
/// is returned is dropped, which writes the last lines.
///
/// A thread of its own writes. When nobody reads, lines are dropped, and the program goes on.
pub fn log(default: &str) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .finish(io::stderr());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    guard
}

/// Ends a program: 0, or the failure's line on standard error and its status.
pub fn end(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("error: {failure}"));
            ExitCode::from(failure.status())
        }
    }
}

fn say(line: &str) {
    // When standard error is gone, nobody can be told.
    let _ = writeln!(io::stderr(), "{line}");
}
