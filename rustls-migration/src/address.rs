//! One form for each socket address: an IPv4 address is never written as an IPv6 one.
//!
//! What is compared, offered, judged or dialled has this form.

use std::net::{IpAddr, SocketAddr};

/// An IPv4 address mapped into IPv6 (`::ffff:192.0.2.1`, as dual-stack sockets show it) becomes the IPv4 address.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_become_ipv4_and_others_stay() {
        for (address, expected) in [
            ("[::ffff:192.0.2.1]:443", "192.0.2.1:443"),
            ("192.0.2.1:443", "192.0.2.1:443"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("[fe80::1%3]:443", "[fe80::1%3]:443"),
            ("[::1]:443", "[::1]:443"),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(canonical(address), expected.parse().unwrap());
        }
    }
}
