//! A node's application. It keeps its promises: from a state on it writes the same bytes, and what it has read is in the state.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustls_migration::MoveKind;
use rustls_migration::server::Arrival;
use rustls_migration::tokio::TlsStream;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::wire::End;
use super::{Choice, Woken};

/// From where another node can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) received: u8,
    pub(super) sent: u8,
    /// Which node said it, and as which of its states.
    pub(super) node: u8,
    pub(super) number: u8,
    /// Which conversation it belongs to. It begins anew where a client goes over to a target that overlaps.
    pub(super) tag: u8,
}

/// The number of a state that is handed over.
const HANDED_OVER: u8 = 0xff;

/// The number of a state that a client is told to go on with, and may if source and target overlap.
pub(super) const TOLD: u8 = 0xfe;

impl State {
    fn encode(self) -> [u8; 5] {
        [self.received, self.sent, self.node, self.number, self.tag]
    }

    fn decode(state: &[u8]) -> Option<Self> {
        let [received, sent, node, number, tag] = *state else {
            return None;
        };
        Some(Self {
            received,
            sent,
            node,
            number,
            tag,
        })
    }
}

/// How a conversation came to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum From {
    Nowhere,
    HandOver(State),
    Checkpoint(State, u64),
}

impl From {
    pub(super) fn of(arrival: &Arrival) -> Option<Self> {
        match arrival {
            Arrival::Fresh => Some(Self::Nowhere),
            Arrival::Migrated { state, .. } => {
                Some(Self::HandOver(State::decode(state.as_ref()?)?))
            }
            Arrival::Recovered {
                state, received, ..
            } => Some(Self::Checkpoint(State::decode(state)?, *received)),
            _ => None,
        }
    }
}

/// How a conversation ended at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Finish {
    Ended,
    HandedOver(State),
    /// Its stream has failed.
    Failed,
}

/// One conversation at a node.
#[derive(Debug)]
pub(super) struct App {
    pub(super) node: u8,
    pub(super) leg: u8,
    /// Until it has come to its end.
    stream: Option<TlsStream<End>>,
    pub(super) seen: Seen,
    reader: Arc<Woken>,
}

/// What is to be seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    pub(super) from: From,
    /// Of the client's bytes; where they go on, is not known at first where it goes over by itself.
    pub(super) received: Option<u8>,
    pub(super) sent: u8,
    pub(super) tag: u8,
    /// The state that the client was told to go on with.
    pub(super) offered: Option<State>,
    /// How many bytes are discarded that it writes next.
    pub(super) ahead: u64,
    pub(super) checkpoints: u8,
    pub(super) told: Option<MoveKind>,
    /// The client has closed its side.
    pub(super) client_closed: bool,
    pub(super) finish: Option<Finish>,
}

impl App {
    pub(super) fn new(node: u8, leg: u8, stream: TlsStream<End>) -> Option<Self> {
        let from = From::of(stream.arrival())?;
        let (state, ahead) = match from {
            From::Nowhere => (None, 0),
            From::HandOver(state) => (Some(state), 0),
            From::Checkpoint(state, ahead) => (Some(state), ahead),
        };
        // What comes between that state and the change its source has.
        let anew = state.is_some_and(|state| state.number == TOLD);
        Some(Self {
            node,
            leg,
            stream: Some(stream),
            seen: Seen {
                from,
                received: (!anew).then(|| state.map_or(0, |state| state.received)),
                sent: state.filter(|_| !anew).map_or(0, |state| state.sent),
                tag: if anew {
                    leg
                } else {
                    state.map_or(0, |state| state.tag)
                },
                offered: None,
                ahead,
                checkpoints: 0,
                told: None,
                client_closed: false,
                finish: None,
            },
            reader: Woken::new(),
        })
    }

    /// Whether it goes on.
    pub(super) fn is_there(&self) -> bool {
        self.stream.is_some()
    }

    pub(super) fn may_read(&self) -> bool {
        self.is_there() && !self.seen.client_closed && self.reader.get()
    }

    /// Whether the handshake is complete, so that nothing waits for it.
    pub(super) fn may_speak(&self) -> bool {
        let stream = self.stream.as_ref();
        stream.is_some_and(|stream| !stream.get_ref().tls().is_handshaking())
    }

    /// It learns where the client's bytes go on that has gone over to it.
    pub(super) fn goes_on_from(&mut self, written: u8) {
        self.seen.received.get_or_insert(written);
    }

    /// Its node dies.
    pub(super) fn die(&mut self) {
        self.stream = None;
    }

