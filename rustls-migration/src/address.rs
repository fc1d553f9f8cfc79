//! One form for each socket address: an IPv4 address is never written as an IPv6 one.
//!
//! What is compared, offered, judged or dialled has this form.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// An IPv4 address mapped into IPv6 (`::ffff:192.0.2.1`, as dual-stack sockets show it) becomes the IPv4 address.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The form in which a token carries an address (`docs/protocol.md` section 2). On a dual-stack listener IPv4 addresses come
/// mapped into IPv6; a flow label and a scope are not of the address.
pub(crate) fn as_in_token(address: SocketAddr) -> SocketAddr {
    let (ip, port) = (address.ip().to_canonical(), address.port());
    match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, 0).into(),
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

    #[test]
    fn every_spelling_of_an_address_has_one_form() {
        let plain = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (spelled, form) in [
            (plain("192.0.2.1:443"), "192.0.2.1:443"),
            (plain("[::ffff:192.0.2.1]:443"), "192.0.2.1:443"),
            (plain("[::ffff:c000:201]:443"), "192.0.2.1:443"),
            (plain("[2001:db8::1]:443"), "[2001:db8::1]:443"),
            // Not mapped, but compatible: an address of its own.
            (plain("[::192.0.2.1]:443"), "[::192.0.2.1]:443"),
            (plain("[fe80::1%7]:443"), "[fe80::1]:443"),
            (
                SocketAddrV6::new("2001:db8::1".parse().unwrap(), 443, 9, 0).into(),
                "[2001:db8::1]:443",
            ),
        ] {
            assert_eq!(as_in_token(spelled), plain(form), "{spelled}");
        }
    }
}
