//! The key ring that seals and opens tickets (`docs/protocol.md` section 6).
//!
//! A secret leaves this module only to be written to the key file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::SecureRandom;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::cipher::{self, NONCE_LEN, TAG_LEN};
use super::key_file::{self, TicketKeyError};
use crate::measure::count;
#[cfg(feature = "metrics")]
use crate::measure::{gauge, number};

/// Length of a key's identifier, in bytes.
pub(super) const KEY_ID_LEN: usize = 8;
/// Length of a key's secret, in bytes.
pub(super) const SECRET_LEN: usize = 32;

const VERSION: u8 = 1;
const HEADER_LEN: usize = 1 + KEY_ID_LEN;

/// The ticket keys that the nodes of one service share: the current one, the next one, and former ones.
///
/// The first seals, all of them open. Clones share their keys, so a [`reload`](Self::reload) through one is seen by all.
///
/// The file has a line for each key: the identifier (16 hexadecimal digits), a space, the secret (64 digits).
/// Empty lines and lines that begin with `#` are skipped; [`rotate`](Self::rotate) leaves them out.
///
/// # Rotation
///
/// 1. [`rotate`](Self::rotate) the file, and bring it to every node.
/// 2. [`reload`](Self::reload) on every node, in any order, before the next rotation.
///
/// The key that begins to seal has then been known to all nodes for one whole rotation, so no node meets a ticket
/// whose key it is yet to read. A key must be kept for as long as the longest-lived ticket that it sealed: `keep` is at
/// least that [lifetime](crate::server::MigrationServerBuilder::session_lifetime) (or that of
/// [tokens](crate::server::MigrationServerBuilder::token_lifetime), if it is longer) divided by the time between two
/// rotations, rounded up, and one more because nodes do not reload at once. A token whose ticket's key is gone is refused as
/// [`UnknownTicket`](crate::server::Verdict::UnknownTicket), and its client lands by a full handshake.
#[derive(Clone)]
pub struct TicketKeys {
    ring: Arc<RwLock<Ring>>,
    path: Option<Arc<Path>>,
    seal_limit: u64,
}

type Ring = Arc<[Arc<TicketKey>]>;

/// One key, and how much this process has sealed with it.
pub(super) struct TicketKey {
    pub(super) id: [u8; KEY_ID_LEN],
    pub(super) secret: Zeroizing<[u8; SECRET_LEN]>,
    offers: Seals,
    sessions: Seals,
}

/// How much of one kind a key has sealed.
#[derive(Default)]
struct Seals {
    count: AtomicU64,
    limit_told: AtomicBool,
}

/// What a seal is unique by.
pub(crate) type SealNonce = [u8; NONCE_LEN];

/// What is sealed. Each kind has a count of its own, so that ordinary tickets take no offers away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    /// A ticket with a token.
    Offer,
    /// An ordinary ticket.
    Session,
}

#[cfg(feature = "metrics")]
impl Seal {
    /// What metrics call it.
    fn name(self) -> &'static str {
        match self {
            Self::Offer => "offer",
            Self::Session => "session",
        }
    }
}

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SealError {
    /// The current key has sealed as much as it may.
    Limit,
    /// The random source or the cipher failed.
    Failed,
}

impl TicketKeys {
    /// How many tickets one key seals in one process unless told otherwise: 2^32.
    ///
    /// The cipher would allow far more: XChaCha20-Poly1305 takes 192-bit nonces, and even 65,536 processes that seal
    /// so much by random nonces repeat one with a probability of 2^-97. The limit is for the operator. It bounds how
    /// many sessions a stolen key opens, and a service that reaches it (after 50 days of 1,000 offers each second) has
    /// forgotten to rotate.
    pub const DEFAULT_SEAL_LIMIT: u64 = 1 << 32;

