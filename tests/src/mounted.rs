//! A folder with a secret as Kubernetes mounts one: what is seen in it is replaced at once, by the rename of a symbolic link.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Ticket keys that are mounted.
pub struct MountedKeys {
    folder: TempDir,
    versions: usize,
}

impl MountedKeys {
    /// With what `write` puts at the path that it gets.
    pub fn new(write: impl FnOnce(&Path)) -> Self {
        let mut mounted = Self {
            folder: tempfile::tempdir().unwrap(),
            versions: 0,
        };
        symlink("..data/keys", mounted.path()).unwrap();
        mounted.replace(write);
        mounted
    }

    /// Where the nodes find the keys.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    /// Replaces them by what `write` puts at the path that it gets. The former version is gone when this returns.
    pub fn replace(&mut self, write: impl FnOnce(&Path)) {
        let at = |name: &str| self.folder.path().join(name);
        let (old, new) = (self.versions, self.versions + 1);
        let name = format!("..version{new}");
        fs::create_dir(at(&name)).unwrap();
        write(&at(&name).join("keys"));
        symlink(&name, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        if old > 0 {
            fs::remove_dir_all(at(&format!("..version{old}"))).unwrap();
        }
        self.versions = new;
    }
}
