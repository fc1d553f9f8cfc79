//! Where a client lets itself be sent, and how often (`docs/protocol.md` section 4).
//!
//! A server is trusted with the connection, not with the client's network: a policy never widens what the client
//! reaches because a server says so.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use migration_policy::{AddressClass, MoveLimiter};
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
        let there = AddressClass::of(target.ip());
        if there == AddressClass::Never {
            return Err(TargetRefused::NotConnectable);
        }
        if !AddressClass::of(current.ip()).may_lead_to(there) {
            return Err(TargetRefused::Narrower);
        }
        if !self.any_port && target.port() != current.port() {
            return Err(TargetRefused::OtherPort);
        }
        Ok(())
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

impl MigrationLimit {
    fn window(self) -> std::time::Duration {
        self.window.try_into().unwrap_or_default()
    }
}

/// Stats one stream's migrations against a [`MigrationLimit`]. The streams of this crate have their own; who
/// drives connections otherwise keeps one for each.
#[derive(Clone, Debug, Default)]
pub struct LoopGuard(MoveLimiter);

impl LoopGuard {
    /// Whether another migration may begin at `now`. A window below zero counts as none.
    pub fn allows(&mut self, limit: MigrationLimit, now: Instant) -> bool {
        self.0.allows(limit.count, limit.window(), now)
    }

    /// As [`allows`](Self::allows); if so, it counts.
    pub fn admit(&mut self, limit: MigrationLimit, now: Instant) -> bool {
        self.0.admit(limit.count, limit.window(), now)
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
    fn a_target_is_followed_when_its_class_may_be_reached_from_here() {
        for (current, target, answer) in [
            ("1.1.1.1", "2001:4860::1", Ok(())),
            ("1.1.1.1", "10.0.0.1", Err(TargetRefused::Narrower)),
            ("2001:4860::1", "::1", Err(TargetRefused::Narrower)),
            ("10.0.0.1", "192.168.0.1", Ok(())),
            ("10.0.0.1", "127.0.0.1", Err(TargetRefused::Narrower)),
            ("fd00::1", "8.8.8.8", Ok(())),
            ("::1", "127.0.0.3", Ok(())),
            ("127.0.0.1", "192.0.0.8", Err(TargetRefused::NotConnectable)),
            ("1.1.1.1", "fe80::1", Err(TargetRefused::NotConnectable)),
        ] {
            assert_eq!(allow(current, target), answer, "{current} to {target}");
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
        assert!(!guard.allows(limit, at(299)) && !guard.admit(limit, at(299)));
        assert!(guard.admit(limit, at(300)));
        let below_zero = MigrationLimit {
            window: -Duration::SECOND,
            ..limit
        };
        assert!(guard.allows(below_zero, at(300)), "no window, no limit");
    }
}