    /// One new key, for a service whose nodes all live in this process.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError::Random`] when `random` fails.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, TicketKeyError> {
        Ok(Self::new(vec![TicketKey::generate(random)?], None))
    }

    /// Reads the keys from a file.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError`] when the file cannot be read, is open to others than its owner, has no key, or has a
    /// line that is no key. A file of root's may be open to its group for reading, as containers are given secrets.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self, TicketKeyError> {
        let path: PathBuf = path.into();
        Ok(Self::new(key_file::read(&path)?, Some(path.into())))
    }

    fn new(keys: Vec<TicketKey>, path: Option<Arc<Path>>) -> Self {
        Self {
            ring: Arc::new(RwLock::new(keys.into_iter().map(Arc::new).collect())),
            path,
            seal_limit: Self::DEFAULT_SEAL_LIMIT,
        }
    }

    /// Creates a file with a current and a next key, both new, readable by its owner alone.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError`] when the file exists, cannot be written, or `random` fails.
    pub fn create(path: &Path, random: &dyn SecureRandom) -> Result<(), TicketKeyError> {
        let keys = [TicketKey::generate(random)?, TicketKey::generate(random)?];
        key_file::create(path, &keys)
    }

    /// Makes the next key of a file the current one, adds a new next key, keeps `keep` of the keys that were current
    /// before, and drops the rest. The file is replaced as a whole, so nobody reads half of it; `PATH.lock` beside it
    /// stays.
    ///
    /// A file with one key gets a next key, and its current one goes on: no node knows another yet.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError::RotationUnderWay`] when another process rotates this file at the moment; others as for
    /// [`load`](Self::load), and when the file cannot be written or `random` fails. The file is as it was then.
    pub fn rotate(
        path: &Path,
        keep: usize,
        random: &dyn SecureRandom,
    ) -> Result<(), TicketKeyError> {
        let fresh = TicketKey::generate(random)?;
        key_file::rewrite(path, |keys| rotated(keys, keep, fresh))
    }

    /// Reads the file again. When that fails the keys stay as they were.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load); [`TicketKeyError::NoFile`] for keys that did not come from a file.
    pub fn reload(&self) -> Result<(), TicketKeyError> {
        let reloaded = self.read_again();
        let outcome = if reloaded.is_ok() { "done" } else { "failed" };
        count!(KEY_RELOADS, "outcome" => outcome);
        self.measure_seals();
        reloaded
    }

    fn read_again(&self) -> Result<(), TicketKeyError> {
        let path = self.path().ok_or(TicketKeyError::NoFile)?;
        let read = key_file::read(path)?;
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        // A key that is known already goes on to count.
        let known = |key: TicketKey| match ring.iter().find(|known| known.is(&key)) {
            Some(known) => Arc::clone(known),
            None => Arc::new(key),
        };
        let keys: Ring = read.into_iter().map(known).collect();
        *ring = keys;
        Ok(())
    }

    /// How many tickets with tokens one key may seal in this process, and how many ordinary ones, by default
    /// [`DEFAULT_SEAL_LIMIT`](Self::DEFAULT_SEAL_LIMIT) of each.
    ///
    /// Past it none of the kind is sealed until there is another current key: clients get no tokens, offers fail with
    /// [`OfferError::SealLimit`](crate::server::OfferError::SealLimit), a warning is logged once, and connections
    /// go on. The count begins anew with each process. To be called before the keys are cloned.
    #[must_use]
    pub fn seal_limit(mut self, seals: u64) -> Self {
        self.seal_limit = seals;
        self
    }

    /// How many tickets with tokens the current key may still seal in this process.
    pub fn seals_left(&self) -> u64 {
        self.left(Seal::Offer)
    }

    fn left(&self, kind: Seal) -> u64 {
        let used = |key: &Arc<TicketKey>| key.seals(kind).count.load(Ordering::Relaxed);
        let used = self.keys().first().map_or(u64::MAX, used);
        self.seal_limit.saturating_sub(used)
    }

    /// Says what the current key has left.
    pub(crate) fn measure_seals(&self) {
        #[cfg(feature = "metrics")]
        for kind in [Seal::Offer, Seal::Session] {
            gauge!(SEALS_LEFT, "kind" => kind.name(), set number(self.left(kind)));
        }
    }

    /// The file that the keys came from.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn keys(&self) -> Ring {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Seals `plaintext` under the current key.
    pub(crate) fn seal(
        &self,
        plaintext: &[u8],
        kind: Seal,
        random: &dyn SecureRandom,
    ) -> Result<Vec<u8>, SealError> {
        let mut nonce = SealNonce::default();
        random.fill(&mut nonce).map_err(|_| SealError::Failed)?;
        self.seal_with(&nonce, plaintext, kind)
    }

    /// As [`seal`](Self::seal), with a nonce that is random and used for nothing else.
    pub(crate) fn seal_with(
        &self,
        nonce: &SealNonce,
        plaintext: &[u8],
        kind: Seal,
    ) -> Result<Vec<u8>, SealError> {
        let keys = self.keys();
        let key = keys.first().ok_or(SealError::Failed)?;
        key.count(kind, self.seal_limit)?;
        #[cfg(feature = "metrics")]
        gauge!(SEALS_LEFT, "kind" => kind.name(), set number(self.left(kind)));
        let mut header = [VERSION; HEADER_LEN];
        header[1..].copy_from_slice(&key.id);
        let mut sealed = Vec::with_capacity(plaintext.len() + TAG_LEN);
        sealed.extend(plaintext);
        cipher::seal(&key.secret, nonce, &header, &mut sealed).ok_or(SealError::Failed)?;
        Ok([&header[..], nonce, &sealed].concat())
    }

    /// Opens a ticket; `None` when it is not one of this ring's.
    pub(crate) fn open(&self, ticket: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (header, rest) = ticket.split_first_chunk::<HEADER_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (version, id) = header.split_first()?;
        if *version != VERSION {
            return None;
        }
        let keys = self.keys();
        let key = keys.iter().find(|key| key.id == *id)?;
        cipher::open(&key.secret, nonce, header, sealed)
    }

    /// Length of the ticket that seals `plaintext_len` bytes.
    pub(crate) const fn sealed_len(plaintext_len: usize) -> usize {
        HEADER_LEN + NONCE_LEN + plaintext_len + TAG_LEN
    }
}

