//! What a client does with an advertised address: which targets it follows, how often, in which family.
//!
//! Pure: the current time is an argument. Never follows an address of a wider class than the one it is on,
//! and never a multicast, broadcast, unspecified or link-local one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use migration_policy::MoveLimiter;
use thiserror::Error;

pub use migration_policy::AddressClass;
pub(crate) use migration_policy::canonical;

use crate::wire::AlternateAddress;

/// Rules of a client. [`Policy::default`] is meant for use as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// Challenges sent to a new address before it counts as unreachable. Default 3.
    pub challenges: u32,
    /// Validations begun at most in each [`Policy::window`]. Default 5.
    pub moves: u32,
    /// Length of the window in which [`Policy::moves`] are counted. Default 300 s.
    pub window: Duration,
    /// Which address of an advertisement is used. Default [`Family::CurrentOnly`].
    pub family: Family,
    /// When an advertisement is followed. Default [`FollowPolicy::AtOnce`].
    pub follow: FollowPolicy,
}

/// When a client follows an advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FollowPolicy {
    /// When it arrives.
    AtOnce,
    /// When the path in use falls silent: a way around a block. Four advertisements are kept at most, each with its
    /// connection ID; the oldest one is given back first.
    OnSilence,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            challenges: 3,
            moves: 5,
            window: Duration::from_secs(300),
            family: Family::CurrentOnly,
            follow: FollowPolicy::AtOnce,
        }
    }
}

/// Choice between the IPv4 and the IPv6 address of an advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// The family of the current path, or else the other one.
    CurrentFirst,
    /// Only the family of the current path: the draft's words taken strictly.
    CurrentOnly,
    /// IPv4, or else IPv6.
    V4First,
    /// IPv6, or else IPv4.
    V6First,
}

/// Why an advertisement was not followed. The connection stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The frame holds no address of a family that the policy allows.
    #[error("no address of a usable family")]
    NoUsableFamily,
    /// The frame names the address that the connection is on already.
    #[error("the advertised address is the current one")]
    SameAddress,
    /// The address is of a class that a connection from here must not follow.
    #[error("target is {target:?} but the current address is {current:?}")]
    TargetClass {
        /// Class of the address in use.
        current: AddressClass,
        /// Class of the advertised address.
        target: AddressClass,
    },
    /// More advertisements than [`Policy::moves`] in [`Policy::window`].
    #[error("too many advertisements in the policy's window")]
    TooMany,
    /// The connection ID is not as long as the one in use, so quinn could not use it in place.
    #[error("the advertised connection ID has {offered} bytes, the current one {current}")]
    ConnectionIdLength {
        /// Length in use, in bytes.
        current: usize,
        /// Length offered, in bytes.
        offered: usize,
    },
    /// The frame was malformed.
    #[error("malformed frame")]
    Malformed,
    /// The sequence number or the connection ID was used before, with other content.
    #[error("sequence number or connection ID used before")]
    Reused,
    /// A newer advertisement arrived before this one was looked at, or its connection ID cannot be used any more: the
    /// server retired it, or quinn uses a later one.
    #[error("superseded by a newer advertisement or connection ID")]
    Superseded,
}

/// A policy and what it has let through so far.
#[derive(Debug)]
pub(crate) struct Gate {
    policy: Policy,
    limiter: MoveLimiter,
}

