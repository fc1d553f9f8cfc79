//! A range of addresses behind one socket, and which of them comes next.
//!
//! Never hands out an address that is in use, and keeps nothing for the addresses of a prefix that are not.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use parking_lot::Mutex;
use thiserror::Error;

use super::PathId;

/// Prefixes with so many host bits or fewer are kept as a queue, so that every address has its turn.
const QUEUED_BITS: u32 = 12;
/// Random addresses that may be in use, one after the other, before a prefix counts as used up.
const TRIES: usize = 64;

/// Addresses that reach this host: a whole prefix, or some that are named.
///
/// ```
/// use quinn_migration::AddressRange;
///
/// let prefix: AddressRange = "2001:db8:1:2::/64".parse()?;
/// let named = AddressRange::list(["192.0.2.7".parse()?, "192.0.2.9".parse()?]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRange(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    List(Vec<IpAddr>),
    /// The network, and how many bits belong to it.
    Prefix(IpAddr, u8),
}

/// Why a text or a prefix is no [`AddressRange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddressRangeError {
    /// Not of the form `address/bits`.
    #[error("not of the form address/bits")]
    Form,
    /// More bits than an address has: 32, or 128 in IPv6.
    #[error("a prefix has no more bits than an address")]
    Length,
}

impl AddressRange {
    /// All host addresses of a prefix. Those of `address`'s bits that are no part of it do not count. Left out: the first
    /// address, which names the network or its routers (RFC 4291 section 2.6.1), and IPv4's last one, the broadcast address;
    /// a prefix of one or two addresses is used as it is.
    ///
    /// # Errors
    ///
    /// [`AddressRangeError::Length`].
    pub fn prefix(address: IpAddr, bits: u8) -> Result<Self, AddressRangeError> {
        if u32::from(bits) > width(address) {
            return Err(AddressRangeError::Length);
        }
        Ok(Self(Kind::Prefix(address, bits)))
    }

    /// These addresses.
    pub fn list(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self(Kind::List(addresses.into_iter().collect()))
    }

    /// Whether it is of IPv4 addresses; `None` when it is of both families, or of none.
    pub(super) fn is_ipv4(&self) -> Option<bool> {
        match &self.0 {
            Kind::List(addresses) => {
                let (first, rest) = addresses.split_first()?;
                let v4 = first.is_ipv4();
                let same = rest.iter().all(|address| address.is_ipv4() == v4);
                same.then_some(v4)
            }
            Kind::Prefix(address, _) => Some(address.is_ipv4()),
        }
    }
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = text.split_once('/').ok_or(AddressRangeError::Form)?;
        let address = address.parse().map_err(|_| AddressRangeError::Form)?;
        let bits = bits.parse().map_err(|_| AddressRangeError::Form)?;
        Self::prefix(address, bits)
    }
}

/// A range that a server draws from.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The socket that all of it shares, and other ranges may.
    pub(super) socket: PathId,
    pub(super) local: SocketAddr,
    v4: bool,
    source: Mutex<Source>,
}

#[derive(Debug)]
enum Source {
    /// The one that was used longest ago comes first.
    Queue(VecDeque<IpAddr>),
    /// Any but the first; so many bits are free.
    Random { network: IpAddr, host_bits: u32 },
}

impl Pool {
    pub(super) fn new(range: &AddressRange, socket: PathId, local: SocketAddr) -> Self {
        Self {
            socket,
            local,
            v4: range.is_ipv4().unwrap_or(local.is_ipv4()),
            source: Mutex::new(Source::of(range)),
        }
    }

    /// Whether clients of this family can use it.
    pub(crate) fn is_ipv4(&self) -> bool {
        self.v4
    }

    pub(super) fn draw(&self, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        match &mut *self.source.lock() {
            Source::Queue(free) => free.pop_front(),
            Source::Random { network, host_bits } => {
                let drawn = (0..TRIES).map_while(|_| random(*network, *host_bits));
                drawn.flatten().find(|address| !taken(*address))
            }
        }
    }

    /// The address is in use no more.
    pub(super) fn give_back(&self, address: IpAddr) {
        if let Source::Queue(free) = &mut *self.source.lock() {
            free.push_back(address);
        }
    }
}

impl Source {
    fn of(range: &AddressRange) -> Self {
        let addresses: Vec<IpAddr> = match &range.0 {
            Kind::List(addresses) => {
                let mut known = std::collections::HashSet::new();
                let new = |address: &&IpAddr| known.insert(**address);
                addresses.iter().filter(new).copied().collect()
            }
            Kind::Prefix(address, bits) => {
                let host_bits = width(*address).saturating_sub((*bits).into());
                let network = with_host(*address, host_bits, 0);
                if host_bits > QUEUED_BITS {
                    return Self::Random { network, host_bits };
                }
                hosts(network, host_bits)
            }
        };
        Self::Queue(shuffled(addresses).into())
    }
}

