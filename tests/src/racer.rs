//! A racer on the path between a client and its target: it holds what the client sends first, and sends copies of it.
//!
//! It never changes a byte of the client's connection.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const APPLICATION_DATA: u8 = 23;

/// Stands where the clients of a target go.
pub struct Racer(TcpListener);

impl Racer {
    /// Listens on a port of its own at `ip`.
    pub async fn bind(ip: &str) -> Self {
        Self(TcpListener::bind((ip, 0)).await.unwrap())
    }

    /// Where clients believe the target to be.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Waits for a client, and for its hello with early data behind it.
    pub async fn catch(&self) -> Caught {
        let (mut client, _) = self.0.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        let mut flight = Vec::new();
        while !has_early_data(&flight) {
            let read = client.read_buf(&mut flight).await.unwrap();
            assert_ne!(read, 0, "the client closed before it sent early data");
        }
        Caught { client, flight }
    }
}

/// Whether these records end with a whole one of early data.
fn has_early_data(mut records: &[u8]) -> bool {
    while let [kind, _, _, high, low, rest @ ..] = records {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        if rest.len() < len {
            return false;
        }
        if *kind == APPLICATION_DATA && rest.len() == len {
            return true;
        }
        records = &rest[len..];
    }
    false
}

/// A client whose first flight has not been delivered.
pub struct Caught {
    client: TcpStream,
    flight: Vec<u8>,
}

impl Caught {
    /// The hello with the early data, byte for byte.
    pub fn flight(&self) -> &[u8] {
        &self.flight
    }

    /// Delivers the original, and passes on all that follows on both sides.
    pub fn release(self, to: SocketAddr) -> JoinHandle<()> {
        let Self { mut client, flight } = self;
        tokio::spawn(async move {
            let mut node = connect(to).await;
            node.write_all(&flight).await.unwrap();
            // However it ends, its ends know.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
        })
    }
}

/// A connection to which a copy of a first flight has been delivered.
pub struct Copied(TcpStream);

impl Copied {
    pub async fn deliver(flight: &[u8], to: SocketAddr) -> Self {
        let mut node = connect(to).await;
        node.write_all(flight).await.unwrap();
        Self(node)
    }

    /// Waits until the node has answered, or has ended the connection.
    pub async fn answered(self) -> Self {
        self.0.readable().await.unwrap();
        self
    }

    /// Tries to go on with what the racer has, which is no key: a record of its own. Returns what the node said until it
    /// ended the connection.
    pub async fn go_on(mut self) -> Vec<u8> {
        let mut record = vec![APPLICATION_DATA, 3, 3, 0, 53];
        record.extend([7; 53]);
        // The node may have ended it already.
        let _ = self.0.write_all(&record).await;
        let _ = self.0.shutdown().await;
        let mut answer = Vec::new();
        let _ = self.0.read_to_end(&mut answer).await;
        answer
    }
}

async fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}
