//! One form for each address, however a socket spells it: addresses are compared in this form only.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// The form in which a token carries an address (`docs/protocol.md` section 2). On a dual-stack listener IPv4 addresses come
/// mapped into IPv6; a flow label and a scope are not of the address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
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
            assert_eq!(canonical(spelled), plain(form), "{spelled}");
        }
    }
}
