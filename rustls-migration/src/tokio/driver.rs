//! Moves bytes between a transport and a [`Connection`], for both sides.
//!
//! Neither direction waits for the other: a blocked write never stops a read. Which tasks to wake is the caller's
//! concern.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::Connection;

#[derive(Debug)]
pub(super) struct Driver<IO, C> {
    io: IO,
    connection: C,
    eof: bool,
    /// How many TLS bytes the transport has taken.
    written: u64,
    /// How often the transport has given something.
    reads: usize,
}

/// What a peer has said next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Plaintext, which waits to be taken.
    Plaintext,
    /// That it says nothing more.
    CloseNotify,
}

impl<IO, C> Driver<IO, C>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    C: Connection,
{
    pub(super) fn new(io: IO, connection: C) -> Self {
        Self {
            io,
            connection,
            eof: false,
            written: 0,
            reads: 0,
        }
    }

    pub(super) fn io(&self) -> &IO {
        &self.io
    }

    pub(super) fn io_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    pub(super) fn connection(&self) -> &C {
        &self.connection
    }

    pub(super) fn connection_mut(&mut self) -> &mut C {
        &mut self.connection
    }

    /// How often the transport has given something.
    pub(super) fn reads(&self) -> usize {
        self.reads
    }

    /// How many TLS bytes the transport has taken since the connection began.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes all TLS bytes that wait.
    pub(super) fn poll_write_tls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            let mut adapter = Adapter {
                io: &mut self.io,
                cx,
            };
            match self.connection.write_tls(&mut adapter) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(len) => self.written += u64::try_from(len).unwrap_or(u64::MAX),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once from the transport and processes what came. At the end of the transport it says so to the
    /// connection and returns.
    pub(super) fn poll_read_tls(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut adapter = Adapter {
            io: &mut self.io,
            cx,
        };
        match self.connection.read_tls(&mut adapter) {
            Ok(read) => {
                self.eof |= read == 0;
                self.reads = self.reads.wrapping_add(1);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
        if let Err(error) = self.connection.process_new_packets() {
            // An alert about it may wait; if it cannot leave now, the error counts more.
            let _ = self.poll_write_tls(cx);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and writes until `done`, or until the handshake is complete and written.
    pub(super) fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        done: impl Fn(&mut C) -> bool,
    ) -> Poll<io::Result<()>> {
        loop {
            let written = self.poll_write_tls(cx)?;
            let flushed = match written {
                Poll::Ready(()) => Pin::new(&mut self.io).poll_flush(cx)?,
                Poll::Pending => Poll::Pending,
            };
            if done(&mut self.connection) {
                return Poll::Ready(Ok(()));
            }
            if !self.connection.is_handshaking() {
                return flushed.map(Ok);
            }
            if self.eof {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if written.is_ready() {
                ready!(flushed);
            }
            ready!(self.poll_read_tls(cx))?;
        }
    }

    /// Writes what waits on behalf of the peer (handshake messages, tickets, key updates) without being held up.
    pub(super) fn write_in_passing(&mut self, cx: &mut Context<'_>) {
        if !self.connection.wants_write() {
            return;
        }
        // A failure shows in the next write, or as the end of what can be read.
        if matches!(self.poll_write_tls(cx), Poll::Ready(Ok(()))) {
            let _ = Pin::new(&mut self.io).poll_flush(cx);
        }
    }

    /// Reads until there is plaintext, which is left where it is, or the peer has closed its side.
    pub(super) fn poll_listen(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Heard>> {
        loop {
            match self.connection.fill_buf() {
                Ok([]) => return Poll::Ready(Ok(Heard::CloseNotify)),
                Ok(_) => return Poll::Ready(Ok(Heard::Plaintext)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if self.eof {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            ready!(self.poll_read_tls(cx))?;
        }
    }

    /// Puts plaintext into `buf`, without going to the transport; `None` when there is none yet. Nothing in `buf`
    /// means the peer has closed its side.
    pub(super) fn take_plaintext(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        match self.connection.fill_buf() {
            Ok(plaintext) => {
                let amount = plaintext.len().min(buf.remaining());
                let (taken, _) = plaintext.split_at(amount);
                buf.put_slice(taken);
                self.connection.consume(amount);
                Some(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.eof => None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Some(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Takes plaintext and writes what it becomes, as far as both go now.
    ///
    /// A connection that takes nothing although nothing waits to be written holds plaintext back until its handshake is
    /// complete. This is pending then, and whoever drives the handshake wakes the writer.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        plaintext: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        loop {
            let rest = plaintext.get(taken..).unwrap_or_default();
            // What waits to be written may be what it had no room for.
            let waited = self.connection.wants_write();
            let accepted = match self.connection.write(rest) {
                Ok(accepted) => accepted,
                Err(_) if taken > 0 => return Poll::Ready(Ok(taken)),
                Err(error) => return Poll::Ready(Err(error)),
            };
            taken += accepted;
            let all = taken == plaintext.len();
            match self.poll_write_tls(cx) {
                Poll::Ready(Ok(())) if (accepted > 0 || waited) && !all => {}
                // What has been taken will be sent, or the next write tells.
                _ if taken > 0 || all => return Poll::Ready(Ok(taken)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_tls(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Sends `close_notify`, then closes the transport's sending side. Reading goes on.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.send_close_notify();
        ready!(self.poll_flush(cx))?;
        match ready!(Pin::new(&mut self.io).poll_shutdown(cx)) {
            // The peer has closed already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

/// A transport as rustls wants it: what would wait returns `WouldBlock`.
struct Adapter<'a, 'b, IO> {
    io: &'a mut IO,
    cx: &'a mut Context<'b>,
}

fn or_would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl<IO: AsyncRead + Unpin> Read for Adapter<'_, '_, IO> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        or_would_block(Pin::new(&mut *self.io).poll_read(self.cx, &mut buf))?;
        Ok(buf.filled().len())
    }
}

impl<IO: AsyncWrite + Unpin> Write for Adapter<'_, '_, IO> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.io).poll_write(self.cx, buf))
    }

    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.io).poll_write_vectored(self.cx, bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        or_would_block(Pin::new(&mut *self.io).poll_flush(self.cx))
    }
}
