//! Classes of IP addresses, and which class may lead to which ("no wider than where I am").
//!
//! Never looks at a name or at the network: the address alone decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressClass {
    /// This host: 127.0.0.0/8, ::1.
    Loopback,
    /// This site: RFC 1918, RFC 6598 (100.64.0.0/10), RFC 2544 (198.18.0.0/15) and fc00::/7.
    Private,
    /// The Internet.
    Global,
    /// Nowhere to follow: multicast, broadcast, unspecified, link-local, reserved.
    Never,
}

impl AddressClass {
    /// Class of `ip`. IPv6 addresses that carry an IPv4 address (mapped, NAT64, 6to4) count as that address.
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => embedded_v4(ip).map_or_else(|| Self::of_v6(ip), Self::of_v4),
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
        if ip.is_loopback() {
            Self::Loopback
        } else if ip.is_unique_local() {
            Self::Private
        } else if ip
            .segments()
            .first()
            .is_some_and(|first| first & 0xe000 == 0x2000)
        {
            // 2000::/3 is what IANA hands out as global unicast; all else is multicast, link-local or reserved.
            Self::Global
        } else {
            Self::Never
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

/// The IPv4 address inside of an IPv4-mapped (::ffff:0:0/96), NAT64 (64:ff9b::/96) or 6to4 (2002::/16) address.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = ip.octets();
    let v4 = |from: usize| -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = octets.get(from..from.checked_add(4)?)?.try_into().ok()?;
        Some(bytes.into())
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => v4(12),
        [0x2002, ..] => v4(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AddressClass::{Global, Loopback, Never, Private};
    use proptest::prelude::*;

    #[test]
    fn addresses_fall_into_the_class_of_their_range() {
        let examples = [
            ("127.0.0.2", Loopback),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("64:ff9b::7f00:1", Loopback),
            ("2002:7f00:1::", Loopback),
            ("10.1.2.3", Private),
            ("172.31.0.1", Private),
            ("192.168.1.1", Private),
            ("100.64.0.1", Private),
            ("198.18.0.1", Private),
            ("198.19.255.255", Private),
            ("64:ff9b::c612:1", Private),
            ("198.20.0.1", Global),
            ("192.0.0.8", Never),
            ("192.0.1.1", Global),
            ("fd00::1", Private),
            ("2002:a00:1::", Private),
            ("192.0.2.1", Global),
            ("100.128.0.1", Global),
            ("2001:db8::1", Global),
            ("0.0.0.0", Never),
            ("0.1.2.3", Never),
            ("169.254.169.254", Never),
            ("224.0.0.1", Never),
            ("255.255.255.255", Never),
            ("240.0.0.1", Never),
            ("::", Never),
            ("::7f00:1", Never),
            ("fe80::1", Never),
            ("ff02::1", Never),
            ("100::1", Never),
        ];
        for (address, class) in examples {
            assert_eq!(
                AddressClass::of(address.parse().unwrap()),
                class,
                "{address}"
            );
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
