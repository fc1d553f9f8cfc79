//! The file that ticket keys are kept in (`docs/protocol.md` section 6): who may read it, and how it is replaced.
//!
//! A key file is never changed in place.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::keys::{KEY_ID_LEN, SECRET_LEN, TicketKey};

/// Length of a key's line with its end, in bytes.
const LINE_LEN: usize = 2 * (KEY_ID_LEN + SECRET_LEN) + 2;

/// Reads the keys in a file, of which there is at least one.
pub(super) fn read(path: &Path) -> Result<Vec<TicketKey>, TicketKeyError> {
    let text = read_text(path).map_err(|error| TicketKeyError::io(path, error))?;
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        keys.push(parse(line).ok_or_else(|| TicketKeyError::BadLine {
            path: path.to_owned(),
            line: index + 1,
        })?);
    }
    if keys.is_empty() {
        return Err(TicketKeyError::NoKeys(path.to_owned()));
    }
    Ok(keys)
}

fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut file = File::open(path)?;
    check_permissions(&file)?;
    // Room for all of it, so that no secret stays behind in a smaller buffer.
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let mut text = Zeroizing::new(String::with_capacity(len + 1));
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Whose file it is does not matter: only root can read somebody else's, and may be meant to.
#[cfg(unix)]
fn check_permissions(file: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;

    let metadata = file.metadata()?;
    if is_private(metadata.mode(), metadata.uid()) {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "others than its owner can open it; run chmod 600, or give it to root and chmod 640",
        ))
    }
}

/// Whether a file is its owner's alone. Root's may be read by its group too: so a container is given a secret that it can read
/// and not change.
#[cfg(unix)]
fn is_private(mode: u32, owner: u32) -> bool {
    const ROOT: u32 = 0;
    let open_to_others = if owner == ROOT { 0o037 } else { 0o077 };
    mode & open_to_others == 0
}

#[cfg(not(unix))]
fn check_permissions(_: &File) -> io::Result<()> {
    Ok(())
}

/// Makes a file with these keys where there is none.
pub(super) fn create(path: &Path, keys: &[TicketKey]) -> Result<(), TicketKeyError> {
    write_new(path, keys).map_err(|error| TicketKeyError::io(path, error))
}

/// Replaces the keys in a file as a whole, unless somebody else is doing so.
pub(super) fn rewrite(
    path: &Path,
    change: impl FnOnce(Vec<TicketKey>) -> Vec<TicketKey>,
) -> Result<(), TicketKeyError> {
    let io_error = |error| TicketKeyError::io(path, error);
    // Behind a link, the file that it leads to is the one to replace.
    let target = fs::canonicalize(path).map_err(io_error)?;
    let lock = owners_file()
        .create(true)
        .truncate(false)
        .open(beside(&target, ".lock"))
        .map_err(io_error)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(TicketKeyError::RotationUnderWay(path.to_owned()));
        }
        Err(TryLockError::Error(error)) => return Err(io_error(error)),
    }
    let keys = change(read(path)?);
    replace(&target, &keys).map_err(io_error)
}

fn replace(path: &Path, keys: &[TicketKey]) -> io::Result<()> {
    let new = beside(path, ".new");
    // Whoever held the lock before may have died at this point.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    write_new(&new, keys)?;
    fs::rename(&new, path)?;
    sync_folder(path)
}

fn write_new(path: &Path, keys: &[TicketKey]) -> io::Result<()> {
    let mut text = Zeroizing::new(String::with_capacity(keys.len() * LINE_LEN));
    for key in keys {
        push_line(&mut text, key);
    }
    let mut file = owners_file().create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Opens for writing; what it makes is its owner's alone.
fn owners_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a new name in a file's folder outlive a crash.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Reads one line of a key file.
fn parse(line: &str) -> Option<TicketKey> {
    let (id_text, secret_text) = line.split_once(' ')?;
    let mut id = [0; KEY_ID_LEN];
    let mut secret = Zeroizing::new([0; SECRET_LEN]);
    let id_len = base16ct::mixed::decode(id_text, &mut id).ok()?.len();
    let secret_len = base16ct::mixed::decode(secret_text.trim(), secret.as_mut())
        .ok()?
        .len();
    (id_len == KEY_ID_LEN && secret_len == SECRET_LEN).then(|| TicketKey::new(id, secret))
}

fn push_line(text: &mut String, key: &TicketKey) {
    let secret = Zeroizing::new(base16ct::lower::encode_string(key.secret.as_ref()));
    let id = base16ct::lower::encode_string(&key.id);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{id} {}", *secret);
}

/// Why ticket keys cannot be had. The operator is at fault, or the environment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TicketKeyError {
    /// The file cannot be opened, read or written, or others than its owner can open it.
    #[error("ticket key file {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        error: io::Error,
    },
    /// The file has no key.
    #[error("ticket key file {} has no key", .0.display())]
    NoKeys(PathBuf),
    /// A line is no key.
    #[error("ticket key file {}, line {line}: expected 16 and 64 hexadecimal digits", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
    },
    /// The keys were generated in memory, so there is no file to reload.
    #[error("these ticket keys did not come from a file")]
    NoFile,
    /// Another process rotates the keys in this file at the moment. Two rotations at once would leave nodes no time to
    /// reload between them.
    #[error("ticket key file {} is being rotated by somebody else", .0.display())]
    RotationUnderWay(PathBuf),
    /// The random source failed.
    #[error("the random source failed")]
    Random,
}

