//! The lineage of a stream: what all connections have in common that carry it one after the other, and how many of them there were
//! before (`docs/protocol.md` section 6).
//!
//! It is the name of a stream in traces too. It allows nothing, and is not on the wire.

use std::fmt;

use rustls::Tls13CipherSuite;

use crate::key_schedule::lineage_id;

/// Which stream a connection carries, and how many connections have carried it before.
///
/// A stream that goes on at another server, handed over or recovered from a checkpoint, keeps its [`id`](Self::id), and its
/// [`epoch`](Self::epoch) is one more there. Two arrivals that follow from the same connection have the same epoch, so who
/// takes a stream over by a compare-and-set in a shared store, `epoch > stored`, lets one of them go on:
/// `docs/recovery.md` has the transaction. A conversation that begins has a lineage of its own, with or without a session that
/// is resumed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lineage {
    id: [u8; Self::ID_LEN],
    epoch: u64,
}

impl Lineage {
    /// Length of an identifier, in bytes.
    pub const ID_LEN: usize = 16;

    /// That of a stream which begins on the connection with this `resumption_master_secret`.
    pub(crate) fn begin(suite: &Tls13CipherSuite, resumption_master_secret: &[u8]) -> Self {
        Self {
            id: lineage_id(suite, resumption_master_secret),
            epoch: 0,
        }
    }

    pub(crate) fn from_parts(id: [u8; Self::ID_LEN], epoch: u64) -> Self {
        Self { id, epoch }
    }

    /// Where the stream goes on.
    pub(crate) fn next(self) -> Self {
        Self {
            epoch: self.epoch.saturating_add(1),
            ..self
        }
    }

    /// The stream's identifier. It is derived from a secret of its first connection, so both ends of that know it, and nobody
    /// can choose it. It is no credential.
    pub fn id(&self) -> [u8; Self::ID_LEN] {
        self.id
    }

    /// How many servers had the stream before this one: 0 where it began.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The identifier as logs show it: in hexadecimal digits.
    pub(crate) fn shown(&self) -> impl fmt::Display + use<> {
        Shown(self.id)
    }
}

struct Shown([u8; Lineage::ID_LEN]);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lineage")
            .field("id", &format_args!("{}", self.shown()))
            .field("epoch", &self.epoch)
            .finish()
    }
}

#[cfg(all(test, feature = "ring"))]
mod tests {
    use rustls::crypto::ring::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384};

    use super::*;
    use crate::vectors;

    #[test]
    fn a_lineage_begins_as_the_vectors_say() {
        for vector in vectors::section("lineages") {
            let suite = match vector["hash"].as_str().unwrap() {
                "sha256" => TLS13_AES_128_GCM_SHA256,
                "sha384" => TLS13_AES_256_GCM_SHA384,
                other => panic!("{other}"),
            };
            let secret = vectors::hex(&vector["resumption_master_secret"]);
            let lineage = Lineage::begin(suite.tls13().unwrap(), &secret);
            assert_eq!(lineage.id().to_vec(), vectors::hex(&vector["lineage"]));
            let shown = vector["lineage"].as_str().unwrap();
            assert_eq!(lineage.shown().to_string(), shown);
            assert_eq!(
                format!("{lineage:?}"),
                format!("Lineage {{ id: {shown}, epoch: 0 }}")
            );
        }
    }

    #[test]
    fn an_epoch_never_begins_anew() {
        let last = Lineage::from_parts([7; 16], u64::MAX);
        assert_eq!(last.next(), last);
    }
}
