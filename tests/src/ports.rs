//! Addresses where nobody listens yet.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{IpAddr, SocketAddr, TcpListener};

/// Ports that systems give to nobody who asks for any: those begin at 32768.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// An address where nobody listens, and whose port nobody gets by chance.
pub fn unused(ip: &str) -> SocketAddr {
    let ip: IpAddr = ip.parse().unwrap();
    let random = RandomState::new().build_hasher().finish();
    let from = usize::try_from(random).unwrap() % PORTS.len();
    PORTS
        .cycle()
        .skip(from)
        .take(PORTS.len())
        .map(|port| SocketAddr::new(ip, port))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a port is free")
}
