//! Lets everybody who drives one stream wait for the same things.
//!
//! Both halves of a stream drive handshakes and hand-offs, and so does its keeper, so any of them may be the one that
//! polled a socket or a timer last. A wake-up goes to all; it is never lost to the one that did not ask.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use atomic_waker::AtomicWaker;

/// Who drives a stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Party {
    /// The task that reads.
    Reader,
    /// The task that writes, or waits for something else than reading.
    Writer,
    /// The stream's own task, which sees to deadlines and orders.
    Keeper,
}

#[derive(Debug, Default)]
struct All {
    reader: AtomicWaker,
    writer: AtomicWaker,
    keeper: AtomicWaker,
}

impl Wake for All {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
        self.keeper.wake();
    }
}

/// The tasks that wait for one stream.
#[derive(Debug)]
pub(super) struct Wakers {
    all: Arc<All>,
    waker: Waker,
}

impl Wakers {
    pub(super) fn new() -> Self {
        let all = Arc::new(All::default());
        Self {
            waker: Waker::from(Arc::clone(&all)),
            all,
        }
    }

    /// Wakes all of them.
    pub(super) fn wake(&self) {
        self.waker.wake_by_ref();
    }

    /// A waker for all, after `cx` has been registered as the task of `party`.
    pub(super) fn register(&self, party: Party, cx: &Context<'_>) -> Waker {
        let own = match party {
            Party::Reader => &self.all.reader,
            Party::Writer => &self.all.writer,
            Party::Keeper => &self.all.keeper,
        };
        own.register(cx.waker());
        self.waker.clone()
    }
}