fn width(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => Ipv4Addr::BITS,
        IpAddr::V6(_) => Ipv6Addr::BITS,
    }
}

/// The address with its lowest bits replaced.
fn with_host(network: IpAddr, host_bits: u32, host: u128) -> IpAddr {
    let mask = u128::MAX
        .checked_shr(u128::BITS.saturating_sub(host_bits))
        .unwrap_or(0);
    let host = host & mask;
    match network {
        IpAddr::V4(ip) => {
            let bits = (u128::from(ip.to_bits()) & !mask) | host;
            Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or_default()).into()
        }
        IpAddr::V6(ip) => Ipv6Addr::from_bits((ip.to_bits() & !mask) | host).into(),
    }
}

/// The host addresses of a small prefix.
fn hosts(network: IpAddr, host_bits: u32) -> Vec<IpAddr> {
    let count = 1u128 << host_bits.min(QUEUED_BITS);
    let (first, end) = match network {
        _ if count <= 2 => (0, count),
        IpAddr::V4(_) => (1, count.saturating_sub(1)),
        IpAddr::V6(_) => (1, count),
    };
    let host = |host| with_host(network, host_bits, host);
    (first..end).map(host).collect()
}

/// `None` without randomness; `Some(None)` for the address that is left out.
fn random(network: IpAddr, host_bits: u32) -> Option<Option<IpAddr>> {
    let address = with_host(network, host_bits, random_number()?);
    Some((address != network).then_some(address))
}

fn random_number() -> Option<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(u128::from_be_bytes(bytes))
}

/// In random order (Fisher and Yates). Without randomness the order stays, which is no reason to serve nobody.
fn shuffled(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    for left in (1..addresses.len()).rev() {
        let choices = u128::try_from(left).unwrap_or_default().saturating_add(1);
        let chosen = random_number().map_or(0, |number| number % choices);
        addresses.swap(left, usize::try_from(chosen).unwrap_or_default());
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn pool(range: &str) -> Pool {
        let local = "[::]:443".parse().unwrap();
        Pool::new(&range.parse().unwrap(), PathId(1), local)
    }

    fn all(range: &str) -> HashSet<IpAddr> {
        let pool = pool(range);
        std::iter::from_fn(|| pool.draw(|_| false)).collect()
    }

    #[test]
    fn a_small_prefix_gives_each_host_address_once() {
        for (range, expected) in [
            ("192.0.2.99/29", 6),
            ("192.0.2.1/31", 2),
            ("192.0.2.1/32", 1),
            ("2001:db8::/120", 255),
            ("2001:db8::7/128", 1),
            ("10.0.0.0/20", 4094),
        ] {
            assert_eq!(all(range).len(), expected, "{range}");
        }
        let eight = all("192.0.2.99/29");
        assert!(!eight.contains(&"192.0.2.96".parse().unwrap()));
        assert!(!eight.contains(&"192.0.2.103".parse().unwrap()));
    }

    #[test]
    fn a_named_address_comes_again_after_all_others() {
        let named = ["192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3"];
        let range = AddressRange::list(named.map(|address| address.parse().unwrap()));
        let pool = Pool::new(&range, PathId(1), "0.0.0.0:443".parse().unwrap());
        let draw = || pool.draw(|_| false);
        let three = [draw(), draw(), draw()].map(Option::unwrap);
        assert_eq!(HashSet::from(three).len(), 3);
        assert_eq!(draw(), None);
        pool.give_back(three[1]);
        pool.give_back(three[0]);
        assert_eq!([draw(), draw()], [Some(three[1]), Some(three[0])]);
    }

    #[test]
    fn a_large_prefix_gives_addresses_inside_of_it_that_are_not_taken() {
        for range in ["2001:db8:1:2:3::/64", "10.77.0.0/16", "::/0"] {
            let pool = pool(range);
            let mut taken = HashSet::new();
            for _ in 0..1000 {
                let drawn = pool.draw(|address| taken.contains(&address)).unwrap();
                let (network, bits) = range.split_once('/').unwrap();
                let (network, bits): (IpAddr, u32) =
                    (network.parse().unwrap(), bits.parse().unwrap());
                let host_bits = width(network) - bits;
                let start = with_host(network, host_bits, 0);
                assert_eq!(with_host(drawn, host_bits, 0), start, "{drawn}");
                assert!(drawn != start && taken.insert(drawn));
            }
            assert_eq!(pool.draw(|_| true), None, "all are in use");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for (text, why) in [
            ("2001:db8::", AddressRangeError::Form),
            ("2001:db8::/x", AddressRangeError::Form),
            ("host/64", AddressRangeError::Form),
            ("192.0.2.0/33", AddressRangeError::Length),
            ("2001:db8::/129", AddressRangeError::Length),
        ] {
            assert_eq!(text.parse::<AddressRange>(), Err(why), "{text}");
        }
    }
}
