//! What a server advertises, and whether it can answer from there.
//!
//! Never lets an address through from which nothing answers, unless the caller says that something forwards it.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::AddressId;
use crate::error::AdvertiseError;
use crate::socket::ServerSocket;

/// What to advertise: an IPv4 address, an IPv6 address or both, each with its port.
///
/// Made from an [`AddressId`], from two, one for each family, or from the address itself; all of them must be addresses of
/// the server. [`Alternate::forwarded`] is for those that something else forwards to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alternate {
    /// For clients that use IPv4.
    pub v4: Option<SocketAddrV4>,
    /// For clients that use IPv6.
    pub v6: Option<SocketAddrV6>,
    /// Addresses of the server that take the place of the ones above.
    served: [Option<AddressId>; 2],
    /// Not of the server itself.
    forwarded: bool,
}

impl Alternate {
    /// An IPv4 address of the server.
    pub fn v4(address: SocketAddrV4) -> Self {
        Self {
            v4: Some(address),
            ..Self::default()
        }
    }

    /// An IPv6 address of the server.
    pub fn v6(address: SocketAddrV6) -> Self {
        Self {
            v6: Some(address),
            ..Self::default()
        }
    }

    /// Addresses from which something else forwards to this server, and back: a load balancer, a port forwarding, a relay.
    /// Nothing checks that it does.
    pub fn forwarded(alternate: impl Into<Self>) -> Self {
        Self {
            forwarded: true,
            ..alternate.into()
        }
    }

    /// The addresses themselves. `home` is the local address that the connection began at.
    pub(super) fn resolve(
        mut self,
        socket: &ServerSocket,
        home: Option<IpAddr>,
    ) -> Result<Self, AdvertiseError> {
        for id in self.served.into_iter().flatten() {
            let address = socket.address(id.0).ok_or(AdvertiseError::NotServed)?;
            match address {
                SocketAddr::V4(v4) => self.v4 = Some(v4),
                SocketAddr::V6(v6) => self.v6 = Some(v6),
            }
        }
        let (v4, v6) = (self.v4.map(SocketAddr::V4), self.v6.map(SocketAddr::V6));
        let addresses = || v4.into_iter().chain(v6);
        let usable = |a: SocketAddr| a.port() != 0 && !a.ip().is_unspecified();
        if addresses().next().is_none() || !addresses().all(usable) {
            return Err(AdvertiseError::NoAddress);
        }
        if self.forwarded || addresses().all(|address| socket.answers_from(address, home)) {
            Ok(self)
        } else {
            Err(AdvertiseError::NotServed)
        }
    }
}

impl From<SocketAddr> for Alternate {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::v4(v4),
            SocketAddr::V6(v6) => Self::v6(v6),
        }
    }
}

impl From<AddressId> for Alternate {
    fn from(id: AddressId) -> Self {
        Self {
            served: [Some(id), None],
            ..Self::default()
        }
    }
}

impl From<[AddressId; 2]> for Alternate {
    fn from(ids: [AddressId; 2]) -> Self {
        Self {
            served: ids.map(Some),
            ..Self::default()
        }
    }
}
