//! A key log in a file that the user names, in the format of
//! <https://www.ietf.org/archive/id/draft-ietf-tls-keylogfile-05.html>, for tools that decrypt captured traffic.
//!
//! It is never written unless it is asked for, and only its owner can read it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustls::KeyLog;

/// Appends each secret as a line to a file.
pub struct KeyLogWriter(Mutex<File>);

impl KeyLogWriter {
    /// Opens the file, or creates it with mode 0600.
    ///
    /// # Errors
    ///
    /// Those of opening it.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map(|file| Self(Mutex::new(file)))
    }
}

impl KeyLog for KeyLogWriter {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let random = base16ct::lower::encode_string(client_random);
        let secret = base16ct::lower::encode_string(secret);
        let line = format!("{label} {random} {secret}\n");
        let written = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(line.as_bytes());
        if let Err(error) = written {
            tracing::warn!(%error, "the key log could not be written");
        }
    }
}

impl fmt::Debug for KeyLogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLogWriter").finish_non_exhaustive()
    }
}
