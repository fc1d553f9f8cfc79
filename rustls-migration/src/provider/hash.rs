//! The transcript hash: it sees each ClientHello as rustls made it, and hashes it as the wire carries it. It tells the
//! link when a certificate is about to be verified.
//!
//! It never changes any other message.

use std::borrow::Cow;
use std::sync::Arc;

use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};

use super::link::{Link, current};
use crate::wire::CLIENT_HELLO;
use crate::wire::hello::splice_all;

/// The handshake type that stands for the first hello after a HelloRetryRequest (RFC 8446 section 4.4.1).
const MESSAGE_HASH: u8 = 254;

pub(super) struct LinkedHash(pub(super) &'static dyn Hash);

impl Hash for LinkedHash {
    fn start(&self) -> Box<dyn Context> {
        let context = self.0.start();
        match current() {
            Some(link) => Box::new(LinkedContext { context, link }),
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

struct LinkedContext {
    context: Box<dyn Context>,
    link: Arc<dyn Link>,
}

impl Context for LinkedContext {
    fn fork_finish(&self) -> Output {
        self.context.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Self {
            context: self.context.fork(),
            link: Arc::clone(&self.link),
        })
    }

    fn finish(self: Box<Self>) -> Output {
        self.context.finish()
    }

    fn update(&mut self, data: &[u8]) {
        self.link.verifying().note_message(data);
        let extensions = self.link.hello_extensions();
        let on_the_wire = match data.first() {
            Some(&(CLIENT_HELLO | MESSAGE_HASH)) if !extensions.is_empty() => {
                Cow::Owned(splice_all(data, extensions))
            }
            Some(_) | None => Cow::Borrowed(data),
        };
        self.context.update(&on_the_wire);
    }
}
