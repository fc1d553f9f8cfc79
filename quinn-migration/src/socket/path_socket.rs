//! Sockets for a client's new paths: the application's, or like the one that it gave the endpoint.
//!
//! Never leaves the local address, the device or the mark that the application has chosen: a server must not be able to
//! lead a client out of its VPN.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// What a socket is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewPath {
    /// The server address that datagrams will go to.
    pub server: SocketAddr,
    /// The local address of the endpoint's own socket.
    pub local: SocketAddr,
}

type Open = dyn Fn(&NewPath) -> io::Result<UdpSocket> + Send + Sync;

/// Where the sockets come from.
#[derive(Default)]
pub(crate) enum PathSockets {
    /// Like the endpoint's own: local address, and on Linux device and mark; send and receive buffers.
    #[default]
    LikeFirst,
    Application(Box<Open>),
}

impl fmt::Debug for PathSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LikeFirst => "LikeFirst",
            Self::Application(_) => "Application",
        })
    }
}

impl PathSockets {
    pub(super) fn open(&self, server: SocketAddr, first: &UdpSocket) -> io::Result<UdpSocket> {
        match self {
            Self::LikeFirst => like(first, server),
            Self::Application(open) => open(&NewPath {
                server,
                local: first.local_addr()?,
            }),
        }
    }
}

fn like(first: &UdpSocket, server: SocketAddr) -> io::Result<UdpSocket> {
    let mut local = first.local_addr()?;
    local.set_port(0);
    let own = local.ip().to_canonical();
    if own.is_unspecified() {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        local = (any, 0).into();
    } else if own.is_ipv4() != server.is_ipv4() {
        // The application has named an address, and the server wants another family.
        return Err(io::ErrorKind::AddrNotAvailable.into());
    } else if own != local.ip() {
        local = (own, 0).into();
    }
    let first = socket2::SockRef::from(first);
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    copy_network(&first, &socket)?;
    copy_buffers(&first, &socket)?;
    socket.bind(&local.into())?;
    Ok(socket.into())
}

#[cfg(target_os = "linux")]
fn copy_network(first: &Socket, socket: &Socket) -> io::Result<()> {
    if let Some(device) = first.device()? {
        socket.bind_device(Some(&device))?;
    }
    let mark = first.mark()?;
    if mark != 0 {
        socket.set_mark(mark)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn copy_network(_: &Socket, _: &Socket) -> io::Result<()> {
    Ok(())
}

fn copy_buffers(first: &Socket, socket: &Socket) -> io::Result<()> {
    // Linux reports twice what was asked for (socket(7)).
    let asked = |size: usize| {
        if cfg!(target_os = "linux") {
            size / 2
        } else {
            size
        }
    };
    let (send, receive) = (first.send_buffer_size()?, first.recv_buffer_size()?);
    if socket.send_buffer_size()? != send {
        socket.set_send_buffer_size(asked(send))?;
    }
    if socket.recv_buffer_size()? != receive {
        socket.set_recv_buffer_size(asked(receive))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(first: &str, server: &str) -> io::Result<IpAddr> {
        let first = UdpSocket::bind(first).unwrap();
        let socket = PathSockets::LikeFirst.open(server.parse().unwrap(), &first)?;
        let local = socket.local_addr()?;
        assert_ne!(local.port(), first.local_addr()?.port());
        Ok(local.ip())
    }

    #[test]
    fn a_new_path_begins_at_the_local_address_of_the_first_one() {
        for (first, server, local) in [
            ("127.0.0.5:0", "127.0.0.3:9", "127.0.0.5"),
            ("0.0.0.0:0", "127.0.0.3:9", "0.0.0.0"),
            ("0.0.0.0:0", "[::1]:9", "::"),
            ("[::]:0", "127.0.0.3:9", "0.0.0.0"),
            ("[::1]:0", "[::1]:9", "::1"),
        ] {
            let expected: IpAddr = local.parse().unwrap();
            assert_eq!(opened(first, server).unwrap(), expected, "{first} {server}");
        }
    }

    #[test]
    fn a_server_cannot_lead_a_client_off_the_address_that_it_has_chosen() {
        for (first, server) in [("127.0.0.5:0", "[::1]:9"), ("[::1]:0", "127.0.0.3:9")] {
            let refused = opened(first, server).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_new_path_has_the_device_and_the_buffers_of_the_first_one() {
        let first = UdpSocket::bind("127.0.0.5:0").unwrap();
        let settings = socket2::SockRef::from(&first);
        settings.set_recv_buffer_size(40_000).unwrap();
        settings.set_send_buffer_size(50_000).unwrap();
        settings.bind_device(Some(b"lo")).unwrap();
        let server = "127.0.0.3:9".parse().unwrap();
        let socket = PathSockets::LikeFirst.open(server, &first).unwrap();
        let socket = socket2::SockRef::from(&socket);
        assert_eq!(socket.device().unwrap().as_deref(), Some(&b"lo"[..]));
        assert_eq!(socket.recv_buffer_size().unwrap(), 80_000);
        assert_eq!(socket.send_buffer_size().unwrap(), 100_000);
    }
}
