//! Addresses as 18 bytes: an IPv6 address, or an IPv4-mapped one, and a port in network order.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Length of an address, in bytes.
pub(crate) const ADDRESS_LEN: usize = 18;

pub(crate) fn address_bytes(address: SocketAddr) -> [u8; ADDRESS_LEN] {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; ADDRESS_LEN];
    let parts = ip.octets().into_iter().chain(address.port().to_be_bytes());
    bytes
        .iter_mut()
        .zip(parts)
        .for_each(|(to, from)| *to = from);
    bytes
}

/// Never an IPv4-mapped one.
pub(crate) fn address_from([ip @ .., high, low]: [u8; ADDRESS_LEN]) -> SocketAddr {
    let ip = IpAddr::V6(Ipv6Addr::from(ip)).to_canonical();
    SocketAddr::new(ip, u16::from_be_bytes([high, low]))
}

/// Without IPv4-mapping, flow information and scope.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// As a socket of this family wants it.
pub(crate) fn for_family(address: SocketAddr, v6: bool) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v6 => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        other @ (SocketAddr::V4(_) | SocketAddr::V6(_)) => other,
    }
}
