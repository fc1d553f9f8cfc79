//! A listener for a node that others are drained to: it lets many clients wait, since they come at once.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// How many connections the system may hold that have not been accepted yet. It holds no more than its own limit
/// (`net.core.somaxconn` on Linux, 4096 by default).
const BACKLOG: u32 = 4096;

/// Listens at `address`, port 0 for a free one, with room for 4096 connections that wait to be accepted.
///
/// tokio's and the standard library's listeners have room for 128. When a node is drained more clients than that come at
/// once, and who finds no room is heard a second later, when its system asks again.
///
/// # Errors
///
/// Those of the system: the address is in use, or is none of this machine's.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // As tokio's own listener: a node that is started again finds its port free.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn more_clients_than_the_standard_library_lets_wait_are_heard_before_anybody_is_accepted()
    {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        for _ in 0..300 {
            waiting.push(TcpStream::connect(address).await.unwrap());
        }
        for _ in waiting {
            listener.accept().await.unwrap();
        }
    }
}
