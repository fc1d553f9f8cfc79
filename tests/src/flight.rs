//! Clients without their I/O, whose first flight can be cut, copied and delivered anywhere: this project's and the stock one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use rustls::ClientConfig;
use rustls_migration::Connection as _;
use rustls_migration::client::ClientConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::server_name;

/// How the first flight leaves.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// In records as large as they may be, and one write.
    Whole,
    /// In records as small as they may be.
    SmallRecords,
    /// In so many segments.
    Segments(usize),
}

/// A client without its I/O.
pub trait Client {
    fn write_tls(&mut self, out: &mut Vec<u8>) -> bool;
    fn receive(&mut self, bytes: &[u8]) -> Vec<u8>;
    fn is_handshaking(&self) -> bool;
    fn accepted(&self) -> bool;
    fn say(&mut self, plaintext: &[u8]);
}

impl Client for ClientConnection {
    fn write_tls(&mut self, out: &mut Vec<u8>) -> bool {
        let wants = self.wants_write();
        wants && rustls_migration::Connection::write_tls(self, out).unwrap() > 0
    }

    fn receive(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut plaintext = Vec::new();
        while !bytes.is_empty() {
            self.read_tls(&mut bytes).unwrap();
            self.process_new_packets().unwrap();
            while let Some(some) = self.fill_buf().ok().filter(|some| !some.is_empty()) {
                let len = some.len();
                plaintext.extend_from_slice(some);
                self.consume(len);
            }
        }
        plaintext
    }

    fn is_handshaking(&self) -> bool {
        rustls_migration::Connection::is_handshaking(self)
    }

    fn accepted(&self) -> bool {
        self.tls().is_early_data_accepted()
    }

    fn say(&mut self, plaintext: &[u8]) {
        assert_eq!(self.write(plaintext).unwrap(), plaintext.len());
    }
}

/// rustls as it is, which says its early data again when it was refused.
pub struct Stock {
    pub tls: rustls::ClientConnection,
    early_data: Vec<u8>,
    said: bool,
}

impl Stock {
    /// A client with early data in records of one byte, or else as few as possible.
    pub fn new(config: &Arc<ClientConfig>, early_data: &[u8], shape: Shape) -> Self {
        let mut tls = rustls::ClientConnection::new(Arc::clone(config), server_name()).unwrap();
        tls.set_buffer_limit(None);
        let size = match shape {
            Shape::SmallRecords => 1,
            Shape::Whole | Shape::Segments(_) => early_data.len().max(1),
        };
        for piece in early_data.chunks(size) {
            let mut writer = tls.early_data().expect("there is a ticket for early data");
            assert_eq!(io::Write::write(&mut writer, piece).unwrap(), piece.len());
        }
        Self {
            tls,
            early_data: early_data.to_vec(),
            said: false,
        }
    }
}

impl Client for Stock {
    fn write_tls(&mut self, out: &mut Vec<u8>) -> bool {
        self.tls.wants_write() && self.tls.write_tls(out).unwrap() > 0
    }

    fn receive(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut plaintext = Vec::new();
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes).unwrap();
            self.tls.process_new_packets().unwrap();
            let _ = io::Read::read_to_end(&mut self.tls.reader(), &mut plaintext);
        }
        if !self.tls.is_handshaking() && !self.said {
            self.said = true;
            if !self.tls.is_early_data_accepted() {
                let early_data = std::mem::take(&mut self.early_data);
                self.say(&early_data);
            }
        }
        plaintext
    }

    fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    fn accepted(&self) -> bool {
        self.tls.is_early_data_accepted()
    }

    fn say(&mut self, plaintext: &[u8]) {
        io::Write::write_all(&mut self.tls.writer(), plaintext).unwrap();
    }
}

/// What the client sends first.
pub fn first_flight(client: &mut impl Client) -> Vec<u8> {
    let mut flight = Vec::new();
    while client.write_tls(&mut flight) {}
    flight
}

async fn send(tcp: &mut TcpStream, bytes: &[u8], shape: Shape) {
    let segments = match shape {
        Shape::Segments(segments) => segments,
        Shape::Whole | Shape::SmallRecords => 1,
    };
    for segment in bytes.chunks(bytes.len().div_ceil(segments).max(1)) {
        tcp.write_all(segment).await.unwrap();
        if segments > 1 {
            // Likely enough the node reads each by itself.
            tokio::time::sleep(StdDuration::from_micros(300)).await;
        }
    }
}

/// Sends the first flight, goes on, and checks that an echo says everything once. Returns whether the early data was accepted.
pub async fn lands(
    mut client: impl Client,
    flight: &[u8],
    early_data: &[u8],
    to: SocketAddr,
    shape: Shape,
) -> bool {
    let mut tcp = TcpStream::connect(to).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    send(&mut tcp, flight, shape).await;
    let expected = [early_data, b"more"].concat();
    let (mut got, mut told, mut buf) = (Vec::new(), false, [0; 4096]);
    while got.len() < expected.len() {
        let len = tcp.read(&mut buf).await.unwrap();
        assert_ne!(len, 0, "the node closed after {} bytes", got.len());
        got.extend(client.receive(&buf[..len]));
        if !client.is_handshaking() && !told {
            told = true;
            client.say(b"more");
        }
        let mut out = Vec::new();
        while client.write_tls(&mut out) {}
        tcp.write_all(&out).await.unwrap();
    }
    assert!(got == expected, "the echo differs");
    client.accepted()
}
