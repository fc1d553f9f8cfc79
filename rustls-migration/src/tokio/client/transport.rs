//! What a client's stream runs over, and how it gets there.
//!
//! A dialer decides how to reach an address, never which.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use migration_token::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A reliable stream of bytes. Implemented for everything that is one.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// Connects to an address. A client that must go through a proxy, or a simulated network, implements it.
pub trait Dial: fmt::Debug + Send + Sync {
    /// Connects to `address`.
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>>;
}

/// Connects by TCP, with small writes sent at once (`TCP_NODELAY`).
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDialer;

impl Dial for TcpDialer {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let stream: Box<dyn Transport> = Box::new(stream);
            Ok(stream)
        })
    }
}