impl Gate {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            limiter: MoveLimiter::default(),
        }
    }

    pub(crate) fn challenges(&self) -> u32 {
        self.policy.challenges
    }

    pub(crate) fn follow(&self) -> FollowPolicy {
        self.policy.follow
    }

    /// The address to validate, or why none. Counts against the limit only when it answers with an address.
    pub(crate) fn judge(
        &mut self,
        current: SocketAddr,
        offer: &AlternateAddress,
        now: Instant,
    ) -> Result<SocketAddr, Refusal> {
        let target = self.check(current, offer)?;
        self.count(now)?;
        Ok(target)
    }

    /// The address to validate now or later, or why none.
    pub(crate) fn check(
        &self,
        current: SocketAddr,
        offer: &AlternateAddress,
    ) -> Result<SocketAddr, Refusal> {
        let target = canonical(self.choose(current, offer).ok_or(Refusal::NoUsableFamily)?);
        let current = canonical(current);
        if target == current {
            return Err(Refusal::SameAddress);
        }
        let (from, to) = (
            AddressClass::of(current.ip()),
            AddressClass::of(target.ip()),
        );
        if !from.may_lead_to(to) {
            return Err(Refusal::TargetClass {
                current: from,
                target: to,
            });
        }
        Ok(target)
    }

    /// The address of the other family, when there is no socket for `target`. It counts as the same move. Once a packet has
    /// gone to `target` there is none: a connection ID goes to one address only (RFC 9000 section 9.5).
    pub(crate) fn instead(
        &self,
        current: SocketAddr,
        offer: &AlternateAddress,
        target: SocketAddr,
    ) -> Option<SocketAddr> {
        let other = AlternateAddress {
            v4: offer.v4.filter(|_| target.is_ipv6()),
            v6: offer.v6.filter(|_| target.is_ipv4()),
            ..offer.clone()
        };
        self.check(current, &other).ok()
    }

    fn choose(&self, current: SocketAddr, offer: &AlternateAddress) -> Option<SocketAddr> {
        let v4 = offer.v4.map(SocketAddr::V4);
        let v6 = offer.v6.map(SocketAddr::V6);
        let on_v4 = canonical(current).is_ipv4();
        match (self.policy.family, on_v4) {
            (Family::CurrentOnly, true) => v4,
            (Family::CurrentOnly, false) => v6,
            (Family::CurrentFirst, true) | (Family::V4First, _) => v4.or(v6),
            (Family::CurrentFirst, false) | (Family::V6First, _) => v6.or(v4),
        }
    }

    fn count(&mut self, now: Instant) -> Result<(), Refusal> {
        let limit = usize::try_from(self.policy.moves).unwrap_or(usize::MAX);
        let admitted = self.limiter.admit(limit, self.policy.window, now);
        admitted.then_some(()).ok_or(Refusal::TooMany)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ResetToken;
    use quinn_proto::{ConnectionId, VarInt};

    fn offer(v4: Option<&str>, v6: Option<&str>) -> AlternateAddress {
        AlternateAddress {
            sequence: VarInt::from_u32(1),
            v4: v4.map(|a| a.parse().unwrap()),
            v6: v6.map(|a| a.parse().unwrap()),
            id: ConnectionId::new(&[1; 8]),
            token: ResetToken::new([0; 16]),
        }
    }

    fn gate(family: Family) -> Gate {
        Gate::new(Policy {
            family,
            ..Policy::default()
        })
    }

    #[test]
    fn the_family_of_the_current_path_is_preferred_and_the_other_one_used_only_when_allowed() {
        let now = Instant::now();
        let both = offer(Some("127.0.0.3:1"), Some("[::1]:2"));
        let v6 = offer(None, Some("[::1]:2"));
        let here: SocketAddr = "127.0.0.2:1".parse().unwrap();
        assert_eq!(
            gate(Family::CurrentFirst).judge(here, &both, now),
            Ok("127.0.0.3:1".parse().unwrap())
        );
        assert_eq!(
            gate(Family::CurrentFirst).judge(here, &v6, now),
            Ok("[::1]:2".parse().unwrap())
        );
        assert_eq!(
            gate(Family::CurrentOnly).judge(here, &v6, now),
            Err(Refusal::NoUsableFamily)
        );
        assert_eq!(
            gate(Family::V6First).judge(here, &both, now),
            Ok("[::1]:2".parse().unwrap())
        );
        assert_eq!(
            gate(Family::CurrentFirst).judge(here, &offer(None, None), now),
            Err(Refusal::NoUsableFamily)
        );
    }

    #[test]
    fn a_mapped_current_address_counts_as_ipv4() {
        let here: SocketAddr = "[::ffff:127.0.0.2]:1".parse().unwrap();
        let same = offer(Some("127.0.0.2:1"), None);
        assert_eq!(
            gate(Family::CurrentOnly).judge(here, &same, Instant::now()),
            Err(Refusal::SameAddress)
        );
    }

    #[test]
    fn more_moves_than_the_limit_are_refused_until_the_window_has_passed() {
        let start = Instant::now();
        let mut gate = Gate::new(Policy {
            moves: 2,
            window: Duration::from_secs(10),
            ..Policy::default()
        });
        let here: SocketAddr = "127.0.0.2:1".parse().unwrap();
        let there = offer(Some("127.0.0.3:1"), None);
        assert!(gate.judge(here, &there, start).is_ok());
        assert!(
            gate.judge(here, &there, start + Duration::from_secs(5))
                .is_ok()
        );
        assert_eq!(
            gate.judge(here, &there, start + Duration::from_secs(9)),
            Err(Refusal::TooMany)
        );
        assert!(
            gate.judge(here, &there, start + Duration::from_secs(10))
                .is_ok()
        );
    }

    #[test]
    fn a_refused_target_does_not_count_against_the_limit() {
        let mut gate = Gate::new(Policy {
            moves: 1,
            ..Policy::default()
        });
        let here: SocketAddr = "192.0.2.1:1".parse().unwrap();
        for _ in 0..3 {
            assert!(matches!(
                gate.judge(here, &offer(Some("127.0.0.1:1"), None), Instant::now()),
                Err(Refusal::TargetClass { .. })
            ));
        }
        assert!(
            gate.judge(here, &offer(Some("198.51.100.1:1"), None), Instant::now())
                .is_ok()
        );
    }
}