    pub(super) fn state(&self, number: u8) -> State {
        State {
            received: self.seen.received.unwrap_or_default(),
            sent: self.seen.sent,
            node: self.node,
            number,
            tag: self.seen.tag,
        }
    }

    /// Makes a choice that is its own. The next node is at `next`.
    pub(super) fn choose(
        &mut self,
        choice: Choice,
        next: Option<SocketAddr>,
    ) -> Result<(), String> {
        let Some(mut stream) = self.stream.take() else {
            return Ok(());
        };
        let done = match (choice, next) {
            (Choice::NodeRead(_), _) => self.read(&mut stream)?,
            (Choice::NodeWrite(_), _) => self.write(&mut stream),
            (Choice::Checkpoint(_), Some(next)) => {
                let state = self.state(self.seen.checkpoints).encode();
                self.seen.checkpoints += 1;
                at_once(stream.checkpoint(next, &state))
            }
            (Choice::Tell(_), Some(next)) => {
                self.seen.told = Some(MoveKind::Stream);
                let state = self.state(TOLD);
                self.seen.offered = Some(state);
                at_once(stream.migrate_to(next, Some(&state.encode())))
            }
            (Choice::TellSession(_), Some(next)) => {
                self.seen.told = Some(MoveKind::Connection);
                at_once(stream.migrate_to(next, None))
            }
            (Choice::TakeBack(_), Some(next)) => at_once(stream.offer(next, None)),
            (Choice::TakeNumber(_), _) => {
                let number = stream.take_received();
                if number != std::mem::take(&mut self.seen.ahead) {
                    return Err(format!("took {number}: {:?}", self.seen));
                }
                self.seen.sent += u8::try_from(number).unwrap();
                Ok(())
            }
            (Choice::End(_), _) => return self.end(&mut stream),
            _ => Ok(()),
        };
        match done {
            // There can be none now, and the connection goes on.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(_) => {
                self.seen.finish = Some(Finish::Failed);
                return Ok(());
            }
            Ok(()) => {}
        }
        self.stream = Some(stream);
        Ok(())
    }

    fn read(&mut self, stream: &mut TlsStream<End>) -> Result<io::Result<()>, String> {
        let waker = Waker::from(Arc::clone(&self.reader));
        self.reader.set(false);
        let mut bytes = [0; 8];
        let mut buf = ReadBuf::new(&mut bytes);
        let read = Pin::new(stream).poll_read(&mut Context::from_waker(&waker), &mut buf);
        match read {
            Poll::Pending => return Ok(Ok(())),
            Poll::Ready(Err(error)) => return Ok(Err(error)),
            Poll::Ready(Ok(())) => {}
        }
        self.seen.client_closed = buf.filled().is_empty();
        for byte in buf.filled() {
            if Some(*byte) != self.seen.received {
                return Err(format!("a node read {byte}: {:?}", self.seen));
            }
            self.seen.received = Some(byte + 1);
        }
        self.reader.set(true);
        Ok(Ok(()))
    }

    fn write(&mut self, stream: &mut TlsStream<End>) -> io::Result<()> {
        let cx = &mut Context::from_waker(Waker::noop());
        let byte = [self.seen.tag << 4 | self.seen.sent];
        if let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, &byte) {
            written?;
            self.seen.sent += 1;
            self.seen.ahead = self.seen.ahead.saturating_sub(1);
        }
        match Pin::new(stream).poll_flush(cx) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    /// Hands the stream over to a client that was told and has left; else ends it. Its stream is gone then.
    fn end(&mut self, stream: &mut TlsStream<End>) -> Result<(), String> {
        let hands_over = self.seen.client_closed && self.seen.told == Some(MoveKind::Stream);
        let state = self.state(HANDED_OVER);
        if hands_over {
            stream.set_state(&state.encode()).unwrap();
        } else {
            // Its client may have left already. Whoever ends a stream says that it does not go on.
            stream.withdraw_state();
        }
        let cx = &mut Context::from_waker(Waker::noop());
        self.seen.finish = Some(match Pin::new(stream).poll_shutdown(cx) {
            Poll::Pending => return Err(format!("a shutdown waits: {:?}", self.seen)),
            Poll::Ready(Err(_)) => Finish::Failed,
            Poll::Ready(Ok(())) if hands_over => Finish::HandedOver(state),
            Poll::Ready(Ok(())) => Finish::Ended,
        });
        Ok(())
    }
}

/// What nothing holds up. Where something does, it is dropped, and has not been done.
fn at_once(doing: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    match pin!(doing).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => Ok(()),
    }
}
