//! The client's application: one task that reads, and one that writes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use migration_token::BoxFuture;
use rustls_migration::tokio::{Dial, Event, Events, HandOffError, MigrationStream, Transport};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::wire::{End, Wire};
use super::{Choice, Woken};

/// How the client's reading has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ended {
    Cleanly,
    /// The server was lost, and nothing more is known.
    Lost,
    SourceLost,
    TargetLost,
    NotRecovered,
    NotFollowed,
    Otherwise,
}

impl Ended {
    fn of(error: &io::Error) -> Self {
        let inside = error.get_ref().and_then(|inside| inside.downcast_ref());
        match inside {
            Some(HandOffError::SourceLost(_)) => Self::SourceLost,
            Some(HandOffError::TargetLost { .. }) => Self::TargetLost,
            Some(HandOffError::NotRecovered { .. }) => Self::NotRecovered,
            Some(HandOffError::NotFollowed(_)) => Self::NotFollowed,
            Some(_) => Self::Otherwise,
            None => match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::TimedOut => Self::Lost,
                _ => Self::Otherwise,
            },
        }
    }
}

/// What the writing task is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Doing {
    Nothing,
    Writing,
    Flushing,
    Closing,
    /// An error has ended it, or it has closed its side.
    Done,
}

#[derive(Debug)]
pub(super) struct Client {
    stream: MigrationStream,
    events: Events,
    /// How many bytes its stream has taken.
    pub(super) written: u8,
    /// How many bytes it has read of each conversation (`State::tag`).
    pub(super) read: [u8; 16],
    /// Which of them it reads.
    pub(super) reads: u8,
    /// It has just gone over to the target that is ready, with so many bytes written.
    pub(super) switched: Option<u8>,
    /// How the source ended that it has outlived.
    pub(super) outlived: Option<Ended>,
    pub(super) ended: Option<Ended>,
    pub(super) doing: Doing,
    /// It has said that it has no more to say.
    pub(super) closed: bool,
    reader: Arc<Woken>,
    writer: Arc<Woken>,
}

impl Client {
    pub(super) fn new(stream: MigrationStream) -> Self {
        Self {
            events: stream.events(),
            stream,
            written: 0,
            read: [0; 16],
            reads: 0,
            switched: None,
            outlived: None,
            ended: None,
            doing: Doing::Nothing,
            closed: false,
            reader: Woken::new(),
            writer: Woken::new(),
        }
    }

    /// Where its stream stands.
    pub(super) fn phase(&self) -> String {
        let shown = format!("{:?}", self.stream);
        let phase = shown.split("phase: ").nth(1).unwrap_or_default();
        phase.trim_end_matches([',', ' ', '.', '}']).to_owned()
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.events.try_next()
    }

    pub(super) fn may_read(&self) -> bool {
        self.ended.is_none() && self.reader.get()
    }

    pub(super) fn may_go_on(&self) -> bool {
        !matches!(self.doing, Doing::Nothing | Doing::Done) && self.writer.get()
    }

    /// Whether it waits for something.
    pub(super) fn waits(&self) -> bool {
        self.ended.is_none() || !matches!(self.doing, Doing::Nothing | Doing::Done)
    }

    /// What it waits for, and whether it has been woken.
    pub(super) fn tasks(&self) -> (Option<Ended>, bool, Doing, bool) {
        (self.ended, self.may_read(), self.doing, self.may_go_on())
    }

    /// Makes a choice that is the client's: polls its stream once. `true` when the task goes on at once.
    pub(super) fn choose(&mut self, choice: Choice) -> Result<bool, String> {
        match choice {
            Choice::Read => {
                self.read()?;
                return Ok(self.may_read());
            }
            Choice::Switch => {
                self.switch();
                return Ok(false);
            }
            Choice::Write if self.doing == Doing::Nothing => self.doing = Doing::Writing,
            Choice::Close => {
                self.closed = true;
                self.doing = Doing::Closing;
            }
            _ => {}
        }
        Ok(self.write())
    }

    fn read(&mut self) -> Result<(), String> {
        let waker = Waker::from(Arc::clone(&self.reader));
        self.reader.set(false);
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        let read = Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(&waker), &mut buf);
        match (read, buf.filled()) {
            (Poll::Pending, _) => {}
            (Poll::Ready(Ok(())), [byte]) => {
                let (reads, at) = (byte >> 4, byte & 0xf);
                let read = &mut self.read[usize::from(reads)];
                if reads < self.reads || at != *read {
                    return Err(format!("the client read {byte:#x} at {:?}", self.read));
                }
                *read += 1;
                self.reads = reads;
                self.reader.set(true);
            }
            (Poll::Ready(Ok(())), _) => self.ends(Ended::Cleanly),
            (Poll::Ready(Err(error)), _) => self.ends(Ended::of(&error)),
        }
        Ok(())
    }

    /// Its source has ended. When a target is ready it goes on there.
    fn ends(&mut self, ended: Ended) {
        if self.phase() == "outlived" && self.switch() {
            self.outlived = Some(ended);
            self.reader.set(true);
        } else {
            self.ended = Some(ended);
        }
    }

    fn switch(&mut self) -> bool {
        let switched = self.stream.switch().is_ok();
        if switched {
            self.switched = Some(self.written);
        }
        switched
    }

    /// Goes on with what it writes. `true` when there is more to do at once.
    fn write(&mut self) -> bool {
        let waker = Waker::from(Arc::clone(&self.writer));
        let cx = &mut Context::from_waker(&waker);
        self.writer.set(false);
        let stream = Pin::new(&mut self.stream);
        let done = match self.doing {
            Doing::Writing => stream.poll_write(cx, &[self.written]).map_ok(|_| {
                self.written += 1;
                Doing::Flushing
            }),
            Doing::Flushing => stream.poll_flush(cx).map_ok(|()| Doing::Nothing),
            Doing::Closing => stream.poll_shutdown(cx).map_ok(|()| Doing::Done),
            Doing::Nothing | Doing::Done => return false,
        };
        let Poll::Ready(done) = done else {
            return false;
        };
        self.doing = done.unwrap_or(Doing::Done);
        self.doing == Doing::Flushing
    }
}

/// What the client dials: each connection is to be taken to its node.
#[derive(Clone, Debug, Default)]
pub(super) struct Dialled(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    dead: Vec<SocketAddr>,
    new: Vec<(SocketAddr, Wire, End)>,
}

impl Dialled {
    /// Nobody is at this address any more.
    pub(super) fn bury(&self, address: SocketAddr) {
        self.0.lock().unwrap().dead.push(address);
    }

    pub(super) fn take(&self) -> Vec<(SocketAddr, Wire, End)> {
        std::mem::take(&mut self.0.lock().unwrap().new)
    }
}

impl Dial for Dialled {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let mut inner = self.0.lock().unwrap();
            if inner.dead.contains(&address) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let wire = Wire::default();
            let (client, node) = wire.ends();
            inner.new.push((address, wire, node));
            let client: Box<dyn Transport> = Box::new(client);
            Ok(client)
        })
    }
}
