//! The transcript hash: it sees each ClientHello as rustls made it, and hashes it as the wire carries it. It tells the
//! hook when a certificate is about to be verified.
//!
//! It never changes any other message. A hello is long when it has a ticket in it, and is hashed up to four times: for the
//! binder, for its check, for early data and for the transcript. Each time goes on from the one before, as far as the bytes
//! are the same.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};

use super::hook::{ConnectionHook, current};
use crate::wire::hello::splice_all;
use crate::wire::{CLIENT_HELLO, next_message};

/// The handshake type that stands for the first hello after a HelloRetryRequest (RFC 8446 section 4.4.1).
const MESSAGE_HASH: u8 = 254;

pub(super) struct HookedHash(pub(super) &'static dyn Hash);

impl Hash for HookedHash {
    fn start(&self) -> Box<dyn Context> {
        let context = self.0.start();
        match current() {
            Some(hook) => Box::new(HookedContext {
                context,
                hook,
                algorithm: self.0.algorithm(),
                is_empty: true,
            }),
            None => context,
        }
    }

    fn hash(&self, data: &[u8]) -> Output {
        self.0.hash(data)
    }

    fn output_len(&self) -> usize {
        self.0.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm()
    }
}

struct HookedContext {
    context: Box<dyn Context>,
    hook: Arc<dyn ConnectionHook>,
    algorithm: HashAlgorithm,
    /// Whether nothing has been hashed.
    is_empty: bool,
}

impl Context for HookedContext {
    fn fork_finish(&self) -> Output {
        self.context.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Self {
            context: self.context.fork(),
            hook: Arc::clone(&self.hook),
            ..*self
        })
    }

    fn finish(self: Box<Self>) -> Output {
        self.context.finish()
    }

    fn update(&mut self, data: &[u8]) {
        let Some(first) = data.first().copied() else {
            return;
        };
        self.hook.verifying().note_message(data);
        let extensions = self.hook.hello_extensions();
        let on_the_wire = match first {
            CLIENT_HELLO | MESSAGE_HASH if !extensions.is_empty() => {
                Cow::Owned(splice_all(data, extensions))
            }
            _ => Cow::Borrowed(data),
        };
        let begins_with_hello = self.is_empty && first == CLIENT_HELLO;
        self.is_empty = false;
        match self.hook.hashed_hello().filter(|_| begins_with_hello) {
            Some(hashed) => hashed.update(self.algorithm, &mut self.context, &on_the_wire),
            None => self.context.update(&on_the_wire),
        }
    }
}

/// The beginning of a hello that has been hashed already.
#[derive(Default)]
pub(crate) struct HashedHello(Mutex<Option<Hashed>>);

/// A context with all that it has hashed.
pub(crate) struct Hashed {
    algorithm: HashAlgorithm,
    data: Vec<u8>,
    context: Box<dyn Context>,
}

impl Hashed {
    /// Hashes the beginning of a hello.
    pub(crate) fn new(hash: &dyn Hash, data: &[u8]) -> Self {
        let mut context = hash.start();
        context.update(data);
        Self {
            algorithm: hash.algorithm(),
            data: data.to_vec(),
            context,
        }
    }

    pub(crate) fn digest(&self) -> Output {
        self.context.fork_finish()
    }
}

impl HashedHello {
    pub(crate) fn new(hashed: Option<Hashed>) -> Self {
        Self(Mutex::new(hashed))
    }

    /// The hello has been hashed for the last time.
    pub(crate) fn clear(&self) {
        *self.hashed() = None;
    }

    /// Has `context`, which is empty, hash `data`.
    fn update(&self, algorithm: HashAlgorithm, context: &mut Box<dyn Context>, data: &[u8]) {
        let mut hashed = self.hashed();
        let known = hashed
            .as_ref()
            .filter(|hashed| hashed.algorithm == algorithm);
        if let Some((known, rest)) =
            known.and_then(|known| Some((known, data.strip_prefix(known.data.as_slice())?)))
        {
            *context = known.context.fork();
            context.update(rest);
            return;
        }
        context.update(data);
        // A whole hello is hashed once, unless it was hashed without its binders before.
        if next_message(data).is_none() {
            *hashed = Some(Hashed {
                algorithm,
                data: data.to_vec(),
                context: context.fork(),
            });
        }
    }

    fn hashed(&self) -> MutexGuard<'_, Option<Hashed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hashed").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(feature = "ring")]
mod tests {
    use rustls::crypto::ring::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384};

    use super::*;

    #[test]
    fn what_goes_on_from_an_earlier_hello_is_the_hash_of_the_whole() {
        let [short, long] = [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384]
            .map(|suite| suite.tls13().unwrap().common.hash_provider);
        let hashed = HashedHello::default();
        // A message of seven bytes, as a whole and cut.
        let whole = [1, 0, 0, 3, 7, 8, 9];
        for (hash, data) in [
            (short, &whole[..5]),
            (short, &whole[..]),
            (short, &whole[..5]),
            (long, &whole[..5]),
            (long, &whole[..]),
            (short, &whole[..4]),
            (short, &[1, 0, 0, 3, 0]),
            (short, &whole[..]),
        ] {
            let mut context = hash.start();
            hashed.update(hash.algorithm(), &mut context, data);
            assert_eq!(context.fork_finish().as_ref(), hash.hash(data).as_ref());
            context.update(b"more");
            let all = [data, b"more"].concat();
            assert_eq!(context.finish().as_ref(), hash.hash(&all).as_ref());
        }
        let kept = hashed.hashed().take().map(|kept| kept.data);
        assert_eq!(kept, Some(vec![1, 0, 0, 3]));
        // What is kept is what counts: a wrong one shows.
        let other = Hashed {
            data: whole[..5].to_vec(),
            ..Hashed::new(short, b"other")
        };
        let mut context = short.start();
        HashedHello::new(Some(other)).update(short.algorithm(), &mut context, &whole);
        assert_eq!(
            context.finish().as_ref(),
            short.hash(b"other\x08\x09").as_ref()
        );

        let digest = Hashed::new(long, b"hello").digest();
        assert_eq!(digest.as_ref(), long.hash(b"hello").as_ref());
    }
}
