//! Lets the reading and the writing task of one stream wait for the same things.
//!
//! Both halves drive handshakes and hand-offs, so either may be the one that polled a socket or a dial last. A wake-up
//! goes to both; it is never lost to the half that did not ask.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use atomic_waker::AtomicWaker;

#[derive(Debug, Default)]
struct Both {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
    }
}

/// The tasks that wait for one stream.
#[derive(Debug)]
pub(super) struct Wakers {
    both: Arc<Both>,
    waker: Waker,
}

impl Wakers {
    pub(super) fn new() -> Self {
        let both = Arc::new(Both::default());
        Self {
            waker: Waker::from(Arc::clone(&both)),
            both,
        }
    }

    /// Wakes both tasks.
    pub(super) fn wake(&self) {
        self.waker.wake_by_ref();
    }

    /// A waker for the task that reads and the task that writes, `cx` being that of the first.
    pub(super) fn reading(&self, cx: &Context<'_>) -> Waker {
        self.both.reader.register(cx.waker());
        self.waker.clone()
    }

    /// A waker for the task that reads and the task that writes, `cx` being that of the second.
    pub(super) fn writing(&self, cx: &Context<'_>) -> Waker {
        self.both.writer.register(cx.waker());
        self.waker.clone()
    }
}
