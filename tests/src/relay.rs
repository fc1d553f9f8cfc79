//! A TCP relay between a client and a server, which delays what it passes on and can be turned to another server.
//!
//! It never looks into what it passes on.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Where a relay leads, and how long each piece takes on its way.
#[derive(Clone, Copy)]
struct Way {
    server: SocketAddr,
    delay: Duration,
}

/// Relays as long as it lives.
pub struct Relay {
    address: SocketAddr,
    way: watch::Sender<Way>,
}

impl Relay {
    /// A relay to `server` without delay.
    pub async fn to(server: SocketAddr) -> Self {
        Self::at("127.0.0.2:0".parse().unwrap(), server).await
    }

    /// As [`to`](Self::to), at an address of the test's choice.
    pub async fn at(address: SocketAddr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let delay = Duration::ZERO;
        let (sender, way) = watch::channel(Way { server, delay });
        tokio::spawn(accept(listener, way));
        Self {
            address,
            way: sender,
        }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections to `server`. Those that are there stay where they are.
    pub fn turn_to(&self, server: SocketAddr) {
        self.way.send_modify(|way| way.server = server);
    }

    /// Delays all that follows, on all connections.
    pub fn delay(&self, delay: Duration) {
        self.way.send_modify(|way| way.delay = delay);
    }
}

async fn accept(listener: TcpListener, mut way: watch::Receiver<Way>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                tokio::spawn(relay(accepted.unwrap().0, way.clone()));
            }
            changed = way.changed() => if changed.is_err() { return },
        }
    }
}

async fn relay(client: TcpStream, way: watch::Receiver<Way>) {
    let server = way.borrow().server;
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, &way) => {}
        () = pass(from_server, to_client, &way) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: &watch::Receiver<Way>) {
    let mut buf = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buf).await {
        let delay = way.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buf[..len]).await.is_err() {
            return;
        }
    }
}
