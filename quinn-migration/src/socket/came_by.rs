//! Which path a packet came by, for the hook that sees it later: quinn is shown one path.
//!
//! A packet is known by its AEAD tag. Never keeps more than the last few of the paths that somebody asks for.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use quinn::udp::RecvMeta;

use super::PathId;

/// Length of the AEAD tag of all QUIC cipher suites (RFC 9001 section 5.3), in bytes.
pub(crate) const TAG: usize = 16;
/// Packets that are remembered: more than what waits between the socket and the hook.
const LIMIT: usize = 512;

pub(crate) type Tag = [u8; TAG];

#[derive(Debug, Default)]
pub(super) struct CameBy {
    inner: Mutex<Inner>,
    /// Saves a look while nobody asks.
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    /// By how many connections each path is watched.
    watched: HashMap<PathId, usize>,
    recent: VecDeque<(Tag, PathId)>,
}

impl CameBy {
    pub(super) fn watch(&self, path: PathId) {
        let mut inner = self.inner.lock();
        *inner.watched.entry(path).or_default() += 1;
        self.any.store(true, Ordering::Release);
    }

    pub(super) fn unwatch(&self, path: PathId) {
        let mut inner = self.inner.lock();
        if let Some(count) = inner.watched.get_mut(&path) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                inner.watched.remove(&path);
            }
        }
        if inner.watched.is_empty() {
            inner.recent = VecDeque::new();
            self.any.store(false, Ordering::Release);
        }
    }

    /// A buffer with one datagram or more came by a path.
    pub(super) fn note(&self, path: PathId, buffer: &[u8], meta: &RecvMeta) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut inner = self.inner.lock();
        if !inner.watched.contains_key(&path) {
            return;
        }
        let received = buffer.get(..meta.len).unwrap_or_default();
        for datagram in received.chunks(meta.stride.max(1)) {
            if let Some(tag) = datagram.last_chunk() {
                if inner.recent.len() >= LIMIT {
                    inner.recent.pop_front();
                }
                inner.recent.push_back((*tag, path));
            }
        }
    }

    /// The path that a packet with this tag came by, when that is watched.
    pub(super) fn path(&self, tag: &Tag) -> Option<PathId> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let inner = self.inner.lock();
        let mut recent = inner.recent.iter().rev();
        recent.find_map(|(known, path)| (known == tag).then_some(*path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_on_a_watched_path_is_known_by_its_end() {
        let came = CameBy::default();
        let (one, other) = (PathId(1), PathId(2));
        let meta = |len, stride| RecvMeta {
            len,
            stride,
            ..RecvMeta::default()
        };
        came.note(one, &[1; 20], &meta(20, 20));
        assert_eq!(came.path(&[1; TAG]), None, "nobody asks");
        came.watch(one);
        came.watch(one);
        let batch = [[3; 30], [4; 30], [5; 30]].concat();
        came.note(one, &batch, &meta(80, 30));
        came.note(other, &[6; 20], &meta(20, 20));
        came.note(one, &[7; 9], &meta(9, 9));
        let path = |byte| came.path(&[byte; TAG]);
        assert_eq!([path(3), path(4), path(5)], [Some(one); 3]);
        assert_eq!(path(6), None, "that path is not watched");
        came.unwatch(one);
        assert_eq!(path(3), Some(one), "another connection asks");
        for _ in 0..LIMIT {
            came.note(one, &[8; 20], &meta(20, 20));
        }
        assert_eq!(path(3), None);
        came.unwatch(one);
        assert!(path(8).is_none() && came.inner.lock().watched.is_empty());
    }
}
