//! Stock rustls behind the same [`Connection`] trait as this project's connections, so that one driver runs both.
//!
//! It adds nothing: each method is the one of the same name.

use std::io::{self, BufRead as _, Read, Write};
use std::ops::DerefMut;

use rustls::{ConnectionCommon, SideData};
use rustls_migration::Connection;

/// A connection of stock rustls, client or server.
#[derive(Debug)]
pub(crate) struct Stock<T>(pub T);

impl<T, D> Connection for Stock<T>
where
    T: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData + 'static,
{
    fn read_tls(&mut self, rd: &mut dyn Read) -> io::Result<usize> {
        self.0.read_tls(rd)
    }

    fn process_new_packets(&mut self) -> Result<(), rustls::Error> {
        self.0.process_new_packets().map(drop)
    }

    fn write_tls(&mut self, wr: &mut dyn Write) -> io::Result<usize> {
        self.0.write_tls(wr)
    }

    fn wants_read(&self) -> bool {
        self.0.wants_read()
    }

    fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.reader().into_first_chunk()
    }

    fn consume(&mut self, amount: usize) {
        self.0.reader().consume(amount);
    }

    fn write(&mut self, plaintext: &[u8]) -> io::Result<usize> {
        self.0.writer().write(plaintext)
    }

    fn refresh_traffic_keys(&mut self) -> Result<(), rustls::Error> {
        self.0.refresh_traffic_keys()
    }

    fn send_close_notify(&mut self) {
        self.0.send_close_notify();
    }
}
