//! Where a client lets itself be sent, and how often (`docs/protocol.md` section 4).
//!
//! A server is trusted with the connection, not with the client's network: a policy never widens what the client
//! reaches because a server says so.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use time::{Duration, OffsetDateTime};

/// Decides whether a client at `current` may follow a token to `target`.
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
    /// A policy of the application refuses it.
    #[error("the target is refused by the application's policy")]
    ByApplication,
}

/// The default policy, "no wider than where I am": from a global address only to global ones; from a private or
/// loopback address only to its own class or to global ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWider;

impl TargetPolicy for NoWider {
    fn allow(&self, current: SocketAddr, target: SocketAddr) -> Result<(), TargetRefused> {
        if target.port() == 0 {
            return Err(TargetRefused::NotConnectable);
        }
        match (Reach::of(current.ip()), Reach::of(target.ip())) {
            (_, Reach::Nowhere) => Err(TargetRefused::NotConnectable),
            (_, Reach::Global) => Ok(()),
            (here, there) if here == there => Ok(()),
            (_, Reach::Private | Reach::Loopback) => Err(TargetRefused::Narrower),
        }
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
        match ip.segments() {
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            // IPv4 in IPv6: translated (RFC 6052) and 6to4 (RFC 3056).
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
                let [a, b] = high.to_be_bytes();
                let [c, d] = low.to_be_bytes();
                Self::of_v4(Ipv4Addr::new(a, b, c, d))
            }
            // Unique local (RFC 4193) and the older site-local.
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Self::Private,
            [0x2000..=0x3fff, ..] => Self::Global,
            _ => Self::Nowhere,
        }
    }
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
    begun: VecDeque<OffsetDateTime>,
}

impl LoopGuard {
    /// Whether another migration may begin at `now`; if so, it counts.
    pub fn admit(&mut self, limit: MigrationLimit, now: OffsetDateTime) -> bool {
        while self
            .begun
            .front()
            .is_some_and(|begun| now - *begun >= limit.window)
        {
            self.begun.pop_front();
        }
        let admitted = self.begun.len() < limit.count;
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
        NoWider.allow(address(current), address(target))
    }

    #[test]
    fn from_a_global_address_only_global_ones_are_followed() {
        for target in ["8.8.8.8", "2001:4860::1", "64:ff9b::808:808"] {
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
            NoWider.allow("1.1.1.1:443".parse().unwrap(), port_0),
            Err(TargetRefused::NotConnectable)
        );
    }

    #[test]
    fn the_loop_guard_counts_within_its_window() {
        let limit = MigrationLimit::default();
        let mut guard = LoopGuard::default();
        let at = |seconds| OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds);
        for second in 0..5 {
            assert!(guard.admit(limit, at(second)));
        }
        assert!(!guard.admit(limit, at(5)));
        assert!(!guard.admit(limit, at(299)));
        assert!(guard.admit(limit, at(300)));
        assert!(!guard.admit(limit, at(300)));
    }
}
