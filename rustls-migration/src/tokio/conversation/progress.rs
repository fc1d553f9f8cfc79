//! How far one direction of a request is, as compared with where it was at another server.

/// Counts bytes from where a request began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// How many bytes are done here, those that were left out among them.
    done: u64,
    /// How many bytes that come next were done elsewhere.
    ahead: u64,
}

impl Progress {
    /// At the beginning, where so many bytes were done elsewhere.
    pub(super) fn after(ahead: u64) -> Self {
        Self { done: 0, ahead }
    }

    pub(super) fn ahead(self) -> u64 {
        self.ahead
    }

    /// How many bytes are done, here and elsewhere.
    pub(super) fn total(self) -> u64 {
        self.done.saturating_add(self.ahead)
    }

    /// Leaves out what was done elsewhere of the next `len` bytes. Returns how many these are.
    pub(super) fn skip(&mut self, len: u64) -> u64 {
        let skipped = self.ahead.min(len);
        self.ahead -= skipped;
        self.advance(skipped);
        skipped
    }

    /// So many bytes more are done.
    pub(super) fn advance(&mut self, len: u64) {
        self.done = self.done.saturating_add(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_elsewhere_is_left_out_once() {
        let mut progress = Progress::after(10);
        assert_eq!((progress.skip(4), progress.total()), (4, 10));
        assert_eq!((progress.skip(100), progress.ahead()), (6, 0));
        progress.advance(94);
        assert_eq!((progress.skip(100), progress.total()), (0, 104));
    }
}