/// `current, next, former...` becomes `next, fresh, current, former...`.
fn rotated(mut keys: Vec<TicketKey>, keep: usize, fresh: TicketKey) -> Vec<TicketKey> {
    if keys.len() < 2 {
        keys.push(fresh);
    } else {
        keys.swap(0, 1);
        keys.insert(1, fresh);
        keys.truncate(keep.saturating_add(2));
    }
    keys
}

impl TicketKey {
    pub(super) fn new(id: [u8; KEY_ID_LEN], secret: Zeroizing<[u8; SECRET_LEN]>) -> Self {
        Self {
            id,
            secret,
            offers: Seals::default(),
            sessions: Seals::default(),
        }
    }

    fn generate(random: &dyn SecureRandom) -> Result<Self, TicketKeyError> {
        let mut id = [0; KEY_ID_LEN];
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        random.fill(&mut id).map_err(|_| TicketKeyError::Random)?;
        random
            .fill(secret.as_mut())
            .map_err(|_| TicketKeyError::Random)?;
        Ok(Self::new(id, secret))
    }

    fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.secret.ct_eq(other.secret.as_ref()).into()
    }

    fn seals(&self, kind: Seal) -> &Seals {
        match kind {
            Seal::Offer => &self.offers,
            Seal::Session => &self.sessions,
        }
    }

    /// Takes one seal of those that the key has left.
    fn count(&self, kind: Seal, limit: u64) -> Result<(), SealError> {
        let another = |seals| (seals < limit).then_some(seals + 1);
        let seals = self.seals(kind);
        let counted = seals
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, another);
        if counted.is_err() && !seals.limit_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                limit,
                ?kind,
                "the ticket key has sealed as many tickets as it may; no client gets another until the keys are rotated"
            );
        }
        counted.map(|_| ()).map_err(|_| SealError::Limit)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys")
            .field("keys", &self.keys().len())
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(feature = "ring")]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::ticket) fn random() -> &'static dyn SecureRandom {
        rustls::crypto::ring::default_provider().secure_random
    }

    /// A file with keys, which goes with what is returned.
    pub(in crate::ticket) fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        TicketKeys::create(&path, random()).unwrap();
        (dir, path)
    }

    pub(in crate::ticket) fn ids(keys: &TicketKeys) -> Vec<[u8; KEY_ID_LEN]> {
        keys.keys().iter().map(|key| key.id).collect()
    }

    #[test]
    fn a_rotation_makes_the_next_key_current_and_keeps_as_many_former_ones_as_told() {
        let (_dir, path) = file();
        let keys = TicketKeys::load(&path).unwrap();
        let [first, second] = ids(&keys)[..] else {
            panic!("a current and a next key");
        };
        let rotate = |keep| {
            TicketKeys::rotate(&path, keep, random()).unwrap();
            keys.reload().unwrap();
            ids(&keys)
        };
        let third = match rotate(1)[..] {
            [current, third, former] if (current, former) == (second, first) => third,
            ref other => panic!("{other:?}"),
        };
        let fourth = match rotate(2)[..] {
            [current, fourth, a, b] if (current, a, b) == (third, second, first) => fourth,
            ref other => panic!("{other:?}"),
        };
        match rotate(0)[..] {
            [current, fifth] if current == fourth => assert_ne!(fifth, third),
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_with_one_key_gets_a_next_one_and_its_current_key_goes_on() {
        let (_dir, path) = file();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.lines().next().unwrap()).unwrap();
        let keys = TicketKeys::load(&path).unwrap();
        let only = ids(&keys);
        TicketKeys::rotate(&path, 0, random()).unwrap();
        keys.reload().unwrap();
        assert_eq!(ids(&keys)[..1], only);
        assert_eq!(ids(&keys).len(), 2);
    }

    #[test]
    fn a_key_seals_up_to_its_limit_and_a_reload_does_not_begin_anew() {
        let (_dir, path) = file();
        let keys = TicketKeys::load(&path).unwrap().seal_limit(2);
        keys.seal(b"", Seal::Offer, random()).unwrap();
        assert_eq!(keys.seals_left(), 1);
        keys.reload().unwrap();
        let last = keys.clone().seal(b"", Seal::Offer, random()).unwrap();
        assert_eq!(keys.seals_left(), 0);
        assert_eq!(keys.seal(b"", Seal::Offer, random()), Err(SealError::Limit));
        assert_eq!(keys.seals_left(), 0);
        keys.seal(b"", Seal::Session, random()).unwrap();
        keys.seal(b"", Seal::Session, random()).unwrap();
        assert_eq!(
            keys.seal(b"", Seal::Session, random()),
            Err(SealError::Limit)
        );
        assert!(keys.open(&last).is_some(), "what was sealed opens");
        TicketKeys::rotate(&path, 1, random()).unwrap();
        keys.reload().unwrap();
        assert_eq!(keys.seals_left(), 2);
        keys.seal(b"", Seal::Offer, random()).unwrap();
    }

    proptest! {
        #[test]
        fn a_changed_cut_or_foreign_ticket_does_not_open(
            at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<prop::sample::Index>(),
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let keys = TicketKeys::generate(random()).unwrap();
            let ticket = keys.seal(&[3; 90], Seal::Offer, random()).unwrap();
            prop_assert_eq!(ticket.len(), TicketKeys::sealed_len(90));
            prop_assert!(keys.open(&ticket).is_some());
            prop_assert!(keys.open(&ticket[..cut.index(ticket.len())]).is_none());
            prop_assert!(keys.open(&noise).is_none());
            let mut changed = ticket;
            let at = at.index(changed.len());
            changed[at] ^= flip;
            prop_assert!(keys.open(&changed).is_none());
        }

        /// As long as each node reloads between two rotations.
        #[test]
        fn in_whatever_order_nodes_reload_each_opens_what_any_other_sealed(
            orders in prop::collection::vec(Just([0, 1, 2]).prop_shuffle(), 1..6),
            keep in 1usize..3,
        ) {
            let (_dir, path) = file();
            let nodes: Vec<_> = (0..3).map(|_| TicketKeys::load(&path).unwrap()).collect();
            // Tickets with the rotation before which they were sealed.
            let mut tickets: Vec<(usize, Vec<u8>)> = Vec::new();
            for (rotation, order) in orders.iter().enumerate() {
                TicketKeys::rotate(&path, keep, random()).unwrap();
                for node in order {
                    for node in &nodes {
                        tickets.push((rotation, node.seal(b"", Seal::Offer, random()).unwrap()));
                    }
                    nodes[*node].reload().unwrap();
                }
                let kept = |at: usize| rotation < at + keep;
                for (at, ticket) in tickets.iter().filter(|(at, _)| kept(*at)) {
                    let opens = nodes.iter().all(|node| node.open(ticket).is_some());
                    prop_assert!(opens, "sealed during rotation {at}, now {rotation}");
                }
            }
        }
    }
}
