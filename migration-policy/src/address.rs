//! Classes of IP addresses, and which class may lead to which ("no wider than where I am", `docs/protocol.md` section 4).
//!
//! Never looks at a name or at the network: the address alone decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressClass {
    /// This host: 127.0.0.0/8, ::1.
    Loopback,
    /// This site: RFC 1918, RFC 6598 (100.64.0.0/10), RFC 2544 (198.18.0.0/15), fc00::/7 (RFC 4193) and the older fec0::/10.
    Private,
    /// The Internet.
    Global,
    /// Nowhere to follow: multicast, broadcast, unspecified, link-local, reserved.
    Never,
}

impl AddressClass {
    /// Class of `ip`. IPv6 addresses that lead to an IPv4 address (mapped, NAT64, 6to4, Teredo) count as that address; with
    /// one in the interface's identifier (ISATAP) the narrower class of the two counts.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        match ip.octets() {
            [127, ..] => Self::Loopback,
            [10, ..] | [192, 168, ..] | [172, 16..=31, ..] => Self::Private,
            // Shared by carriers (RFC 6598), and for benchmarks (RFC 2544).
            [100, 64..=127, ..] | [198, 18 | 19, ..] => Self::Private,
            // 192.0.0.0/24 is for protocols of the network itself (RFC 6890).
            [0, ..] | [169, 254, ..] | [192, 0, 0, _] | [224..=255, ..] => Self::Never,
            _ => Self::Global,
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        let network = Self::of_network(ip);
        match ip.segments() {
            // ISATAP (RFC 5214): IPv4 in the interface's identifier, in any network.
            [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => {
                network.narrower(Self::of_v4(v4(high, low)))
            }
            _ => network,
        }
    }

    fn of_network(ip: Ipv6Addr) -> Self {
        match ip.segments() {
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            // IPv4 in IPv6: translated (RFC 6052) and 6to4 (RFC 3056).
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
                Self::of_v4(v4(high, low))
            }
            // Teredo (RFC 4380): the peer's IPv4 address, with all bits inverted.
            [0x2001, 0, _, _, _, _, high, low] => Self::of_v4(v4(!high, !low)),
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Self::Private,
            // What IANA hands out as global unicast; all else is multicast, link-local or reserved.
            [0x2000..=0x3fff, ..] => Self::Global,
            _ => Self::Never,
        }
    }

    /// The class of an address that is of both.
    fn narrower(self, other: Self) -> Self {
        match (self, other) {
            (Self::Never, _) | (_, Self::Never) => Self::Never,
            (Self::Loopback, _) | (_, Self::Loopback) => Self::Loopback,
            (Self::Private, _) | (_, Self::Private) => Self::Private,
            (Self::Global, Self::Global) => Self::Global,
        }
    }

    /// Whether a connection to an address of this class may be sent on to one of class `target`.
    pub fn may_lead_to(self, target: Self) -> bool {
        match target {
            Self::Never => false,
            Self::Global => true,
            Self::Loopback | Self::Private => self == target,
        }
    }
}

/// The IPv4 address in two groups of an IPv6 one.
fn v4(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

/// The address without an IPv4-mapped IPv6 wrapping, as dual-stack sockets produce it.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use AddressClass::{Global, Loopback, Never, Private};
    use proptest::prelude::*;

    /// Of both layers.
    const EXAMPLES: &[(&str, AddressClass)] = &[
        ("127.0.0.2", Loopback),
        ("::1", Loopback),
        ("::ffff:127.0.0.1", Loopback),
        ("64:ff9b::7f00:1", Loopback),
        ("2002:7f00:1::", Loopback),
        ("2001:0:101:101::80ff:fffe", Loopback),
        ("2001:4860::5efe:7f00:1", Loopback),
        ("10.1.2.3", Private),
        ("172.16.0.1", Private),
        ("172.31.0.1", Private),
        ("192.168.1.1", Private),
        ("100.64.0.1", Private),
        ("198.18.0.1", Private),
        ("198.19.255.255", Private),
        ("::ffff:10.0.0.1", Private),
        ("64:ff9b::c612:1", Private),
        ("64:ff9b::a00:1", Private),
        ("fd00::1", Private),
        ("fec0::1", Private),
        ("2002:a00:1::", Private),
        ("2001:0:101:101::f5ff:fffe", Private),
        ("2001:4860::200:5efe:a00:1", Private),
        ("fd00::5efe:808:808", Private),
        ("2002:a00:1::5efe:808:808", Private),
        ("8.8.8.8", Global),
        ("192.0.1.1", Global),
        ("192.0.2.1", Global),
        ("100.128.0.1", Global),
        ("172.32.0.1", Global),
        ("198.20.0.1", Global),
        ("2001:db8::1", Global),
        ("2001:4860::1", Global),
        ("64:ff9b::808:808", Global),
        ("2001:0:101:101::f7f7:f7f7", Global),
        ("2001:4860::5efe:808:808", Global),
        ("0.0.0.0", Never),
        ("0.1.2.3", Never),
        ("169.254.169.254", Never),
        ("192.0.0.8", Never),
        ("224.0.0.1", Never),
        ("239.255.255.255", Never),
        ("240.0.0.1", Never),
        ("255.255.255.255", Never),
        ("::", Never),
        ("::7f00:1", Never),
        ("fe80::1", Never),
        ("ff02::1", Never),
        ("100::1", Never),
        ("64:ff9b::e000:1", Never),
        ("64:ff9b::c000:8", Never),
        ("fe80::5efe:808:808", Never),
        ("2001:4860::5efe:a9fe:101", Never),
        ("2001:0:101:101::1fff:fffe", Never),
    ];

    #[test]
    fn addresses_fall_into_the_class_of_their_range() {
        for (address, class) in EXAMPLES {
            let of = AddressClass::of(address.parse().unwrap());
            assert_eq!(of, *class, "{address}");
        }
    }

    #[test]
    fn a_connection_never_leads_to_a_class_nearer_than_its_own_except_its_own() {
        for (from, to, allowed) in [
            (Global, Global, true),
            (Global, Private, false),
            (Global, Loopback, false),
            (Private, Private, true),
            (Private, Loopback, false),
            (Private, Global, true),
            (Loopback, Loopback, true),
            (Loopback, Private, false),
            (Loopback, Global, true),
            (Global, Never, false),
            (Loopback, Never, false),
        ] {
            assert_eq!(from.may_lead_to(to), allowed, "{from:?} to {to:?}");
        }
    }

    #[test]
    fn a_mapped_address_is_shown_as_what_it_is() {
        let mapped = "[::ffff:192.0.2.1]:443".parse().unwrap();
        assert_eq!(canonical(mapped), "192.0.2.1:443".parse().unwrap());
    }

    proptest! {
        #[test]
        fn a_mapped_address_has_the_class_of_the_address_inside(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from(bits);
            prop_assert_eq!(AddressClass::of(v4.to_ipv6_mapped().into()), AddressClass::of(v4.into()));
        }

        #[test]
        fn nothing_leads_to_a_local_service_from_the_internet(bits in any::<u128>()) {
            let target: IpAddr = Ipv6Addr::from(bits).into();
            if Global.may_lead_to(AddressClass::of(target)) {
                prop_assert_eq!(AddressClass::of(target), Global);
            }
        }
    }
}
