//! Tells a dead server from one that has nothing to say: a KeyUpdate with update_requested, which every TLS 1.3 peer answers (RFC 8446
//! section 4.6.3).
//!
//! It asks only while a stream could recover, and not for ever: TLS stacks take no more than 32 KeyUpdates with no data between them.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::Account;
use crate::connection::Connection as _;
use crate::tokio::client::dialer::ClientConn;
use crate::tokio::client::idle_timeout::IdleTimeout;

/// How often a server is asked with no data between, in either direction.
const MAX_ASKED: u8 = 24;

/// How often more, when something has been written that it may answer: a stream on which nothing was said for long may have used up
/// what there is, and is of use again.
const RESERVE: u8 = 6;

/// When a server is asked whether it lives, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(in crate::tokio::client) struct ProbeTimes {
    pub(in crate::tokio::client) after: Duration,
    pub(in crate::tokio::client) within: Duration,
}

/// Watches one stream's servers.
#[derive(Debug)]
pub(in crate::tokio::client) struct Probe {
    times: ProbeTimes,
    state: State,
    /// How many bytes had been written and read when the server was asked last.
    seen: (u64, u64),
    /// How often it was asked since either changed.
    asked: (u8, u8),
}

#[derive(Debug)]
enum State {
    /// The server has said something, and may be silent for a while.
    Quiet(IdleTimeout),
    /// It has been asked.
    Asked(IdleTimeout),
}

impl Probe {
    pub(in crate::tokio::client) fn new(times: ProbeTimes) -> Self {
        Self {
            times,
            state: State::Quiet(IdleTimeout::new(times.after)),
            seen: (0, 0),
            asked: (0, 0),
        }
    }

    /// The server has said something.
    pub(in crate::tokio::client) fn reset(&mut self) {
        match &mut self.state {
            State::Quiet(quiet) => quiet.reset(),
            State::Asked(_) => self.state = State::Quiet(IdleTimeout::new(self.times.after)),
        }
    }

    /// Ready when the server has not answered in its time.
    pub(super) fn poll_dead(
        &mut self,
        cx: &mut Context<'_>,
        conn: &mut ClientConn,
        account: &Account,
    ) -> Poll<()> {
        loop {
            match &mut self.state {
                State::Quiet(quiet) => {
                    ready!(quiet.poll_elapsed(cx));
                    if !self.may_ask(account.moved()) || ask(cx, conn).is_err() {
                        // Something may be written meanwhile.
                        self.reset();
                        continue;
                    }
                    self.state = State::Asked(IdleTimeout::new(self.times.within));
                }
                State::Asked(answer) => return answer.poll_elapsed(cx),
            }
        }
    }

    fn may_ask(&mut self, moved: (u64, u64)) -> bool {
        let mut most = MAX_ASKED;
        if self.seen.0 != moved.0 {
            self.asked.0 = 0;
            most += RESERVE;
        }
        if self.seen.1 != moved.1 {
            self.asked.1 = 0;
        }
        self.seen = moved;
        let may_ask = self.asked.0 < MAX_ASKED && self.asked.1 < most;
        if may_ask {
            self.asked.0 += 1;
            self.asked.1 += 1;
        }
        may_ask
    }
}

fn ask(cx: &mut Context<'_>, conn: &mut ClientConn) -> io::Result<()> {
    let asked = conn.connection_mut().refresh_traffic_keys();
    asked.map_err(io::Error::other)?;
    conn.write_in_passing(cx);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_stream_is_asked_so_often_and_again_when_data_has_gone() {
        let (after, within) = (Duration::from_secs(1), Duration::from_secs(1));
        let mut probe = Probe::new(ProbeTimes { after, within });
        assert!((0..24).all(|_| probe.may_ask((7, 7))));
        assert!(!probe.may_ask((7, 7)));
        // Something was written each time, and nothing has come.
        assert!((8..14).all(|written| probe.may_ask((written, 7))));
        assert!(
            !probe.may_ask((14, 7)),
            "the client's count of them goes on"
        );
        assert!(probe.may_ask((14, 9)));
    }
}
