//! Where a client lets itself be sent, and how often (`docs/protocol.md` section 4).
//!
//! A server is trusted with the connection, not with the client's network: a policy never widens what the client
//! reaches because a server says so.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use time::Duration;

/// Decides whether a client at `current` may follow a token to `target`. IPv4 addresses come as such, never mapped into
/// IPv6.
pub trait TargetPolicy: fmt::Debug + Send + Sync {
    /// `Ok` to follow.
    ///
    /// # Errors
    ///
    /// [`TargetRefused`] says why not; the connection stays where it is.
    fn allow(&self, current: SocketAddr, target: SocketAddr) -> Result<(), TargetRefused>;
}

/// Why a [`TargetPolicy`] refuses a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetRefused {
    /// Nobody can be connected to there: multicast, broadcast, unspecified, link-local, reserved, or port 0.
    #[error("the target is no address to connect to")]
    NotConnectable,
    /// The target lies in a narrower network than the current address.
    #[error("the target lies in a narrower network than the current address")]
    Narrower,
    /// The target has another port than the current address.
    #[error("the target has another port than the current address")]
    OtherPort,
    /// A policy of the application refuses it.
    #[error("the target is refused by the application's policy")]
    ByApplication,
}

/// The default policy, "no wider than where I am": from a global address only to global ones; from a private or
/// loopback address only to its own class or to global ones; and, unless [`any_port`](Self::any_port) is wanted, only to
/// the port where the client is.
///
/// The port counts because the server names the target before the target has shown a certificate: whoever listens there gets
/// the client's hello, with bytes in it that the server chose (SECURITY.md). Other services of a host listen at other ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoWider {
    any_port: bool,
}

impl NoWider {
    /// Only the port of the current address; the default.
    pub fn same_port() -> Self {
        Self::default()
    }

    /// Any port but 0, for services whose nodes listen at different ports.
    pub fn any_port() -> Self {
        Self { any_port: true }
    }
}

impl TargetPolicy for NoWider {
    fn allow(&self, current: SocketAddr, target: SocketAddr) -> Result<(), TargetRefused> {
        if target.port() == 0 {
            return Err(TargetRefused::NotConnectable);
        }
        match (Reach::of(current.ip()), Reach::of(target.ip())) {
            (_, Reach::Nowhere) => return Err(TargetRefused::NotConnectable),
            (_, Reach::Global) => {}
            (here, there) if here == there => {}
            (_, Reach::Private | Reach::Loopback) => return Err(TargetRefused::Narrower),
        }
        if !self.any_port && target.port() != current.port() {
            return Err(TargetRefused::OtherPort);
        }
        Ok(())
    }
}

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Global,
    Private,
    Loopback,
    Nowhere,
}

impl Reach {
    fn of(ip: IpAddr) -> Self {
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
            [0, ..] | [169, 254, ..] | [192, 0, 0, _] | [224..=255, ..] => Self::Nowhere,
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
            // Unique local (RFC 4193) and the older site-local.
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Self::Private,
            [0x2000..=0x3fff, ..] => Self::Global,
            _ => Self::Nowhere,
        }
    }

    /// From where an address can be reached that is of both.
    fn narrower(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nowhere, _) | (_, Self::Nowhere) => Self::Nowhere,
            (Self::Loopback, _) | (_, Self::Loopback) => Self::Loopback,
            (Self::Private, _) | (_, Self::Private) => Self::Private,
            (Self::Global, Self::Global) => Self::Global,
        }
    }
}

/// The IPv4 address in two groups of an IPv6 one.
fn v4(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

/// How often a stream may migrate, against servers that send it round in circles: by default at most 5 times in
/// 300 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationLimit {
    /// How many migrations may begin within the window.
    pub count: usize,
    /// The window's length.
    pub window: Duration,
}

impl Default for MigrationLimit {
    fn default() -> Self {
        Self {
            count: 5,
            window: Duration::seconds(300),
        }
    }
}

/// Counts one stream's migrations against a [`MigrationLimit`]. The streams of this crate have their own; who
/// drives connections otherwise keeps one for each.
#[derive(Clone, Debug, Default)]
pub struct LoopGuard {
    begun: VecDeque<Instant>,
}

impl LoopGuard {
    /// Whether another migration may begin at `now`. A window below zero counts as none.
    pub fn allows(&mut self, limit: MigrationLimit, now: Instant) -> bool {
        let window = std::time::Duration::try_from(limit.window).unwrap_or_default();
        let over = |begun: &Instant| now.saturating_duration_since(*begun) >= window;
        while self.begun.front().is_some_and(over) {
            self.begun.pop_front();
        }
        self.begun.len() < limit.count
    }

