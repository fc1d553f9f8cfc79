//! Connections in memory on which nothing moves by itself: what was said is delivered when the exploration says so, and is lost where it
//! says so.
//!
//! What is said between two choices is one burst. A connection is cut between bursts, or between records and within one where that is asked for.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Choice, Cut, Label};

/// One connection between the client and a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Wire(Arc<Mutex<Lanes>>);

#[derive(Debug, Default)]
struct Lanes {
    up: Lane,
    down: Lane,
}

/// One direction.
#[derive(Debug, Default)]
struct Lane {
    in_flight: VecDeque<Burst>,
    arrived: VecDeque<Burst>,
    /// What has been read whole since somebody asked.
    read: Vec<Label>,
    /// The sender will say no more: it is in flight or has arrived.
    finished: bool,
    /// How reading ends when all that has arrived was read.
    end: Option<io::ErrorKind>,
    end_seen: bool,
    /// Nothing is taken from the sender any more.
    refuses: Option<io::ErrorKind>,
    /// The reader is gone.
    unread: bool,
    /// It has left something that had arrived.
    left: bool,
    /// Something that was said is lost.
    lost: bool,
    reader: Option<Waker>,
}

#[derive(Debug)]
struct Burst {
    bytes: VecDeque<u8>,
    /// Whether the sender's end follows.
    last: bool,
    /// What it was said for; `None` while it may grow.
    label: Option<Label>,
}

/// The rest of a burst whose beginning has arrived.
const REST: Label = (Choice::Up(0), 0, 0, 0);

/// Half a record.
const TORN: Label = (Choice::Die(0, Cut::Torn), 0, 0, 0);

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Node,
}

/// What is to be seen of one direction: what is in flight, what has arrived and is unread, each with its length, and how it ends.
pub(super) type Sight = (
    Vec<(Option<Label>, usize, bool)>,
    Vec<(Option<Label>, usize, bool)>,
    Option<io::ErrorKind>,
    bool,
);

impl Wire {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.0.lock().unwrap()
    }

    pub(super) fn ends(&self) -> (End, End) {
        let end = |side| End {
            wire: self.clone(),
            side,
        };
        (end(Side::Client), end(Side::Node))
    }

    /// What was said since the last time was said for this.
    pub(super) fn seal(&self, label: Label) {
        let mut lanes = self.lanes();
        let Lanes { up, down } = &mut *lanes;
        for lane in [up, down] {
            if let Some(burst) = lane.in_flight.back_mut() {
                burst.label.get_or_insert(label);
            }
        }
    }

    /// Whether there is something to deliver to this side.
    pub(super) fn is_on_its_way_to(&self, side: Side) -> bool {
        let mut lanes = self.lanes();
        let lane = lanes.to(side);
        !lane.in_flight.is_empty() && !lane.unread
    }

    /// Whether this side has something to read, or has not seen that the other one is gone.
    pub(super) fn has_arrived_at(&self, side: Side) -> bool {
        let mut lanes = self.lanes();
        let lane = lanes.to(side);
        !lane.arrived.is_empty() || (lane.end.is_some() && !lane.end_seen)
    }

    /// Delivers the next burst to this side.
    pub(super) fn deliver_to(&self, side: Side) {
        self.lanes().to(side).deliver();
    }

    /// Delivers the next record to this side.
    pub(super) fn deliver_record_to(&self, side: Side) {
        let mut lanes = self.lanes();
        let lane = lanes.to(side);
        lane.split(|record| record);
        lane.deliver();
    }

    /// The node is gone, with all that is in flight.
    pub(super) fn cut(&self, cut: Cut) {
        let mut lanes = self.lanes();
        lanes.up = Lane {
            refuses: Some(io::ErrorKind::BrokenPipe),
            unread: true,
            ..Lane::default()
        };
        let down = &mut lanes.down;
        match cut {
            Cut::Fin | Cut::Reset => {}
            Cut::Torn => {
                down.split(|record| record / 2);
                if let Some(torn) = down.in_flight.front_mut() {
                    torn.label = Some(TORN);
                }
                down.deliver();
            }
            // The end is the last thing that is in flight.
            Cut::Late => return down.finish(),
        }
        down.lost |= !down.in_flight.is_empty();
        down.in_flight.clear();
        down.finished = true;
        down.end = Some(io::ErrorKind::UnexpectedEof);
        if cut == Cut::Reset {
            down.lost |= !down.arrived.is_empty();
            down.arrived.clear();
            down.end = Some(io::ErrorKind::ConnectionReset);
            down.wake();
            lanes.up.refuses = Some(io::ErrorKind::ConnectionReset);
            return;
        }
        down.wake();
    }

    /// What this side has read whole since it was asked last.
    pub(super) fn take_read(&self, side: Side) -> Vec<Label> {
        std::mem::take(&mut self.lanes().to(side).read)
    }

    /// Whether the client has left something that had arrived.
    pub(super) fn is_left_unread(&self) -> bool {
        self.lanes().down.left
    }

    /// Whether something was lost that was said to the client.
    pub(super) fn has_lost(&self) -> bool {
        self.lanes().down.lost
    }

    /// Whether the client has kept its end.
    pub(super) fn is_held(&self) -> bool {
        !self.lanes().down.unread
    }

    pub(super) fn sight(&self, side: Side) -> Sight {
        let mut lanes = self.lanes();
        let lane = lanes.to(side);
        let see = |bursts: &VecDeque<Burst>| {
            let bursts = bursts.iter();
            bursts
                .map(|burst| (burst.label, burst.bytes.len(), burst.last))
                .collect()
        };
        let in_flight = see(&lane.in_flight);
        (in_flight, see(&lane.arrived), lane.end, lane.unread)
    }
}

