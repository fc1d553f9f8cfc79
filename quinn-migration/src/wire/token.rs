//! The stateless reset token (RFC 9000 section 10.3): a secret of the connection.
//!
//! Never printed, compared in constant time, wiped when dropped.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A stateless reset token, 16 bytes. Who knows it can end the connection.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ResetToken([u8; ResetToken::LENGTH]);

impl ResetToken {
    /// Length in bytes (RFC 9000 section 10.3).
    pub const LENGTH: usize = 16;

    /// Wraps the bytes of a token.
    pub fn new(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the wire.
    pub fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl PartialEq for ResetToken {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for ResetToken {}

impl fmt::Debug for ResetToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_token_does_not_print_its_bytes() {
        assert_eq!(format!("{:?}", ResetToken::new([7; 16])), "ResetToken(..)");
    }
}