    /// As [`allows`](Self::allows); if so, it counts.
    pub fn admit(&mut self, limit: MigrationLimit, now: Instant) -> bool {
        let admitted = self.allows(limit, now);
        if admitted {
            self.begun.push_back(now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(current: &str, target: &str) -> Result<(), TargetRefused> {
        let address = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 443);
        NoWider::default().allow(address(current), address(target))
    }

    #[test]
    fn from_a_global_address_only_global_ones_are_followed() {
        for target in [
            "8.8.8.8",
            "2001:4860::1",
            "64:ff9b::808:808",
            "2001:0:101:101::f7f7:f7f7",
            "2001:4860::5efe:808:808",
        ] {
            assert_eq!(allow("1.1.1.1", target), Ok(()), "{target}");
        }
        for target in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "127.0.0.1",
            "::1",
            "fd00::1",
            "fec0::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "2001:0:101:101::f5ff:fffe",
            "2001:0:101:101::80ff:fffe",
            "2001:4860::5efe:7f00:1",
            "2001:4860::200:5efe:a00:1",
            "fd00::5efe:808:808",
            "2002:a00:1::5efe:808:808",
        ] {
            assert_eq!(
                allow("1.1.1.1", target),
                Err(TargetRefused::Narrower),
                "{target}"
            );
            assert_eq!(
                allow("2001:4860::1", target),
                Err(TargetRefused::Narrower),
                "{target}"
            );
        }
    }

    #[test]
    fn from_a_local_address_its_own_class_and_global_ones_are_followed() {
        for (current, target) in [
            ("127.0.0.2", "127.0.0.3"),
            ("::1", "127.0.0.3"),
            ("10.0.0.1", "192.168.0.1"),
            ("fd00::1", "10.0.0.1"),
            ("10.0.0.1", "8.8.8.8"),
            ("127.0.0.1", "8.8.8.8"),
        ] {
            assert_eq!(allow(current, target), Ok(()), "{current} to {target}");
        }
        for (current, target) in [("10.0.0.1", "127.0.0.1"), ("127.0.0.1", "10.0.0.1")] {
            assert_eq!(
                allow(current, target),
                Err(TargetRefused::Narrower),
                "{current} to {target}"
            );
        }
    }

    #[test]
    fn addresses_that_nobody_can_be_connected_to_are_never_followed() {
        for target in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.1.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "ff02::1",
            "64:ff9b::e000:1",
            "100::1",
            "fe80::5efe:808:808",
            "2001:4860::5efe:a9fe:101",
            "2001:0:101:101::1fff:fffe",
        ] {
            for current in ["1.1.1.1", "10.0.0.1", "127.0.0.1"] {
                assert_eq!(
                    allow(current, target),
                    Err(TargetRefused::NotConnectable),
                    "{target}"
                );
            }
        }
        let port_0 = "8.8.8.8:0".parse().unwrap();
        assert_eq!(
            NoWider::any_port().allow("1.1.1.1:443".parse().unwrap(), port_0),
            Err(TargetRefused::NotConnectable)
        );
    }

    #[test]
    fn another_port_is_followed_only_when_any_is_wanted() {
        let [current, target] =
            ["1.1.1.1:443", "8.8.8.8:444"].map(|address| address.parse().unwrap());
        assert_eq!(
            NoWider::default().allow(current, target),
            Err(TargetRefused::OtherPort)
        );
        assert_eq!(NoWider::same_port(), NoWider::default());
        assert_eq!(NoWider::any_port().allow(current, target), Ok(()));
        let narrower = "10.0.0.1:443".parse().unwrap();
        assert_eq!(
            NoWider::any_port().allow(current, narrower),
            Err(TargetRefused::Narrower)
        );
    }

    #[test]
    fn the_loop_guard_counts_within_its_window() {
        let limit = MigrationLimit::default();
        let mut guard = LoopGuard::default();
        let start = Instant::now();
        let at = |seconds| start + std::time::Duration::from_secs(seconds);
        for second in 0..5 {
            assert!(guard.admit(limit, at(second)));
        }
        assert!(!guard.admit(limit, at(5)));
        assert!(!guard.allows(limit, at(299)));
        assert!(!guard.admit(limit, at(299)));
        assert!(guard.allows(limit, at(300)));
        assert!(guard.admit(limit, at(300)));
        assert!(!guard.admit(limit, at(300)));
    }
}