impl Lanes {
    /// The direction that this side reads.
    fn to(&mut self, side: Side) -> &mut Lane {
        match side {
            Side::Client => &mut self.down,
            Side::Node => &mut self.up,
        }
    }

    /// The direction that this side writes. Whoever is gone takes nothing once that is known.
    fn from(&mut self, side: Side) -> &mut Lane {
        let (lane, other) = match side {
            Side::Client => (&mut self.up, &mut self.down),
            Side::Node => (&mut self.down, &mut self.up),
        };
        if lane.refuses.is_some() {
            // It has come by the time that this is known.
            while !other.in_flight.is_empty() {
                other.deliver();
            }
        }
        if lane.unread && other.in_flight.is_empty() {
            lane.refuses.get_or_insert(io::ErrorKind::BrokenPipe);
        }
        lane
    }
}

impl Lane {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Makes a burst of its own of the beginning of the next one: as much as is wanted of a record that is so long. What it was said
    /// for counts as said with that.
    fn split(&mut self, wanted: impl FnOnce(usize) -> usize) {
        let Some(burst) = self.in_flight.front_mut() else {
            return;
        };
        let length = burst.bytes.iter().skip(3).take(2);
        let length = length.fold(0, |length, byte| length * 256 + usize::from(*byte));
        let wanted = wanted(length + 5);
        if wanted < burst.bytes.len() {
            let rest = Burst {
                bytes: burst.bytes.split_off(wanted),
                last: burst.last,
                label: burst.label.map(|_| REST),
            };
            burst.last = false;
            self.in_flight.insert(1, rest);
        }
    }

    fn deliver(&mut self) {
        if let Some(burst) = self.in_flight.pop_front() {
            if burst.last {
                self.end = Some(io::ErrorKind::UnexpectedEof);
            }
            self.arrived.push_back(burst);
            self.wake();
        }
    }

    /// What is said now.
    fn burst(&mut self) -> &mut Burst {
        if self
            .in_flight
            .back()
            .is_none_or(|burst| burst.label.is_some())
        {
            self.in_flight.push_back(Burst {
                bytes: VecDeque::new(),
                last: false,
                label: None,
            });
        }
        self.in_flight.back_mut().unwrap()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(kind) = self.refuses {
            return Err(kind.into());
        }
        if !bytes.is_empty() && !self.unread {
            self.burst().bytes.extend(bytes);
        }
        Ok(())
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.finished, true) && self.refuses.is_none() {
            self.burst().last = true;
        }
    }

    fn read(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        let before = buf.filled().len();
        while let Some(burst) = self.arrived.front_mut()
            && buf.remaining() > 0
        {
            let amount = burst.bytes.len().min(buf.remaining());
            let bytes: Vec<u8> = burst.bytes.drain(..amount).collect();
            buf.put_slice(&bytes);
            if burst.bytes.is_empty() {
                let label = self.arrived.pop_front().and_then(|burst| burst.label);
                self.read.extend(label);
            }
        }
        if buf.filled().len() > before {
            return Some(Ok(()));
        }
        self.end_seen |= self.end.is_some();
        match self.end {
            Some(io::ErrorKind::UnexpectedEof) => Some(Ok(())),
            Some(kind) => Some(Err(kind.into())),
            None => None,
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    wire: Wire,
    side: Side,
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut lanes = self.wire.lanes();
        let lane = lanes.to(self.side);
        match lane.read(buf) {
            Some(read) => Poll::Ready(read),
            None => {
                lane.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.wire.lanes().from(self.side).write(buf);
        Poll::Ready(written.map(|()| buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.lanes().from(self.side).finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut lanes = self.wire.lanes();
        lanes.from(self.side).finish();
        let lane = lanes.to(self.side);
        lane.unread = true;
        lane.left = lane.arrived.iter().any(|burst| !burst.bytes.is_empty());
        lane.in_flight.clear();
        lane.arrived.clear();
        lane.reader = None;
    }
}
