//! Remembers what a client sends first on each of its connections, byte for byte.
//!
//! It sits between the client and the network, as an eavesdropper would, and changes nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use rustls_migration::migration_token::BoxFuture;
use rustls_migration::tokio::{Dial, TcpDialer, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Connects by TCP and keeps each connection's first flight.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Flight>>>);

/// What a client sent to an address before it heard anything from there.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

impl Recorder {
    /// The first flight of the last connection to `address`.
    pub(crate) fn flight_to(&self, address: SocketAddr) -> Option<Flight> {
        let flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.iter().rfind(|flight| flight.to == address).cloned()
    }
}

impl Dial for Recorder {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let recorded = Recorded {
                io: TcpDialer.dial(address).await?,
                flight: Some(Flight {
                    to: address,
                    bytes: Vec::new(),
                }),
                recorder: self.clone(),
            };
            let recorded: Box<dyn Transport> = Box::new(recorded);
            Ok(recorded)
        })
    }
}

/// A connection whose first flight is recorded until its peer answers.
struct Recorded {
    io: Box<dyn Transport>,
    flight: Option<Flight>,
    recorder: Recorder,
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if buf.filled().len() > before
            && let Some(flight) = self.flight.take()
        {
            let mut flights = self
                .recorder
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            flights.push(flight);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        if let Some(flight) = &mut self.flight {
            flight.bytes.extend(buf.get(..written).unwrap_or_default());
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
