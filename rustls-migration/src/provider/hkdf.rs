//! The key schedule: it passes everything on and tells the hook the `resumption_master_secret`, and tickets' keys.
//!
//! No other secret of a connection is looked at.

use std::sync::Arc;

use rustls::Error;
use rustls::crypto::ActiveKeyExchange;
use rustls::crypto::hmac::Tag;
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};

use super::hook::{ConnectionHook, current_if};

pub(super) struct HookedHkdf(pub(super) &'static dyn Hkdf);

impl Hkdf for HookedHkdf {
    /// With a salt this is the master secret, which the `resumption_master_secret` is expanded from.
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        let expander = self.0.extract_from_zero_ikm(salt);
        match current_if(|_| salt.is_some()) {
            Some(hook) => Box::new(HookedExpander { expander, hook }),
            None => expander,
        }
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        self.0.extract_from_secret(salt, secret)
    }

    fn extract_from_kx_shared_secret(
        &self,
        salt: Option<&[u8]>,
        kx: Box<dyn ActiveKeyExchange>,
        peer_public_key: &[u8],
    ) -> Result<Box<dyn HkdfExpander>, Error> {
        self.0
            .extract_from_kx_shared_secret(salt, kx, peer_public_key)
    }

    /// Tickets' keys are expanded from a block.
    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        let expander = self.0.expander_for_okm(okm);
        match current_if(|hook| hook.wants_ticket_key()) {
            Some(hook) => Box::new(HookedExpander { expander, hook }),
            None => expander,
        }
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        self.0.hmac_sign(key, message)
    }
}

struct HookedExpander {
    expander: Box<dyn HkdfExpander>,
    hook: Arc<dyn ConnectionHook>,
}

impl HkdfExpander for HookedExpander {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        self.expander.expand_slice(info, output)
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        let block = self.expander.expand_block(info);
        match info {
            [_, _, PREFIX, b"res master", _, _] => {
                self.hook.resumption_master_secret(block.as_ref());
            }
            [_, _, PREFIX, b"resumption", _, nonce] => self.hook.ticket_key(nonce, block.as_ref()),
            _ => {}
        }
        block
    }

    fn hash_len(&self) -> usize {
        self.expander.hash_len()
    }
}

/// rustls passes an `HkdfLabel` in its parts: length, label length, this, label, context length, context.
const PREFIX: &[u8] = b"tls13 ";
