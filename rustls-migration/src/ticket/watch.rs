//! Reloads ticket keys by itself when their file changes, as secrets that a container is given do.
//!
//! What a folder tells is only a hint: whether there are other keys, the file says.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::TicketKeys;
use super::key_file::TicketKeyError;

/// For how long the folder must be quiet before the file is read: whoever writes it may need several steps.
const QUIET: Duration = Duration::from_millis(50);

/// Reloads ticket keys for as long as it lives. See [`TicketKeys::watch`].
#[derive(Debug)]
pub struct TicketKeyWatcher {
    /// Its end is the thread's end.
    _folders: RecommendedWatcher,
}

impl TicketKeys {
    /// [Reloads](Self::reload) the keys whenever their file changes, and tells `reloaded` what came of it.
    ///
    /// The file may be written, replaced, or be behind symbolic links that are replaced, as a Kubernetes secret is. A file that
    /// cannot be read leaves the keys as they were, and is read again when it next changes. Files on network file systems
    /// that others change are not seen; call `reload` for these.
    ///
    /// `reloaded` runs on a thread of its own, which ends when the watcher is dropped.
    ///
    /// # Errors
    ///
    /// As [`reload`](Self::reload), which is done once; [`TicketKeyError::Io`] also when the system does not let the file's
    /// folder be watched.
    ///
    /// # Example
    ///
    /// ```no_run
    /// # use rustls_migration::TicketKeys;
    /// let keys = TicketKeys::load("/run/secrets/migration/keys")?;
    /// let watcher = keys.watch(|reloaded| match reloaded {
    ///     Ok(()) => tracing::info!("ticket keys reloaded"),
    ///     Err(error) => tracing::warn!(%error, "ticket keys stay as they were"),
    /// })?;
    /// # drop(watcher);
    /// # Ok::<(), rustls_migration::TicketKeyError>(())
    /// ```
    pub fn watch(
        &self,
        reloaded: impl FnMut(Result<(), TicketKeyError>) + Send + 'static,
    ) -> Result<TicketKeyWatcher, TicketKeyError> {
        let path = self.path().ok_or(TicketKeyError::NoFile)?;
        let failed = |error| TicketKeyError::io(path, io::Error::other(error));
        let (changed, changes) = channel();
        let mut watcher = notify::recommended_watcher(tell(changed)).map_err(failed)?;
        for folder in folders(path) {
            let watched = watcher.watch(&folder, RecursiveMode::NonRecursive);
            watched.map_err(failed)?;
        }
        let keys = self.clone();
        thread::spawn(move || follow(&keys, &changes, reloaded));
        // What changed before the folders were watched.
        self.reload()?;
        Ok(TicketKeyWatcher { _folders: watcher })
    }
}

/// Passes on that something has changed.
fn tell(changed: Sender<()>) -> impl FnMut(notify::Result<Event>) + Send + 'static {
    move |event| {
        let only_read = event.is_ok_and(|event| event.kind.is_access());
        if !only_read {
            // The thread may have ended, with the program.
            let _ = changed.send(());
        }
    }
}

/// The folders in which a name is replaced when the file becomes another: its own, and those of each link on the way to it.
fn folders(path: &Path) -> Vec<PathBuf> {
    let folder_of = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folders = vec![folder_of(path)];
    let mut at = path.to_owned();
    while let Ok(target) = std::fs::read_link(&at) {
        at = folder_of(&at).join(target);
        let folder = folder_of(&at);
        if folders.contains(&folder) {
            break;
        }
        folders.push(folder);
    }
    folders
}

