//! Files that are made on first use and shared from then on, by however many nodes start at the same moment.
//!
//! A file is never seen half written.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustls::crypto::SecureRandom;
use rustls_migration::{TicketKeyError, TicketKeys};

/// Makes sure that there is a file at `path`: unless there is one, `write` makes it, at the path that it is given.
///
/// # Errors
///
/// Those of `write` and of the file system.
pub fn create_once<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    if path.try_exists()? {
        return Ok(());
    }
    let folder = folder_of(path);
    fs::create_dir_all(folder)?;
    let scratch = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(folder)?;
    let new = scratch.path().join("file");
    write(&new)?;
    match fs::hard_link(&new, path) {
        // Another node was first; its file counts.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => Ok(linked?),
    }
}

/// Makes the file at `path` say `text`, for everybody to read.
///
/// # Errors
///
/// Those of the file system.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let mut new = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder_of(path))?;
    new.write_all(text.as_bytes())?;
    new.persist(path)?;
    Ok(())
}

/// Reads the ticket keys of a service, and makes one on first use.
///
/// # Errors
///
/// [`TicketKeyError`], or an error of the file system inside [`TicketKeysError`].
pub fn ticket_keys(path: &Path, random: &dyn SecureRandom) -> Result<TicketKeys, TicketKeysError> {
    create_once(path, |new| {
        TicketKeys::create(new, random).map_err(TicketKeysError::Keys)
    })?;
    Ok(TicketKeys::load(path)?)
}

/// Why there are no ticket keys.
#[derive(Debug, thiserror::Error)]
pub enum TicketKeysError {
    /// The file cannot be used.
    #[error(transparent)]
    Keys(#[from] TicketKeyError),
    /// The file cannot be made.
    #[error("the file cannot be made")]
    Create(#[from] io::Error),
}

/// The folder that `path` is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_create_a_file_wins_and_later_ones_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/file");
        let write = |text: &'static str| move |path: &Path| fs::write(path, text);
        create_once(&path, write("first")).unwrap();
        create_once(&path, write("second")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        let entries = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(entries, 1, "nothing else is left in the folder");
    }

    #[test]
    fn a_loser_of_the_race_sees_the_winners_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        create_once(&path, |new| {
            fs::write(&path, "winner")?;
            fs::write(new, "loser")
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "winner");
    }

    #[test]
    fn nodes_that_start_at_once_share_their_ticket_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ticket.keys");
        let random = rustls::crypto::ring::default_provider().secure_random;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| ticket_keys(&path, random).unwrap());
            }
        });
    }
}
