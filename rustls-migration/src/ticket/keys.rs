//! The key ring that seals and opens tickets (`docs/protocol.md` section 6).
//!
//! A secret leaves this module only to be written to the key file.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rustls::crypto::SecureRandom;
use zeroize::Zeroizing;

/// Length of a key's identifier, in bytes.
const KEY_ID_LEN: usize = 8;
/// Length of a key's secret, in bytes.
const SECRET_LEN: usize = 32;

const VERSION: u8 = 1;
const HEADER_LEN: usize = 1 + KEY_ID_LEN;
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;

/// The ticket keys that the nodes of one service share.
///
/// There are one or more; the first seals, all of them open. Clones share their keys, so a
/// [`reload`](Self::reload) through one is seen by all.
///
/// The file has a line for each key: the identifier (16 hexadecimal digits), a space, the secret (64 digits).
/// Empty lines and lines that begin with `#` are skipped.
#[derive(Clone)]
pub struct TicketKeys {
    ring: Arc<RwLock<Arc<[TicketKey]>>>,
    path: Option<Arc<Path>>,
}

struct TicketKey {
    id: [u8; KEY_ID_LEN],
    secret: Zeroizing<[u8; SECRET_LEN]>,
}

impl TicketKeys {
    /// One new key, for a service whose nodes all live in this process.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError::Random`] when `random` fails.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, TicketKeyError> {
        Ok(Self {
            ring: Arc::new(RwLock::new(Arc::new([TicketKey::generate(random)?]))),
            path: None,
        })
    }

    /// Reads the keys from a file.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError`] when the file cannot be read, is open to others than its owner, has no key, or has a
    /// line that is no key.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self, TicketKeyError> {
        let path: PathBuf = path.into();
        let keys = read(&path)?;
        Ok(Self {
            ring: Arc::new(RwLock::new(keys)),
            path: Some(path.into()),
        })
    }

    /// Creates a file with one new key, readable by its owner alone.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError`] when the file exists, cannot be written, or `random` fails.
    pub fn create(path: &Path, random: &dyn SecureRandom) -> Result<(), TicketKeyError> {
        let key = TicketKey::generate(random)?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(path)
            .and_then(|mut file| file.write_all(key.line().as_bytes()))
            .map_err(|error| TicketKeyError::io(path, error))
    }

    /// Reads the file again. When that fails the keys stay as they were.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); [`TicketKeyError::NoFile`] for keys that did not come from a file.
    pub fn reload(&self) -> Result<(), TicketKeyError> {
        let path = self.path.as_deref().ok_or(TicketKeyError::NoFile)?;
        let keys = read(path)?;
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    fn keys(&self) -> Arc<[TicketKey]> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Seals `plaintext` under the first key.
    pub(crate) fn seal(&self, plaintext: &[u8], random: &dyn SecureRandom) -> Option<Vec<u8>> {
        let keys = self.keys();
        let key = keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce).ok()?;
        let mut out = Vec::with_capacity(Self::sealed_len(plaintext.len()));
        out.push(VERSION);
        out.extend(key.id);
        let sealed = key
            .cipher()
            .encrypt(
                &XNonce::from(nonce),
                Payload {
                    msg: plaintext,
                    aad: &out,
                },
            )
            .ok()?;
        out.extend(nonce);
        out.extend(sealed);
        Some(out)
    }

    /// Opens a ticket; `None` when it is not one of this ring's.
    pub(crate) fn open(&self, ticket: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (header, rest) = ticket.split_first_chunk::<HEADER_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (version, id) = header.split_first()?;
        if *version != VERSION {
            return None;
        }
        let keys = self.keys();
        let key = keys.iter().find(|key| key.id == *id)?;
        let payload = Payload {
            msg: sealed,
            aad: header,
        };
        key.cipher()
            .decrypt(&XNonce::from(*nonce), payload)
            .ok()
            .map(Zeroizing::new)
    }

    /// Length of the ticket that seals `plaintext_len` bytes.
    pub(crate) const fn sealed_len(plaintext_len: usize) -> usize {
        HEADER_LEN + NONCE_LEN + plaintext_len + TAG_LEN
    }
}

impl TicketKey {
    fn generate(random: &dyn SecureRandom) -> Result<Self, TicketKeyError> {
        let mut id = [0; KEY_ID_LEN];
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        random.fill(&mut id).map_err(|_| TicketKeyError::Random)?;
        random
            .fill(secret.as_mut())
            .map_err(|_| TicketKeyError::Random)?;
        Ok(Self { id, secret })
    }

