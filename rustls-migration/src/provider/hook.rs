//! The [`ConnectionHook`]: what the objects inside rustls and the connection around it tell each other.
//!
//! rustls asks its provider for objects without saying for which connection. So a connection opens a [`scope`]
//! around each call into rustls; objects that are made in a scope keep its hook for their life, objects that are
//! made outside of one pass everything through. A scope never spans an await.
//!
//! rustls also calls the user's objects in a scope. They may open TLS connections of their own, whose objects must not
//! get this hook. What a configuration gives out is wrapped, and called [`without_scope`] (`user_code.rs`). rustls does
//! not give out its certificate verifiers, so the scope rests by itself while one runs: see [`Verifying`].

use std::any::Any;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::ContentType;
use rustls::crypto::cipher::OutboundChunks;

use super::aead::SharedDecrypter;
use super::hash::HashedHello;
use crate::wire::{
    CERTIFICATE, CLIENT_KEY_EXCHANGE, COMPRESSED_CERTIFICATE, Malformed, SERVER_HELLO_DONE,
};

/// One connection's view of what passes through its cryptographic objects.
///
/// The default of every method is to leave things as they are.
pub(crate) trait ConnectionHook: Any + Send + Sync {
    /// Encoded extensions to splice into each ClientHello that enters the transcript; empty for none.
    fn hello_extensions(&self) -> &[u8] {
        &[]
    }

    /// What has been hashed of this connection's hello, if that is to be shared.
    fn hashed_hello(&self) -> Option<&HashedHello> {
        None
    }

    /// Whether a certificate of this connection is being verified.
    fn verifying(&self) -> &Verifying;

    /// The connection's `resumption_master_secret` has been derived.
    fn resumption_master_secret(&self, secret: &[u8]);

    /// Whether [`ticket_key`](Self::ticket_key) wants to know of the next ticket.
    fn wants_ticket_key(&self) -> bool {
        false
    }

    /// The pre-shared key of the ticket with this nonce has been derived.
    fn ticket_key(&self, nonce: &[u8], psk: &[u8]) {
        let _ = (nonce, psk);
    }

    /// The type to give a record with this plaintext that is about to be encrypted.
    fn outbound_type(&self, kind: ContentType, plaintext: &OutboundChunks<'_>) -> ContentType {
        let _ = plaintext;
        kind
    }

    /// Whether the next decrypter is to be [shared](Self::share_decrypter).
    fn wants_decrypter(&self) -> bool {
        false
    }

    /// Takes a decrypter that rustls has got too.
    fn share_decrypter(&self, decrypter: SharedDecrypter) {
        let _ = decrypter;
    }

    /// So many bytes of application data have been decrypted.
    fn application_data(&self, len: usize) {
        let _ = len;
    }

    /// A record that is no application data has been decrypted. What rustls is to get of it stands at its beginning afterwards, and
    /// how much that is, is returned. A malformed one ends the connection.
    fn inbound(&self, kind: ContentType, payload: &mut [u8]) -> Result<usize, Malformed> {
        let _ = kind;
        Ok(payload.len())
    }
}

/// Whether a certificate verifier may run.
///
/// rustls calls one only between two messages of the handshake: after a Certificate that is not empty (in TLS 1.2 also
/// after ServerHelloDone and ClientKeyExchange), and before the next message that it hashes. Between these two it makes
/// no object that needs the hook. The transcript hash, which has the hook, sees the messages.
#[derive(Debug, Default)]
pub(crate) struct Verifying(AtomicBool);

impl Verifying {
    /// The connection's transcript gets another message.
    pub(super) fn note_message(&self, message: &[u8]) {
        let begins = match message {
            [CERTIFICATE, _, _, _, context_len, list @ ..] => {
                // In TLS 1.2 there is no context; what is empty there is shorter still.
                list.len() > usize::from(*context_len) + CERTIFICATE_LIST_LEN
            }
            [
                COMPRESSED_CERTIFICATE | SERVER_HELLO_DONE | CLIENT_KEY_EXCHANGE,
                ..,
            ] => true,
            _ => false,
        };
        self.0.store(begins, Ordering::Relaxed);
    }
}

/// Length of the length of a Certificate's list, in bytes.
const CERTIFICATE_LIST_LEN: usize = 3;

thread_local! {
    static CURRENT: Cell<Option<Arc<dyn ConnectionHook>>> = const { Cell::new(None) };
}

/// Runs `call` with `hook` as the hook of every object that rustls makes in it.
pub(crate) fn scope<R>(hook: &Arc<impl ConnectionHook>, call: impl FnOnce() -> R) -> R {
    Scope::new(hook).enter(call)
}

/// Runs `call`, which is the user's, with no hook: what it makes is its own.
pub(crate) fn without_scope<R>(call: impl FnOnce() -> R) -> R {
    Scope(None).enter(call)
}

