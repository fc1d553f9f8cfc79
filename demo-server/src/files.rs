//! The files that a node serves: those below its root.
//!
//! Nothing outside the root is ever opened, by whatever path or link.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::protocol::Header;

/// The files below one folder.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
    /// Digests of files that were served, so that going on elsewhere in a file does not read all of it again.
    digests: Mutex<HashMap<PathBuf, (Version, String)>>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    len: u64,
    modified: Option<SystemTime>,
}

/// A file, at the offset that was asked for.
#[derive(Debug)]
pub struct Opened {
    /// What the client is told.
    pub header: Header,
    /// The file; the next byte read is the one at the offset.
    pub file: File,
}

/// Why there is no file to send.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The path leads nowhere, to something else than a file, or out of the root. Which, a client is not told.
    #[error("no such file")]
    NotFound,
    /// The offset lies behind the file's end.
    #[error("the offset is behind the end of the file")]
    Offset,
    /// The file cannot be read.
    #[error("the file cannot be read")]
    Io(#[from] io::Error),
}

impl Files {
    /// Serves what is below `root`.
    ///
    /// # Errors
    ///
    /// That of opening it; `NotADirectory`.
    pub fn below(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        if !root.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self {
            root,
            digests: Mutex::default(),
        })
    }

    /// Opens the file at `path` below the root, at `offset`.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub async fn open(&self, path: &str, offset: u64) -> Result<Opened, FileError> {
        let path = self.locate(path).await?;
        let mut file = File::open(&path).await?;
        let version = Version::of(&file.metadata().await?);
        if offset > version.len {
            return Err(FileError::Offset);
        }
        let sha256 = match self.known_digest(&path, version) {
            Some(sha256) => sha256,
            None => {
                let sha256 = digest(&mut file).await?;
                self.lock().insert(path, (version, sha256.clone()));
                sha256
            }
        };
        file.seek(io::SeekFrom::Start(offset)).await?;
        let size = version.len;
        Ok(Opened {
            header: Header { size, sha256 },
            file,
        })
    }

    /// Where the file at `path` below the root is, links followed.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub async fn locate(&self, path: &str) -> Result<PathBuf, FileError> {
        let path = self.resolve(path).await?;
        // Opening something else than a file might wait for ever.
        match tokio::fs::metadata(&path).await?.is_file() {
            true => Ok(path),
            false => Err(FileError::NotFound),
        }
    }

    /// The names of the files in the root itself, in order.
    ///
    /// # Errors
    ///
    /// Those of reading the folder.
    pub async fn names(&self) -> io::Result<Vec<String>> {
        let mut entries = tokio::fs::read_dir(&self.root).await?;
        let mut names = Vec::new();
        while let Some(entry) = entries.next_entry().await? {
            // A name that is no text cannot be asked for.
            if let Ok(name) = entry.file_name().into_string()
                && self.locate(&name).await.is_ok()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Where `path` leads, links followed, if that is below the root.
    async fn resolve(&self, path: &str) -> Result<PathBuf, FileError> {
        let path = Path::new(path.trim_start_matches('/'));
        let plain = |component| matches!(component, Component::Normal(_));
        if !path.components().all(plain) {
            return Err(FileError::NotFound);
        }
        let path = tokio::fs::canonicalize(self.root.join(path))
            .await
            .map_err(|_| FileError::NotFound)?;
        match path.starts_with(&self.root) {
            true => Ok(path),
            false => Err(FileError::NotFound),
        }
    }

    fn known_digest(&self, path: &Path, version: Version) -> Option<String> {
        let digests = self.lock();
        let (of, sha256) = digests.get(path)?;
        (*of == version).then(|| sha256.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Version, String)>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            len: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

async fn digest(file: &mut File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; 256 * 1024];
    loop {
        let len = file.read(&mut buf).await?;
        if len == 0 {
            return Ok(base16ct::lower::encode_string(&hash.finalize()));
        }
        hash.update(buf.get(..len).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        std::fs::write(root.join("sub/a file"), "abc").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        let files = Files::below(&root).unwrap();
        (folder, files)
    }

    #[tokio::test]
    async fn a_file_is_opened_at_its_offset_with_the_digest_of_the_whole() {
        let (_folder, files) = root();
        for path in ["sub/a file", "/sub/a file"] {
            let mut opened = files.open(path, 1).await.unwrap();
            let mut rest = String::new();
            opened.file.read_to_string(&mut rest).await.unwrap();
            assert_eq!((rest.as_str(), opened.header.size), ("bc", 3));
            let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
            assert_eq!(opened.header.sha256, sha256);
        }
    }

    #[tokio::test]
    async fn nothing_outside_the_root_is_opened() {
        let (folder, files) = root();
        let absolute = folder.path().join("secret");
        let inside = format!("sub/../../{}", "secret");
        for path in [
            "../secret",
            "/../secret",
            "sub/../../secret",
            "link",
            "",
            "/",
            "sub",
            ".",
            "..",
            "nothing",
            "a\0b",
            &inside,
            absolute.to_str().unwrap(),
        ] {
            let refused = files.open(path, 0).await.unwrap_err();
            assert!(matches!(refused, FileError::NotFound), "{path:?}");
        }
    }

    #[tokio::test]
    async fn an_offset_behind_the_end_is_refused() {
        let (_folder, files) = root();
        assert!(files.open("sub/a file", 3).await.is_ok());
        let refused = files.open("sub/a file", 4).await.unwrap_err();
        assert!(matches!(refused, FileError::Offset));
    }

    #[tokio::test]
    async fn a_changed_file_gets_a_new_digest() {
        let (folder, files) = root();
        let first = files.open("sub/a file", 0).await.unwrap();
        std::fs::write(folder.path().join("root/sub/a file"), "abcd").unwrap();
        let second = files.open("sub/a file", 0).await.unwrap();
        assert_ne!(first.header, second.header);
    }
}
