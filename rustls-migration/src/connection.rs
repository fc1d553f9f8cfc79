//! What the two sides' connections have in common, so that one driver serves both.
//!
//! The methods mirror those of [`rustls::Connection`]; none of them blocks.

use std::io::{self, Read, Write};

/// What rustls buffers for sending unless told otherwise, in bytes.
pub(crate) const BUFFER_LIMIT: usize = 64 * 1024;

/// A TLS connection without its I/O.
pub trait Connection {
    /// Reads TLS bytes from `rd`. `Ok(0)` is the end of the transport.
    ///
    /// # Errors
    ///
    /// Those of `rd`, and one when received plaintext must be read first.
    fn read_tls(&mut self, rd: &mut dyn Read) -> io::Result<usize>;

    /// Processes what [`read_tls`](Self::read_tls) has read.
    ///
    /// # Errors
    ///
    /// What the peer did wrong. An alert about it waits to be written.
    fn process_new_packets(&mut self) -> Result<(), rustls::Error>;

    /// Writes TLS bytes to `wr` and returns how many.
    ///
    /// # Errors
    ///
    /// Those of `wr`.
    fn write_tls(&mut self, wr: &mut dyn Write) -> io::Result<usize>;

    /// Whether [`read_tls`](Self::read_tls) should be called when the transport has something.
    fn wants_read(&self) -> bool;

    /// Whether there is something to [`write_tls`](Self::write_tls).
    fn wants_write(&self) -> bool;

    /// Whether the handshake is still under way.
    fn is_handshaking(&self) -> bool;

    /// Received plaintext; empty when the peer has closed its side.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none yet, `UnexpectedEof` when the transport ended without a `close_notify`.
    fn fill_buf(&mut self) -> io::Result<&[u8]>;

    /// Marks `amount` bytes of [`fill_buf`](Self::fill_buf) as read.
    fn consume(&mut self, amount: usize);

    /// Takes plaintext to send and returns how much of it: 0 when there is no room for it, or when it has to wait for the handshake.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` after [`send_close_notify`](Self::send_close_notify).
    fn write(&mut self, plaintext: &[u8]) -> io::Result<usize>;

    /// Asks for new traffic keys (a TLS 1.3 KeyUpdate), which leaves with what is written next.
    ///
    /// # Errors
    ///
    /// rustls' own: the handshake is not complete, or this is not TLS 1.3.
    fn refresh_traffic_keys(&mut self) -> Result<(), rustls::Error>;

    /// Announces that no more plaintext will be sent. Reading goes on.
    fn send_close_notify(&mut self);
}