    /// Reads one line of a key file.
    fn parse(line: &str) -> Option<Self> {
        let (id_text, secret_text) = line.split_once(' ')?;
        let mut key = Self {
            id: [0; KEY_ID_LEN],
            secret: Zeroizing::new([0; SECRET_LEN]),
        };
        let id = base16ct::mixed::decode(id_text, &mut key.id).ok()?;
        let id_len = id.len();
        let secret = base16ct::mixed::decode(secret_text.trim(), key.secret.as_mut()).ok()?;
        (id_len == KEY_ID_LEN && secret.len() == SECRET_LEN).then_some(key)
    }

    /// The key's line in a key file.
    fn line(&self) -> Zeroizing<String> {
        let mut line = Zeroizing::new(String::with_capacity(2 * (KEY_ID_LEN + SECRET_LEN) + 2));
        let secret = Zeroizing::new(base16ct::lower::encode_string(self.secret.as_ref()));
        let id = base16ct::lower::encode_string(&self.id);
        // Writing to a string cannot fail.
        let _ = writeln!(line, "{id} {}", *secret);
        line
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.secret).into())
    }
}

fn read(path: &Path) -> Result<Arc<[TicketKey]>, TicketKeyError> {
    let io_error = |error| TicketKeyError::io(path, error);
    check_permissions(path).map_err(io_error)?;
    let text = Zeroizing::new(fs::read_to_string(path).map_err(io_error)?);
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        keys.push(
            TicketKey::parse(line).ok_or_else(|| TicketKeyError::BadLine {
                path: path.to_owned(),
                line: index + 1,
            })?,
        );
    }
    if keys.is_empty() {
        return Err(TicketKeyError::NoKeys(path.to_owned()));
    }
    Ok(keys.into())
}

#[cfg(unix)]
fn check_permissions(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    if fs::metadata(path)?.permissions().mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "others than its owner can open it; run chmod 600",
        ))
    }
}

#[cfg(not(unix))]
fn check_permissions(_: &Path) -> io::Result<()> {
    Ok(())
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys")
            .field("keys", &self.keys().len())
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
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
    /// The random source failed.
    #[error("the random source failed")]
    Random,
}

impl TicketKeyError {
    fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}

#[cfg(all(test, feature = "ring"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn random() -> &'static dyn SecureRandom {
        rustls::crypto::ring::default_provider().secure_random
    }

    #[test]
    fn a_rotated_ring_opens_old_tickets_and_seals_with_the_new_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        TicketKeys::create(&path, random()).unwrap();
        let old = TicketKeys::load(&path).unwrap();
        let ticket = old.seal(b"session", random()).unwrap();

        let old_line = fs::read_to_string(&path).unwrap();
        let new = TicketKey::generate(random()).unwrap();
        fs::write(&path, format!("# rotated\n\n{}{old_line}", *new.line())).unwrap();
        let node = TicketKeys::load(&path).unwrap();
        assert_eq!(*node.open(&ticket).unwrap(), b"session");
        let newer = node.seal(b"session", random()).unwrap();
        assert!(old.open(&newer).is_none());
        old.clone().reload().unwrap();
        assert_eq!(*old.open(&newer).unwrap(), b"session");
    }

    #[test]
    fn a_failed_reload_keeps_the_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        TicketKeys::create(&path, random()).unwrap();
        let keys = TicketKeys::load(&path).unwrap();
        let ticket = keys.seal(b"session", random()).unwrap();
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

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        TicketKeys::create(&path, random()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = TicketKeys::load(&path).unwrap_err();
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
    }

    #[test]
    fn an_existing_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        TicketKeys::create(&path, random()).unwrap();
        assert!(TicketKeys::create(&path, random()).is_err());
    }

    proptest! {
        #[test]
        fn a_changed_cut_or_foreign_ticket_does_not_open(
            at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<prop::sample::Index>(),
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let keys = TicketKeys::generate(random()).unwrap();
            let ticket = keys.seal(&[3; 90], random()).unwrap();
            prop_assert_eq!(ticket.len(), TicketKeys::sealed_len(90));
            prop_assert!(keys.open(&ticket).is_some());
            prop_assert!(keys.open(&ticket[..cut.index(ticket.len())]).is_none());
            prop_assert!(keys.open(&noise).is_none());
            let mut changed = ticket;
            let at = at.index(changed.len());
            changed[at] ^= flip;
            prop_assert!(keys.open(&changed).is_none());
        }
    }
}
