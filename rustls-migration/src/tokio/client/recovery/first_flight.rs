//! The transport of a recovery over a connection that was dialled ahead. Such a connection may be dead and give no sign of it: its
//! target was started anew, or the client's network is another one now.
//!
//! So until the target has answered, what is sent is kept; and when the connection ends or nothing comes, it is said again byte for
//! byte over a new one. No token is spent by that: the client's Finished, which spends it, answers what the target says. To the
//! target the repetition is a copy of a first flight, which is good once whatever comes of the other one (`docs/protocol.md` section 7).

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::tokio::client::dialer::{Dialer, Preconnected};
use crate::tokio::client::error::ConnectError;
use crate::tokio::client::phase::Step;
use crate::tokio::client::transport::Transport;

/// What repeats its first flight when it has to.
pub(super) struct FirstFlight {
    dialer: Dialer,
    address: SocketAddr,
    state: State,
}

enum State {
    /// The target has said nothing yet.
    Unanswered {
        io: Box<dyn Transport>,
        sent: Vec<u8>,
        patience: Pin<Box<Sleep>>,
    },
    /// Another connection takes its place.
    Dialling {
        dial: Step<Result<Preconnected, ConnectError>>,
        sent: Vec<u8>,
    },
    /// What was sent is sent again; so much of it has been.
    Repeating {
        io: Box<dyn Transport>,
        sent: Vec<u8>,
        repeated: usize,
    },
    /// What is sent from now on is sent once.
    Settled(Box<dyn Transport>),
    /// There is no other connection.
    Failed,
}

impl FirstFlight {
    /// Over `preconnected`, whose target has half of the time for connecting to answer. The other half is for the repetition.
    pub(super) fn over(preconnected: Preconnected, dialer: &Dialer) -> Preconnected {
        let address = preconnected.address();
        let flight = Self {
            address,
            state: State::Unanswered {
                io: preconnected.into_io(),
                sent: Vec::new(),
                patience: Box::pin(sleep(dialer.connect_timeout / 2)),
            },
            dialer: dialer.clone(),
        };
        Preconnected::new(address, Box::new(flight))
    }

    /// Ready when there is a connection that is read and written from now on, or that has not been answered yet.
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.state = match &mut self.state {
                State::Unanswered { .. } | State::Settled(_) => return Poll::Ready(Ok(())),
                State::Dialling { dial, sent } => {
                    let dialled = ready!(dial.as_mut().poll(cx));
                    let sent = mem::take(sent);
                    match dialled {
                        Ok(preconnected) => State::Repeating {
                            io: preconnected.into_io(),
                            sent,
                            repeated: 0,
                        },
                        Err(error) => {
                            self.state = State::Failed;
                            return Poll::Ready(Err(io::Error::other(error)));
                        }
                    }
                }
                State::Repeating { io, sent, repeated } => match sent.get(*repeated..) {
                    Some(rest @ [_, ..]) => {
                        match ready!(Pin::new(io).poll_write(cx, rest))? {
                            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                            len => *repeated += len,
                        }
                        continue;
                    }
                    Some([]) | None => {
                        ready!(Pin::new(&mut *io).poll_flush(cx))?;
                        self.settled()
                    }
                },
                State::Failed => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            };
        }
    }

    /// What is there is kept, for good.
    fn settled(&mut self) -> State {
        match mem::replace(&mut self.state, State::Failed) {
            State::Unanswered { io, .. } | State::Repeating { io, .. } | State::Settled(io) => {
                State::Settled(io)
            }
            State::Dialling { .. } | State::Failed => State::Failed,
        }
    }

    /// The connection is dead, as far as can be told.
    fn replace(&mut self) {
        let State::Unanswered { sent, .. } = &mut self.state else {
            return;
        };
        tracing::debug!(target = %self.address, "the connection that was dialled ahead is dead");
        let (dialer, address) = (self.dialer.clone(), self.address);
        self.state = State::Dialling {
            sent: mem::take(sent),
            dial: Box::pin(async move { dialer.reuse_or_dial(None, address).await }),
        };
    }
}

impl AsyncRead for FirstFlight {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.poll_io(cx))?;
            match &mut this.state {
                State::Unanswered { io, patience, .. } => {
                    let before = buf.filled().len();
                    match Pin::new(io).poll_read(cx, buf) {
                        Poll::Ready(Ok(())) if buf.filled().len() > before => {
                            this.state = this.settled();
                            return Poll::Ready(Ok(()));
                        }
                        Poll::Ready(Ok(()) | Err(_)) => {}
                        Poll::Pending => ready!(patience.as_mut().poll(cx)),
                    }
                    this.replace();
                }
                State::Settled(io) => return Pin::new(io).poll_read(cx, buf),
                State::Dialling { .. } | State::Repeating { .. } | State::Failed => {}
            }
        }
    }
}

impl AsyncWrite for FirstFlight {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            ready!(this.poll_io(cx))?;
            match &mut this.state {
                State::Unanswered { io, sent, .. } => {
                    match ready!(Pin::new(io).poll_write_vectored(cx, bufs)) {
                        Ok(len) => {
                            sent.extend(bufs.iter().flat_map(|buf| buf.iter()).take(len));
                            return Poll::Ready(Ok(len));
                        }
                        Err(_) => this.replace(),
                    }
                }
                State::Settled(io) => return Pin::new(io).poll_write_vectored(cx, bufs),
                State::Dialling { .. } | State::Repeating { .. } | State::Failed => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.poll_io(cx))?;
            match &mut this.state {
                State::Unanswered { io, .. } => match ready!(Pin::new(io).poll_flush(cx)) {
                    Ok(()) => return Poll::Ready(Ok(())),
                    Err(_) => this.replace(),
                },
                State::Settled(io) => return Pin::new(io).poll_flush(cx),
                State::Dialling { .. } | State::Repeating { .. } | State::Failed => {}
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_io(cx))?;
        match &mut this.state {
            State::Unanswered { io, .. } | State::Settled(io) => Pin::new(io).poll_shutdown(cx),
            State::Dialling { .. } | State::Repeating { .. } | State::Failed => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
        }
    }
}
