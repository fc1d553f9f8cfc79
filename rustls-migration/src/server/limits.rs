//! The limits that an operator may set, with their defaults. [`MigrationServerBuilder`] documents all limits in a table.
//!
//! They are kept here and enforced where things happen: most of them in [`crate::tokio`].

use std::time::Duration;

use super::{MigrationServer, MigrationServerBuilder};

/// What a server allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    hello_timeout: Duration,
    handshake_timeout: Duration,
    max_hello_memory: usize,
    max_handshakes: usize,
    nonce_store_timeout: Duration,
    max_nonce_store_requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            max_hello_memory: 64 << 20,
            max_handshakes: 16_384,
            nonce_store_timeout: Duration::from_secs(1),
            max_nonce_store_requests: 1024,
        }
    }
}

impl MigrationServerBuilder {
    /// How long a connection may wait before its handshake begins, by default 30 seconds: for the first byte of the client's
    /// hello, and for a place among [`max_handshakes`](Self::max_handshakes).
    ///
    /// A client that is about to move opens its connection to the target ahead, and says nothing there before the old server
    /// is done. Such connections take no place. This should be longer than a drain gives its clients.
    ///
    /// Past it the connection fails as in [`handshake_timeout`](Self::handshake_timeout). One that said nothing is counted
    /// apart.
    #[must_use]
    pub fn hello_timeout(mut self, timeout: Duration) -> Self {
        self.limits.hello_timeout = timeout;
        self
    }

    /// How long a handshake may take, by default ten seconds, from when the client has begun its hello and it has a place
    /// until it is complete and the token spent: the rest of the hello, the nonce store's answers, and after accepted
    /// early data the rest of the handshake.
    ///
    /// Past it the connection fails with `TimedOut` and a [`HandshakeTimeout`](crate::tokio::HandshakeTimeout), and is
    /// counted. What has come by then counts first, so an application that reads late does not lose its client.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.limits.handshake_timeout = timeout;
        self
    }

    /// How many handshakes of one acceptor and its clones may be under way at once, by default 16,384. More of them wait for
    /// their turn, in the order of their arrival, within the [`hello_timeout`](Self::hello_timeout).
    ///
    /// A client that has said nothing takes no place. One that stops in the middle does, so a low limit makes it easy to keep
    /// others out.
    #[must_use]
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.limits.max_handshakes = handshakes;
        self
    }

    /// How much memory the unfinished hellos of one acceptor and its clones may take, in bytes, by default 64 MiB, beyond
    /// 16 KiB for each. Only hellos of more than 4 KiB ask for it, and wait for their turn while their handshake's time runs. A hello
    /// of the largest size takes 200 KiB, so with less than that in all it is dropped when its time is over.
    #[must_use]
    pub fn max_hello_memory(mut self, bytes: usize) -> Self {
        self.limits.max_hello_memory = bytes;
        self
    }

    /// How long the nonce store may take for one answer, by default one second.
    ///
    /// Past it, or when the store has answered nobody for as long, the client lands by a full handshake. A store that is only
    /// slow is waited for, and asked again when it fails, within the time for the handshake.
    #[must_use]
    pub fn nonce_store_timeout(mut self, timeout: Duration) -> Self {
        self.limits.nonce_store_timeout = timeout;
        self
    }

    /// How many claims of one acceptor and its clones may be before the nonce store at once, and how many commits, by
    /// default 1,024 of each. More of them wait for their turn.
    #[must_use]
    pub fn max_nonce_store_requests(mut self, questions: usize) -> Self {
        self.limits.max_nonce_store_requests = questions;
        self
    }
}

impl MigrationServer {
    /// How long a connection may wait before its handshake begins.
    pub fn hello_timeout(&self) -> Duration {
        self.limits.hello_timeout
    }

    /// How much memory unfinished hellos may take, in bytes.
    pub fn max_hello_memory(&self) -> usize {
        self.limits.max_hello_memory
    }

    /// How long a handshake may take.
    pub fn handshake_timeout(&self) -> Duration {
        self.limits.handshake_timeout
    }

    /// How many handshakes may be under way at once.
    pub fn max_handshakes(&self) -> usize {
        self.limits.max_handshakes
    }

    /// How long the nonce store may take for one answer.
    pub fn nonce_store_timeout(&self) -> Duration {
        self.limits.nonce_store_timeout
    }

    /// How many questions to the nonce store may be under way at once.
    pub fn max_nonce_store_requests(&self) -> usize {
        self.limits.max_nonce_store_requests
    }
}