impl TicketKeyError {
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}

#[cfg(test)]
#[cfg(feature = "ring")]
mod tests {
    use super::*;
    use crate::ticket::keys::tests::{file, random};
    use crate::ticket::{Seal, TicketKeys};

    #[test]
    fn a_failed_reload_keeps_the_keys() {
        let (_dir, path) = file();
        let keys = TicketKeys::load(&path).unwrap();
        let ticket = keys.seal(b"session", Seal::Offer, random()).unwrap();
        fs::write(&path, "0011 2233\n").unwrap();
        assert!(matches!(
            keys.reload(),
            Err(TicketKeyError::BadLine { line: 1, .. })
        ));
        assert!(keys.open(&ticket).is_some());
        fs::write(&path, "# nothing\n").unwrap();
        assert!(matches!(keys.reload(), Err(TicketKeyError::NoKeys(_))));
        let memory = TicketKeys::generate(random()).unwrap();
        assert!(matches!(memory.reload(), Err(TicketKeyError::NoFile)));
    }

    #[test]
    fn comments_and_empty_lines_are_skipped() {
        let (_dir, path) = file();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("# keys\n\n{text}  # more\n")).unwrap();
        assert_eq!(read(&path).unwrap().len(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;

        let (_dir, path) = file();
        let open = fs::Permissions::from_mode(0o644);
        fs::set_permissions(&path, open).unwrap();
        let refused = TicketKeys::load(&path).unwrap_err();
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
        assert!(TicketKeys::rotate(&path, 1, random()).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn the_group_may_read_a_file_of_root_s_and_nobody_else_s() {
        const ROOT: u32 = 0;
        const SERVICE: u32 = 1000;
        for mode in [0o400, 0o600, 0o700] {
            assert!(
                is_private(mode, ROOT) && is_private(mode, SERVICE),
                "{mode:o}"
            );
        }
        for mode in [0o440, 0o640] {
            assert!(
                is_private(mode, ROOT) && !is_private(mode, SERVICE),
                "{mode:o}"
            );
        }
        for mode in [0o444, 0o644, 0o604, 0o601, 0o660, 0o650, 0o620] {
            assert!(
                !is_private(mode, ROOT) && !is_private(mode, SERVICE),
                "{mode:o}"
            );
        }
    }

    #[test]
    fn an_existing_file_is_not_overwritten() {
        let (_dir, path) = file();
        let before = fs::read(&path).unwrap();
        assert!(TicketKeys::create(&path, random()).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[cfg(unix)]
    #[test]
    fn a_rotated_file_is_its_owners_alone_and_a_link_to_it_stays_one() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let (dir, path) = file();
        let link = dir.path().join("link");
        symlink("keys", &link).unwrap();
        // What a rotation that died left behind.
        fs::write(dir.path().join("keys.new"), "half").unwrap();
        TicketKeys::rotate(&link, 0, random()).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&path).unwrap().len(), 2);
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = fs::metadata(entry.path()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
        }
        assert!(!dir.path().join("keys.new").exists());
    }

    #[test]
    fn a_rotation_during_another_is_refused() {
        let (dir, path) = file();
        let before = fs::read(&path).unwrap();
        let lock = File::create(dir.path().join("keys.lock")).unwrap();
        lock.lock().unwrap();
        let refused = TicketKeys::rotate(&path, 1, random()).unwrap_err();
        assert!(matches!(refused, TicketKeyError::RotationUnderWay(_)));
        assert_eq!(fs::read(&path).unwrap(), before);
        drop(lock);
        TicketKeys::rotate(&path, 1, random()).unwrap();
    }

    #[test]
    fn rotations_at_once_lose_no_key() {
        let (_dir, path) = file();
        let old = TicketKeys::load(&path).unwrap();
        let ticket = old.seal(b"session", Seal::Offer, random()).unwrap();
        let rotate = || TicketKeys::rotate(&path, 100, random());
        let done = std::thread::scope(|scope| {
            let rotations: Vec<_> = (0..8).map(|_| scope.spawn(rotate)).collect();
            let results = rotations.into_iter().map(|thread| thread.join().unwrap());
            results
                .filter(|result| match result {
                    Ok(()) => true,
                    Err(error) => {
                        assert!(matches!(error, TicketKeyError::RotationUnderWay(_)));
                        false
                    }
                })
                .count()
        });
        assert!(done > 0);
        assert_eq!(read(&path).unwrap().len(), 2 + done);
        old.reload().unwrap();
        assert_eq!(*old.open(&ticket).unwrap(), b"session");
    }
}
