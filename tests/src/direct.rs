//! Connections in memory without any line between their ends: what one end does, the other sees at once. For tests of who does
//! what before what.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use migration_token::BoxFuture;
use rustls_migration::tokio::{Dial, Transport};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// Where the tests' two nodes are.
pub const PLACES: [SocketAddr; 2] = [
    SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2)),
        443,
    ),
    SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 3)),
        443,
    ),
];

/// Who listens, and how often each address has been dialled.
#[derive(Clone, Debug, Default)]
pub struct Direct(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    listening: HashMap<SocketAddr, mpsc::UnboundedSender<DuplexStream>>,
    dialled: HashMap<SocketAddr, usize>,
}

impl Direct {
    /// The connections that are made to `address`.
    pub fn listen(&self, address: SocketAddr) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().unwrap().listening.insert(address, sender);
        receiver
    }

    /// Nobody listens at `address` any more. Connections go on.
    pub fn close(&self, address: SocketAddr) {
        self.0.lock().unwrap().listening.remove(&address);
    }

    /// How often `address` has been dialled.
    pub fn dialled(&self, address: SocketAddr) -> usize {
        let state = self.0.lock().unwrap();
        state.dialled.get(&address).copied().unwrap_or_default()
    }
}

impl Dial for Direct {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let mut state = self.0.lock().unwrap();
            *state.dialled.entry(address).or_default() += 1;
            let listening = state.listening.get(&address);
            let (near, far) = tokio::io::duplex(1 << 20);
            let listening = listening.ok_or(io::ErrorKind::ConnectionRefused)?;
            listening
                .send(far)
                .map_err(|_| io::ErrorKind::ConnectionRefused)?;
            let near: Box<dyn Transport> = Box::new(near);
            Ok(near)
        })
    }
}