/// What a connection opens its scopes with. It is moved in and out, since to count references for each call would cost more
/// than all else that a scope does.
pub(crate) struct Scope(Option<Arc<dyn ConnectionHook>>);

impl Scope {
    pub(crate) fn new(hook: &Arc<impl ConnectionHook>) -> Self {
        let hook: Arc<dyn ConnectionHook> = hook.clone();
        Self(Some(hook))
    }

    /// Runs `call` with this hook as the hook of every object that rustls makes in it.
    ///
    /// What `call` returns may be large, so it is made where the caller wants it.
    #[inline(always)]
    pub(crate) fn enter<R>(&mut self, call: impl FnOnce() -> R) -> R {
        let _entered = Entered::new(self);
        call()
    }

    /// Exchanges this with the current one.
    fn swap(&mut self) {
        CURRENT.with(|current| self.0 = current.replace(self.0.take()));
    }
}

/// A scope that is the current one. Puts both back, also in a panic.
struct Entered<'a>(&'a mut Scope);

impl<'a> Entered<'a> {
    fn new(scope: &'a mut Scope) -> Self {
        scope.swap();
        Self(scope)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.swap();
    }
}

/// The hook for an object that is made now: that of the innermost scope, unless a certificate verifier may run.
pub(super) fn current() -> Option<Arc<dyn ConnectionHook>> {
    current_if(|_| true)
}

/// The current hook, if it wants the object that is made now.
pub(super) fn current_if(
    wants: impl FnOnce(&dyn ConnectionHook) -> bool,
) -> Option<Arc<dyn ConnectionHook>> {
    let verifying = |hook: &dyn ConnectionHook| hook.verifying().0.load(Ordering::Relaxed);
    innermost_if(|hook| !verifying(hook) && wants(hook))
}

/// The hook of the innermost scope, when it is an `L`. For the wrapped objects of a configuration, which belong to the
/// scope's connection alone.
pub(crate) fn current_as<L: ConnectionHook>() -> Option<Arc<L>> {
    let hook: Arc<dyn Any + Send + Sync> = innermost_if(|_| true)?;
    hook.downcast().ok()
}

/// The hook of the innermost scope, if `wanted`. References are counted for one that is.
fn innermost_if(
    wanted: impl FnOnce(&dyn ConnectionHook) -> bool,
) -> Option<Arc<dyn ConnectionHook>> {
    CURRENT.with(|current| {
        let hook = current.take();
        let copy = hook.as_ref().filter(|hook| wanted(&***hook)).cloned();
        current.set(hook);
        copy
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_may_run_after_a_certificate_and_until_the_next_message() {
        let verifying = Verifying::default();
        let runs = |message: &[u8]| {
            verifying.note_message(message);
            verifying.0.load(Ordering::Relaxed)
        };
        assert!(!runs(&[2, 0, 0, 1, 0]));
        // TLS 1.3: context, list; TLS 1.2: list.
        assert!(!runs(&[11, 0, 0, 4, 0, 0, 0, 0]), "an empty list");
        assert!(!runs(&[11, 0, 0, 6, 2, 9, 9, 0, 0, 0]), "with a context");
        assert!(!runs(&[11, 0, 0, 3, 0, 0, 0]), "an empty list of TLS 1.2");
        assert!(runs(&[11, 0, 0, 8, 0, 0, 0, 4, 0, 0, 1, 7]));
        assert!(runs(&[11, 0, 0, 10, 2, 9, 9, 0, 0, 4, 0, 0, 1, 7]));
        assert!(runs(&[11, 0, 0, 7, 0, 0, 4, 0, 0, 1, 7]));
        assert!(!runs(&[15, 0, 0, 0]));
        assert!(runs(&[25, 0, 0, 0]));
        assert!(!runs(&[20, 0, 0, 0]));
        assert!(runs(&[14, 0, 0, 0]));
        assert!(runs(&[16, 0, 0, 0]));
        assert!(!runs(&[20, 0, 0, 0]));
    }

    struct Quiet(Verifying);

    impl ConnectionHook for Quiet {
        fn verifying(&self) -> &Verifying {
            &self.0
        }

        fn resumption_master_secret(&self, _: &[u8]) {}
    }

    #[test]
    fn without_a_scope_there_is_no_link_and_the_scope_comes_back() {
        let hook = Arc::new(Quiet(Verifying::default()));
        scope(&hook, || {
            assert!(current().is_some());
            without_scope(|| assert!(current_as::<Quiet>().is_none()));
            assert!(current_as::<Quiet>().is_some());
            hook.verifying().note_message(&[25]);
            assert!(current().is_none() && current_as::<Quiet>().is_some());
        });
        assert!(current_as::<Quiet>().is_none());
    }
}
