//! Connection IDs that tell a front which node they are of: QUIC-LB with single-pass encryption
//! (draft-ietf-quic-load-balancers, "CID format" and "Encrypted CID"; docs/forwarding.md, "Connection IDs").
//!
//! Without the key they look random, and two of one connection cannot be linked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use crate::{KeyError, SharedKeys};

/// Length of a node's connection IDs, in bytes.
pub(crate) const CONNECTION_ID_LEN: usize = 17;
/// The low five bits of the first byte: how many bytes follow.
const FOLLOWING: u8 = 16;

/// What a node is known by in its connection IDs. Different for each node of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId([u8; 8]);

impl ServerId {
    pub(crate) fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl From<u64> for ServerId {
    fn from(number: u64) -> Self {
        Self(number.to_be_bytes())
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", u64::from_be_bytes(self.0))
    }
}

/// Reads and makes connection IDs with one key.
#[derive(Clone)]
struct RoutingKey {
    number: u8,
    cipher: Aes128,
}

impl RoutingKey {
    fn new(number: u8, key: &[u8; 16]) -> Self {
        Self {
            number,
            cipher: Aes128::new(key.into()),
        }
    }

    fn encode(&self, id: ServerId, nonce: [u8; 8]) -> [u8; CONNECTION_ID_LEN] {
        let mut block = [0; 16];
        let plain = id.0.into_iter().chain(nonce);
        block
            .iter_mut()
            .zip(plain)
            .for_each(|(to, from)| *to = from);
        self.cipher.encrypt_block((&mut block).into());
        let mut out = [self.number << 5 | FOLLOWING; CONNECTION_ID_LEN];
        let rest = out.iter_mut().skip(1);
        rest.zip(block).for_each(|(to, from)| *to = from);
        out
    }

    fn decode(&self, bytes: &[u8]) -> Option<ServerId> {
        let (first, rest) = bytes.split_first()?;
        if first >> 5 != self.number {
            return None;
        }
        let mut block: [u8; 16] = *rest.first_chunk()?;
        self.cipher.decrypt_block((&mut block).into());
        block.first_chunk().map(|id| ServerId(*id))
    }
}

/// Reads connection IDs with any of the shared keys.
#[derive(Clone)]
pub(crate) struct Routing(Vec<RoutingKey>);

impl Routing {
    pub(crate) fn new(keys: &SharedKeys) -> Self {
        let routing = |key: &crate::SharedKey| RoutingKey::new(key.number(), &key.routing());
        Self(keys.iter().map(routing).collect())
    }

    /// The node that a connection ID names, if it is one of a node. `bytes` may go on after it. A connection ID that a client
    /// has made up names a random node, which does not exist.
    pub(crate) fn node(&self, bytes: &[u8]) -> Option<ServerId> {
        self.0.iter().find_map(|key| key.decode(bytes))
    }
}

/// Makes a node's connection IDs, for `quinn::EndpointConfig::cid_generator`.
///
/// ```
/// use quic_forwarder::{RoutableIds, ServerId, SharedKeys};
///
/// fn endpoint_config(keys: &SharedKeys) -> Result<quinn::EndpointConfig, quic_forwarder::KeyError> {
///     let ids = RoutableIds::new(keys, ServerId::from(7))?;
///     let mut config = quinn::EndpointConfig::default();
///     config.cid_generator(move || Box::new(ids.clone()));
///     Ok(config)
/// }
/// ```
#[derive(Clone)]
pub struct RoutableIds {
    node: ServerId,
    key: RoutingKey,
    routing: Routing,
    /// Clones share it, so that no nonce is used twice.
    nonce: Arc<AtomicU64>,
}

impl RoutableIds {
    /// Connection IDs of `node`, made with the first key.
    ///
    /// # Errors
    ///
    /// [`KeyError::Random`] when the operating system gives no random number to begin with.
    pub fn new(keys: &SharedKeys, node: ServerId) -> Result<Self, KeyError> {
        let first = keys.first();
        Ok(Self {
            node,
            key: RoutingKey::new(first.number(), &first.routing()),
            routing: Routing::new(keys),
            nonce: Arc::new(AtomicU64::new(crate::random()?)),
        })
    }
}

impl ConnectionIdGenerator for RoutableIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let nonce = self.nonce.fetch_add(1, Ordering::Relaxed);
        ConnectionId::new(&self.key.encode(self.node, nonce.to_be_bytes()))
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let own = id.len() == CONNECTION_ID_LEN && self.routing.node(id) == Some(self.node);
        own.then_some(()).ok_or(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

impl fmt::Debug for RoutableIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoutableIds")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::tests::keys;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn bytes<const N: usize>(digits: &str) -> [u8; N] {
        let decoded = base16ct::lower::decode_vec(digits).unwrap();
        decoded.try_into().unwrap()
    }

    /// draft-ietf-quic-load-balancers, appendix "Load Balancer Test Vectors": the one whose server ID and nonce have 16 bytes.
    /// Its first byte names key 2 and has random low bits.
    #[test]
    fn the_drafts_test_vector_is_read_and_made() {
        let key = RoutingKey::new(2, &bytes("8f95f09245765f80256934e50c66207f"));
        let id = bytes::<17>("504dd2d05a7b0de9b2b9907afb5ecf8cc3");
        let node = ServerId(bytes("ed793a51d49b8f5f"));
        assert_eq!(key.decode(&id), Some(node));
        let made = key.encode(node, bytes("ee080dbf48c0d1e5"));
        assert_eq!((made[0], &made[1..]), (0x50, &id[1..]));
    }

    #[test]
    fn a_nodes_connection_ids_differ_and_name_it_under_every_key() {
        let old = keys(1, 7);
        let both = keys(2, 8).accept(old.first().clone()).unwrap();
        let mut before = RoutableIds::new(&old, ServerId::from(5)).unwrap();
        let mut after = RoutableIds::new(&both, ServerId::from(5)).unwrap();
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            for id in [before.generate_cid(), after.generate_cid()] {
                assert!(seen.insert(id));
                assert_eq!(id.len(), after.cid_len());
                assert_eq!(Routing::new(&both).node(&id), Some(ServerId::from(5)));
                assert!(after.validate(&id).is_ok());
            }
        }
        assert!(before.validate(&after.generate_cid()).is_err());
        let other = RoutableIds::new(&both, ServerId::from(6)).unwrap();
        assert!(other.validate(&after.generate_cid()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let named = Routing::new(&keys(1, 7)).node(&bytes);
            prop_assert!(named.is_none() || bytes.len() >= CONNECTION_ID_LEN);
        }
    }
}
