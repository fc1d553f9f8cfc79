//! A client's connection over a blocking socket, for tests that care which bytes leave when.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use rustls_migration::Connection as _;
use rustls_migration::client::ClientConnection;

pub struct BlockingStream {
    pub connection: ClientConnection,
    tcp: TcpStream,
}

impl BlockingStream {
    pub fn connect(address: SocketAddr, connection: ClientConnection) -> Self {
        let tcp = TcpStream::connect(address).unwrap();
        tcp.set_nodelay(true).unwrap();
        Self { connection, tcp }
    }

    /// What the connection wants to send first. It is not sent.
    pub fn first_flight(&mut self) -> Vec<u8> {
        let mut flight = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut flight).unwrap();
        }
        flight
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).unwrap();
    }

    fn flush(&mut self) {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.tcp).unwrap();
        }
    }

    /// Receives once.
    fn receive(&mut self) {
        let received = self.connection.read_tls(&mut self.tcp).unwrap();
        assert_ne!(received, 0, "the server closed");
        self.connection.process_new_packets().unwrap();
        self.flush();
    }

    /// Completes the handshake and sends `plaintext`.
    pub fn write(&mut self, plaintext: &[u8]) {
        self.flush();
        while self.connection.is_handshaking() {
            self.receive();
        }
        self.connection.write(plaintext).unwrap();
        self.flush();
    }

    /// Reads `len` bytes of plaintext.
    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut got = Vec::new();
        while got.len() < len {
            match self.connection.fill_buf() {
                Ok([]) => panic!("the server closed"),
                Ok(plaintext) => {
                    got.extend_from_slice(plaintext);
                    let amount = plaintext.len();
                    self.connection.consume(amount);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => self.receive(),
                Err(error) => panic!("{error}"),
            }
        }
        got
    }
}
