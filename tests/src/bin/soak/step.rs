//! One step of a stream: what comes first of reading and writing. Both sides of a long run live by it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Out<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// This side is to be closed.
    Close,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Read(usize),
    Wrote(usize),
    /// The peer has ended the stream.
    End,
    Closed,
}

/// Reads into `buf` or writes. Safe to cancel.
pub(crate) async fn step<S>(stream: &mut S, out: Out<'_>, buf: &mut [u8]) -> io::Result<Step>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        let mut read = ReadBuf::new(buf);
        if Pin::new(&mut *stream).poll_read(cx, &mut read)?.is_ready() {
            return Poll::Ready(Ok(match read.filled().len() {
                0 => Step::End,
                len => Step::Read(len),
            }));
        }
        match out {
            Out::Nothing => Poll::Pending,
            Out::Bytes(bytes) => Pin::new(&mut *stream)
                .poll_write(cx, bytes)
                .map_ok(Step::Wrote),
            Out::Close => Pin::new(&mut *stream)
                .poll_shutdown(cx)
                .map_ok(|()| Step::Closed),
        }
    })
    .await
}
