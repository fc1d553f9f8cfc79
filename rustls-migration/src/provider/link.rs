//! The [`Link`]: what the objects inside rustls and the connection around it tell each other.
//!
//! rustls asks its provider for objects without saying for which connection. So a connection opens a [`scope`]
//! around each call into rustls; objects that are made in a scope keep its link for their life, objects that are
//! made outside of one pass everything through. A scope never spans an await.

use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;

use rustls::ContentType;

/// One connection's view of what passes through its cryptographic objects.
///
/// The default of every method is to leave things as they are.
pub(crate) trait Link: Any + Send + Sync {
    /// Encoded extensions to splice into each ClientHello that enters the transcript; empty for none.
    fn hello_extensions(&self) -> &[u8] {
        &[]
    }

    /// The connection's `resumption_master_secret` has been derived.
    fn resumption_master_secret(&self, secret: &[u8]);

    /// Whether [`rewrite_outbound`](Self::rewrite_outbound) wants to see a record of this type.
    fn wants_outbound(&self, kind: ContentType) -> bool {
        let _ = kind;
        false
    }

    /// A record is about to be encrypted: what to encrypt in its place, or `None` to leave it.
    fn rewrite_outbound(
        &self,
        kind: ContentType,
        payload: &[u8],
    ) -> Option<(ContentType, Vec<u8>)> {
        let _ = (kind, payload);
        None
    }

    /// A record has been decrypted. `true` hides it from rustls.
    fn hide_inbound(&self, kind: ContentType, payload: &[u8]) -> bool {
        let _ = (kind, payload);
        false
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Link>>> = const { RefCell::new(None) };
}

/// Runs `call` with `link` as the link of every object that rustls makes in it.
pub(crate) fn scope<R>(link: &Arc<impl Link>, call: impl FnOnce() -> R) -> R {
    /// Puts the outer scope back, also when `call` panics.
    struct Outer(Option<Arc<dyn Link>>);
    impl Drop for Outer {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let link: Arc<dyn Link> = link.clone();
    let _outer = Outer(CURRENT.replace(Some(link)));
    call()
}

/// The link of the innermost scope.
pub(super) fn current() -> Option<Arc<dyn Link>> {
    CURRENT.with_borrow(Clone::clone)
}

/// The link of the innermost scope, when it is an `L`.
pub(crate) fn current_as<L: Link>() -> Option<Arc<L>> {
    let link: Arc<dyn Any + Send + Sync> = current()?;
    link.downcast().ok()
}
