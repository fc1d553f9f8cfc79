//! The limits that an operator may set, with their defaults. [`MigrationServerBuilder`] documents all limits in a table.
//!
//! They are kept here and enforced where things happen: most of them in [`crate::tokio`].

use std::time::Duration;

use super::{MigrationServer, MigrationServerBuilder};

/// What a server allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    handshake_timeout: Duration,
    max_handshakes: usize,
    nonce_store_timeout: Duration,
    max_store_questions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 16_384,
            nonce_store_timeout: Duration::from_secs(1),
            max_store_questions: 1024,
        }
    }
}

impl MigrationServerBuilder {
    /// How long a client may take from the moment it is accepted until its handshake is complete and its token spent, by
    /// default ten seconds: waiting for its turn, the hello, the nonce store's answers, and after accepted early data the
    /// rest of the handshake.
    ///
    /// Past it the connection fails with `TimedOut` and a [`HandshakeTimeout`](crate::tokio::HandshakeTimeout), and is
    /// counted. What has come by then counts first, so an application that reads late does not lose its client.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.limits.handshake_timeout = timeout;
        self
    }

    /// How many handshakes of one acceptor and its clones may be under way at once, by default 16,384. More of them wait for
    /// their turn, in the order of their arrival, and their handshake's time runs meanwhile.
    ///
    /// Those of clients that say nothing count too, so a low limit makes it easy to keep others out.
    #[must_use]
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.limits.max_handshakes = handshakes;
        self
    }

    /// How long the nonce store may take for one answer, by default one second. Past it the client lands by a full
    /// handshake.
    #[must_use]
    pub fn nonce_store_timeout(mut self, timeout: Duration) -> Self {
        self.limits.nonce_store_timeout = timeout;
        self
    }

    /// How many questions of one acceptor and its clones to the nonce store may be under way at once, by default 1,024.
    ///
    /// Past it a client that comes with a token lands by a full handshake, at once. One that has been admitted waits for
    /// its turn to spend its token, within the store's timeout and before those that come.
    #[must_use]
    pub fn max_store_questions(mut self, questions: usize) -> Self {
        self.limits.max_store_questions = questions;
        self
    }
}

impl MigrationServer {
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
    pub fn max_store_questions(&self) -> usize {
        self.limits.max_store_questions
    }
}
