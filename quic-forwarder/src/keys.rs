//! The secrets that fronts and nodes share, and the keys that are derived from them (docs/forwarding.md, "Keys").
//!
//! No two uses have the same key: routing, placement, and each direction of each tunnel have their own.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _};
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::ServerId;
use crate::address::address_bytes;

/// HMAC-SHA-256 with a key of its own.
pub(crate) type Mac = Hmac<Sha256>;

/// Numbers of keys that there are at a time: QUIC-LB has three bits for them, and keeps the last value for connection IDs
/// that cannot be routed (draft-ietf-quic-load-balancers, "Config Rotation").
pub(crate) const KEY_NUMBERS: u8 = 7;

/// A secret of 32 bytes, and the number that connection IDs and envelopes name it by.
#[derive(Clone)]
pub struct SharedKey {
    number: u8,
    secret: Zeroizing<[u8; Self::LEN]>,
}

impl SharedKey {
    /// Length of the secret, in bytes.
    pub const LEN: usize = 32;

    /// `secret` must be random; it is no password.
    ///
    /// # Errors
    ///
    /// [`KeyError::Number`] when the number is not from 0 to 6.
    pub fn new(number: u8, secret: [u8; Self::LEN]) -> Result<Self, KeyError> {
        if number >= KEY_NUMBERS {
            return Err(KeyError::Number);
        }
        Ok(Self {
            number,
            secret: Zeroizing::new(secret),
        })
    }

    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    /// HKDF-Expand (RFC 5869 section 2.3) of the secret.
    fn derive<const N: usize>(&self, label: &str, context: &[u8]) -> Zeroizing<[u8; N]> {
        let mut out = Zeroizing::new([0; N]);
        let prefix = b"quic-forwarder 1 ";
        let derived = Hkdf::<Sha256>::from_prk(&*self.secret)
            .map(|key| key.expand_multi_info(&[prefix, label.as_bytes(), context], &mut *out));
        debug_assert!(matches!(derived, Ok(Ok(()))), "lengths are fixed");
        out
    }

    /// The AES-128 key of connection IDs.
    pub(crate) fn routing(&self) -> Zeroizing<[u8; 16]> {
        self.derive("routing", &[])
    }

    /// What decides the node of a new connection.
    pub(crate) fn placement(&self) -> Mac {
        mac(&self.derive::<64>("placement", &[]))
    }

    /// What authenticates one direction of the tunnel between a front and a node.
    pub(crate) fn tunnel(&self, direction: Direction, front: SocketAddr, node: ServerId) -> Mac {
        let label = match direction {
            Direction::ToNode => "to node",
            Direction::ToFront => "to front",
        };
        let mut context = node.as_bytes().to_vec();
        context.extend_from_slice(&address_bytes(front));
        mac(&self.derive::<64>(label, &context))
    }
}

fn mac(key: &[u8; 64]) -> Mac {
    Mac::new(key.into())
}

/// Which way an envelope goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToNode,
    ToFront,
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKey")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// The shared keys that are valid now: the first one is used, the others are accepted.
///
/// To change keys: add the new one as the second everywhere, then make it the first everywhere, then remove the old one
/// when its connections have ended.
///
/// As text, one key a line: its number, a space, and 64 hexadecimal digits.
///
/// ```
/// use quic_forwarder::SharedKeys;
///
/// let secret = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// let keys: SharedKeys = format!("3 {secret}\n").parse()?;
/// # Ok::<(), quic_forwarder::KeyError>(())
/// ```
#[derive(Debug, Clone)]
pub struct SharedKeys {
    first: SharedKey,
    others: Vec<SharedKey>,
}

impl SharedKeys {
    /// One key, used and accepted.
    pub fn new(first: SharedKey) -> Self {
        Self {
            first,
            others: Vec::new(),
        }
    }

    /// One more key that is accepted.
    ///
    /// # Errors
    ///
    /// [`KeyError::Twice`] when there is a key with this number.
    pub fn accept(mut self, other: SharedKey) -> Result<Self, KeyError> {
        if self.iter().any(|key| key.number == other.number) {
            return Err(KeyError::Twice(other.number));
        }
        self.others.push(other);
        Ok(self)
    }

    pub(crate) fn first(&self) -> &SharedKey {
        &self.first
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SharedKey> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl FromStr for SharedKeys {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut keys = None;
        for line in lines {
            let key = parse_key(line)?;
            keys = Some(match keys {
                None => Self::new(key),
                Some(keys) => Self::accept(keys, key)?,
            });
        }
        keys.ok_or(KeyError::None)
    }
}

fn parse_key(line: &str) -> Result<SharedKey, KeyError> {
    let (number, digits) = line.split_once(' ').ok_or(KeyError::Line)?;
    let number = number.parse().map_err(|_| KeyError::Number)?;
    let mut secret = Zeroizing::new([0; SharedKey::LEN]);
    let decoded = base16ct::mixed::decode(digits.trim(), &mut *secret);
    if decoded.map_or(0, <[u8]>::len) != SharedKey::LEN {
        return Err(KeyError::Line);
    }
    SharedKey::new(number, *secret)
}

/// Keys that cannot be used; the configuration is at fault. Never repeats a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no key.
    #[error("there is no key")]
    None,
    /// A line is not a number, a space and 64 hexadecimal digits.
    #[error("a key is its number, a space and 64 hexadecimal digits")]
    Line,
    /// The number is not from 0 to 6.
    #[error("the number of a key is from 0 to 6")]
    Number,
    /// Two keys have this number.
    #[error("two keys have the number {0}")]
    Twice(u8),
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers")]
    Random,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn keys(number: u8, byte: u8) -> SharedKeys {
        SharedKeys::new(SharedKey::new(number, [byte; 32]).unwrap())
    }

    #[test]
    fn keys_are_read_from_text_and_faults_are_named() {
        let digits = "0A".repeat(32);
        let keys: SharedKeys = format!("\n 2 {digits}\n\n0 {digits}\n").parse().unwrap();
        assert_eq!(keys.first().number(), 2);
        assert_eq!(keys.iter().count(), 2);
        for (text, error) in [
            (String::new(), KeyError::None),
            ("2".into(), KeyError::Line),
            (format!("2 {}", &digits[1..]), KeyError::Line),
            (format!("2 {digits}00"), KeyError::Line),
            (format!("2 {}", "0x".repeat(32)), KeyError::Line),
            (format!("7 {digits}"), KeyError::Number),
            (format!("-1 {digits}"), KeyError::Number),
            (format!("2 {digits}\n2 {digits}"), KeyError::Twice(2)),
        ] {
            assert_eq!(SharedKeys::from_str(&text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn a_secret_does_not_print() {
        let shown = format!("{:?}", keys(1, 0xab));
        assert!(!shown.contains("171") && !shown.contains("ab"), "{shown}");
    }
}