/// Reloads after each change, until the watcher is gone.
fn follow(
    keys: &TicketKeys,
    changes: &Receiver<()>,
    mut reloaded: impl FnMut(Result<(), TicketKeyError>),
) {
    while changes.recv().is_ok() {
        loop {
            match changes.recv_timeout(QUIET) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        reloaded(keys.reload());
    }
}

#[cfg(test)]
#[cfg(all(unix, feature = "ring"))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::ticket::keys::Seal;
    use crate::ticket::keys::tests::{ids, random};

    /// A folder as Kubernetes mounts a secret: all that is in it is replaced at once, by the rename of a link.
    struct Mounted(tempfile::TempDir);

    impl Mounted {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let first = folder.path().join("..0");
            fs::create_dir(&first).unwrap();
            TicketKeys::create(&first.join("keys"), random()).unwrap();
            symlink("..0", folder.path().join("..data")).unwrap();
            symlink("..data/keys", folder.path().join("keys")).unwrap();
            Self(folder)
        }

        fn keys(&self) -> PathBuf {
            self.0.path().join("keys")
        }

        /// Replaces what is mounted by version `nth`, in which the file has been changed by `change`.
        fn swap(&self, nth: usize, change: impl FnOnce(&Path)) {
            let folder = self.0.path();
            let [version, link] = [format!("..{nth}"), "..data_tmp".to_owned()];
            fs::create_dir(folder.join(&version)).unwrap();
            let file = folder.join(&version).join("keys");
            fs::copy(self.keys(), &file).unwrap();
            change(&file);
            symlink(&version, folder.join(&link)).unwrap();
            fs::rename(folder.join(link), folder.join("..data")).unwrap();
            fs::remove_dir_all(folder.join(format!("..{}", nth - 1))).unwrap();
        }
    }

    fn rotate(path: &Path) {
        TicketKeys::rotate(path, 1, random()).unwrap();
    }

    fn watched(path: &Path) -> (TicketKeys, TicketKeyWatcher, Receiver<bool>) {
        let keys = TicketKeys::load(path).unwrap();
        let (told, reloads) = channel();
        let watcher = keys.watch(move |reloaded| told.send(reloaded.is_ok()).unwrap());
        (keys, watcher.unwrap(), reloads)
    }

    /// Waits for reloads until `done`: a change may be seen in parts, and so read more than once.
    fn until(reloads: &Receiver<bool>, mut done: impl FnMut(bool) -> bool) {
        while !done(reloads.recv().unwrap()) {}
    }

    #[test]
    fn a_secret_that_is_mounted_anew_is_read_however_often_and_a_broken_one_changes_nothing() {
        let mounted = Mounted::new();
        let (keys, watcher, reloads) = watched(&mounted.keys());
        for nth in 1..4 {
            let next = ids(&keys)[1];
            mounted.swap(nth, rotate);
            until(&reloads, |_| ids(&keys)[0] == next);
        }
        let before = ids(&keys);
        let good = fs::read(mounted.keys()).unwrap();
        mounted.swap(4, |file| fs::write(file, "no key\n").unwrap());
        until(&reloads, |reloaded| !reloaded);
        assert_eq!(ids(&keys), before);
        mounted.swap(5, |file| fs::write(file, good).unwrap());
        until(&reloads, |reloaded| reloaded);
        drop(watcher);
        assert_eq!(reloads.iter().find(|reloaded| !reloaded), None);
    }

    #[test]
    fn a_plain_file_is_read_when_it_is_replaced_or_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        TicketKeys::create(&path, random()).unwrap();
        let (keys, _watcher, reloads) = watched(&path);
        let next = ids(&keys)[1];
        rotate(&path);
        until(&reloads, |_| ids(&keys)[0] == next);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.lines().next().unwrap()).unwrap();
        until(&reloads, |_| ids(&keys) == [next]);
    }

    #[test]
    fn while_keys_are_swapped_each_node_opens_what_any_other_seals() {
        let mounted = Mounted::new();
        let nodes: Vec<_> = (0..2).map(|_| watched(&mounted.keys())).collect();
        for nth in 1..5 {
            let next = ids(&nodes[0].0)[1];
            mounted.swap(nth, rotate);
            let mut all_swapped = false;
            while !all_swapped {
                all_swapped = nodes.iter().all(|(keys, ..)| ids(keys)[0] == next);
                for (keys, ..) in &nodes {
                    let ticket = keys.seal(b"", Seal::Offer, random()).unwrap();
                    let opens = nodes.iter().all(|(node, ..)| node.open(&ticket).is_some());
                    assert!(opens, "swap {nth}");
                }
            }
        }
    }

    #[test]
    fn keys_without_a_file_are_not_watched() {
        let keys = TicketKeys::generate(random()).unwrap();
        assert!(matches!(keys.watch(|_| {}), Err(TicketKeyError::NoFile)));
    }
}
