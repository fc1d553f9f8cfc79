//! One client at several server addresses, as quinn sees it.
//!
//! A client that has moved to server address number k gets a remote address of its own: the IPv6 (or IPv4-mapped)
//! address with k in the flow information. quinn's own migration (RFC 9000 section 9) does the rest. The mapping is
//! reversible and keeps no table. Never applied where a connection began, so that unmoved connections look as always.

use std::net::{SocketAddr, SocketAddrV6};

use super::PathId;

/// Says that there is a tag; the other 31 bits are the number. quinn and the kernel leave flow information at 0.
const TAGGED: u32 = 0x8000_0000;
const NUMBER: u32 = 0x7fff_ffff;
/// Highest number of an address.
pub(super) const HIGHEST: u32 = NUMBER;

pub(super) fn tag_path(client: SocketAddr, at: PathId) -> SocketAddr {
    let (ip, scope) = match client {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
        SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
    };
    SocketAddrV6::new(ip, client.port(), TAGGED | (at.0 & NUMBER), scope).into()
}

/// The client's real address, and the number of the server address that it is seen at, unless it is seen at home.
pub(super) fn untag_path(shown: SocketAddr) -> (SocketAddr, Option<PathId>) {
    match shown {
        SocketAddr::V6(v6) if v6.flowinfo() & !NUMBER == TAGGED => {
            let real = SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id());
            let ip = v6.ip().to_ipv4_mapped();
            let real = ip.map_or(SocketAddr::V6(real), |ip| (ip, v6.port()).into());
            (real, Some(PathId(v6.flowinfo() & NUMBER)))
        }
        other @ (SocketAddr::V4(_) | SocketAddr::V6(_)) => (other, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    proptest! {
        #[test]
        fn a_tag_leads_back_to_the_client_and_the_server_address(ip in any::<IpAddr>(), port in any::<u16>(), number in 0..=HIGHEST) {
            let client = SocketAddr::new(ip.to_canonical(), port);
            prop_assert_eq!(untag_path(tag_path(client, PathId(number))), (client, Some(PathId(number))));
            prop_assert_eq!(untag_path(client), (client, None));
        }

        #[test]
        fn a_client_at_two_server_addresses_has_two_remote_addresses(ip in any::<IpAddr>(), port in any::<u16>(), one in 0..=HIGHEST, other in 0..=HIGHEST) {
            let client = SocketAddr::new(ip, port);
            prop_assert_eq!(tag_path(client, PathId(one)) == tag_path(client, PathId(other)), one == other);
        }
    }
}
