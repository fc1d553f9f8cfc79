//! The name of a store's memory (`docs/protocol.md` section 8).
//!
//! It is no secret, and says nothing of what is remembered.

use sha2::{Digest, Sha256};

/// Names one memory: 16 bytes, the same for all who share it and for nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryId([u8; Self::LEN]);

impl MemoryId {
    /// Length, in bytes.
    pub const LEN: usize = 16;

    /// The name that these bytes are.
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// A name that nobody else has. `None` when the system has no randomness.
    pub fn random() -> Option<Self> {
        let mut bytes = [0; Self::LEN];
        getrandom::fill(&mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The name of a memory that has a longer one.
    pub fn digest(name: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(name).into();
        let mut bytes = [0; Self::LEN];
        bytes
            .iter_mut()
            .zip(digest)
            .for_each(|(to, from)| *to = from);
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}
